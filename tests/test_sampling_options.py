"""A sampling option is described once: every place that names it agrees, and what is typed reaches the sampler."""

import argparse
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import pytest

from moesaic.bench.local_server import local_server
from moesaic.cli.common import add_generation_options, settings_of
from moesaic.cli.main import main
from moesaic.engine.llm import LLM
from moesaic.engine.points import ComputeSettings
from moesaic.engine.request import Limits
from moesaic.engine.sampling import OPTIONS, Option, Sampling, SamplingSettings, sampling_of, sampling_violations
from moesaic.engine.settings import GenerationSettings, Terms, asked_of
from moesaic.engine.standing import StandingSettings
from moesaic.engine.token_rules import TokenRules
from moesaic.models.dial import Dial
from moesaic.models.errors import InvalidRequest, Violation
from moesaic.proto import engine_pb2, generation_pb2
from moesaic.server.client import Client
from moesaic.server.client_request import Settings, build_request
from moesaic.server.messages import request_of, submit_message
from moesaic.server.validation import settings_of as settings_of_message

TERMS = Terms({}, Limits(vocab_size=512, max_context=512), Dial())
VALUES: Mapping[str, Any] = {
    "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.2,
    "presence_penalty": -0.5, "frequency_penalty": 0.25, "min_new_tokens": 3, "seed": 0, "n": 2, "logprobs": 0,
    "prompt_logprobs": 20, "num_beams": 1, "length_penalty": 0.5, "early_stopping": 1,
}  # fmt: skip
OF_REQUESTS = {"seed": None, "min_new_tokens": 0, "n": 1, "logprobs": None, "prompt_logprobs": None}
RULES: Mapping[str, Any] = {"logit_bias": {7: 0.1, 3: -100.0}, "allowed_token_ids": [9, 3], "banned_token_ids": [9]}
CONSTRAINTS: Mapping[str, Any] = {
    "json_schema": '{"type": "object"}', "regex": "a+", "grammar": 'start: "a"', "choices": ["yes", "no"]
}  # fmt: skip
BESIDE = {*ComputeSettings.__annotations__, *StandingSettings.__annotations__}
OTHERS = {"max_new_tokens", "stop", "stop_token_ids", "ignore_eos", *BESIDE, *RULES, *CONSTRAINTS}
GREEDY = ["", "--max-new-tokens", "40"]
LIKELIEST = [*GREEDY, "--temperature", "2", "--min-p", "1"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_server({"stories": "stories260k"}) as found:
        yield found


def typed(*words: str) -> GenerationSettings:
    """What a command line asks for."""
    parser = argparse.ArgumentParser()
    add_generation_options(parser)
    return settings_of(parser.parse_args(words))


# --- one description -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        [field.name for field in dataclasses.fields(Sampling)],
        SamplingSettings.__annotations__,
        engine_pb2.Sampling.DESCRIPTOR.fields_by_name,
        generation_pb2.Sampling.DESCRIPTOR.fields_by_name,
        GenerationSettings.__annotations__.keys() - OTHERS,
        Settings.__annotations__.keys() - OTHERS - {"model", "request_id"},
        typed().keys() - OTHERS,
        VALUES,
    ],
    ids=["Sampling", "SamplingSettings", "engine", "wire", "GenerationSettings", "Settings", "command line", "tests"],
)
def test_the_options_have_the_same_names_everywhere(names: Any) -> None:
    assert set(names) == set(OPTIONS)


@pytest.mark.parametrize(("name", "option"), OPTIONS.items(), ids=list(OPTIONS))
def test_an_option_is_of_one_kind_everywhere(name: str, option: Option) -> None:
    assert get_type_hints(SamplingSettings)[name] == option.kind | None
    assert get_type_hints(Sampling)[name] in (option.kind, option.kind | None)
    for message in (engine_pb2.Sampling, generation_pb2.Sampling):
        field = message.DESCRIPTOR.fields_by_name[name]
        whole = field.type in (field.TYPE_UINT32, field.TYPE_UINT64)
        assert whole == (option.kind is int) and field.has_presence


def test_what_is_left_open_keeps_every_rule() -> None:
    assert sampling_of({}, {}) == sampling_of(dict.fromkeys(OPTIONS), {}) == Sampling()
    assert sampling_violations(Sampling()) == []


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.kind is float])
def test_no_rule_is_kept_by_nan(name: str) -> None:
    values: Any = {name: math.nan}
    (violation,) = sampling_violations(Sampling(**values))
    assert violation.field == f"sampling.{name}" and violation.message.endswith(OPTIONS[name].rule)


