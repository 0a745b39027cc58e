"""A model whose linears can compute as graded inputs do at a tier, calibrated as the stage `moefy` would."""

from dataclasses import replace

from ...models.checkpoint import Checkpoint
from ...models.linear import CentredLinear, Embedding, Graded, Int8Rows, Linear
from ...models.transformer import Transformer
from ..material import Workshop
from ..moefy.input_tiers import calibrate_, graded_spec
from .student import trainable
from .tier_linear import TierEmbedding, TierLinear
from .tier_settings import TO_INT8, TierSettings


def put_tier_linears_(
    model: Transformer, source: Checkpoint, settings: TierSettings, workshop: Workshop
) -> list[TierLinear | TierEmbedding]:
    """Puts twins over the linears, the tokens' table and the head of a model that learns; gives the twins.

    What inputs are worth, and the threshold, are what calibration finds for the source in int8. It sees the source and
    not what was learned since, so that a run which was cut off goes on with the same.
    """
    calibrated = _calibrated(source, settings, workshop)
    if calibrated.thresholds is None:
        raise TypeError("no linear of this model is graded")
    threshold, twins = float(calibrated.thresholds[1]), list[TierLinear | TierEmbedding]()
    there = dict(calibrated.named_modules())
    for path, module in list(model.named_modules()):
        int8 = there[path]
        if isinstance(module, Linear | Embedding) and isinstance(int8, Int8Rows):
            own = int8.worth.to(module.weight.device) if isinstance(int8, Graded) else None
            kind = TierLinear if isinstance(module, Linear) else TierEmbedding
            twins.append(kind.of(module, own, threshold))  # type: ignore[arg-type]
            if isinstance(int8, CentredLinear):
                twins[-1].centre = int8.centre.to(module.weight.device)
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, twins[-1])
    return twins


def _calibrated(source: Checkpoint, settings: TierSettings, workshop: Workshop) -> Transformer:
    """The source in int8, with this one tier."""
    tell, wanted = workshop.progress, settings.as_moefy
    shop = replace(workshop, progress=lambda what, done, of: tell(f"distill: {what}", done, of))
    int8 = TO_INT8.run(source, shop)
    model = trainable(int8.spec, int8.tensors()).eval()
    calibrate_(model, graded_spec(model.spec, wanted), wanted, shop)
    return model
