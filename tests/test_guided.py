"""Answers of a given form, whatever the model would rather say; one that cannot be followed is refused at the edge."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from server_harness import Server

from moesaic.engine import guided
from moesaic.engine.constraint import Constraint
from moesaic.engine.drawing import Drawing
from moesaic.engine.guided import Guide, Guides, _numbers, _remainders, check_constraint
from moesaic.engine.llm import LLM
from moesaic.engine.request import Request, Stopping
from moesaic.engine.sampler import draw
from moesaic.engine.sampling import Sampling
from moesaic.models.errors import InvalidRequest, Unsupported
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer
from moesaic.server.client import Client

VOCAB = 512  # of stories260k
TOKENIZER = Tokenizer.open(locate("stories260k"))
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def guides() -> Guides:
    return Guides(locate("stories260k"), TOKENIZER.eos_ids)


def drawing(guides: Guides, kind: str, *texts: str, seed: int = 0, **sampling: Any) -> Drawing:
    constraint = Constraint(kind, texts)
    request = Request(0, (1,), Sampling(seed=seed, **sampling), Stopping(), constraint=constraint)
    return Drawing(request, 0, 0, TOKENIZER.eos_ids, guides.start(constraint))


def answered(ours: Drawing, most: int = 400) -> str:
    """What a model without any sense says: its logits are random."""
    generator, ids = torch.Generator().manual_seed(1), list[int]()
    while len(ids) < most:
        [drawn] = draw(torch.randn(1, VOCAB, generator=generator), [ours])
        assert not drawn.error
        ours.take(drawn.token)
        if drawn.token in TOKENIZER.eos_ids:
            return TOKENIZER.decode([1, *ids]).removeprefix(" ")
        ids.append(drawn.token)
    raise AssertionError(f"no end after {most} tokens: {TOKENIZER.decode(ids)}")


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_follows_its_schema(seed: int, guides: Guides) -> None:
    told = json.loads(answered(drawing(guides, "json_schema", SCHEMA, seed=seed)))
    assert set(told) == {"name", "age"} and isinstance(told["name"], str) and told["age"] <= 99


@pytest.mark.parametrize("limits", [{}, {"temperature": 0}, {"top_p": 0.5}, {"typical_p": 0.5, "top_k": 3}], ids=str)
def test_an_answer_matches_its_regex_whichever_way_it_is_drawn(limits: Any, guides: Guides) -> None:
    regex = r"[a-f]{3}-[0-9]{2}(ab|cd)"
    assert re.fullmatch(regex, answered(drawing(guides, "regex", regex, **limits)))


def test_an_answer_is_of_its_grammar(guides: Guides) -> None:
    told = answered(drawing(guides, "grammar", 'start: "a" inner "b"\ninner: "(" "x" ")" | "yz"'))
    assert told in ("a(x)b", "ayzb")


@pytest.mark.parametrize("texts", [("yes", "no", "may be"), ('say "so"', "é\n|\\")], ids=str)
def test_an_answer_is_one_of_its_choices(texts: tuple[str, ...], guides: Guides) -> None:
    answers = {answered(drawing(guides, "choices", *texts, seed=seed)) for seed in range(8)}
    assert answers <= set(texts) and len(answers) > 1


def test_two_answers_of_one_form_do_not_move_each_other(guides: Guides) -> None:
    first, second = (drawing(guides, "regex", "ab*c") for _ in range(2))
    before = second.allowed(VOCAB, torch.device("cpu"))
    answered(first)
    after = second.allowed(VOCAB, torch.device("cpu"))
    assert before is not None and after is not None and torch.equal(before, after)


def test_a_mask_goes_with_the_lists_of_the_request_and_fails_its_row_alone(guides: Guides) -> None:
    ours, free = drawing(guides, "choices", "yes"), Drawing(Request(1, (1,)), 0, 0)
    ours.take(TOKENIZER.encode("nothing of the kind")[-1])
    first, second = draw(torch.zeros(2, VOCAB), [ours, free])
    assert first.finite and first.error and first.token == -1 and not second.error


def test_ids_that_no_text_has_may_not_come(guides: Guides) -> None:
    """A model may have more logits than its tokenizer has tokens."""
    guide = guides.start(Constraint("regex", ("[a-z]+",)))
    assert isinstance(guide, Guide)
    assert not guide.mask(VOCAB + 30)[VOCAB:].any() and np.array_equal(
        guide.mask(VOCAB + 30)[:VOCAB], guide.mask(VOCAB)
    )
    assert guide.ready and not guide.error


# --- what cannot be followed ---------------------------------------------------------------------------------------

BAD = [
    ({"regex": "(a"}, "regex", "unclosed group"),
    ({"grammar": 'start: "yes" | nothere'}, "grammar", 'unknown name: "nothere"'),
    ({"json_schema": "{bad"}, "json_schema", "cannot be followed"),
    ({"json_schema": {"type": "objekt"}}, "json_schema", "objekt"),
    ({"json_schema": {"$ref": "http://a/b"}}, "json_schema", "does not fetch"),
    ({"json_schema": '{"items":' * 3000 + "{}" + "}" * 3000}, "json_schema", "recursion limit"),
    ({"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000}, "grammar", "too deeply nested"),
    ({"grammar": "start: A\nA: /(a|b)*a(a|b){500}/ & /(a|b)*b(a|b){300}/ & ~/(a|b)*abba/"}, "grammar", "fuel"),
    (
        {"json_schema": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(900)}}},
        "json_schema",
        "row has",
    ),
]


@pytest.fixture(scope="module")
def online() -> Iterator[Client]:
    with Server() as server, server.client() as client:
        yield client


@pytest.fixture(scope="module")
def offline() -> LLM:
    return LLM("stories260k")


@pytest.mark.parametrize(("settings", "field", "said"), BAD, ids=[said for _, _, said in BAD])
def test_a_form_that_cannot_be_followed_fails_its_request_with_the_reason(
    settings: Any, field: str, said: str, offline: LLM, online: Client
) -> None:
    for door in (offline.stream, online.generate):
        with pytest.raises(InvalidRequest) as caught:
            door([5], max_new_tokens=2, **settings)
        [violation] = caught.value.violations
        assert violation.field == f"constraint.{field}" and said in violation.message
        assert len(violation.message) < 400 and "\n" not in violation.message
    assert online.generate([5], max_new_tokens=2).token_ids == (5, 5)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", ' {"type": "integer", "multiple\\u004ff": 999983}'),
        ("json_schema", '{"items": [{"multipleOf": 0.19937}, {"multipleOf": 19937e3}]}'),
        ("grammar", 'start: %json {"type": "integer", "multipleOf": 99999989}'),
        ("json_schema", '{"multipleOf": 2147483648}'),
        ("json_schema", '{"multipleOf": 390625}'),
        ("json_schema", '{"multipleOf": 159976}'),
    ],
)
def test_multiples_that_would_take_the_library_minutes_are_refused(kind: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match="lower multipleOf"):
        check_constraint(Constraint(kind, (text,)))


@pytest.mark.parametrize("number", ["0.01", "1000000", "9973", "1e300", "65536", "0.125", "15625"])
def test_multiples_of_few_remainders_are_not_refused_for_them(number: str) -> None:
    divisors, _ = _numbers(Constraint("json_schema", (f'{{"multipleOf": {number}}}',)))
    assert _remainders(divisors) < 10_000


@pytest.mark.parametrize("number", [-(2**63), -(2**63) + 1, -(2**63) + 512, "-1e308"])
@pytest.mark.parametrize(
    ("kind", "text"),
    [("json_schema", '{"enum": [5, {"a": NUMBER}]}'), ("json_schema", '{"properties": {"a": {"const": NUMBER}}}'),
     ("grammar", 'start: "a" %json {"const": NUMBER}'),
     ("json_schema", '{"type": "integer", "enum": [NUMBER]}')],
)  # fmt: skip
def test_a_number_that_would_end_the_process_is_refused(kind: str, text: str, number: object) -> None:
    with pytest.raises(InvalidRequest, match="holds a number below -9223372036854774784"):
        check_constraint(Constraint(kind, (text.replace("NUMBER", str(number)),)))


@pytest.mark.parametrize("number", ["-9223372036854774784", "9223372036854775807", "1e308", "-1e18"])
def test_numbers_as_large_as_these_are_followed(number: str) -> None:
    check_constraint(Constraint("json_schema", (f'{{"enum": [{number}, "-9223372036854775808"]}}',)))


def test_a_form_that_explodes_later_fails_its_row_alone(guides: Guides) -> None:
    explodes = 'start: e\ne: e e e | e e | "a" | ""'
    check_constraint(Constraint("grammar", (explodes,)))
    ours, free = drawing(guides, "grammar", explodes), Drawing(Request(1, (1,)), 0, 0)
    for _ in range(400):
        logits = torch.zeros(2, VOCAB)
        logits[:, list(TOKENIZER.eos_ids)] = -100
        first, second = draw(logits, [ours, free])
        assert not second.error
        if first.error:
            return
        ours.take(first.token)
    raise AssertionError("it never failed")


def test_without_the_library_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, offline: LLM) -> None:
    monkeypatch.setattr(guided, "find_spec", lambda name: None)
    sentence = "needs llguidance, which is not installed; pip install 'moesaic\\[guided\\]'"
    with pytest.raises(Unsupported, match=sentence):
        offline.stream("x", choices=["a", "b"])


def test_a_schema_may_be_what_json_reads_or_its_text_or_in_a_file(tmp_path: Path) -> None:
    check_constraint(Constraint("json_schema", (SCHEMA,)))
    (tmp_path / "schema.json").write_text(SCHEMA)
    from moesaic.cli.common import _text_or_file

    assert _text_or_file(SCHEMA) == _text_or_file(str(tmp_path / "schema.json")) == SCHEMA
