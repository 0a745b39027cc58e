"""An engine over sources: many at once answer as each alone, every block comes back, a search is one request."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_json, llama
from source_cases import END, SOURCE_CASES, START

from moesaic.engine.engine import Engine
from moesaic.engine.llm import LLM
from moesaic.engine.own_rules import OwnRules
from moesaic.engine.request import FinishReason, Request, Row, Stopping
from moesaic.engine.runner import ModelRunner, Span
from moesaic.engine.sampling import Sampling
from moesaic.engine.token_rules import TokenRules
from moesaic.models.checkpoint import load
from moesaic.models.errors import SetupError
from moesaic.models.transformer import Transformer

GREEDY, NEW, ROOM = Sampling(temperature=0), 34, 256
MOST_STEPS = 1000  # which ends what hangs
SOURCES = [[(7 * row + 3 * place) % 250 for place in range(length)] for row, length in enumerate((40, 1, 16, 33, 17))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder = tmp_path_factory.mktemp("t5")
    SOURCE_CASES[1].build(folder)
    return load(folder)


def engine_of(model: Transformer, num_blocks: int = ROOM, **more: Any) -> Engine:
    runner = ModelRunner(model, num_blocks, 64, torch.float32)
    return Engine(runner, (END,), own=OwnRules(START), **more)


def requests(sampling: Sampling = GREEDY, rows: Sequence[int] = range(5)) -> list[Request]:
    return [Request(row, tuple(SOURCES[row]), sampling, Stopping(NEW)) for row in rows]


def steps(engine: Engine, asked: Sequence[Request]) -> Iterator[list[Row]]:
    """The rows of each step; between any two of them the ledger is right."""
    for request in asked:
        engine.add(request)
    for _ in range(MOST_STEPS):
        if not engine.has_work:
            return
        yield engine.step()
        assert engine.scheduler.differences() == []


def answers(engine: Engine, asked: Sequence[Request]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Token ids by request and choice; afterwards every block is free again."""
    found = dict[tuple[int, int], tuple[int, ...]]()
    for rows in steps(engine, asked):
        for row in rows:
            assert not row.error
            found[row.key, row.choice] = found.get((row.key, row.choice), ()) + row.token_ids
    load = engine.load
    assert not engine.has_work and load.free_blocks == load.num_blocks and load.free_slots == load.num_slots
    return found


SEARCH = replace(GREEDY, num_beams=3, n=2, length_penalty=3.0, early_stopping=2)
DRAWN = Sampling(temperature=1.5, seed=3, n=2)


@pytest.mark.parametrize(
    ("sampling", "rows", "few"),
    [(GREEDY, range(5), 9), (DRAWN, range(5), 18), (SEARCH, (1, 2, 4), 15)],
    ids=["greedy", "drawn", "search"],
)
def test_many_sources_of_any_length_answer_as_each_alone_however_few_blocks_there_are(
    sampling: Sampling, rows: Sequence[int], few: int, model: Transformer
) -> None:
    alone: dict[tuple[int, int], tuple[int, ...]] = {}
    for request in requests(sampling, rows):
        alone |= answers(engine_of(model), [request])
    assert answers(engine_of(model, num_slots=12), requests(sampling, rows)) == alone
    small = engine_of(model, num_blocks=few, num_slots=12)
    assert answers(small, requests(sampling, rows)) == alone and small.scheduler.num_preempted > 0


def test_sources_share_the_budget_of_a_step_and_one_is_read_in_any_case(model: Transformer) -> None:
    engine = engine_of(model, step_tokens=24)
    read = list[int]()
    forward = engine._runner.forward

    def counted(spans: Sequence[Span]) -> Any:
        read.append(sum(len(span.source.unread) for span in spans if span.source))
        return forward(spans)

    engine._runner.forward = counted  # type: ignore[method-assign]
    answers(engine, requests())
    assert [each for each in read if each] == [17, 17, 33, 40] and sum(read) == sum(map(len, SOURCES))


