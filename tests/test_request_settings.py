"""What a request may spend and how it stands to others: the same names, values and sentences at every door."""

import argparse
import runpy
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from house import ROOT

from moesaic.bench.local_server import local_server
from moesaic.cli.common import add_generation_options, settings_of
from moesaic.cli.main import build_parser, main
from moesaic.compress.pipeline import compress
from moesaic.engine.completion import Usage
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions, ModelDescription
from moesaic.engine.points import ComputeSettings, points_of
from moesaic.engine.receipt import Receipt
from moesaic.engine.request import Limits, Load, Priority, Request, Row
from moesaic.engine.settings import GenerationSettings, Terms, asked_of
from moesaic.engine.standing import StandingSettings
from moesaic.evaluate.score import score_documents
from moesaic.models.checkpoint import load
from moesaic.models.dial import Dial
from moesaic.models.errors import Expired, InvalidRequest, Unsupported, Violation
from moesaic.models.record import TierRecord
from moesaic.proto import engine_pb2, generation_pb2
from moesaic.server.client import Client
from moesaic.server.client_answers import completion_of
from moesaic.server.client_questions import Question
from moesaic.server.client_request import build_request
from moesaic.server.config import configuration
from moesaic.server.generation import submitted
from moesaic.server.handlers import GENERATION
from moesaic.server.messages import request_of, row_of, step_message, submit_message
from moesaic.server.services import call_of
from moesaic.server.validation import PRIORITIES
from moesaic.server.validation import settings_of as settings_of_message