def test_a_models_defaults_are_taken_but_for_what_requests_give() -> None:
    defaults = {**VALUES, "seed": 9, "max_new_tokens": 3}
    assert sampling_of({}, defaults) == Sampling(**{**VALUES, **OF_REQUESTS})
    assert sampling_of({"top_k": 0, "min_p": None}, defaults) == Sampling(**{**VALUES, "top_k": 0, **OF_REQUESTS})


# --- one edge ------------------------------------------------------------------------------------------------------


def test_settings_survive_the_way_over_the_wire() -> None:
    rest = {"max_new_tokens": 7, "stop": ["a", "b"], "stop_token_ids": [4], "ignore_eos": True, "share": 1.0}
    settings: Any = {**VALUES, **rest, **RULES}
    said = settings_of_message(build_request([5, 6], **settings))
    assert asked_of((5, 6), said, TERMS) == asked_of((5, 6), settings, TERMS)
    request = asked_of((5, 6), said, TERMS).request
    assert request.sampling == Sampling(**VALUES)
    assert request.token_rules == TokenRules(((3, -100.0), (7, 0.1)), (3, 9), (9,))
    assert request_of(submit_message(request).submit) == request


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_a_constraint_survives_the_way_over_the_wire(kind: str) -> None:
    settings: Any = {kind: CONSTRAINTS[kind]}
    request = asked_of((5,), settings_of_message(build_request([5], **settings)), TERMS).request
    assert request == asked_of((5,), settings, TERMS).request and request.constraint is not None
    assert request_of(submit_message(request).submit) == request


def test_a_search_survives_the_way_over_the_wire() -> None:
    settings: Any = {"temperature": 0, "num_beams": 4, "length_penalty": -0.3, "early_stopping": 2, "n": 3}
    request = asked_of((5,), settings_of_message(build_request([5], **settings)), TERMS).request
    assert request == asked_of((5,), settings, TERMS).request and request.sampling.num_beams == 4
    assert request_of(submit_message(request).submit) == request


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.5}, "num_beams is 4, and a search draws nothing; give temperature 0, or 1 for no search"),
        ({"logprobs": 2}, "num_beams is 4, and a search tells no log probabilities; leave them out, or give 1"),
        ({"n": 5}, "n is 5, and a search with num_beams 4 has no more answers than beams"),
        ({"regex": "a+"}, "num_beams is 4, and a search follows no constraint; leave one of them out"),
        ({"num_beams": 9}, "num_beams is 9, and 8 answers run at a time; ask for fewer, or raise num_slots"),
    ],
)
def test_what_no_search_can_be_is_refused(settings: Any, words: str) -> None:
    terms = Terms({}, Limits(vocab_size=512, max_context=512, num_slots=8), Dial())
    with pytest.raises(InvalidRequest) as caught:
        asked_of((5,), {"temperature": 0, "num_beams": 4, **settings}, terms)
    [violation] = caught.value.violations
    assert f"{violation.field.removeprefix('sampling.')} {violation.message}" == words


def test_what_is_open_stays_open_over_the_wire() -> None:
    assert settings_of_message(build_request("x")) == {}
    assert settings_of_message(build_request("x", temperature=0, tier="full")) == {"temperature": 0, "tier": "full"}


def test_the_edge_lists_what_was_found_before_with_the_rest() -> None:
    settings, before = {"min_p": 2.0, "top_k": "x", "share": 7.0}, [Violation("request_id", "is long")]
    with pytest.raises(InvalidRequest) as caught:
        asked_of((), settings, TERMS, found=before, compute_path="compute.")
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["request_id", "top_k", "prompt", "sampling.min_p", "compute.share"]


