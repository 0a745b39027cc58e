"""generation_config.json is judged where a model is opened: what it says wrong is no fault of a request."""

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from builders import edit_json, llama
from transformers import GenerationConfig

import moesaic
from moesaic import LLM
from moesaic.engine.defaults import GenerationConfigWarning, sampling_defaults
from moesaic.engine.sampling import OPTIONS, sampling_of, sampling_violations

DRAWN = {"do_sample": True}


def defaults(folder: Path, **values: Any) -> dict[str, float | int]:
    """The defaults of a file, read without a warning: in tests one is an error."""
    (folder / "generation_config.json").write_text(json.dumps(values))
    return sampling_defaults(folder)


def set_aside(folder: Path, **values: Any) -> str:
    """The one line that says what is not followed; what is left can stand in any request."""
    with pytest.warns(GenerationConfigWarning) as caught:
        left = defaults(folder, **values)
    assert not sampling_violations(sampling_of({}, left)) and not set(left) & set(values)
    [text] = [str(each.message) for each in caught]
    assert "\n" not in text and text.startswith(str(folder / "generation_config.json"))
    return text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"temperature": 0.6}, {"temperature": 0.6}),
        ({"do_sample": True, "top_k": -1}, {"top_k": 0}),
        ({"do_sample": True, "top_k": 50.0}, {"top_k": 50}),
        ({"do_sample": True, "top_k": 0, "min_p": 0, "top_p": 1}, {"top_k": 0, "min_p": 0.0, "top_p": 1.0}),
        ({"do_sample": True, "temperature": 0}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": None, "top_k": None}, {}),
        ({"do_sample": False, "temperature": 9.0, "top_k": -7, "typical_p": 0.2}, {"temperature": 0.0}),
        ({"max_length": 4096, "max_new_tokens": 9, "eos_token_id": [2], "seed": 1, "my_key": {"a": 1}}, {}),
        ({"num_beams": 1, "suppress_tokens": [], "stop_strings": None, "min_new_tokens": 0}, {}),
        ({"bad_words_ids": [[5]], "suppress_tokens": [1, 2], "forced_eos_token_id": 2}, {}),  # engine/own_rules.py
        (
            {"do_sample": False, "num_beams": 4, "length_penalty": 2, "early_stopping": True},
            {"num_beams": 4, "length_penalty": 2.0, "early_stopping": 1, "temperature": 0.0},
        ),
        ({"do_sample": False, "early_stopping": "never"}, {"early_stopping": 2, "temperature": 0.0}),
        ({**DRAWN, "typical_p": 0.9, "repetition_penalty": 1.1}, {"typical_p": 0.9, "repetition_penalty": 1.1}),
        ({"presence_penalty": 0.5, "frequency_penalty": 1}, {"presence_penalty": 0.5, "frequency_penalty": 1.0}),
        ({"do_sample": False, "repetition_penalty": 1.3}, {"repetition_penalty": 1.3, "temperature": 0.0}),
    ],
)
def test_what_can_be_followed_is_followed_in_silence(values: Any, expected: Any, tmp_path: Path) -> None:
    assert defaults(tmp_path, **values) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 3.0), ("temperature", 2.01), ("temperature", -1), ("temperature", "0.7"),
        ("temperature", math.nan), ("temperature", math.inf), ("temperature", True), ("temperature", [0.5]),
        ("top_k", -2), ("top_k", 40.5), ("top_k", 10**400), ("top_k", "hot"), ("top_k", {}),
        ("top_p", 0), ("top_p", 0.0), ("top_p", 1.5), ("top_p", -0.1), ("min_p", 2), ("min_p", -0.5),
        ("typical_p", 0), ("repetition_penalty", 0), ("repetition_penalty", 11), ("presence_penalty", 3),
    ],
)  # fmt: skip
def test_a_value_that_no_request_may_have_is_set_aside_with_its_rule(name: str, value: Any, tmp_path: Path) -> None:
    text = set_aside(tmp_path, **DRAWN, **{name: value})
    assert f"set aside {name} {repr(value)[:30]}" in text and f"which must be {OPTIONS[name].rule}" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram_size", 3), ("penalty_alpha", 0.6), ("guidance_scale", 1.5), ("stop_strings", ["END"]),
        ("epsilon_cutoff", 3e-4), ("sequence_bias", [[[5], -10.0]]), ("exponential_decay_length_penalty", [5, 1.1]),
    ],
)  # fmt: skip
def test_what_is_not_built_is_named(name: str, value: Any, tmp_path: Path) -> None:
    assert f"set aside {name} {value!r}, which moesaic does not have" in set_aside(tmp_path, **DRAWN, **{name: value})