@pytest.mark.parametrize("sampling", [GREEDY, SEARCH], ids=["greedy", "search"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_an_abort_frees_source_and_answer(sampling: Sampling, after: int, model: Transformer) -> None:
    engine = engine_of(model)
    for done, _ in enumerate(steps(engine, requests(sampling))):
        if done == after:
            for request in requests(sampling):
                engine.abort(request.key)
    assert engine.load.free_blocks == engine.load.num_blocks and not engine.has_work


def test_a_search_that_fails_ends_once_and_frees_all(model: Transformer) -> None:
    engine = engine_of(model)
    forward = engine._runner.forward

    def broken(spans: Sequence[Span]) -> Any:
        found = forward(spans)
        return replace(found, logits=found.logits * (torch.nan if spans[0].start > 4 else 1))

    engine._runner.forward = broken  # type: ignore[method-assign]
    rows = [row for each in steps(engine, requests(SEARCH, [0])) for row in each]
    assert [row.finish for row in rows] == [FinishReason.FAILED] and "not finite" in rows[0].error
    assert engine.load.free_blocks == engine.load.num_blocks


@pytest.mark.parametrize(("least", "finishes"), [(0, ["stop_token", "refused"]), (2, ["refused", "refused"])])
def test_answers_that_the_rules_of_a_search_do_not_leave_are_refused(
    least: int, finishes: list[str], model: Transformer
) -> None:
    engine, rules = engine_of(model), TokenRules(allowed_token_ids=(END,))
    [request] = requests(replace(SEARCH, min_new_tokens=least), [0])
    rows = [row for each in steps(engine, [replace(request, token_rules=rules)]) for row in each]
    assert [(row.choice, row.finish and row.finish.value) for row in rows] == list(enumerate(finishes))
    assert not engine.has_work and engine.load.free_blocks == engine.load.num_blocks


def test_what_never_fits_is_refused_with_the_source_counted(model: Transformer) -> None:
    engine = engine_of(model, num_blocks=4)
    [[row]] = steps(engine, requests(rows=[0]))
    assert row.finish is FinishReason.FAILED and "a prompt of 40 tokens" in row.error


# --- searches of models that continue text -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, llama(folder)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"num_beams": 4}, {"num_beams": 4}),
        ({"num_beams": 2, "early_stopping": 1, "length_penalty": -1.0},
         {"num_beams": 2, "early_stopping": True, "length_penalty": -1.0}),
        ({"num_beams": 3, "n": 3, "early_stopping": 2},
         {"num_beams": 3, "num_return_sequences": 3, "early_stopping": "never"}),
        ({"num_beams": 3, "repetition_penalty": 1.5, "min_new_tokens": 6, "banned_token_ids": [97]},
         {"num_beams": 3, "repetition_penalty": 1.5, "min_new_tokens": 6, "suppress_tokens": [97]}),
    ],
    ids=str,
)  # fmt: skip
def test_a_search_finds_what_transformers_finds(
    here: dict[str, Any], there: dict[str, Any], decoder: tuple[Path, Any]
) -> None:
    folder, original = decoder
    llm, ends = LLM(folder), [257, *range(60, 120)]  # so many ends that some answers are short
    for prompt in ([5, 6, 7], list(range(30, 60))):
        found = original.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=12,
            do_sample=False, eos_token_id=ends, pad_token_id=0, **there,
        )  # fmt: skip
        rows = [[token for token in row[len(prompt) :].tolist()] for row in found]
        expected = [row[: next((i for i, token in enumerate(row) if token in ends), 12)] for row in rows]
        stop: dict[str, Any] = {"max_new_tokens": 12, "stop_token_ids": ends[1:]}
        [answer] = llm.generate([prompt], temperature=0, **stop, **here)
        got = [answer.token_ids, *(each.token_ids for each in answer.others)]
        assert [list(each) for each in got] == expected


# --- what a model says of its answers ------------------------------------------------------------------------------

RULES: Mapping[str, Any] = {
    "forced_bos_token_id": 5, "forced_eos_token_id": END, "bad_words_ids": [[98], [97]], "suppress_tokens": [99, 120],
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_rule_of_the_model_is_followed_as_by_transformers(name: str, num_beams: int, tmp_path: Path) -> None:
    case = next(case for case in SOURCE_CASES if case.family == "bart")
    original = case.build(tmp_path)
    edit_json(tmp_path / "generation_config.json", forced_eos_token_id=None)
    source = torch.tensor([SOURCES[0]])
    original.generation_config.forced_eos_token_id = None
    free = LLM(tmp_path).generate([SOURCES[0]], max_new_tokens=7, num_beams=num_beams)[0].token_ids
    rule = {name: RULES[name] if "forced" in name else [[free[1]]] if "bad" in name else [free[1], free[2]]}
    edit_json(tmp_path / "generation_config.json", **rule)
    with torch.no_grad():
        made = original.generate(source, do_sample=False, max_new_tokens=7, num_beams=num_beams, **rule)[0, 1:].tolist()
    found = LLM(tmp_path).generate([SOURCES[0]], max_new_tokens=7, num_beams=num_beams)[0]
    assert list(found.token_ids) == [token for token in made if token != END]
    assert found.token_ids != free  # without the rule it is another answer


def test_the_model_s_own_search_is_the_default_and_can_be_left(tmp_path: Path) -> None:
    SOURCE_CASES[1].build(tmp_path)
    plain = LLM(tmp_path).generate([SOURCES[0]], max_new_tokens=9)[0].token_ids
    searched = LLM(tmp_path).generate([SOURCES[0]], max_new_tokens=9, num_beams=4)[0].token_ids
    edit_json(tmp_path / "generation_config.json", num_beams=4)
    llm = LLM(tmp_path)
    assert llm.generate([SOURCES[0]], max_new_tokens=9)[0].token_ids == searched != plain
    assert llm.generate([SOURCES[0]], max_new_tokens=9, num_beams=1)[0].token_ids == plain


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_start_token_id": None}, "says nowhere which token its decoder begins with; add decoder_start"),
        ({"decoder_start_token_id": 999}, "decoder_start_token_id names 999, which is none of the 259 ids"),
        ({"forced_bos_token_id": "x"}, "forced_bos_token_id names 'x', which is none of the 259 ids"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_at_the_start(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    SOURCE_CASES[1].build(tmp_path)
    for name in ("config.json", "generation_config.json"):
        edit_json(tmp_path / name, **changes)
    with pytest.raises(SetupError, match=words):
        LLM(tmp_path)
