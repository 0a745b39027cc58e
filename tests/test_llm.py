"""The offline engine on the real model that ships: what users rely on, word for word."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from builders import edit_json, llama, opt

import moesaic
from moesaic.engine.engine import Engine
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.engine.request import FinishReason
from moesaic.engine.scoring import Reader
from moesaic.models.devices import choose_device
from moesaic.models.errors import InvalidRequest, RequestFailed, SetupError, Unsupported
from moesaic.models.locate import locate

OPENING = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
PROMPTS = ["", "Once upon a time", "Tom and his dog", "The sun was", "One day, Sue"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("stories260k")


@pytest.fixture(autouse=True)
def nothing_left_behind(llm: LLM) -> Iterator[None]:
    """After every test all slots are free and nobody waits."""
    yield
    assert llm.engine.load.free_slots == llm.engine.load.num_slots and not llm.engine.has_work


def greedy(llm: LLM, prompt: str, count: int = 40, **settings: Any) -> tuple[int, ...]:
    [answer] = llm.generate([prompt], temperature=0, max_new_tokens=count, **settings)
    return tuple(answer.token_ids)


def complaints(llm: LLM, prompt: Any = "Once", **settings: Any) -> dict[str, str]:
    """Every violation of a refused request, by its field."""
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([prompt], **settings)
    return {violation.field: violation.message for violation in caught.value.violations}


def test_greedy_from_nothing_tells_the_story_of_lily(llm: LLM) -> None:
    [answer] = llm.generate([""], temperature=0, max_new_tokens=60)
    assert answer.text.startswith(OPENING)
    assert answer.usage.prompt_tokens == 1 and answer.usage.completion_tokens == len(answer.token_ids) == 60
    assert answer.finish_reason is FinishReason.LENGTH and answer.usage.tier_used == "full"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_equal_those_of_transformers(llm: LLM, prompt: str) -> None:
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(locate("stories260k")).eval()
    ids = llm.tokenizer.encode(prompt)
    with torch.no_grad():
        wanted = theirs.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)[0, len(ids) :]
    assert greedy(llm, prompt, 64) == tuple(wanted.tolist())


def test_a_prompt_gives_the_same_tokens_alone_in_a_batch_and_streamed(llm: LLM) -> None:
    others = ["Tom", "A cat", "The big dog ran", "Lily and", "One day", "Sam was", "It"]
    batch = llm.generate(["Once upon", *others], temperature=0, max_new_tokens=40)
    pieces = list(llm.stream("Once upon", temperature=0, max_new_tokens=40))
    alone = greedy(llm, "Once upon")
    assert batch[0].token_ids == alone == tuple(token for piece in pieces for token in piece.token_ids)
    assert batch[0].text == "".join(piece.text for piece in pieces)


def test_answers_come_in_the_order_of_more_prompts_than_slots(llm: LLM) -> None:
    prompts = [f"Tom had {count} cats" for count in range(20)]
    answers = llm.generate(prompts, temperature=0, max_new_tokens=8)
    assert [answer.token_ids for answer in answers] == [greedy(llm, prompt, 8) for prompt in prompts]


def test_two_open_streams_do_not_take_each_others_tokens(llm: LLM) -> None:
    first, second = (llm.stream(prompt, temperature=0, max_new_tokens=20) for prompt in ("Once", "Tom"))
    a, b = [next(first)], [next(second)]
    a += list(first)
    inside = greedy(llm, "Lily", 10)
    b += list(second)
    assert tuple(token for chunk in a for token in chunk.token_ids) == greedy(llm, "Once", 20)
    assert tuple(token for chunk in b for token in chunk.token_ids) == greedy(llm, "Tom", 20)
    assert inside == greedy(llm, "Lily", 10)


def test_chunked_prefill_gives_the_same_tokens() -> None:
    prompt = "Once upon a time, there was a little boy named Tim. He had a red ball and a big dog. " * 3
    whole, chunked = LLM("stories260k"), LLM("stories260k")
    cast(Engine, chunked.engine).scheduler._step_tokens = 7
    assert greedy(chunked, prompt) == greedy(whole, prompt)


def test_token_ids_are_taken_as_they_are(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Once upon a time")
    by_ids = llm.generate([ids], temperature=0, max_new_tokens=20)[0]
    assert by_ids.token_ids == greedy(llm, "Once upon a time", 20) and by_ids.usage.prompt_tokens == len(ids)


def test_the_last_chunk_alone_carries_the_end(llm: LLM) -> None:
    *before, last = llm.stream("Once", temperature=0, max_new_tokens=5)
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in before)
    assert last.finish_reason is FinishReason.LENGTH and last.usage and last.timing
    assert last.usage.completion_tokens == 5 and last.timing.prefill_seconds > 0


@pytest.mark.parametrize("stop", ["girl", "Lily. She", ".", "e was", "O"])
def test_stop_strings_cut_exactly_and_never_leak(llm: LLM, stop: str) -> None:
    pieces = list(llm.stream("", temperature=0, max_new_tokens=60, stop=["never in it", stop]))
    assert "".join(piece.text for piece in pieces) == OPENING[: OPENING.index(stop)]
    assert pieces[-1].finish_reason is FinishReason.STOP_STRING and pieces[-1].matched == stop


def test_a_single_stop_string_needs_no_list(llm: LLM) -> None:
    assert llm.generate([""], temperature=0, stop="girl")[0].text == OPENING[: OPENING.index("girl")]


def test_a_stop_token_ends_an_answer(llm: LLM) -> None:
    token = greedy(llm, "Once", 10)[4]
    [answer] = llm.generate(["Once"], temperature=0, stop_token_ids=[token])
    assert answer.finish_reason is FinishReason.STOP_TOKEN and answer.matched == token
    assert answer.token_ids == greedy(llm, "Once", 10)[:4]


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(llm: LLM) -> None:
    settings: Any = {"temperature": 1.0, "top_p": 0.9, "seed": 7, "max_new_tokens": 20}
    [alone] = llm.generate(["Once"], **settings)
    crowd = llm.generate(["Tom", "Once", "A dog"], **settings)
    assert crowd[1].token_ids == alone.token_ids


def test_a_tiny_temperature_is_greedy(llm: LLM) -> None:
    [answer] = llm.generate(["Once"], temperature=1e-45, max_new_tokens=20)
    assert answer.token_ids == greedy(llm, "Once", 20)


def test_the_context_is_filled_to_its_end_and_not_beyond(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Once upon a time")
    prompt = (ids * 200)[:500]
    [answer] = llm.generate([prompt], temperature=0, max_new_tokens=12, ignore_eos=True)
    assert answer.usage.completion_tokens == 12
    assert "500 prompt tokens and 13 new ones make 513" in complaints(llm, prompt, max_new_tokens=13)["prompt"]


def test_a_prompt_that_fills_the_context_is_refused_with_the_limit(llm: LLM) -> None:
    message = complaints(llm, "Tom " * 600)["prompt"]
    assert message.endswith("the context holds 512; shorten the prompt")


def test_what_is_advised_where_the_context_is_full_makes_the_request_succeed(llm: LLM) -> None:
    advised = "the context holds 512; shorten the prompt or lower max_new_tokens"
    assert complaints(llm, [5] * 511, max_new_tokens=2)["prompt"].endswith(advised)
    assert llm.generate([[5] * 511], max_new_tokens=1, ignore_eos=True)[0].usage.completion_tokens == 1


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_every_mistake_is_listed_at_once(llm: LLM) -> None:
    found = complaints(
        llm, [1, 999], temperature=math.nan, top_p=5.0, top_k=-1, min_p=2.0, max_new_tokens=0,
        stop=["", "x" * 300], stop_token_ids=[-4], seed="x",
    )  # fmt: skip
    assert set(found) == {
        "prompt.token_ids", "sampling.temperature", "sampling.top_p", "sampling.top_k", "sampling.min_p", "seed",
        "stopping.max_new_tokens", "stopping.stop_strings[0]", "stopping.stop_strings[1]", "stopping.stop_token_ids",
    }  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 2.1])
def test_impossible_temperatures_are_refused_with_the_limit(llm: LLM, value: float) -> None:
    assert complaints(llm, temperature=value)["sampling.temperature"].endswith("it must be from 0 (greedy) to 2")


@pytest.mark.parametrize("name", ["top_k", "max_new_tokens", "seed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 2.5, "5", True, [1]])
def test_what_is_counted_must_be_whole(llm: LLM, name: str, value: Any) -> None:
    assert complaints(llm, **{name: value})[name].endswith("it must be a whole number")


@pytest.mark.parametrize(
    ("name", "value"), [("stop", 5), ("stop", [5]), ("stop_token_ids", ["a"]), ("ignore_eos", "no"), ("top_p", "0.5")]
)
def test_a_setting_of_the_wrong_type_is_named(llm: LLM, name: str, value: Any) -> None:
    assert f"is {value!r}, it must be" in complaints(llm, **{name: value})[name]


@pytest.mark.parametrize("prompt", [5, None, ["a"], [1.5], "half \udcff a pair", [[1]]])
def test_a_prompt_that_is_neither_text_nor_ids_is_refused(llm: LLM, prompt: Any) -> None:
    assert "it must be text in Unicode, or a sequence of token ids" in complaints(llm, prompt)["prompt"]


def test_an_empty_list_of_ids_is_refused(llm: LLM) -> None:
    assert "is empty" in complaints(llm, [])["prompt"]


def test_a_misspelt_setting_is_refused_with_what_was_meant(llm: LLM) -> None:
    assert "did you mean 'temperature'?" in complaints(llm, temprature=1)["temprature"]


def test_an_unknown_tier_is_unsupported(llm: LLM) -> None:
    with pytest.raises(Unsupported, match="tier 'low' is not among this model's tiers: full"):
        llm.generate(["Once"], tier="low")


def test_one_bad_prompt_starts_none_of_them(llm: LLM) -> None:
    with pytest.raises(InvalidRequest):
        llm.generate(["Once", [999]])
    assert not llm.engine.has_work


def test_closing_a_stream_frees_its_slot(llm: LLM) -> None:
    stream = llm.stream("Once", max_new_tokens=100)
    next(stream)
    assert llm.engine.load.running == 1
    stream.close()
    assert llm.engine.load.running == 0


def test_a_stream_that_was_never_read_holds_nothing(llm: LLM) -> None:
    llm.stream("Once")
    assert not llm.engine.has_work


def test_a_fault_in_one_request_is_told_and_leaves_nothing_behind(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cast(Engine, llm.engine)._runner, "forward", lambda *_: 1 / 0)
        with pytest.raises(RequestFailed, match="ZeroDivisionError"):
            llm.generate(["Once", "Tom"])
    assert len(greedy(llm, "Once", 5)) == 5


@pytest.mark.parametrize("text", ["日本語 👩‍👩‍👧", "\x00", " ", "\n\n", "<s>", "</s></s>", "e\u0301" * 50, "\ufeff"])
def test_odd_text_is_a_prompt_like_any(llm: LLM, text: str) -> None:
    [answer] = llm.generate([text], temperature=0, max_new_tokens=5, ignore_eos=True)
    assert answer.usage.completion_tokens == 5


# --- set-up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
        ({"device": "cuda:99999999999"}, "cannot be used"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"threads": 0}, "threads is 0, it must be at least 1"),
        ({"max_context": 0}, "max_context is 0, it must be at least 1; leave it out"),
        ({"max_context": 513}, "max_context is 513, this model's context is 1 to 512"),
        ({"num_slots": 0}, "num_slots is 0"),
        ({"kv_memory": 1}, "lower max_context or raise kv_memory"),
        ({"kv_memory": -5}, "kv_memory is -5, it must be at least 1"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        LLM("stories260k", EngineOptions(**options))


def test_with_little_memory_requests_take_turns() -> None:
    llm = LLM("stories260k", EngineOptions(kv_memory=700_000, max_context=256))
    assert llm.description.kv_tokens < 2 * 256
    assert [answer.usage.completion_tokens for answer in llm.generate(["a"] * 5, max_new_tokens=3)] == [3] * 5


def test_the_device_is_chosen_from_the_machine() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_without_room_for_a_model_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

    monkeypatch.setattr("moesaic.engine.build.load_transformer", full)
    with pytest.raises(SetupError, match="loading stories260k: the device has too little memory .*; give --device cpu"):
        LLM("stories260k", EngineOptions(device="cpu"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_engine_starts_the_same_story(dtype: str) -> None:
    [answer] = LLM("stories260k", EngineOptions(dtype=dtype)).generate([""], temperature=0, max_new_tokens=12)
    assert OPENING.startswith(answer.text)


def test_generation_defaults_of_the_directory_are_used(tmp_path: Path) -> None:
    llama(tmp_path)
    edit_json(tmp_path / "generation_config.json", do_sample=False)
    plain = LLM(tmp_path)
    assert greedy(plain, "abc", 10) == plain.generate(["abc"], max_new_tokens=10)[0].token_ids


def test_a_tokenizer_without_a_begin_token_refuses_the_empty_prompt(tmp_path: Path) -> None:
    opt(tmp_path)
    assert "no begin token" in complaints(LLM(tmp_path), "")["prompt"]


def test_a_token_beyond_the_models_vocabulary_is_refused(tmp_path: Path) -> None:
    """A tokenizer of another model."""
    llama(tmp_path, vocab_size=200, bos_token_id=1, eos_token_id=2)
    assert "outside the 200 ids of the vocabulary" in complaints(LLM(tmp_path), "a b")["prompt.token_ids"]


@pytest.mark.parametrize("text", ["", "{}", '{"model": 5}', "[" * 100_000, "\x00"])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    llama(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(SetupError, match="cannot be read as a tokenizer"):
        LLM(tmp_path)


def test_the_package_offers_its_doors() -> None:
    assert moesaic.LLM is LLM
    with pytest.raises(AttributeError, match="no attribute 'LMM'"):
        moesaic.LMM  # noqa: B018


def test_a_text_is_scored_by_the_probabilities_of_its_tokens(llm: LLM) -> None:
    ids = llm.tokenizer.encode(OPENING)
    reader = Reader(llm.model, len(ids))
    wanted = reader.head(reader.read(ids, 0)).log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    by_text, by_ids, alone = llm.score([OPENING, ids, [5]])
    assert by_text.logprobs == by_ids.logprobs and by_text.token_ids == tuple(ids[1:])
    assert by_text.logprobs == pytest.approx(wanted.tolist(), abs=1e-4) and by_text.total == sum(by_text.logprobs)
    assert alone.logprobs == () and by_text.timing.prefill_seconds > 0


@pytest.mark.parametrize("length", [2, 64, 65, 66, 129])
def test_every_token_of_a_text_is_scored_wherever_its_parts_end(llm: LLM, length: int) -> None:
    [scored] = llm.score([[5 + i % 80 for i in range(length)]])
    assert len(scored.logprobs) == length - 1 and scored.total < 0


def test_a_text_that_leaves_no_room_is_not_scored(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="512 prompt tokens and 1 new ones make 513"):
        llm.score([[5] * 512])


def test_progress_counts_the_prompts_that_are_answered(llm: LLM) -> None:
    told: list[tuple[int, int]] = []
    llm.generate(PROMPTS, n=2, max_new_tokens=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]


def test_a_decoder_makes_no_embeddings(llm: LLM) -> None:
    with pytest.raises(Unsupported, match="llama continues text and makes no embeddings; ask a model of an encoder"):
        llm.embed(["Once"])
