"""A real model served on a real port: what a client gets is what the engine gives."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from patience import eventually
from server_harness import all_free

from moesaic.bench.local_server import local_server
from moesaic.engine.llm import LLM
from moesaic.engine.request import FinishReason
from moesaic.server.client import Client

PROMPTS = ["", "Once upon a time", "One day", "Tom and", "The cat sat", "A big dog", "Lily", "Sue had a"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_server({"stories": "stories260k"}) as found:
        yield found


@pytest.fixture(scope="module")
def alone() -> list[tuple[int, ...]]:
    """Greedy tokens of each prompt, generated offline, one at a time."""
    llm = LLM("stories260k")
    return [llm.generate([prompt], temperature=0, max_new_tokens=60)[0].token_ids for prompt in PROMPTS]


def test_eight_concurrent_streams_give_the_tokens_of_each_alone(address: str, alone: list[tuple[int, ...]]) -> None:
    def ask(prompt: str) -> tuple[int, ...]:
        with Client(address) as client:
            chunks = list(client.stream(prompt, temperature=0, max_new_tokens=60))
        return tuple(token for chunk in chunks for token in chunk.token_ids)

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(ask, PROMPTS)) == alone


def test_a_stream_put_together_is_the_whole_answer(address: str) -> None:
    with Client(address) as client:
        whole = client.generate("Once upon a time", temperature=0, max_new_tokens=60)
        pieces = list(client.stream("Once upon a time", temperature=0, max_new_tokens=60))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].usage == whole.usage


def test_the_same_seed_gives_the_same_tokens_beside_others(address: str) -> None:
    def ask(seed: int) -> tuple[int, ...]:
        with Client(address) as client:
            answer = client.generate("One day", temperature=1.0, top_p=0.95, seed=seed, max_new_tokens=40)
        return tuple(answer.token_ids)

    alone = ask(7)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, [7, 1, 7, 2, 7, 3]))
    assert [together[i] for i in (0, 2, 4)] == [alone] * 3
    assert together[1] != together[3]


def test_a_stop_string_ends_the_text_before_it(address: str) -> None:
    with Client(address) as client:
        answer = client.generate("Once upon a time", temperature=0, max_new_tokens=60, stop=["Lily"])
    assert answer.finish_reason is FinishReason.STOP_STRING and answer.matched == "Lily"
    assert answer.text == ", there was a little girl named "


def test_a_cancelled_stream_frees_its_slot(address: str) -> None:
    with Client(address) as client:
        for _ in range(20):
            with client.stream("Once", temperature=0, max_new_tokens=400, ignore_eos=True) as stream:
                next(stream)
        eventually(lambda: all_free(client))
        client.generate("Tom", temperature=0, max_new_tokens=2)


def test_a_request_ended_by_a_stop_string_is_timed_too(address: str) -> None:
    with Client(address) as client:
        timing = client.generate("Once upon a time", temperature=0, stop=["Lily"]).timing
    assert timing.prefill_seconds > 0 and timing.decode_seconds > 0


def test_the_model_describes_itself(address: str) -> None:
    with Client(address) as client:
        model = client.model()
    assert (model.family, model.num_parameters, model.vocab_size) == ("llama", 260032, 512)
    assert model.tiers == ("full",) and model.stages == ()
