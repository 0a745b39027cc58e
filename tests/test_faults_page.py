"""docs/faults.md promises only what a test holds."""

import re

from house import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text()
FILE = re.compile(r"`(tests/\w+\.py)(?:::\w+)?`")
NAMED = re.compile(r"`(tests/\w+\.py)::(\w+)`")


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE)
    missing = [test for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert not missing and len(named) > 20


def test_every_row_of_a_fault_names_a_test() -> None:
    tables = PAGE.split("| what was done |")[1:]
    rows = [row for table in tables for row in re.findall(r"^\|(?! ---).*\|$", table, re.MULTILINE)]
    assert rows and all(FILE.search(row) or row.endswith("| the same |") for row in rows)
