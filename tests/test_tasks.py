"""Task files and what is made of them: likelihoods that transformers agrees with, heads, and bad rows by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import byte_tokenizer, llama, opt

from moesaic.engine.scoring import Reader
from moesaic.evaluate.likelihood import Passage, encode_pair, grouped, score_passages
from moesaic.evaluate.measure import measure
from moesaic.evaluate.plan import Plan
from moesaic.evaluate.tasks.answer import answer, encode_questions
from moesaic.evaluate.tasks.classify import (
    score_head,
    text_features,
    train_head,
)
from moesaic.evaluate.tasks.files import read_task
from moesaic.evaluate.tasks.items import Example, Question, Task, TaskScore
from moesaic.models.checkpoint import load
from moesaic.models.errors import CheckpointError, TextError
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

TASKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "tasks"
LAMBADA = {"context": "Tom met Ann. He said hi to", "continuation": "Ann"}
CHOICE = {"query": "Two and two is", "choices": ["four", "a long time ago", "red"], "gold": 0}
OPTIONS = {"context_options": ["Tom ate", "The rock ate"], "continuation": "a bun.", "gold": 0}


def written(file: Path, *rows: Any) -> Path:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Reader, Tokenizer]:
    """A random model by the original implementation, ours over it, and its tokenizer."""
    theirs = llama(tmp_path / "m", max_position_embeddings=128)
    return theirs, Reader(load(tmp_path / "m"), 128), Tokenizer.open(tmp_path / "m")


def direct(theirs: Any, passage: Passage) -> tuple[float, bool]:
    """(nats, greedy) by the original implementation in one pass."""
    ids = torch.tensor([passage.ids])
    with torch.no_grad():
        logits = theirs(ids).logits[0, passage.begin - 1 : -1]
    targets = ids[0, passage.begin :]
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return float(nats), bool((logits.argmax(-1) == targets).all())


# --- likelihoods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 30, 60])
def test_passages_scored_side_by_side_equal_those_of_transformers(pair: Any, prefix: int) -> None:
    """Whether what they share is prefilled once (60) or not (0, 1)."""
    theirs, runner, _ = pair
    draw = torch.Generator().manual_seed(prefix)
    shared = torch.randint(0, 256, (prefix,), generator=draw).tolist()
    tails = [torch.randint(0, 256, (n,), generator=draw).tolist() for n in (5, 2, 9)]
    passages = [Passage((*shared, 7 + i, *tail), prefix + 1) for i, tail in enumerate(tails)]
    for passage, score in zip(passages, score_passages(runner, passages), strict=True):
        nats, greedy = direct(theirs, passage)
        assert score.nats == pytest.approx(nats, rel=1e-4) and score.is_greedy == greedy
        assert score.num_tokens == len(passage.ids) - passage.begin


def test_learned_positions_are_counted_from_the_start_of_each_branch(tmp_path: Path) -> None:
    theirs = opt(tmp_path)
    passages = [Passage(tuple(range(20 + i)), 15) for i in range(3)]
    scores = score_passages(Reader(load(tmp_path), 64), passages)
    assert [score.nats for score in scores] == pytest.approx([direct(theirs, each)[0] for each in passages], rel=1e-4)


def test_what_the_model_says_itself_is_greedy(pair: Any) -> None:
    theirs, runner, _ = pair
    ids = [1, 2, 3]
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(theirs(torch.tensor([ids])).logits[0, -1].argmax()))
    assert score_passages(runner, [Passage(tuple(ids), 3)])[0].is_greedy
    assert not score_passages(runner, [Passage((*ids[:-1], ids[-1] ^ 1), 3)])[0].is_greedy


def test_too_long_a_context_loses_its_start(pair: Any) -> None:
    theirs, runner, _ = pair
    ids = tuple(i % 250 for i in range(400))
    score = score_passages(runner, [Passage(ids, 395)])[0]
    assert score.nats == pytest.approx(direct(theirs, Passage(ids[-129:], 124))[0], rel=1e-4)


def test_a_continuation_longer_than_the_context_is_refused(pair: Any) -> None:
    with pytest.raises(TextError, match="a continuation has 199 tokens, the context holds 128"):
        score_passages(pair[1], [Passage(tuple(range(200)), 1)])


def test_a_pair_is_tokenized_together_and_the_space_goes_to_the_continuation(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.open(tmp_path)
    assert encode_pair(tokenizer, "one ", "two") == encode_pair(tokenizer, "one", " two")
    assert encode_pair(tokenizer, "one", " two").begin == 3


def test_short_passages_share_a_pass_and_long_ones_do_not() -> None:
    sizes = [
        [len(passage.ids) for passage in group]
        for group in grouped([Passage((1,) * n, 1) for n in (200, 300, 50, 600, 4)])
    ]
    assert sizes == [[200, 300], [50], [600], [4]]


# --- questions -----------------------------------------------------------------------------------------------------


def test_the_three_kinds_of_row_become_questions(tmp_path: Path) -> None:
    task = read_task(written(tmp_path / "mixed.jsonl", LAMBADA, "", CHOICE, OPTIONS))
    assert task.questions == (
        Question((("Tom met Ann. He said hi to", " Ann"),)),
        Question(tuple(("Two and two is", f" {each}") for each in ("four", "a long time ago", "red"))),
        Question((("Tom ate", " a bun."), ("The rock ate", " a bun."))),
    )


@pytest.mark.parametrize(
    ("context", "continuation", "joined"), [("a", "b", " b"), ("a\n", "b", "b"), ("a", " b", " b")]
)
def test_one_space_stands_between(tmp_path: Path, context: str, continuation: str, joined: str) -> None:
    file = written(tmp_path / "a.jsonl", {"context": context, "continuation": continuation})
    assert read_task(file).questions[0].pairs == ((context, joined),)


@pytest.mark.parametrize("head", ["question,choice0,choice1,choice2,choice3,answer\n", ""])
@pytest.mark.parametrize("gold", ["B", "1"])
def test_mmlu_is_asked_by_letters(tmp_path: Path, head: str, gold: str) -> None:
    (tmp_path / "x_test.csv").write_text(f'{head}"What, now?",one,two,three,four,{gold}\n')
    question = read_task(tmp_path).questions[0]
    assert question.pairs[1] == ("What, now?\nA. one\nB. two\nC. three\nD. four\nAnswer:", " B") and question.gold == 1


def test_a_task_is_found_by_name_in_a_folder_and_cut(tmp_path: Path) -> None:
    written(tmp_path / "lambada.jsonl", CHOICE, CHOICE, CHOICE)
    assert len(read_task("lambada", tmp_path, 2).questions) == 2
    with pytest.raises(TextError, match="no task 'lambda' here or in .*; did you mean 'lambada'"):
        read_task("lambda", tmp_path)
    with pytest.raises(TextError, match="give a path, or a folder with --tasks-dir"):
        read_task("lambada")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (
            {"context": "a", "answer": "b"},
            "a row has the fields 'context' and 'continuation'.*this one has 'context', 'answer'",
        ),
        (LAMBADA | {"continuation": 5}, "'continuation' must be text"),
        (CHOICE | {"choices": ["one"]}, "'choices' must be a list of at least two texts"),
        (LAMBADA | {"continuation": " "}, "'continuation' holds an empty text"),
        (CHOICE | {"choices": ["one", None]}, "'choices' must be text"),
        (CHOICE | {"gold": 3}, "'gold' is 3, it must be 0 to 2"),
        (CHOICE | {"gold": True}, "'gold' is True"),
        ('{"context": "\\ud800", "continuation": "x"}', "'context' must be text"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(TextError, match=f"bad.jsonl, line 2: .*{said}|bad.jsonl, line 2: {said}"):
        read_task(written(tmp_path / "bad.jsonl", CHOICE, row))


@pytest.mark.parametrize("row", ["a,b,c", "q,1,2,3,4,E", "q,1,2,3,4,9", "q,1,2,3,4,"])
def test_a_bad_row_of_mmlu_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(TextError, match="bad.csv, row 2: "):
        read_task(written(tmp_path / "bad.csv", "q,1,2,3,4,A", row))


def test_choices_are_ranked_raw_per_token_and_per_byte(pair: Any) -> None:
    theirs, runner, tokenizer = pair
    task = Task("t", (Question((("ab", " c"), ("ab", " defgh"), ("ab", " ij")), gold=2),))
    encoded = encode_questions(task.questions, tokenizer)
    nats = [direct(theirs, passage)[0] for passage in encoded[0]]
    found = answer(task, encoded, runner)
    assert found.answers["raw"] == (nats.index(min(nats)),)
    by_byte = [value / length for value, length in zip(nats, (1, 5, 2), strict=True)]
    assert found.answers["per_byte"] == (by_byte.index(min(by_byte)),)
    assert found.nats == pytest.approx((nats[2],), rel=1e-4) and found.chance == pytest.approx(1 / 3)


def test_a_score_above_chance_is_0_for_guessing_and_1_for_perfection() -> None:
    half = TaskScore("t", "raw", 0.25, {"raw": (0,) * 4}, {"raw": (True, False, False, False)})
    assert half.above_chance() == 0
    assert dataclasses.replace(half, correct={"raw": (True,) * 4}).above_chance() == 1


def test_a_model_answers_as_itself(tmp_path: Path) -> None:
    files = [written(tmp_path / "a.jsonl", *[CHOICE] * 4), written(tmp_path / "b.jsonl", *[LAMBADA] * 4)]
    found = measure(Plan("stories260k", "stories260k", tasks=files))
    for task in found.tasks:
        assert task.scores["model"] == task.scores["original"]
        assert task.comparison is not None and task.comparison.sign == 0
        assert task.scores["model"].agreement(task.scores["original"]) == 1
    assert not found.texts


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    llama(tmp_path / "m", vocab_size=30, bos_token_id=1, eos_token_id=2)
    with pytest.raises(CheckpointError, match="the model's vocabulary has 30; tokenizer.json is of another model"):
        measure(Plan(tmp_path / "m", tasks=[written(tmp_path / "a.jsonl", LAMBADA)]))


# --- classification ------------------------------------------------------------------------------------------------


def two_kinds(count: int) -> tuple[Example, ...]:
    """Texts of letters and texts of digits."""
    return tuple(
        Example("ad"[i % 2], ("the cat ran away " if i % 2 == 0 else "31 415 926 ") * (1 + i % 3)) for i in range(count)
    )


TWO_KINDS = Task("kinds", train=two_kinds(40), examples=two_kinds(10))


def test_a_head_learns_what_states_tell_apart(pair: Any) -> None:
    _, runner, tokenizer = pair
    head = train_head(runner, tokenizer, TWO_KINDS)
    found = score_head(head, runner, tokenizer, TWO_KINDS)
    assert (found.score(), found.chance, found.above_chance()) == (1, 0.5, 1)
    assert torch.equal(head.weight, train_head(runner, tokenizer, TWO_KINDS).weight)


def test_features_do_not_depend_on_the_texts_beside_them(pair: Any) -> None:
    _, runner, tokenizer = pair
    texts = [example.text for example in TWO_KINDS.examples]
    together = text_features(runner, tokenizer, texts, 30)
    alone = torch.cat([text_features(runner, tokenizer, [text], 30) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("train", "valid", "said"),
    [
        ("a\tx\nb\ty", "a", "t.valid.tsv, line 1: not a label, a tab and a text"),
        ("a\tx\nb\ty", "c\tx", "has the label 'c', which t.train.tsv has not"),
        ("a\tx", "a\tx", "has 1 labels"),
        ("a\tx\nb\ty", None, "there is no .*t.valid.tsv"),
        ("a\tx\nb\ty", "\n", "holds no example"),
    ],
)
def test_labelled_files_that_do_not_fit_are_refused(tmp_path: Path, train: str, valid: str | None, said: str) -> None:
    file = written(tmp_path / "t.train.tsv", train)
    if valid is not None:
        written(tmp_path / "t.valid.tsv", valid)
    with pytest.raises(TextError, match=said):
        read_task(file)


def test_the_head_of_an_original_is_put_on_the_model(tmp_path: Path) -> None:
    for part, examples in (("train", TWO_KINDS.train), ("valid", TWO_KINDS.examples)):
        written(tmp_path / f"kinds.{part}.tsv", *(f"{each.label}\t{each.text}" for each in examples))
    found = measure(Plan("stories260k", "stories260k", tasks=["kinds"], tasks_dir=tmp_path)).tasks[0]
    assert found.scores["model"] == found.scores["original"] and found.scores["model"].score() == 1


# --- real ones -----------------------------------------------------------------------------------------------------


def shared(name: str) -> Path:
    if not (TASKS / name).exists():
        pytest.skip(f"the task {name} is not at hand")
    return TASKS / name


@pytest.mark.parametrize("name", ["piqa.jsonl", "winograd_wsc.jsonl", "arc_easy.jsonl"])
def test_real_questions_score_as_with_transformers(name: str) -> None:
    import transformers

    folder = locate("stories260k")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    task, tokenizer = read_task(shared(name), limit=10), Tokenizer.open(folder)
    encoded = encode_questions(task.questions, tokenizer)
    found = answer(task, encoded, Reader(load(folder), 512))
    expected = [[direct(theirs, passage)[0] for passage in passages] for passages in encoded]
    golds = [row[question.gold] for row, question in zip(expected, task.questions, strict=True)]
    assert found.nats == pytest.approx(golds, rel=1e-4)
    assert found.answers["raw"] == tuple(row.index(min(row)) for row in expected)


@pytest.mark.real
def test_lambada_on_a_real_model_is_the_known_figure() -> None:
    found = measure(Plan(locate("smollm2"), tasks=[shared("lambada_openai.jsonl")], limit=300)).tasks[0]
    assert found.scores["model"].score() == pytest.approx(95 / 300)
