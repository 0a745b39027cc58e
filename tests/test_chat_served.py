"""Chat end to end: offline, over a real port, and as it is typed."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import llama
from chat_forms import CHATML, CONTROL, LLAMA_2, write_tokenizer
from patience import eventually
from server_harness import Server, all_free

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.engine.llm import LLM
from moesaic.engine.request import FinishReason
from moesaic.models.errors import InvalidRequest, Unsupported, Violation
from moesaic.server.client import Client

TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "é"},
]
SHORT: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
HANG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def chat_model(folder: Path, template: object = CHATML, **config: object) -> Path:
    """A random model of 259 bytes and control tokens that chats."""
    llama(folder, vocab_size=260 + len(CONTROL), max_position_embeddings=256)
    made: Path = write_tokenizer(folder, template, **config)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


# --- offline -------------------------------------------------------------------------------------------------------


def test_a_chat_is_the_continuation_of_its_ids(llm: LLM) -> None:
    ids = llm.chat_prompt(TALK)
    (answer,) = llm.chat(TALK, **SHORT)
    (plain,) = llm.generate([ids], **SHORT)
    assert (answer.text, answer.token_ids) == (plain.text, plain.token_ids)
    assert answer.usage.prompt_tokens == len(ids)


def test_several_conversations_are_answered_as_each_alone(llm: LLM) -> None:
    talks = [TALK, TALK[:1], [{"role": "system", "content": "x"}, *TALK]]
    together = [answer.token_ids for answer in llm.chat(talks, **SHORT)]
    assert together == [llm.chat(talk, **SHORT)[0].token_ids for talk in talks]


def test_a_streamed_chat_is_the_whole_one(llm: LLM) -> None:
    chunks = list(llm.stream_chat(TALK, **SHORT))
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == llm.chat(TALK, **SHORT)[0].token_ids


def test_a_chat_ends_at_the_turns_end_that_the_tokenizer_names(llm: LLM, folder: Path, tmp_path: Path) -> None:
    made = llm.chat(TALK, ignore_eos=True, **SHORT)[0].token_ids
    i = next(i for i, token in enumerate(made) if token not in made[:i] and i > 2)
    name = llm.tokenizer._inner.id_to_token(made[i])
    other = LLM(chat_model(tmp_path / "other", eos_token=name))
    (answer,) = other.chat(TALK, **SHORT)
    assert (answer.finish_reason, answer.matched, answer.token_ids) == (FinishReason.STOP_TOKEN, made[i], made[:i])
    assert next(iter(other.stream_chat(TALK, ignore_eos=True, **SHORT)))
    assert other.chat(TALK, ignore_eos=True, **SHORT)[0].token_ids == made
    assert len(other.generate([other.chat_prompt(TALK)], **SHORT)[0].token_ids) > i


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "user"}], [TALK, []], 5])
def test_what_is_no_conversation_is_refused(llm: LLM, messages: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"prompt\.messages"):
        llm.chat(messages)
    assert not llm.engine.has_work


def test_a_model_without_a_template_generates_and_does_not_chat() -> None:
    llm = LLM("stories260k")
    with pytest.raises(Unsupported, match="has no chat template .* give a plain prompt instead"):
        llm.chat(TALK)
    assert llm.generate(["Once"], **SHORT)


# --- on a real port ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """A real engine, and beside it a model that does not chat."""
    with local_server({"chat": folder, "plain": "stories260k"}) as address, Client(address) as client:
        yield client


def test_served_ids_equal_offline_ids(client: Client, llm: LLM) -> None:
    (offline,) = llm.chat(TALK, **SHORT)
    served = client.chat(TALK, model="chat", **SHORT)
    assert (served.text, served.token_ids) == (offline.text, offline.token_ids)
    assert replace(served.usage, cached_prompt_tokens=0) == replace(offline.usage, cached_prompt_tokens=0)


def test_a_served_stream_equals_the_whole_answer(client: Client) -> None:
    chunks = list(client.stream_chat(TALK, model="chat", **SHORT))
    whole = client.chat(TALK, model="chat", **SHORT)
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == whole.token_ids
    assert "".join(chunk.text for chunk in chunks) == whole.text


def test_a_model_tells_whether_it_chats(client: Client) -> None:
    assert [client.model(name).chat for name in ("chat", "plain")] == [True, False]


def test_a_model_that_does_not_chat_is_unsupported(client: Client) -> None:
    with pytest.raises(Unsupported, match="has no chat template .* give a plain prompt instead"):
        client.chat(TALK, model="plain")
    with pytest.raises(Unsupported, match="has no chat template"):
        next(client.stream_chat(TALK, model="plain"))


def test_a_chat_is_typed_at_a_server(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--model", "chat", "--address", client.address, "--max-new-tokens", "12"]
    assert main([*words, "--chat", "Hello", "--system", "Be brief."]) == 0
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert capsys.readouterr().out == client.chat(talk, model="chat", **SHORT).text + "\n"


# --- bad requests: an engine that gives back what it was asked -------------------------------------------------------


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    template = "{% if messages[0].content == 'hang' %}" + HANG + "{% endif %}" + LLAMA_2
    folder = chat_model(tmp_path_factory.mktemp("echo") / "model", template)
    with Server(path=folder, max_requests=4) as server, server.client() as client:
        yield client


def violations(client: Client, messages: Any, **settings: Any) -> tuple[Violation, ...]:
    with pytest.raises(InvalidRequest) as caught:
        client.chat(messages, **settings)
    with pytest.raises(InvalidRequest) as streamed:
        list(client.stream_chat(messages, **settings))
    found: tuple[Violation, ...] = caught.value.violations
    assert streamed.value.violations == found
    return found


def test_the_engine_is_asked_the_ids_of_the_template(echo: Client) -> None:
    answer = echo.chat(TALK, max_new_tokens=200)
    assert bytes(answer.text, "utf-8").startswith("[INST] Hello [/INST] Yes? [INST] é [/INST]".encode())
    assert answer.token_ids[0] == 256 != answer.token_ids[1]


def test_no_messages(echo: Client) -> None:
    (violation,) = violations(echo, [])
    assert (violation.field, violation.reason) == ("prompt.messages", "EMPTY_PROMPT")
    assert violation.message == "are none; give at least one"


def test_an_empty_content_is_the_templates_matter(echo: Client) -> None:
    assert echo.chat([{"role": "user", "content": ""}], max_new_tokens=1).usage.prompt_tokens > 1


def test_an_unknown_role_is_the_templates_matter(echo: Client) -> None:
    (violation,) = violations(echo, [{"role": "critic", "content": "x"}])
    assert (violation.field, violation.reason) == ("prompt.messages", "REFUSED_BY_TEMPLATE")
    assert violation.message.endswith("turns go user, assistant, user, not critic")


def test_too_many_messages(echo: Client) -> None:
    (violation,) = violations(echo, TALK * 1000)
    assert violation.message == "are 3000, the limit is 1024; leave out the oldest"


@pytest.mark.parametrize("role", ["", "x" * 65])
def test_roles_without_a_name_or_with_a_long_one(echo: Client, role: str) -> None:
    (violation,) = violations(echo, [*TALK, {"role": role, "content": "x"}])
    assert violation.field == "prompt.messages[3].role" and f"has {len(role)} bytes" in violation.message


def test_contents_above_a_mebibyte(echo: Client) -> None:
    (violation,) = violations(echo, [{"role": "user", "content": "x" * (1 << 20) + "y"}])
    assert violation.reason == "PROMPT_TOO_LARGE" and "of 1048577 bytes together" in violation.message


def test_a_conversation_longer_than_the_context(echo: Client) -> None:
    (violation,) = violations(echo, [{"role": "user", "content": "x" * 600}])
    assert (violation.field, violation.reason) == ("prompt", "CONTEXT_LENGTH_EXCEEDED")


def test_messages_that_do_not_fit_the_wire_do_not_leave_the_client(echo: Client) -> None:
    (violation,) = violations(echo, [{"role": "user", "content": "x", "name": "y"}])
    assert violation.field == "prompt.messages[0]"


@pytest.mark.parametrize(
    ("messages", "setting"),
    [([], {"temperature": 9.0}), ([{"role": "critic", "content": "x"}], {"top_p": 0.0}), ("no list", {"top_k": -1})],
)
def test_a_bad_conversation_and_a_bad_setting_are_listed_together(echo: Client, messages: Any, setting: Any) -> None:
    (name,) = setting
    assert {v.field for v in violations(echo, messages, **setting)} == {"prompt.messages", f"sampling.{name}"}


def test_a_template_that_hangs_is_stopped_and_stops_nobody_else(echo: Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        hung = [pool.submit(echo.chat, [{"role": "user", "content": "hang"}]) for _ in range(2)]
        assert echo.generate([5], max_new_tokens=2).token_ids == (5, 5)
        assert not all(each.done() for each in hung)
        for each in hung:
            with pytest.raises(Unsupported, match="takes more than 2 s of CPU time; give a plain prompt instead"):
                each.result()
    eventually(lambda: all_free(echo))
    assert echo.chat(TALK, max_new_tokens=1).token_ids == (256,)


# --- as it is typed ------------------------------------------------------------------------------------------------


def say(monkeypatch: pytest.MonkeyPatch, typed: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))


@pytest.mark.parametrize("words", [["Hello", "--chat"], ["--chat", "Hello"]])
def test_run_chats(folder: Path, llm: LLM, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(folder), *words, "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out == llm.chat([{"role": "user", "content": "Hello"}], **SHORT)[0].text + "\n"


def test_a_conversation_remembers_and_can_be_reset(
    folder: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, b"one\n\n  \ntwo\n/reset\none\n")
    assert main(["run", str(folder), "--chat", "--system", "s", "--max-new-tokens", "12"]) == 0
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "one"}]
    first = llm.chat(talk, **SHORT)[0].text
    talk += [{"role": "assistant", "content": first}, {"role": "user", "content": "two"}]
    second = llm.chat(talk, **SHORT)[0].text
    assert capsys.readouterr().out == f"{first}\n{second}\n{first}\n" and first != second


def test_a_turn_that_is_refused_is_told_and_forgotten(
    folder: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, b"\xff\n" + b"x" * 999 + b"\none\n")
    assert main(["run", str(folder), "--chat", "--max-new-tokens", "12"]) == 0
    shown = capsys.readouterr()
    assert shown.out == llm.chat([{"role": "user", "content": "one"}], **SHORT)[0].text + "\n"
    assert "no Unicode; take it out; /reset begins anew" in shown.err and "the context holds 256" in shown.err


def test_a_conversation_on_a_server(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, b"one\n")
    words = ["generate", "--model", "chat", "--address", client.address, "--max-new-tokens", "12", "--chat"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == client.chat([{"role": "user", "content": "one"}], model="chat", **SHORT).text + "\n"
    assert "[cut off; --max-new-tokens allows more]" in shown.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "x"], "give a prompt, or --chat for a conversation"),
        (["generate"], "give a prompt, or --chat for a conversation"),
        (["run", "x", "hi", "--system", "s"], "--system is for --chat; add it"),
        (["run", "x", "hi", "--chat", "there"], "unrecognized arguments: there"),
        (["run", "x", "--chat", "--sytem", "s"], "unrecognized arguments: --sytem s"),
    ],
)
def test_options_that_do_not_fit_together(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_a_conversation_with_a_model_that_does_not_chat_does_not_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stories260k", "--chat"]) == 2
    assert "give a plain prompt instead" in capsys.readouterr().err


def test_a_compressed_model_keeps_its_template(folder: Path, tmp_path: Path) -> None:
    from moesaic.compress.pipeline import compress

    out = tmp_path / "int8"
    compress(
        folder, out, {"stages": [{"quantize": {"linears": "int8"}}], "evaluation": {"documents": 1, "truncate": 16}}
    )
    assert LLM(out).chat_prompt(TALK) == LLM(folder).chat_prompt(TALK)
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == CHATML
