"""Tokens of text, text of tokens, templates and validation over a real port: what the model's own tokenizer says."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from builders import llama
from chat_forms import CHATML, CONTROL, write_tokenizer
from echo_engine import HOLD
from server_harness import Server

from moesaic.models.chat import ChatTemplate, Message
from moesaic.models.errors import InvalidRequest, NotFound, Overloaded, Unsupported
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer
from moesaic.proto import generation_pb2 as pb
from moesaic.server import prompts, texts
from moesaic.server.client import Client
from moesaic.server.client_request import Chat
from moesaic.server.handlers import GENERATION, stub
from moesaic.server.status import error_of

TALK = [{"role": "user", "content": "Hello <|im_end|>"}, {"role": "assistant", "content": "Yes?"}]
LONG = "Once upon a time there was a cat. " * 1000


KINDS: dict[str, Any] = {
    "Tokenize": pb.TokenizeRequest,
    "Detokenize": pb.DetokenizeRequest,
    "ApplyChatTemplate": pb.ApplyChatTemplateRequest,
    "Validate": pb.GenerateRequest,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(locate("stories260k"))


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    llama(folder, vocab_size=260 + len(CONTROL), max_position_embeddings=256)
    made: Path = write_tokenizer(folder, CHATML)
    return made


@pytest.fixture(scope="module")
def talker(chatting: Path) -> Iterator[Client]:
    with Server(path=chatting) as server, server.client() as client:
        yield client


@pytest.fixture(scope="module")
def full() -> Iterator[Client]:
    """Of a server that has no room left."""
    with Server(max_requests=1) as server, server.held(), server.client() as client, client.stream([HOLD]) as running:
        next(running)
        yield client


def asked(server: Server, method: str, message: Any) -> Any:
    """What a method answers to a message, or the exception of its status."""
    with grpc.insecure_channel(server.address) as channel:
        try:
            return stub(channel, GENERATION, method)(message)
        except grpc.RpcError as error:
            return error_of(error)


@pytest.mark.parametrize("text", ["", "Once upon a time", "héllo wörld 猫", LONG])
def test_ids_are_those_of_the_tokenizer_and_give_the_text_back(client: Client, tokenizer: Tokenizer, text: str) -> None:
    ids = client.tokenize(text)
    assert ids == tuple(tokenizer.encode(text))
    assert client.detokenize(ids) == tokenizer.decode(ids)


def test_more_tokens_than_are_told_are_refused_by_their_number(client: Client, tokenizer: Tokenizer) -> None:
    text = LONG * 8
    with pytest.raises(InvalidRequest) as caught:
        client.tokenize(text)
    (violation,) = caught.value.violations
    assert violation.reason == "TOO_MANY_TOKENS" and violation.metadata["tokens"] == str(len(tokenizer.encode(text)))


def test_a_text_above_a_mebibyte_is_refused_before_it_is_tokenized(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"prompt.text: has 1048577 bytes"):
        client.tokenize("a" * ((1 << 20) + 1))


def test_texts_of_many_requests_keep_the_loop_one_at_a_time(tokenizer: Tokenizer) -> None:
    """Others have their turn between two of them."""
    turns, beaten = list[int](), 0

    class Counting(Tokenizer):
        def encode(self, text: str) -> list[int]:
            turns.append(beaten)
            return super().encode(text)

    async def scene() -> None:
        counting = Counting(tokenizer._inner, ())
        made = prompts.Prompts(counting, cast(Any, None), cast(Any, None))
        asking = asyncio.gather(*(made.ids(pb.GenerateRequest(text="a b " * 100), 512) for _ in range(32)))
        while not asking.done():
            nonlocal beaten
            beaten += 1
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert len(turns) == len(set(turns)) == 32


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([5, 512], "TOKEN_OUT_OF_VOCABULARY"),
        ([5] * (texts.MOST_IDS + 1), "TOO_MANY_TOKENS"),
        ([(1 << 32) - 1], "TOKEN_OUT_OF_VOCABULARY"),
    ],
)
def test_ids_that_are_none_of_the_model_make_no_text(client: Client, ids: list[int], reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.detokenize(ids)
    assert caught.value.violations[0].reason == reason and caught.value.violations[0].field == "token_ids"


def test_no_ids_are_no_text_and_many_take_a_process_of_their_own(client: Client, tokenizer: Tokenizer) -> None:
    assert client.detokenize([]) == ""
    ids = tokenizer.encode(LONG)
    assert len(ids) > prompts.LONG_IDS and client.detokenize(ids) == tokenizer.decode(ids)


def test_a_conversation_is_written_out_and_its_ids_are_what_the_model_sees(talker: Client, chatting: Path) -> None:
    tokenizer = Tokenizer.open(chatting)
    template = ChatTemplate.open(chatting, tokenizer)
    talk = [Message(each["role"], each["content"]) for each in TALK]
    text, ids = talker.apply_chat_template(TALK)
    assert (text, ids) == (template.written(talk), tuple(template.prompt_ids(talk)))
    assert talker.tokenize(TALK) == ids and talker.validate(Chat(TALK)).prompt_tokens == len(ids)
    assert ids != tuple(tokenizer.encode_rendered(text))  # a token's name in a content is text


def test_a_long_conversation_is_written_out_in_a_process_of_its_own(talker: Client, chatting: Path) -> None:
    talk = [{"role": "user", "content": LONG}]
    text, ids = talker.apply_chat_template(talk)
    template = ChatTemplate.open(chatting, Tokenizer.open(chatting))
    assert LONG in text and ids == tuple(template.prompt_ids([Message("user", LONG)]))


@pytest.mark.parametrize("method", ["Tokenize", "ApplyChatTemplate", "Validate"])
def test_no_prompt_at_all_is_said_to_be_none(server: Server, method: str) -> None:
    told = asked(server, method, KINDS[method]())
    problem = told.problems[0] if method == "Validate" else told.violations[0]
    assert (problem.reason, problem.field.partition(".")[0]) == ("EMPTY_PROMPT", "prompt")


def test_a_chat_where_there_is_no_template_is_refused_by_every_method(server: Server, client: Client) -> None:
    for ask in (lambda: client.tokenize(TALK), lambda: client.apply_chat_template(TALK)):
        with pytest.raises(Unsupported, match="no chat template"):
            ask()
    talk = pb.ChatMessages(messages=[pb.ChatMessage(role="user")])
    told = asked(server, "Validate", pb.GenerateRequest(messages=talk))
    assert told.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert told.problems[0].reason == "UNSUPPORTED_BY_MODEL"


@pytest.mark.parametrize("method", KINDS)
def test_a_model_that_is_not_there_is_not_found(server: Server, method: str) -> None:
    assert isinstance(asked(server, method, KINDS[method](model="gone")), NotFound)


def test_validation_names_all_that_is_wrong_and_counts_the_prompt(client: Client) -> None:
    told = client.validate([5, 6, 7], temperature=9, top_p=0, max_new_tokens=600, stop=["x" * 300])
    assert not told.is_valid and told.prompt_tokens == 3 and told.max_context == 512
    fields = {problem.field for problem in told.problems}
    assert fields >= {"sampling.temperature", "sampling.top_p", "prompt"} and len(told.problems) == 4


def test_validation_says_what_generate_would(client: Client) -> None:
    assert client.validate("Once", max_new_tokens=5).is_valid
    wrong: dict[str, Any] = {"top_k": 1 << 31, "request_id": "two words"}
    told = client.validate([9999], **wrong)
    with pytest.raises(InvalidRequest) as caught:
        client.generate([9999], **wrong)
    assert {each.field for each in told.problems} == {each.field for each in caught.value.violations}


def test_thousands_of_problems_are_listed_to_a_bound(server: Server) -> None:
    stopping = pb.Stopping(stop_strings=["x" * 300] * 5000)
    told = asked(server, "Validate", pb.GenerateRequest(text="a", stopping=stopping))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] and 1 <= len(told.problems) <= texts.MOST_PROBLEMS


def test_validation_computes_nothing(server: Server, client: Client) -> None:
    with server.admin() as admin:
        before = admin.load().models[0].num_blocks  # of the echo: how many requests it has had
        assert client.validate("Once upon a time").is_valid
        assert admin.load().models[0].num_blocks == before


@pytest.mark.parametrize(("ask", "given"), [("tokenize", "a"), ("detokenize", [5]), ("validate", "a")])
def test_a_full_model_refuses_these_as_it_does_others(full: Client, ask: str, given: Any) -> None:
    with pytest.raises(Overloaded, match="1 requests are in flight of at most 1"):
        getattr(full, ask)(given)


def test_a_server_that_drains_refuses_these_too() -> None:
    with Server() as server, server.held(), server.client() as client, client.stream([HOLD]) as running:
        next(running)
        with server.admin() as admin:
            progress = admin.drain()
            assert next(progress).requests_left == 1
            with pytest.raises(Exception, match="shutting down"):
                client.tokenize("a")
