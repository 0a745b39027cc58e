"""A plugin of pytest: a row for every test as it ends, so that a run that is cut off has told what it knew."""

import os
from pathlib import Path

import pytest

from .rows import Rows

FILE = "MOESAIC_TEST_ROWS"  # the environment variable that says where rows go
TAIL = 1500  # characters of what failed


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Writes a row a test, in the one process of xdist's that collects what the others report."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.when == "call" or (report.when == "setup" and not report.passed):
        _add(report.nodeid, report.outcome, report.duration, report.longreprtext)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _add(report.nodeid, "failed", 0.0, report.longreprtext)


def _add(name: str, outcome: str, seconds: float, text: str) -> None:
    said = {"failed": text[-TAIL:]} if outcome == "failed" else {"skipped": text[-200:]} if outcome == "skipped" else {}
    Rows(Path(os.environ[FILE])).add(test=name, outcome=outcome, seconds=round(seconds, 3), **said)