DIAL = Dial.of([TierRecord("high", 0.7, {"bytes_share": 0.7}), TierRecord("low", 0.5, {"bytes_share": 0.5})])
TERMS = Terms({}, Limits(512, 512, num_slots=4, cache_tokens=640, block_tokens=16), DIAL)
SETTINGS: dict[str, Any] = {
    "tier": "high", "floor_share": 0.6, "prefill_tier": "low", "priority": "low", "cache_salt": "mine",
    "first_token_seconds": 2.5,
}  # fmt: skip
LONG = "Once upon a time there was a girl who had a dog, and the dog had a ball that it liked to play with. " * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With tiers, and with a wish for its keys and values."""
    out = tmp_path_factory.mktemp("doors") / "model"
    compress("stories260k", out, {
        "calibration": {"sequences": 8, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [
            {"moefy": {"expert_size": 1, "router": "bit_planes", "tiers": {"high": 0.7, "low": 0.48}}},
            {"quantize": {"linears": "int8", "kv_cache": "int8"}},
        ],
    })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def online(model: Path) -> Iterator[Client]:
    with local_server({"moe": model, "dense": "stories260k"}) as address, Client(address) as client:
        yield client


def typed() -> set[str]:
    """What a command line can say."""
    parser = argparse.ArgumentParser()
    add_generation_options(parser)
    return set(settings_of(parser.parse_args([])))


# --- one description -----------------------------------------------------------------------------------------------


def test_what_may_be_spent_has_the_same_names_everywhere() -> None:
    names = set(ComputeSettings.__annotations__)
    assert names == set(generation_pb2.Compute.DESCRIPTOR.fields_by_name)
    assert names <= typed() and names <= GenerationSettings.__annotations__.keys()


def test_what_stands_to_others_has_the_same_names_everywhere() -> None:
    names = set(StandingSettings.__annotations__)
    assert names <= set(generation_pb2.GenerateRequest.DESCRIPTOR.fields_by_name)
    assert names <= typed() and names <= GenerationSettings.__annotations__.keys()


def test_priorities_have_the_same_names_everywhere() -> None:
    assert {f"PRIORITY_{each.name}" for each in Priority} == set(generation_pb2.Priority.keys()) - {"PRIORITY_NONE"}
    assert list(PRIORITIES.values()) == [each.value for each in Priority]


@pytest.mark.parametrize(
    ("kind", "message"), [(Usage, generation_pb2.Usage), (Load, generation_pb2.Load), (Load, engine_pb2.Load)]
)
def test_figures_have_the_same_names_on_the_wire(kind: Any, message: Any) -> None:
    assert [each.name for each in fields(kind)] == [each.name for each in message.DESCRIPTOR.fields]


# --- one edge ------------------------------------------------------------------------------------------------------


def test_settings_survive_the_way_over_the_wire_and_to_the_engine() -> None:
    said = settings_of_message(build_request([5, 6], **SETTINGS))
    asked = asked_of((5, 6), said, TERMS)
    assert said == SETTINGS and asked == asked_of((5, 6), SETTINGS, TERMS)
    request = asked.arrived(100.0)
    assert (request.operating_point, request.prefill_point) == (1.0, 2.0) and request.floor == pytest.approx(1.5)
    assert (request.priority, request.salt, request.deadline_seconds) == (Priority.LOW, "mine", 102.5)
    assert request_of(submit_message(request).submit) == request


def test_the_deadline_is_the_one_that_comes_first() -> None:
    asked, open_ended = asked_of((5,), SETTINGS, TERMS), asked_of((5,), {}, TERMS)
    assert [asked.arrived(10.0, left).deadline_seconds for left in (None, 1.0, 9.0)] == [12.5, 11.0, 12.5]
    assert [open_ended.arrived(10.0, left).deadline_seconds for left in (None, 1.0)] == [None, 11.0]


@pytest.mark.parametrize(("left", "deadline"), [(None, 102.5), (1.0, 102.0), (9.0, 102.5)])
def test_the_caller_and_the_deadline_of_a_call_go_to_the_engine(left: float | None, deadline: float) -> None:
    context: Any = SimpleNamespace(time_remaining=lambda: left, peer=lambda: "ipv4:127.0.0.1:7")
    request = submitted(asked_of((5,), SETTINGS, TERMS), 100.0, 101.0, call_of(context, "a"))
    assert (request.caller, request.deadline_seconds) == ("ipv4:127.0.0.1:7", deadline)


def test_a_row_brings_its_cached_tokens_and_its_point() -> None:
    row = Row(9, (1,), shares=(0.5, 0.25), cached_tokens=32, operating_point=0.0)
    assert row_of(step_message([row], Load(1, 1, 0, 0)).step.rows[0]) == row


@pytest.mark.parametrize(
    ("settings", "field", "sentence"),
    [
        ({"tier": "low", "floor_tier": "high"}, "compute.floor_tier", "'high', which spends more than the tier 'low'"),
        ({"share": 0.6, "floor_share": 0.9}, "compute.floor_share", "is 0.9, which spends more than the share 0.6"),
        ({"share": 0.6, "floor_tier": "full"}, "compute.floor_tier", "name one at or below it, or leave it out"),
        ({"floor_tier": "low", "floor_share": 0.6}, "compute.floor_share", "name a tier or a share, not both"),
        ({"floor_share": 0.2}, "compute.floor_share", "lowest tier, low, reads 0.500"),
        ({"floor_share": float("nan")}, "compute.floor_share", "above 0 and goes up to 1"),
        ({"priority": "urgent"}, "priority", "is 'urgent', it must be high or normal or low"),
        ({"priority": 1}, "priority", "is 1, it must be high or normal or low"),
        ({"cache_salt": "s" * 65}, "cache_salt", "has 65 characters, the limit is 64"),
        ({"first_token_seconds": 0}, "first_token_seconds", "is 0, it must be a finite number, above 0"),
        ({"first_token_seconds": float("nan")}, "first_token_seconds", "leave it out to wait as long as it takes"),
        ({"n": 5}, "sampling.n", "is 5, and 4 answers run at a time; ask for fewer, or raise num_slots"),
        ({"n": 4, "max_new_tokens": 200}, "sampling.n", "take 832 tokens of the cache, which holds 640"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(settings: Any, field: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked_of((5,), settings, TERMS, compute_path="compute.")
    assert [(each.field, sentence in each.message) for each in caught.value.violations] == [(field, True)]


def test_what_else_is_wrong_is_told_with_what_is_wrong_here() -> None:
    other = Violation("top_p", "is 2.0, it must be above 0 and at most 1")
    for said, names in (
        ({"share": 2.0}, ["top_p", "share"]), ({"share": 0.6}, ["top_p"]), ({"tier": "lowest"}, ["top_p"]),
        ({"share": 2.0, "floor_share": 3.0, "prefill_tier": "lowest"}, ["top_p", "share", "floor_share"]),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as caught:
            points_of(said, DIAL, found=[other])
        assert [each.field for each in caught.value.violations] == names


@pytest.mark.parametrize("settings", [{"floor_tier": "low"}, {"floor_share": 0.6}, {"prefill_tier": "low"}])
def test_a_model_with_one_tier_has_no_floor(settings: Any) -> None:
    with pytest.raises(Unsupported, match="tiers"):
        asked_of((5,), settings, Terms({}, Limits(512, 512), Dial()))


def test_a_floor_where_the_choice_is_lowers_nothing() -> None:
    points = points_of({"tier": "low", "floor_tier": "low"}, DIAL)
    assert (points.asked, points.floor) == (2.0, 2.0)


# --- the receipt ---------------------------------------------------------------------------------------------------


def receipt(**request: Any) -> Receipt:
    about = ModelDescription("x", 1, 1, 9, 9, (), DIAL, "cpu", "float32", 1, 1, tier_bytes=1000, other_bytes=50)
    return Receipt(Request(0, (1, 2), **request), about)


def test_a_receipt_is_a_mean_over_the_tokens_of_all_answers() -> None:
    taken = receipt()
    for choice, count, share in ((0, 4, 1.0), (1, 2, 0.5)):  # an answer's first row tells of its prompt
        for _ in range(count):
            taken.note(Row(0, (3,), choice=choice, shares=(share, share / 2), cached_tokens=1))
    usage = taken.usage(6)
    assert (usage.bytes_share, usage.neurons_share) == (0.875, 0.4375)
    assert usage.weight_bytes_per_token == 50 + 875 and usage.cached_prompt_tokens == 1


@pytest.mark.parametrize(
    ("points", "used"), [([], "full"), ([0.0, 0.0], "full"), ([0.0, 1.0], ""), ([1.0], "high"), ([0.5], "")]
)
def test_a_receipt_names_the_tier_that_was_used_throughout(points: list[float], used: str) -> None:
    taken = receipt(floor=1.0)
    for point in points:
        taken.note(Row(0, (3,), operating_point=point))
    assert (taken.usage(1).tier_asked, taken.usage(1).tier_used) == ("full", used)


def test_no_bytes_are_told_where_they_are_not_known() -> None:
    assert receipt().usage(1).weight_bytes_per_token is None  # several tiers, and no share was told


# --- on real models ------------------------------------------------------------------------------------------------


def test_while_others_wait_a_request_goes_down_to_its_floor_and_not_below(model: Path) -> None:
    llm = LLM(model, EngineOptions(num_slots=1))
    settings: Any = {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True}
    first, *_, last = (each.usage for each in llm.generate(["Once", "Tom", "The cat"], floor_tier="low", **settings))
    [kept] = llm.generate(["Once"], **settings)
    low = llm.description.dial.shares[-1]
    assert (first.tier_asked, first.tier_used) == ("full", "") and kept.usage.tier_used == "full"
    assert last.bytes_share and first.bytes_share and kept.usage.bytes_share
    assert low - 0.15 < first.bytes_share < kept.usage.bytes_share
    assert (first.weight_bytes_per_token or 0) < (kept.usage.weight_bytes_per_token or 0)


def test_a_server_lowers_those_that_allow_it_and_nobody_else(model: Path) -> None:
    def ask(floor: str | None) -> Usage:
        with Client(address) as client:
            return client.generate("Once", floor_tier=floor, temperature=0, max_new_tokens=60, ignore_eos=True).usage

    with local_server({"moe": model}, "--slots", "1") as address, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, ["low", None, "low", None, "low"]))
    lowered, kept = found[::2], found[1::2]
    assert "" in {each.tier_used for each in lowered} and {each.tier_asked for each in lowered} == {"full"}
    assert [each.tier_used for each in kept] == ["full", "full"]
    assert min(each.bytes_share or 0 for each in lowered) < min(each.bytes_share or 0 for each in kept)


def test_a_prompt_is_read_at_full_unless_asked_otherwise(model: Path) -> None:
    llm = LLM(model)
    full, named, low = (llm.score([LONG], tier=tier)[0].logprobs for tier in (None, "full", "low"))
    assert full == named != low and len(full) == len(low) > 40


def test_a_served_request_is_told_what_was_not_computed_again_but_not_of_another_salt(online: Client) -> None:
    usages = [online.generate(LONG, model="moe", max_new_tokens=2, cache_salt=salt).usage for salt in ("a", "a", "b")]
    again, count = usages[1].cached_prompt_tokens, usages[1].prompt_tokens
    assert [each.cached_prompt_tokens for each in usages] == [0, again, 0] and count - 17 < again < count


def test_a_served_request_is_given_a_receipt(model: Path, online: Client) -> None:
    settings: Any = {"tier": "high", "floor_tier": "low", "temperature": 0, "max_new_tokens": 8, "priority": "high"}
    served = online.generate("One day", model="moe", **settings).usage
    alone = LLM(model).generate(["One day"], **settings)[0].usage
    assert (served.tier_asked, served.tier_used) == ("high", "high") == (alone.tier_asked, alone.tier_used)
    assert served.weight_bytes_per_token == alone.weight_bytes_per_token != None  # noqa: E711
    dense = online.generate("One day", model="dense", max_new_tokens=2).usage
    assert dense.weight_bytes_per_token and dense.tier_asked == "full" and dense.bytes_share is None


def test_a_first_token_that_cannot_come_in_time_is_one_refusal_at_both_doors(online: Client) -> None:
    with pytest.raises(Expired) as theirs:
        online.generate("One day", model="dense", first_token_seconds=1e-9)
    with pytest.raises(Expired) as ours:
        LLM("stories260k").generate(["One day"], first_token_seconds=1e-9)
    assert str(ours.value) == str(theirs.value) and ours.value.reason == theirs.value.reason == "DEADLINE_EXCEEDED"


def test_a_priority_that_there_is_not_is_refused_by_the_server(online: Client) -> None:
    message = build_request("x", model="dense")
    message.priority = 9  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match="priority: is 9, it must be high or normal or low"):
        online._ask(Question(GENERATION, "Generate", message, completion_of), None)


def test_floors_that_cannot_be_are_told_alike_at_both_doors(model: Path, online: Client) -> None:
    llm, wrong = LLM(model), [{"tier": "low", "floor_tier": "high"}, {"floor_share": 0.01}]
    for settings in wrong:
        asked: Any = settings
        with pytest.raises(InvalidRequest) as ours:
            llm.generate(["x"], **asked)
        with pytest.raises(InvalidRequest) as theirs:
            online.generate("x", model="moe", **asked)
        said = [{each.message for each in caught.value.violations} for caught in (ours, theirs)]
        assert said[0] == said[1]


def test_answers_beyond_the_slots_are_refused_at_the_edge(online: Client) -> None:
    with pytest.raises(InvalidRequest, match="sampling.n: is 9, and 8 answers run at a time"):
        online.generate("x", model="dense", n=9)


@pytest.mark.parametrize("door", ["offline", "online"])
def test_rules_that_come_to_leave_no_token_are_the_callers_mistake(door: str, model: Path, online: Client) -> None:
    """Nothing may come but the end, which may not come yet."""
    rules: Any = {"allowed_token_ids": [2], "min_new_tokens": 3, "max_new_tokens": 5}
    with pytest.raises(InvalidRequest, match="token_rules.* cannot be followed any further: .* leave no token"):
        if door == "online":
            online.generate("Once", model="moe", **rules)
        else:
            LLM(model).generate(["Once"], **rules)


def test_keys_and_values_are_kept_as_the_recipe_asks_unless_told_otherwise(model: Path, online: Client) -> None:
    assert LLM(model).description.kv_cache == "int8" == online.model("moe").kv_cache
    assert LLM(model, EngineOptions(kv_cache="model")).description.kv_cache == "model"
    served = online.model("dense")
    assert served.kv_cache == "model" and served.kv_bytes > served.kv_tokens > 0 and served.load is not None
    assert served.load.num_blocks == served.load.free_blocks > 0


def test_a_model_is_judged_with_its_keys_and_values_as_they_are_served(model: Path) -> None:
    ids = list(range(5, 69))
    as_served = score_documents(load(model), [ids]).nats_per_token
    scores = [LLM(model, EngineOptions(kv_cache=kept)).score([ids])[0].total for kept in (None, "int8", "model")]
    assert scores[0] == scores[1] != scores[2]
    assert as_served == pytest.approx(-scores[0] / 63, rel=1e-5)


def test_the_file_of_a_server_and_its_command_say_how_they_are_kept(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("models: {a: stories260k}\nengine: {kv_cache: int8}\n")
    assert configuration({}, {}, tmp_path / "serve.yaml").options.engine.kv_cache == "int8"
    with local_server({"a": "stories260k"}, "--kv-cache", "int8") as address, Client(address) as client:
        assert client.model().kv_cache == "int8"


def test_run_says_what_it_holds_and_asks_for_several_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stories260k", "Once", "--max-new-tokens", "2", "--n", "2", "--kv-cache", "int8"]) == 0
    shown = capsys.readouterr()
    assert "1,024 tokens of keys and values in int8 in" in shown.err and "--- answer 2 of 2" in shown.out


def test_generate_sends_what_was_typed(online: Client, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "One day", "--model", "moe", "--address", online.address, "--tier", "low"]
    assert main([*words, "--floor-tier", "high"]) == 2
    assert "compute.floor_tier: is 'high', which spends more than the tier 'low'" in capsys.readouterr().err
    assert (
        main([*words, "--prefill-tier", "low", "--priority", "low", "--cache-salt", "s", "--max-new-tokens", "2"]) == 0
    )


# --- as it is documented -------------------------------------------------------------------------------------------

BLOCKS = (ROOT / "docs" / "tiers.md").read_text().split("```")[1::2]


def test_the_examples_of_the_document_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiers").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    with local_server({"moe": model}) as address:
        for block in [each.removeprefix("python") for each in BLOCKS if each.startswith("python")]:
            Path("example.py").write_text(block.replace("localhost:50051", address))
            runpy.run_path("example.py")
    assert len(capsys.readouterr().out.splitlines()) >= 5


def test_the_commands_of_the_document_can_be_typed() -> None:
    lines = [line.split("#")[0] for line in BLOCKS[-1].splitlines() if line]
    assert [build_parser().parse_args(shlex.split(line)[1:]).run is not None for line in lines] == [True] * 4


def test_the_document_names_every_setting_and_every_figure() -> None:
    text = (ROOT / "docs" / "tiers.md").read_text()
    names = [
        *ComputeSettings.__annotations__,
        *StandingSettings.__annotations__,
        *(each.name for each in fields(Usage)),
    ]
    assert [name for name in names if f"`{name}`" not in text] == []