def test_mypy_knows_the_settings() -> None:
    """Each line is an error that mypy must find, else it complains of an unused ignore."""
    llm = LLM("stories260k")
    with pytest.raises(InvalidRequest, match="it must be a number"):
        llm.generate("x", min_p="much")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="did you mean 'min_p'"):
        llm.generate("x", minp=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'min_p'"), Client() as client:
        client.generate("x", minp=0.1)  # type: ignore[call-arg]


# --- two doors, one rule -------------------------------------------------------------------------------------------

BIT32, BIT64, TINY = 2**32, 2**64, 1e-46  # the last is 0 as a float32
EDGES: Mapping[str, list[Any]] = {
    "temperature": [0, -0.0, 2, 2.0000001, 2.1, -1e-9, TINY, 1e-30, 1e39, math.nan, math.inf, "1", True, 10**400],
    "top_k": [0, 1, 511, 513, 2**31 - 1, 2**31, BIT32 - 1, BIT32, BIT64, -1, 1.0, "1", True],
    "top_p": [1, 0, TINY, 1e-9, 1.00000001, 1.000001, -0.5, math.nan, math.inf, None, "1"],
    "min_p": [0, 1, TINY, -TINY, -1e-9, 1.00000001, 1.1, math.nan, [0.5]],
    "typical_p": [1, 0.5, 0, 1.00000001, 1.000001, math.nan, "1"],
    "repetition_penalty": [1, 10, 10.1, 0, -1, 0.5, math.nan, math.inf, "1"],
    "presence_penalty": [-2, 2, 0, 2.1, -2.1, math.nan, True],
    "frequency_penalty": [-2, 2, 0.5, 2.1, -2.1, math.nan, None],
    "min_new_tokens": [0, 4, 5, -1, BIT32, 1.0, "1"],
    "n": [1, 0, 129, -1, BIT32, 1.5, "2"],
    "logprobs": [0, 20, 21, -1, BIT32, True, "all"],
    "prompt_logprobs": [0, 20, 21, -1, BIT32, 0.5],
    "num_beams": [1, 2, 0, 65, -1, BIT32, 1.0, "4"],
    "length_penalty": [0, -10, 10, 10.1, -10.1, math.nan, True],
    "early_stopping": [0, 2, 3, -1, True, "never"],
    "seed": [0, 1, 2**31, BIT32, 2**63, BIT64 - 1, BIT64, 10**30, -1, -(2**63), 0.5, "7", False],
}


@pytest.fixture(scope="module")
def offline() -> LLM:
    return LLM("stories260k")


@pytest.fixture(scope="module")
def online(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def through(door: LLM | Client, settings: Any) -> tuple[int, ...] | str:
    """The tokens; or what is said, without the path: types are judged before a path is known."""
    try:
        return tuple(i for chunk in door.stream("Once", max_new_tokens=4, **settings) for i in chunk.token_ids)
    except InvalidRequest as error:
        return "; ".join(f"{each.field.removeprefix('sampling.')} {each.message}" for each in error.violations)


def test_every_option_has_edges() -> None:
    assert set(EDGES) == set(OPTIONS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EDGES.items() for value in values])
def test_a_value_is_taken_or_refused_by_one_sentence_offline_and_over_grpc(
    name: str, value: Any, offline: LLM, online: Client
) -> None:
    """Drawn with a seed, so that what is taken is seen to do the same."""
    settings = {"seed": 3, "temperature": 1.3, name: value}
    ours, theirs = through(offline, settings), through(online, settings)
    assert ours == theirs
    assert not isinstance(ours, str) or ours.startswith(f"{name} is ")


def test_a_violation_that_only_the_client_sees_stands_beside_those_of_the_message(online: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        online.generate("x", seed=-1, top_k=BIT32, request_id="\ud800")
    found = {each.field: each.message for each in caught.value.violations}
    assert found["sampling.seed"] == "is -1, it must be from 0 to 18446744073709551615"
    assert found["sampling.top_k"] == "is 4294967296, it must be from 0 (off) to 4294967295" and "request_id" in found


@pytest.mark.parametrize("command", [["run", "stories260k"], ["generate"]])
@pytest.mark.parametrize("seed", [-1, BIT64])
def test_a_seed_that_no_door_takes_is_refused_by_both_commands(
    command: list[str], seed: int, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--address", address] if command == ["generate"] else []
    assert main([*command, "hi", f"--seed={seed}", *where]) == 2
    assert f"is {seed}, it must be " in (shown := capsys.readouterr().err) and "seed" in shown


# --- as it is typed ------------------------------------------------------------------------------------------------


def test_a_command_line_says_what_was_typed_and_leaves_the_rest_open() -> None:
    assert typed("--min-p", "0.25", "--stop", "x") == {
        **dict.fromkeys([*OPTIONS, *RULES, *CONSTRAINTS, *BESIDE, "max_new_tokens"]),
        "temperature": 0.0, "min_p": 0.25, "stop": ["x"]
    }  # fmt: skip


def test_run_draws_from_the_likeliest_alone_at_min_p_one(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (GREEDY, LIKELIEST, LIKELIEST[:-2]):
        assert main(["run", "stories260k", *words]) == 0
        shown.append(capsys.readouterr().out)
    greedy, likeliest, free = shown
    assert likeliest == greedy != free


def test_generate_draws_from_the_likeliest_alone_at_min_p_one(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (GREEDY, LIKELIEST, LIKELIEST[:-2]):
        assert main(["generate", *words, "--seed", "3", "--address", address]) == 0
        shown.append(capsys.readouterr().out)
    greedy, likeliest, free = shown
    assert likeliest == greedy != free


@pytest.mark.parametrize("command", [["run", "stories260k"], ["generate"]])
def test_a_min_p_beyond_its_rule_is_one_line(
    command: list[str], address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--address", address] if command == ["generate"] else []
    assert main([*command, "hi", "--min-p", "1.5", *where]) == 2
    assert "sampling.min_p: is 1.5, it must be from 0 (off) to 1" in capsys.readouterr().err
