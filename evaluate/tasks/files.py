"""Task files: JSON lines, MMLU's CSV, labelled TSV; found by path or by name, and a bad row is named."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...models.errors import TextError
from ...models.suggestion import suggestion
from ...models.tokenizer import is_unicode
from ..texts import kind_of, read_text
from .items import Example, Question, Task

_SUFFIXES = (".jsonl", ".csv", ".valid.tsv", ".tsv", "")
_FIELDS = "'context' and 'continuation'; 'query', 'choices', 'gold'; or 'context_options', 'continuation', 'gold'"


def read_task(
    name: str | Path, folder: str | Path | None = None, limit: int | None = None, trained: bool = False
) -> Task:
    """The task of a file, or of a name in `folder`; its first `limit` items. Raises TextError.

    `.jsonl` and `.csv` hold questions (a directory of `.csv` is one task); NAME.valid.tsv is scored with a head that
    is trained on NAME.train.tsv beside it, each line a label, a tab and a text. trained: whether the model brings its
    classifier, so that any `.tsv` will do by itself.
    """
    file = find_task(name, folder)
    if file.suffix.lower() == ".tsv":
        return _alone(file, limit) if trained else _labelled(file, limit)
    files = sorted(each for each in file.iterdir() if kind_of(each) == ".csv") if file.is_dir() else [file]
    questions = [question for each in files for question in _questions(each)]
    if not questions:
        raise TextError(f"{file} holds no question")
    return Task(file.name.removesuffix(".jsonl").removesuffix(".csv"), tuple(questions[:limit]))


def find_task(name: str | Path, folder: str | Path | None = None) -> Path:
    """The file or directory meant by a path, or by a name in `folder` with or without its suffix."""
    path = Path(name)
    candidates = [path, *(Path(folder) / f"{name}{suffix}" for suffix in _SUFFIXES if folder)]
    for found in (each for each in candidates if each.exists()):
        test = found / "test"
        return test if found.is_dir() and not list(found.glob("*.csv")) and test.is_dir() else found
    known = (
        sorted(each.name.split(".")[0] for each in Path(folder).iterdir()) if folder and Path(folder).is_dir() else []
    )
    where = (
        f" or in {folder}; {suggestion(str(name), known)}"
        if folder
        else "; give a path, or a folder with --tasks-dir (tasks_dir in a recipe)"
    )
    raise TextError(f"there is no task {str(name)!r} here{where}")


def _questions(file: Path) -> Iterator[Question]:
    if kind_of(file) == ".csv":
        yield from _mmlu(file)
        return
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield _question(file, number, line)


def _question(file: Path, number: int, line: str) -> Question:
    where = f"{file}, line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise TextError(f"{where}: not a JSON object") from None
    if not isinstance(row, dict):
        raise TextError(f"{where}: not a JSON object")
    if {"context", "continuation"} <= row.keys():
        context, continuation = _text(row, "context", where), _text(row, "continuation", where)
        return Question(((context, _spaced(context, continuation)),))
    if {"query", "choices", "gold"} <= row.keys():
        query = _text(row, "query", where)
        pairs = tuple((query, _spaced(query, choice)) for choice in _texts(row, "choices", where))
    elif {"context_options", "continuation", "gold"} <= row.keys():
        end = _text(row, "continuation", where)
        pairs = tuple((context, _spaced(context, end)) for context in _texts(row, "context_options", where))
    else:
        raise TextError(f"{where}: a row has the fields {_FIELDS}; this one has {', '.join(map(repr, row)) or 'none'}")
    return Question(pairs, _gold(row["gold"], len(pairs), where))


def _spaced(before: str, after: str) -> str:
    """A space between the two, unless there is white space already."""
    return after if before[-1:].isspace() or after[:1].isspace() else f" {after}"


def _text(row: dict[str, Any], key: str, where: str) -> str:
    return _checked(row[key], key, where)


def _checked(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not is_unicode(value):
        raise TextError(f"{where}: {key!r} must be text")
    if key in ("continuation", "choices") and not value.strip():
        raise TextError(f"{where}: {key!r} holds an empty text, which no model can predict")
    return value


def _texts(row: dict[str, Any], key: str, where: str) -> list[str]:
    values = row[key]
    if not isinstance(values, list) or len(values) < 2:
        raise TextError(f"{where}: {key!r} must be a list of at least two texts")
    return [_checked(value, key, where) for value in values]


def _gold(value: Any, count: int, where: str) -> int:
    if type(value) is not int or not 0 <= value < count:
        raise TextError(f"{where}: 'gold' is {value!r}, it must be 0 to {count - 1}")
    return value


def _mmlu(file: Path) -> Iterator[Question]:
    """Question, four choices, answer as a letter or as 0 to 3; with or without a line of headings."""
    for number, row in enumerate(csv.reader(read_text(file).splitlines(keepends=True)), 1):
        if not row or (number == 1 and row[0] == "question"):
            continue
        where = f"{file}, row {number}"
        if len(row) != 6:
            raise TextError(f"{where}: {len(row)} columns, there must be 6: question, four choices, answer")
        letter = row[5].strip()
        answer = "ABCD".find(letter) if letter in tuple("ABCD") else int(letter) if letter.isdecimal() else -1
        asked = "\n".join(
            [row[0], *(f"{name}. {text}" for name, text in zip("ABCD", row[1:5], strict=True)), "Answer:"]
        )
        yield Question(tuple((asked, f" {name}") for name in "ABCD"), _gold(answer, 4, where))


def _labelled(file: Path, limit: int | None) -> Task:
    name = file.name.removesuffix(".tsv").removesuffix(".valid").removesuffix(".train")
    train, valid = (file.with_name(f"{name}.{part}.tsv") for part in ("train", "valid"))
    for needed in (train, valid):
        if not needed.exists():
            raise TextError(f"a classification task is a pair NAME.train.tsv and NAME.valid.tsv; there is no {needed}")
    examples = (tuple(read_examples(train)), tuple(read_examples(valid))[:limit])
    labels = {example.label for example in examples[0]}
    if len(labels) < 2:
        raise TextError(f"{train} has {len(labels)} labels, there must be at least two")
    if not examples[1]:
        raise TextError(f"{valid} holds no example")
    if unknown := {example.label for example in examples[1]} - labels:
        raise TextError(f"{valid} has the label {min(unknown)!r}, which {train.name} has not")
    return Task(name, train=examples[0], examples=examples[1])


def _alone(file: Path, limit: int | None) -> Task:
    examples = tuple(read_examples(file))[:limit]
    if not examples:
        raise TextError(f"{file} holds no example")
    return Task(file.name.removesuffix(".tsv").removesuffix(".valid"), examples=examples)


def read_examples(file: Path) -> Iterator[Example]:
    """The examples of a file, a label, a tab and a text in each line. Raises TextError that names a line of none."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        label, tab, text = line.rstrip("\r").partition("\t")
        if tab and label and text.strip():
            yield Example(label, text)
        elif line.strip():
            raise TextError(f"{file}, line {number}: not a label, a tab and a text")
