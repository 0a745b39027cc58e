"""A window is the same whatever is kept: chunks, prefixes that are used again, int8 pages, branches that are scored."""

from pathlib import Path

import pytest
import torch
from family_cases import Case
from torch import Tensor

from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.engine.runner import ModelRunner, Span
from moesaic.engine.scoring import Reader
from moesaic.models.checkpoint import load
from moesaic.models.transformer import Transformer

FAMILIES = ["mistral", "gemma2", "gemma3_text"]  # all layers slide; every other one; five of six, with two rotations
IDS = torch.randint(0, 256, (50,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.fixture(params=FAMILIES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where: Path = tmp_path_factory.mktemp("windows") / request.param
    Case(request.param).build(where)
    return where


def whole(model: Transformer, ids: list[int]) -> Tensor:
    """Logits of all tokens in one pass that keeps nothing."""
    found: Tensor = model(torch.tensor([ids]))[0]
    return found


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def test_a_prefix_that_is_used_again_gives_the_tokens_of_a_fresh_engine(folder: Path) -> None:
    used, fresh = LLM(folder), LLM(folder)
    used.generate([IDS], max_new_tokens=4, temperature=0)
    again = used.generate([IDS[:40] + [7, 8, 9]], max_new_tokens=12, temperature=0)[0]
    alone = fresh.generate([IDS[:40] + [7, 8, 9]], max_new_tokens=12, temperature=0)[0]
    assert again.usage.cached_prompt_tokens > 16 and again.token_ids == alone.token_ids


def test_several_sequences_of_a_step_keep_their_own_windows(folder: Path) -> None:
    runner = ModelRunner(load(folder), 12, 64, torch.float32)
    spans = [Span(IDS[:30], 0, (0, 1, 2, 3)), Span(IDS[5:9], 0, (4, 5, 6, 7)), Span(IDS[:45], 0, (8, 9, 10, 11))]
    found = runner.forward(spans).logits
    with torch.no_grad():
        expected = torch.stack([whole(load(folder), list(span.token_ids))[-1] for span in spans])
    assert close(found, expected)


def test_int8_pages_round_and_do_nothing_else(folder: Path) -> None:
    runner = ModelRunner(load(folder), 4, 64, torch.float32, int8_pages=True)
    found = torch.cat(
        [runner.forward([Span(IDS[i : i + 10], i, range(4), scored=10)]).logits for i in range(0, 50, 10)]
    )
    with torch.no_grad():
        assert close(found, whole(load(folder), IDS), 0.05)


@pytest.mark.parametrize("start", [0, 5, 33])
def test_branches_see_their_window_of_what_stands_before_them(start: int, folder: Path) -> None:
    reader, branches = Reader(load(folder), 64), [IDS[start : start + 4], IDS[40:50], [3]]
    if start:
        reader.read(IDS[:start], 0)
    found = reader.head(reader.branches(branches, start))
    with torch.no_grad():
        expected = [whole(load(folder), IDS[:start] + branch)[start:] for branch in branches]
    assert close(found, torch.cat(expected))


def test_an_engine_with_int8_keys_and_values_answers(folder: Path) -> None:
    llm = LLM(folder, EngineOptions(kv_cache="int8"))
    assert len(llm.generate([IDS], max_new_tokens=5, temperature=0, ignore_eos=True)[0].token_ids) == 5
