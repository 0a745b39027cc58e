"""The run of `make fuzz`, small: what it calls wrong, and that it goes on where it was."""

import json
import sys
from pathlib import Path

import fuzz
import pytest
from fuzz import CHUNK, NO_ANSWER, Sent, wrong


@pytest.mark.parametrize(
    ("code", "seconds", "what"),
    [
        ("OK", 20.0, ""),
        ("INVALID_ARGUMENT", 0.9, ""),
        ("INVALID_ARGUMENT", 1.1, "INVALID_ARGUMENT after 1.1 s"),
        ("INTERNAL", 0.0, "INTERNAL"),
        ("UNKNOWN", 0.0, "UNKNOWN"),
        ("500", 0.0, "500"),
        (NO_ANSWER, 0.0, NO_ANSWER),
    ],
)
def test_what_is_wrong_with_an_answer(code: str, seconds: float, what: str) -> None:
    assert wrong(Sent("m", b""), code, seconds) == what


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (CHUNK, 2 * CHUNK):
        monkeypatch.setattr(sys, "argv", ["fuzz.py", str(count), "--folder", str(tmp_path)])
        assert fuzz.main() == 0
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["chunks"] == 2 and len(state["answers"]) > 20
    assert sum(sum(codes.values()) for codes in state["answers"].values()) == 2 * CHUNK
