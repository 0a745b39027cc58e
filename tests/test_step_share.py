"""Rows of a step that choose together: within what they may read, and alone what they always were."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.engine.request import Request, Stopping
from moesaic.engine.sampling import Sampling
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import SetupError
from moesaic.models.record import TierRecord
from moesaic.models.step_share import StepShare, threshold_factor

TABLE = {"2": [[1.0, 0.8], [2.0, 0.6]], "8": [[1.0, 0.95], [2.0, 0.7], [4.0, 0.5]]}
PROMPTS = ["Once upon a time", "Lily had a red ball", "The dog ran to", "One day, a boy"]
EVALUATION = {"documents": 1, "truncate": 24}


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steps") / "planes"
    moefy = {"expert_size": 1, "router": "bit_planes", "bits": 2, "tiers": {"high": 0.8, "low": 0.55}}
    compress("stories260k", out, {
        "calibration": {"sequences": 16, "length": 48}, "evaluation": EVALUATION,
        "stages": [{"moefy": moefy}, {"quantize": {"linears": "int8"}}],
    })  # fmt: skip
    return out


def tier(table: Any = TABLE, **figures: Any) -> TierRecord:
    seen = {"bytes_share": 0.5, "neurons_share": 0.5, "tokens": 1, "active_by_layer": [], "together": table}
    return TierRecord("low", 0.5, {**seen, **figures})


# --- factors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "share", "factor"),
    [(1, 0.1, 1.0), (2, 0.9, 1.0), (2, 0.8, 1.0), (2, 0.6, 2.0), (2, 0.7, 2**0.5), (3, 0.7, 2.0), (8, 0.6, 8**0.5),
     (20, 0.5, 4.0), (8, 0.1, 4.0)],
)  # fmt: skip
def test_thresholds_rise_until_a_step_reads_its_share(rows: int, share: float, factor: float) -> None:
    assert threshold_factor(tier(), rows, share) == pytest.approx(factor)


def test_rows_at_the_full_tier_are_left_alone_and_counted_out() -> None:
    step = StepShare([tier(), tier({"2": [[1.0, 0.9], [3.0, 0.6]]})], 0.6)
    assert step.factors([0, 1, 2, 0]) == pytest.approx([1.0, 2.0, 3.0, 1.0])
    assert step.factors([0, 0.5]) == step.factors([0, 0]) == []  # none beside it
    assert threshold_factor(tier({}), 4, 0.5) == 1.0


def test_rows_beyond_eight_are_a_group_of_their_own() -> None:
    step = StepShare([tier()], 0.6)
    nine, ten = step.factors([1] * 9), step.factors([1, 0] * 10)
    assert nine == pytest.approx([8**0.5] * 8 + [1.0])
    assert ten == pytest.approx([8**0.5, 1.0] * 8 + [2.0, 1.0] * 2)  # two of them make a step of two


@pytest.mark.parametrize("table", [{"1": [[1, 0.5]]}, {"2": []}, {"2": [[0.5, 0.5]]}, {"2": [[2, 0.5], [1, 0.6]]}])
def test_tables_that_we_did_not_write_are_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="no thresholds for steps"):
        tier(table).check_form()


# --- a model ----------------------------------------------------------------------------------------------------------


def test_calibration_foretells_what_steps_read(planes: Path) -> None:
    for each in open_checkpoint(planes).record.tiers:
        assert set(each.together) == {2, 4, 8}
        for points in each.together.values():
            shares = [share for _, share in points]
            assert shares == sorted(shares, reverse=True) and shares[0] > each.bytes_share * 0.9


def test_a_step_reads_about_its_share_whatever_its_rows(planes: Path) -> None:
    model, step = load(planes), StepShare(open_checkpoint(planes).record.tiers, 0.5)
    ids = torch.randint(3, 500, (8, 40), generator=torch.Generator().manual_seed(2))
    for rows in (2, 4, 8):
        read = []
        for column in range(0, 40, 4):  # what is together in a call chooses together
            account = model.compute_of([2] * rows, step.factors([2] * rows))
            model(ids[:rows, column : column + 1], compute=account)
            read.append(account.spent.shares(1)[0][0])
            assert len(set(account.spent.shares(1))) == 1
        assert sum(read) / len(read) == pytest.approx(0.5, abs=0.06)


def test_an_engine_that_is_given_a_share_reads_it(planes: Path) -> None:
    """A budget that a step of four reaches only where its thresholds rise."""
    read = []
    for share in (1.0, 0.5):
        llm = LLM(planes, EngineOptions(step_share=share))
        answers = llm.generate(PROMPTS, tier="high", temperature=0, max_new_tokens=24, ignore_eos=True)
        assert [len(answer.token_ids) for answer in answers] == [24] * 4
        read.append(sum(answer.usage.bytes_share or 0 for answer in answers) / 4)
    assert read[1] < 0.9 * read[0]


def test_a_prompt_read_at_a_tier_chooses_alone_whoever_decodes_beside_it(planes: Path) -> None:
    """Its states are in its blocks, so what follows it shows them: a token at full."""
    found = []
    for beside in (0, 5):
        llm = LLM(planes, EngineOptions(step_share=0.5))
        for key in range(beside):
            llm.engine.add(
                Request(
                    100 + key, (key + 5, 9), Sampling(temperature=0), Stopping(30, ignore_eos=True), operating_point=2
                )
            )
        for _ in range(3 * bool(beside)):
            llm.engine.step()
        settings: Any = {"temperature": 0, "max_new_tokens": 4, "logprobs": 2, "prefill_tier": "low"}
        found.append(llm.generate([PROMPTS[0] * 3], **settings)[0].logprobs)
    assert found[0] == found[1]


@pytest.mark.parametrize("given", [["--step-share", "0.7"], ["--config", "{}"]])
def test_a_server_is_given_the_share_too(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moesaic.cli import main
    from moesaic.server import serve

    (tmp_path / "served.yaml").write_text("models: {a: x}\nengine: {step_share: 0.7}\n")
    seen: list[Any] = []

    def note(options: Any, **_: object) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(serve, "serve", note)
    words = [word.format(tmp_path / "served.yaml") if word == "{}" else word for word in given]
    assert main.main(["serve", "stories260k", *words]) == 0 and seen[0].engine.step_share == 0.7


def test_alone_and_at_the_full_tier_an_answer_is_what_it_always_is(planes: Path) -> None:
    strict, fast = LLM(planes), LLM(planes, EngineOptions(step_share=0.5))
    for prompts, name in ((PROMPTS[:1], "low"), (PROMPTS, "full")):
        told = [
            [answer.token_ids for answer in llm.generate(prompts, tier=name, temperature=0, max_new_tokens=12)]
            for llm in (strict, fast)
        ]
        assert told[0] == told[1]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.0, "step_share is 0.0, it must be a finite number, above 0 and at most 1"),
        (1.5, "at most 1; give a share"),
        (float("nan"), "step_share is nan"),
        (0.5, "no tiers"),
    ],
)
def test_a_share_that_cannot_be_is_refused(share: float, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        LLM("stories260k", EngineOptions(step_share=share))


def test_a_share_below_what_routing_reads_is_refused(planes: Path) -> None:
    with pytest.raises(SetupError, match="step_share is 0.1, and the steps of this model's tiers read 0.... of"):
        LLM(planes, EngineOptions(step_share=0.1))
