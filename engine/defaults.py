"""What generation_config.json asks of every request, judged where a model is opened for generation. No torch.

What it says of tokens that must or may not come is in own_rules.py, and not set aside.

A value that no request could have is set aside, so that a fault of the file never is one of the requests; so is what
changes answers in `transformers` and is not built here. A warning says all of it in one line. Lengths are the caller's.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models.families.registry import FAMILIES
from ..models.optional_json import read_optional_json
from .beams import AT_ONCE, NEVER, WHILE_BETTER
from .own_rules import BAD_WORDS, generation_values, single_word
from .sampling import OPTIONS, Option

_LARGEST = 1e9
_DRAWING: Mapping[str, tuple[Any, ...]] = {  # what is not built, with the values at which it changes no answer
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": (), "top_a": (0,), "tfs": (1,),
    "xtc_probability": (0,), "dynatemp_range": (0,), "mirostat": (0,),
}  # fmt: skip
_ALWAYS: Mapping[str, tuple[Any, ...]] = {
    "encoder_repetition_penalty": (1,), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "dry_multiplier": (0,), "num_beam_groups": (1,), "diversity_penalty": (0,),
    "penalty_alpha": (0,), "guidance_scale": (1,), "dola_layers": (), "min_length": (0,), "min_new_tokens": (0,),
    "force_words_ids": ([],), "constraints": ([],), "sequence_bias": ([], {}), "begin_suppress_tokens": ([],),
    "exponential_decay_length_penalty": (), "stop_strings": ([], ""), "watermarking_config": (),
}  # fmt: skip


_EARLY = ((False, WHILE_BETTER), (True, AT_ONCE), ("never", NEVER))
_SEARCH = ("num_beams", "length_penalty", "early_stopping")  # what counts for greedy answers alone


class GenerationConfigWarning(UserWarning):
    """A part of generation_config.json is not followed."""


def sampling_defaults(folder: Path) -> dict[str, float | int]:
    """The defaults that a model directory sets, by the names of `Sampling`; each is one that a request may have.

    {"temperature": 0} where the file says do_sample false, or, of a model whose encoder reads the prompt, nothing.
    Warns of what is set aside; CheckpointError for a file that cannot be read.
    """
    file, sourced = folder / "generation_config.json", _reads_sources(folder)
    values = generation_values(folder, sourced)
    greedy = values.get("do_sample", False if sourced else None) is False
    defaults = {**_taken(values, greedy), **({"temperature": 0.0} if greedy else {})}
    defaults = {name: value for name, value in defaults.items() if greedy or name not in _SEARCH}
    if aside := [*_wrong(values, greedy), *_not_built(values, greedy)]:
        message = f"{file}: set aside {'; '.join(aside)}. Requests may give their own settings"
        warnings.warn(message, GenerationConfigWarning, stacklevel=3)
    return defaults


def _reads_sources(folder: Path) -> bool:
    """Whether the model of a directory has an encoder that reads prompts."""
    family = FAMILIES.get(str(read_optional_json(folder / "config.json").get("model_type")))
    return family is not None and family.reads_sources


def _taken(values: Mapping[str, Any], greedy: bool) -> dict[str, float | int]:
    names = [name for name, option in OPTIONS.items() if _is_set(name, option, values, greedy)]
    offered = {name: _as_here(name, values[name]) for name in names}
    return {name: OPTIONS[name].kind(value) for name, value in offered.items() if _holds(OPTIONS[name], value)}


def _wrong(values: Mapping[str, Any], greedy: bool) -> Iterator[str]:
    if not isinstance(values.get("do_sample", False), bool):
        yield f"do_sample {_shown(values['do_sample'])}, which must be true or false"
    for name, option in OPTIONS.items():
        if _is_set(name, option, values, greedy) and not _holds(option, _as_here(name, values[name])):
            yield f"{name} {_shown(values[name])}, which must be {option.rule}"


def _not_built(values: Mapping[str, Any], greedy: bool) -> Iterator[str]:
    words = values.get(BAD_WORDS) or []
    if not isinstance(words, list) or not all(map(single_word, words)):
        yield f"{BAD_WORDS} {_shown(words)}, of which moesaic follows words of one token"
    if values.get("num_beams", 1) != 1 and not greedy:
        yield f"num_beams {_shown(values['num_beams'])}, which counts where do_sample is false"
    for name, neutral in {**_ALWAYS, **({} if greedy else _DRAWING)}.items():
        if name in values and values[name] not in neutral:
            why = "requests give themselves" if name in OPTIONS else "moesaic does not have"
            yield f"{name} {_shown(values[name])}, which {why}"


def _is_set(name: str, option: Option, values: Mapping[str, Any], greedy: bool) -> bool:
    """Where nothing is drawn, what only counts for drawing may stand there and say nothing."""
    return option.by_model and name in values and (option.of_greedy or not greedy)


def _as_here(name: str, value: Any) -> Any:
    """top_k -1 is how others say off, and early_stopping has words for its numbers."""
    if name == "early_stopping":
        return next((number for said, number in _EARLY if said is value or said == value == "never"), value)
    return 0 if name == "top_k" and value == -1 else value


def _holds(option: Option, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    return is_number and (option.kind is float or value == int(value)) and option.holds(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
