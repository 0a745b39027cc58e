"""The families that can be run. Adding one is a file beside this one, a line here and a parity test."""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..suggestion import likely
from . import (
    bart,
    bert,
    distilbert,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    llama,
    mistral,
    mixtures,
    mpnet,
    olmo2,
    olmo3,
    opt,
    phi3,
    qwen2,
    qwen3,
    seed_oss,
    smollm3,
    starcoder2,
    t5,
)  # fmt: skip
from .classification import architecture_of, classifying
from .family import Family, is_sparse_tensor

__all__ = ["FAMILIES", "Family", "family_of", "is_sparse_tensor"]

_FREQUENCIES = r"rotary_emb\.inv_freq$"
_POSITION_IDS = r"position_ids$"  # 0, 1, 2 ..., as older files keep it
_MASKS = r"\.(attn|attention)\.(masked_)?bias$"  # which keys a query sees, as older files keep it
_EMBEDDINGS = r"coder\.embed_tokens\.weight$"  # of an encoder and a decoder, as older files have them beside the shared

FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", llama.llama_spec, llama.NAMES, _FREQUENCIES, bias_key="mlp_bias"),
    "opt": Family("OPTForCausalLM", opt.opt_spec, opt.NAMES, width_key="ffn_dim", activation_key="activation_function"),
    "gpt2": Family(
        "GPT2LMHeadModel", gpt2.gpt2_spec, gpt2.NAMES, _MASKS, width_key="n_inner",
        activation_key="activation_function", base="transformer", transposed=gpt2.TRANSPOSED,
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM", gpt_neox.gpt_neox_spec, gpt_neox.NAMES, f"{_MASKS}|{_FREQUENCIES}", base="gpt_neox",
        by_head=True,
    ),
    "mistral": Family("MistralForCausalLM", mistral.mistral_spec, llama.NAMES, _FREQUENCIES),
    "qwen2": Family("Qwen2ForCausalLM", qwen2.qwen2_spec, llama.NAMES, _FREQUENCIES),
    "qwen3": Family("Qwen3ForCausalLM", qwen3.qwen3_spec, qwen3.NAMES, _FREQUENCIES),
    "phi3": Family("Phi3ForCausalLM", phi3.phi3_spec, phi3.NAMES, _FREQUENCIES),
    "gemma": Family("GemmaForCausalLM", gemma.gemma_spec, llama.NAMES, _FREQUENCIES),
    "gemma2": Family(
        "Gemma2ForCausalLM", gemma2.gemma2_spec, gemma2.NAMES, _FREQUENCIES, activation_key="hidden_activation"
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", gemma3.gemma3_spec, gemma3.NAMES, _FREQUENCIES, activation_key="hidden_activation",
        headless="Gemma3TextModel",
    ),
    "olmo2": Family("Olmo2ForCausalLM", olmo2.olmo2_spec, olmo2.NAMES, _FREQUENCIES),
    "mixtral": Family("MixtralForCausalLM", mixtures.mixtral_spec, mixtures.MIXTRAL_NAMES, _FREQUENCIES),
    "olmoe": Family("OlmoeForCausalLM", mixtures.olmoe_spec, mixtures.QWEN_NAMES, _FREQUENCIES),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", mixtures.qwen3_moe_spec, mixtures.QWEN_NAMES, _FREQUENCIES),
    "olmo3": Family("Olmo3ForCausalLM", olmo3.olmo3_spec, olmo2.NAMES, _FREQUENCIES),
    "seed_oss": Family("SeedOssForCausalLM", seed_oss.seed_oss_spec, llama.NAMES, _FREQUENCIES, bias_key="mlp_bias"),
    "starcoder2": Family(
        "Starcoder2ForCausalLM", starcoder2.starcoder2_spec, starcoder2.NAMES, _FREQUENCIES, bias_key="use_bias"
    ),
    "smollm3": Family("SmolLM3ForCausalLM", smollm3.smollm3_spec, llama.NAMES, _FREQUENCIES, bias_key="mlp_bias"),
    "bert": Family(
        "BertModel", bert.bert_spec, bert.NAMES, rf"{_POSITION_IDS}|pooler\.|^cls\.", base="bert",
        heads=("BertForMaskedLM", "BertForPreTraining"),
    ),
    "roberta": Family(
        "RobertaModel", bert.roberta_spec, bert.NAMES, rf"{_POSITION_IDS}|pooler\.|^lm_head\.", base="roberta",
        heads=("RobertaForMaskedLM",),
    ),
    "xlm-roberta": Family(
        "XLMRobertaModel", bert.xlm_roberta_spec, bert.NAMES, rf"{_POSITION_IDS}|pooler\.|^lm_head\.", base="roberta",
        heads=("XLMRobertaForMaskedLM",),
    ),
    "distilbert": Family(
        "DistilBertModel", distilbert.distilbert_spec, distilbert.NAMES, rf"{_POSITION_IDS}|^vocab_", base="distilbert",
        width_key="hidden_dim", activation_key="activation", heads=("DistilBertForMaskedLM",),
    ),
    "mpnet": Family(
        "MPNetModel", mpnet.mpnet_spec, mpnet.NAMES, rf"{_POSITION_IDS}|pooler\.|^lm_head\.", base="mpnet",
        heads=("MPNetForMaskedLM",),
    ),
    "t5": Family(
        "T5ForConditionalGeneration", t5.t5_spec, t5.NAMES, t5.UNUSED, width_key="d_ff",
        activation_key="feed_forward_proj", names_of=t5.names_of, said_by_tie="scale_decoder_outputs",
        embeddings=_EMBEDDINGS,
    ),
    "bart": Family(
        "BartForConditionalGeneration", bart.bart_spec, bart.NAMES, bart.UNUSED, width_key="decoder_ffn_dim",
        activation_key="activation_function", embeddings=_EMBEDDINGS,
    ),
    "marian": Family(
        "MarianMTModel", bart.marian_spec, bart.NAMES, bart.MARIAN_UNUSED, width_key="decoder_ffn_dim",
        activation_key="activation_function", embeddings=_EMBEDDINGS,
    ),
}  # fmt: skip


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names. Raises CheckpointError for one that is not here, or that brings code."""
    if config.get("auto_map"):
        raise CheckpointError(
            "config.json: auto_map asks to run Python code from the checkpoint, which moesaic never does; "
            "convert the model to one of the families " + ", ".join(FAMILIES)
        )
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        shown = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:77]}..."
        raise CheckpointError(
            f"config.json: model_type is {shown}; moesaic runs the families {', '.join(FAMILIES)}"
            f"{likely(name, FAMILIES) if isinstance(name, str) else ''}; CONTRIBUTING.md says how one is added"
        )
    family = FAMILIES[name]
    architectures = config.get("architectures") or [family.architecture]
    classifier = architecture_of(name, family)
    there = (family.architecture, *filter(None, (family.bare, *family.heads, classifier)))
    if not isinstance(architectures, list) or not any(each in architectures for each in there):
        raise CheckpointError(
            f"config.json: architectures is {architectures!r}; of the family {name} moesaic runs {' and '.join(there)}"
        )
    return classifying(name, family.of(config)) if classifier in architectures else family.of(config)
