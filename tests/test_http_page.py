"""The page that a server shows: what it may do, what its functions say, and how it is used."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from chromium import PROGRAM, Tab, opened
from echo_engine import HOLD
from patience import eventually
from server_harness import Server, all_free

from moesaic.server.http.page import page, page_headers
from moesaic.server.tokens import add_token

PAGE = page().decode()
READY = "document.querySelector('#state')?.textContent.includes('weights')"
DONE = "document.querySelector('#send').textContent === 'Send'"
ENTER: dict[str, Any] = {"key": "Enter", "code": 13, "text": "\r"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(http=True) as server:
        yield server


@pytest.fixture
def tab(server: Server) -> Iterator[Tab]:
    if not PROGRAM:
        pytest.skip("needs chromium: apt install chromium")
    with opened(f"{server.web}/") as tab:
        tab.until(READY)
        yield tab
        assert not tab.complaints


def answers(tab: Tab) -> list[str]:
    found: list[str] = tab.run("[...document.querySelectorAll('.said p:not(.mine)')].map((each) => each.textContent)")
    return found


def test_it_is_one_file_that_asks_for_no_other() -> None:
    assert not re.search(r"https?:|url\(|@import| on\w+=|src=|<link(?! rel=\"icon\" href=\"data:,\")", PAGE)
    assert PAGE.count("<style>") == PAGE.count("<script>") == 1 and "innerHTML" not in PAGE and "eval(" not in PAGE
    assert "color-scheme: light dark" in PAGE and 'name="viewport"' in PAGE


def test_its_policy_lets_it_reach_this_server_alone(server: Server) -> None:
    with urlopen(server.web) as response:
        assert response.read() == page() and response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
    assert policy == page_headers()["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "connect-src 'self'" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_a_prompt_is_answered_twice_side_by_side(tab: Tab) -> None:
    tab.run("document.querySelector('#prompt').focus()")
    tab.type("Once upon a time")
    tab.press(**ENTER)
    tab.until("document.querySelectorAll('.figures b').length >= 4 && " + DONE)
    first, second = answers(tab)
    assert first == second and first.startswith(" Once upon a time Once")
    figures = tab.run("document.querySelector('.figures').textContent")
    assert re.search(r"[\d.]+ tokens/s200 tokens", figures)


def test_one_answer_is_enough_where_two_are_not_wanted(tab: Tab) -> None:
    tab.run("document.querySelector('#compare').click()")
    tab.run("document.querySelector('#prompt').value = '<b>bold</b>'")
    tab.run("document.querySelector('#send').click()")
    tab.until("document.querySelector('.figures b') && " + DONE)
    assert len(answers(tab)) == 1 and tab.run("document.querySelectorAll('.said b').length") == 0
    tab.run("document.querySelector('#clear').click()")
    assert answers(tab) == []


HELD = f"""window.fetch = ((real) => (url, given) => real(url, given && {{
  ...given, body: JSON.stringify({{ ...JSON.parse(given.body), prompt: [{HOLD}] }})
}}))(window.fetch)"""


def test_escape_stops_what_is_written(server: Server, tab: Tab) -> None:
    with server.held(), server.client() as client:
        tab.run(f"{HELD}; document.querySelector('#prompt').focus()")
        tab.type("held")
        tab.press(**ENTER)
        tab.until("document.querySelector('.figures b') !== null")
        assert not all_free(client)
        tab.press("Escape", 27)
        tab.until(DONE)
        eventually(lambda: all_free(client))


def test_what_is_refused_is_shown_where_the_answer_would_be(tab: Tab) -> None:
    tab.run("document.querySelector('#temperature').value = 7")
    tab.run("document.querySelector('#prompt').value = 'a'")
    tab.run("document.querySelector('#send').click()")
    tab.until("document.querySelectorAll('.wrong').length === 2 && " + DONE)
    assert "temperature: is 7.0" in tab.run("document.querySelector('.wrong').textContent")
    tab.complaints = [each for each in tab.complaints if "400 (Bad Request)" not in each]


@pytest.mark.parametrize(("width", "mobile"), [(1200, False), (390, True), (320, True)])
def test_it_fits_a_screen_and_a_phone(tab: Tab, width: int, mobile: bool) -> None:
    tab.resize(width, 760, mobile)
    tab.until(f"document.documentElement.scrollWidth <= {width}")
    edges = tab.run(
        "[...document.querySelectorAll('button, textarea')].map((each) => each.getBoundingClientRect().right)"
    )
    assert max(edges) <= width
    for dark, paper in ((False, "rgb(247, 247, 245)"), (True, "rgb(22, 23, 26)")):
        tab.dark(dark)
        tab.until(f"getComputedStyle(document.body).backgroundColor === '{paper}'")


def test_everything_is_reached_by_the_keyboard(tab: Tab) -> None:
    tab.run("document.querySelector('#model').focus()")
    reached = []
    for _ in range(8):
        tab.press("Tab", 9)
        reached.append(
            tab.run("document.activeElement.id || document.activeElement.className || document.activeElement.tagName")
        )
    assert {"compare", "clear", "said", "prompt", "send"} <= set(reached)


# --- the functions of its script, without a browser ----------------------------------------------------------------

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")
TIERS = [{"name": "full", "bytes_share": 1}, {"name": "low", "bytes_share": 0.48}]


def value_of(expression: str, tmp_path: Path) -> Any:
    """What an expression is worth where the page's script has run, which does nothing without a document."""
    script = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)[0]
    file = tmp_path / "page.js"
    file.write_text(f"{script}\nconsole.log(JSON.stringify({expression}));")
    shown = subprocess.run(["node", str(file)], capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)