def test_what_is_followed_in_part_is_named(tmp_path: Path) -> None:
    assert "num_beams 4, which counts where do_sample is false" in set_aside(tmp_path, **DRAWN, num_beams=4)
    words = "bad_words_ids [[5], [6, 7]], of which moesaic follows words of one token"
    assert words in set_aside(tmp_path, bad_words_ids=[[5], [6, 7]])


def test_a_length_is_the_callers(tmp_path: Path) -> None:
    assert "set aside min_new_tokens 5, which requests give themselves" in set_aside(tmp_path, min_new_tokens=5)


def test_a_penalty_that_cannot_be_is_named_for_greedy_answers_too(tmp_path: Path) -> None:
    assert "set aside repetition_penalty -1" in set_aside(tmp_path, do_sample=False, repetition_penalty=-1)


def test_one_line_names_all(tmp_path: Path) -> None:
    text = set_aside(tmp_path, do_sample="yes", top_k=-7, temperature=3, num_beams=2)
    for words in ("do_sample 'yes', which must be true or false; ", "top_k -7, ", "temperature 3, ", "num_beams 2, "):
        assert words in text


def test_what_transformers_writes_by_itself_warns_of_nothing(tmp_path: Path) -> None:
    GenerationConfig().save_pretrained(tmp_path)
    assert sampling_defaults(tmp_path) == {}
    GenerationConfig(do_sample=True, temperature=0.7, top_k=20, top_p=0.8).save_pretrained(tmp_path)
    assert sampling_defaults(tmp_path) == {"temperature": 0.7, "top_k": 20, "top_p": 0.8}


@pytest.mark.parametrize("values", [{"top_k": -1, "temperature": 0.6}, {"temperature": 3.0}, {"top_p": 0}])
def test_no_request_fails_for_what_the_file_says(values: dict[str, Any], tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=1)
    edit_json(tmp_path / "generation_config.json", do_sample=True, **values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GenerationConfigWarning)
        llm = LLM(tmp_path)
    for asked in ({}, {"temperature": 0}, {"top_k": 5, "temperature": 1.5, "top_p": 0.5}):
        [answer] = llm.generate(["abc"], max_new_tokens=3, ignore_eos=True, **asked)
        assert len(answer.token_ids) == 3


def test_the_command_line_warns_in_one_plain_line(tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=1)
    edit_json(tmp_path / "generation_config.json", do_sample=True, temperature=3.0)
    command = [sys.executable, "-m", "moesaic.cli.main", "run", str(tmp_path), "abc", "--max-new-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    [line] = [line for line in done.stderr.splitlines() if "warning" in line.lower()]
    assert done.returncode == 0 and line.startswith(f"moesaic: warning: {tmp_path}/generation_config.json: set aside")


def test_compress_carries_the_file_over_as_it_is(tmp_path: Path) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    edit_json(tmp_path / "model" / "generation_config.json", do_sample=True, top_k=-7, repetition_penalty=1.3)
    quick = {"stages": [{"quantize": {"linears": "int8"}}], "evaluation": {"documents": 1, "truncate": 16}}
    moesaic.compress(tmp_path / "model", tmp_path / "int8", quick)
    files = [tmp_path / name / "generation_config.json" for name in ("model", "int8")]
    assert files[0].read_bytes() == files[1].read_bytes()
