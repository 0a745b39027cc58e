"""Programs of models with encoders: each instruction is its module, and texts are read without padding as with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_cases import ENCODER_CASES
from family_cases import Case
from program_cases import LIBRARY
from source_cases import SOURCE_CASES, SourceCase

from moesaic.compress.pipeline import compress
from moesaic.engine.encoder import EncoderRunner, embed
from moesaic.engine.paged_source import SourceSpan
from moesaic.engine.request import Request
from moesaic.engine.runner import ModelRunner, Span
from moesaic.kernels.native_program import Asked, Beside, Program
from moesaic.kernels.paged_attention import KVPages, PagedTokens, paged_attention, paged_attention_torch, paged_lookup
from moesaic.kernels.weighing import Weighing
from moesaic.models.checkpoint import load
from moesaic.models.reading import ReadingProgram
from moesaic.models.walk import distances_of

HEADS, SIZE, TOKENS = 2, 16, 37
PLACES = PagedTokens(
    torch.tensor([[3, 0, 2], [1, 0, 0]], dtype=torch.int32),
    torch.tensor([0] * 30 + [1] * 7, dtype=torch.int32),
    torch.cat([torch.arange(30), torch.arange(7)]).int(), [30, 7], 30,
)  # fmt: skip


def pages() -> KVPages:
    generator = torch.Generator().manual_seed(5)
    return KVPages(*(torch.randn(4, HEADS, 16, SIZE, generator=generator) for _ in range(2)))


def run(write: Any, x: torch.Tensor, beside: Beside) -> torch.Tensor:
    assert LIBRARY is not None
    program = Program(LIBRARY, x.shape[1])
    write(program)
    last = program.output
    program.gather(last, program.place(last.width))
    asked = Asked(torch.zeros(len(x)), len(x))
    return program.run(x.clone(), PLACES, None, asked, torch.arange(len(x)), 2, beside)[0]


def parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = (part.reshape(len(x), HEADS, SIZE) for part in torch.split(x, HEADS * SIZE, 1))
    return query, key, value


def attend(p: Program, kept: KVPages, distances: bool = False) -> None:
    width = HEADS * SIZE
    query, key, value = (p.input.columns(i * width, width) for i in range(3))
    p.attend(query, key, value, p.place(width), kept, SIZE, Weighing(1.0), distances)


@pytest.mark.parametrize("int8", [False, True])
def test_distances_are_added_as_in_plain_torch(int8: bool) -> None:
    x, bias = torch.randn(TOKENS, 3 * HEADS * SIZE), 3 * torch.randn(HEADS, 40)

    def kept() -> KVPages:
        shape = (4, HEADS, 16, SIZE)
        if not int8:
            return pages()
        made = [torch.zeros(shape, dtype=torch.int8) for _ in range(2)]
        return KVPages(*made, *(torch.zeros(shape[:3]) for _ in range(2)))

    wanted = paged_attention_torch(*parts(x), kept(), PLACES, Weighing(1.0), bias).flatten(1)
    assert torch.allclose(paged_attention(*parts(x), kept(), PLACES, Weighing(1.0), bias).flatten(1), wanted, atol=1e-4)
    beside = Beside(distances=bias.flip(1).contiguous(), origin=39)
    assert torch.allclose(run(lambda p: attend(p, kept(), True), x, beside), wanted, atol=1e-4)


def test_what_all_tokens_of_a_text_see_is_all_of_it() -> None:
    x = torch.randn(TOKENS, 3 * HEADS * SIZE)
    seen = torch.tensor([29] * 30 + [6] * 7, dtype=torch.int32)
    found = run(lambda p: attend(p, pages()), x, Beside(seen=seen))
    for rows in (slice(0, 30), slice(30, TOKENS)):
        query, key, value = (each[rows].transpose(0, 1) for each in parts(x))
        wanted = (torch.softmax(query @ key.mT, -1) @ value).transpose(0, 1).flatten(1)
        assert torch.allclose(found[rows], wanted, atol=1e-5)


def test_a_source_is_looked_up_where_it_was_kept() -> None:
    x, kept = torch.randn(TOKENS, 2 * HEADS * SIZE), pages()
    width = HEADS * SIZE
    run(lambda p: p.keep(p.input.columns(0, width), p.input.columns(width, width), kept, SIZE), x, Beside(PLACES))
    query = torch.randn(TOKENS, width)
    last = torch.tensor([29] * 30 + [6] * 7, dtype=torch.int32)
    sources = PagedTokens(PLACES.tables, PLACES.row, last, PLACES.counts, 30)
    found = run(lambda p: p.look_up(p.input, p.place(width), kept, SIZE), query, Beside(sources))
    wanted = paged_lookup(query.view(TOKENS, HEADS, SIZE), kept, sources).flatten(1)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert kept.keys[3, :, :16].transpose(0, 1).flatten(1).equal(x[:16, :width])  # the first block of the first text


def test_states_are_scaled() -> None:
    x = torch.randn(TOKENS, 24)
    assert run(lambda p: p.scale(p.input, p.place(24), 0.25), x, Beside()).equal(x * 0.25)


def test_sources_that_point_outside_are_refused() -> None:
    outside = PagedTokens(PLACES.tables + 4, PLACES.row, PLACES.positions, PLACES.counts, 30)
    with pytest.raises(IndexError, match="point outside the pool"):
        run(lambda p: p.look_up(p.input, p.place(32), pages(), SIZE), torch.randn(TOKENS, 32), Beside(outside))


SPANS = [
    Span([3, 4, 5, 6], 0, [0, 1], source=SourceSpan(list(range(20)), 20, [4, 5]), scored=4),
    Span([9], 0, [2], source=SourceSpan([7, 8], 2, [6])),
]
LATER = [
    Span([11], 4, [0, 1], source=SourceSpan([], 20, [4, 5])),
    Span([12], 1, [2], source=SourceSpan([], 2, [6])),
]


def logits(folder: Path, programmed: bool) -> torch.Tensor:
    runner = ModelRunner(load(folder), 32, 64, torch.float32, programmed=programmed)
    assert (runner.program is not None) == programmed
    return torch.cat([runner.forward(spans).logits for spans in (SPANS, LATER)])


@pytest.mark.parametrize("case", SOURCE_CASES, ids=str)
def test_a_program_reads_and_answers_as_the_modules_do(case: SourceCase, tmp_path: Path) -> None:
    case.build(tmp_path)
    wanted = logits(tmp_path, False)
    assert (logits(tmp_path, True) - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("case", [SOURCE_CASES[1], SOURCE_CASES[5]], ids=str)
def test_in_int8_too(case: SourceCase, tmp_path: Path) -> None:
    case.build(tmp_path / "dense")
    compress(str(tmp_path / "dense"), tmp_path / "int8", "int8")
    wanted = logits(tmp_path / "int8", False)
    assert (logits(tmp_path / "int8", True) - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("case", ENCODER_CASES, ids=str)
def test_texts_are_read_without_padding_as_each_alone(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path)
    model, texts = load(tmp_path), [list(range(3, 60)), [7], list(range(90, 109))]
    with torch.inference_mode():
        program = ReadingProgram(model)
        together = program.run(texts, 2)
        assert together.equal(torch.cat([program.run([text], 1) for text in texts]))
        wanted = torch.cat([model.hidden(torch.tensor([text]))[0] for text in texts])
    assert (together - wanted).norm() < 1e-5 * wanted.norm()


def test_more_texts_than_there_were_blocks_for_are_read(tmp_path: Path) -> None:
    ENCODER_CASES[0].build(tmp_path)
    with torch.inference_mode():
        program = ReadingProgram(load(tmp_path))
        few = program.run([[5, 6]], 1)
        assert program.run([[5, 6]] * 300, 1).equal(few.repeat(300, 1))


def test_an_int8_encoder_makes_the_vectors_of_its_modules(tmp_path: Path) -> None:
    ENCODER_CASES[0].build(tmp_path / "dense")
    assert EncoderRunner(load(tmp_path / "dense")).without_program == "its linears are not int8"
    compress(str(tmp_path / "dense"), tmp_path / "int8", "int8")
    reader, requests = EncoderRunner(load(tmp_path / "int8")), [Request(0, (5, 6, 7)), Request(1, tuple(range(40)))]
    assert not reader.without_program
    wanted = embed(load(tmp_path / "int8"), requests)
    assert (reader.vectors(requests) - wanted).abs().max() < 1e-4


def test_distances_stand_by_how_far_ahead_a_key_is(tmp_path: Path) -> None:
    SOURCE_CASES[0].build(tmp_path)
    model = load(tmp_path)
    assert model.encoder is not None
    with torch.inference_mode():
        for side, whole in ((model, model.causal_bias(9)), (model.encoder, None)):
            found = distances_of(side, 9)
            assert found is not None
            table, origin = found
            if whole is None:
                whole = side.context_of(torch.zeros(1, 9, dtype=torch.long))._mask  # type: ignore[attr-defined]
            for query in range(9):
                seen = query + 1 if side.spec.causal else 9
                assert table[:, origin - query : origin - query + seen].equal(whole[:, query, :seen])