@needs_node
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('eventsIn("data: {\\"a\\":1}\\n\\ndata: [DONE]\\n\\ndata: {\\"b")', [[{"a": 1}], 'data: {"b']),
        ('eventsIn("")', [[], ""]),
        (f"spending(0.482, {json.dumps(TIERS)})", {"tier": "low"}),
        (f"spending(0.6, {json.dumps(TIERS)})", {"share": 0.6}),
        ("[bytes(12), bytes(4200), bytes(70600000), bytes(2e9)]", ["12 B", "4.20 kB", "70.6 MB", "2.00 GB"]),
        ("figuresOf({completion_tokens: 1, moesaic: {}}, 0)", [["1", "token"]]),
        (
            "figuresOf({completion_tokens: 11, moesaic: {bytes_share: 0.53, weight_bytes_per_token: 5e6}}, 2)",
            [["5.0", "tokens/s"], ["11", "tokens"], ["5.00 MB", "read a token"], ["53 %", "of what tiers govern"]],
        ),
    ],
)
def test_a_function_of_its_script(tmp_path: Path, expression: str, value: Any) -> None:
    assert value_of(expression, tmp_path) == value


@needs_node
def test_a_model_that_chats_is_sent_the_whole_conversation(tmp_path: Path) -> None:
    said = '[{role: "user", content: "a"}, {role: "assistant", content: "b"}, {role: "user", content: "c"}]'
    model = "{id: 'm', moesaic: {chat: %s}}"
    chat = value_of(f"bodyOf({model % 'true'}, {said}, {{seed: 1}}, {{tier: 'low'}})", tmp_path)
    text = value_of(f"bodyOf({model % 'false'}, {said}, {{seed: 1}}, {{share: 0.6}})", tmp_path)
    assert len(chat["messages"]) == 3 and chat["moesaic"] == {"tier": "low"} and "prompt" not in chat
    assert text["prompt"] == "c" and text["moesaic"] == {"share": 0.6} and text["stream"] and text["seed"] == 1


def test_a_server_that_asks_who_calls_is_told_by_a_field_of_the_page(tmp_path: Path) -> None:
    if not PROGRAM:
        pytest.skip("needs chromium: apt install chromium")
    token = add_token(tmp_path / "tokens.jsonl", "alice", ["generate"])
    with Server(http=True, tokens=str(tmp_path / "tokens.jsonl")) as server, opened(f"{server.web}/") as tab:
        tab.until("document.querySelector('#state')?.textContent.includes('asks who calls')")
        tab.run("document.querySelector('#token').focus()")
        tab.type(token)
        tab.press(**ENTER)
        tab.until(READY)
        tab.run("document.querySelector('#prompt').value = 'Once'")
        tab.run("document.querySelector('#send').click()")
        tab.until("document.querySelector('.figures b') && " + DONE)
        assert len(answers(tab)) == 2 and token not in tab.run("document.documentElement.outerHTML")
