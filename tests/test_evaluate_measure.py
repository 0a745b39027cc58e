"""All figures of an evaluation together: words and bytes, floors, overlap, costs, the report, and lm_eval."""

import base64
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import llama, opt

from moesaic.bench.lm_eval_adapter import Answers, lm_eval_model
from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.evaluate.corpus import encode_corpus
from moesaic.evaluate.footprint import peak_memory_bytes
from moesaic.evaluate.measure import measure
from moesaic.evaluate.overlap import measure_overlap
from moesaic.evaluate.plan import FLOOR, MODEL, ORIGINAL, Plan
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.cost import token_cost
from moesaic.models.errors import SetupError, TextError, Unsupported
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

STORIES = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "valid" / "tinystories_a.txt"
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun. "
WORDS = [f"w{i}" for i in range(100)]


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Two corpora: twelve short documents, and one long one."""
    (tmp_path / "many.txt").write_text("\n<|endoftext|>\n".join(f"{STORY}Day {i}." for i in range(12)))
    (tmp_path / "one.txt").write_text(STORY * 20)
    return [tmp_path / "many.txt", tmp_path / "one.txt"]


# --- texts ---------------------------------------------------------------------------------------------------------


def test_the_known_figures_of_stories260k_are_met() -> None:
    if not STORIES.exists():
        pytest.skip(f"the text {STORIES.name} is not at hand")
    score = measure(Plan("stories260k", text=[STORIES], documents=120, truncate=512)).texts[0].scores[MODEL]
    assert score.total.num_tokens == 45_542
    assert score.perplexity == pytest.approx(4.1657, abs=5e-5)
    assert score.top1_accuracy == pytest.approx(0.6114, abs=5e-5)


def test_words_and_bytes_are_those_that_the_scored_tokens_spell() -> None:
    tokenizer = Tokenizer.open(locate("stories260k"))  # adds a begin token: every word is predicted
    whole = encode_corpus("t", ["Zoë ran home.", STORY], tokenizer)
    assert whole.num_words == (3, len(STORY.split())) and whole.num_bytes[0] == len("Zoë ran home.".encode())
    cut = encode_corpus("t", [STORY], tokenizer, truncate=10)
    assert tokenizer.decode(cut.ids[0]).split() == STORY.split()[: cut.num_words[0]]


def test_the_first_token_has_no_prediction_and_is_not_counted_without_a_begin_token(tmp_path: Path) -> None:
    llama(tmp_path)
    corpus = encode_corpus("t", ["ab cd"], Tokenizer.open(tmp_path))
    assert corpus.num_bytes == (4,) and len(corpus.ids[0]) == 5


def test_figures_per_word_and_per_byte_are_the_same_nats() -> None:
    score = measure(Plan("stories260k", documents=1, truncate=64)).texts[0].scores[MODEL]
    figures, total = score.summary(), score.total
    assert figures["word_perplexity"] == pytest.approx(math.exp(total.nats / total.num_words))
    assert figures["bits_per_byte"] * total.num_bytes * math.log(2) == pytest.approx(total.nats)


def test_each_text_has_figures_of_its_own(texts: list[Path]) -> None:
    found = measure(Plan("stories260k", text=texts)).texts
    assert [text.name for text in found] == ["many.txt", "one.txt"]
    assert [len(text.scores[MODEL].documents) for text in found] == [12, 1]


def test_a_stride_lowers_the_perplexity_of_a_long_text(texts: list[Path]) -> None:
    plain, strided = (
        measure(Plan("stories260k", text=texts[1:], max_context=64, stride=stride)).texts[0].scores[MODEL]
        for stride in (None, 16)
    )
    assert plain.total.num_tokens == strided.total.num_tokens and strided.perplexity < plain.perplexity


def test_a_model_is_compared_over_documents_or_over_windows_of_a_few(texts: list[Path], tmp_path: Path) -> None:
    compress("stories260k", tmp_path / "int8", "int8")
    plan = Plan(tmp_path / "int8", "stories260k", text=texts, max_context=64, floor=True)
    many, one = measure(plan).texts
    assert (many.compared_over, one.compared_over) == ("documents", "windows")
    for text in (many, one):
        assert set(text.scores) == {MODEL, ORIGINAL, FLOOR}
        assert text.comparisons["perplexity"].ratio == pytest.approx(
            text.scores[MODEL].perplexity / text.scores[ORIGINAL].perplexity
        )
        assert 0 < text.scores[FLOOR].total.kl_nats and text.scores[FLOOR].total.num_agreed > 0


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"floor": True}, SetupError, "name the original with --against"),
        ({"tier": "low"}, Unsupported, "tier 'low' is not among this model's tiers: full"),
        ({"limit": 0}, TextError, "limit is 0, it must be at least 1"),
        ({"tasks": ["nope"]}, TextError, "there is no task 'nope' here"),
        ({"training_text": ["nope.txt"]}, TextError, "there is no text file 'nope.txt'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(settings: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        measure(Plan("stories260k", **settings))


# --- overlap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "covered"), [(0, 0), (12, 0), (13, 13), (14, 14), (40, 40)])
def test_runs_of_thirteen_words_overlap_and_shorter_ones_do_not(shared: int, covered: int) -> None:
    training = " ".join(["x", "y", *WORDS[20 : 20 + shared], "z"])
    assert measure_overlap([" ".join(WORDS)], ["else", training]).num_covered == covered


def test_case_and_punctuation_hide_no_overlap() -> None:
    found = measure_overlap([", ".join(WORDS)], [" ".join(WORDS).upper()])
    assert (found.share, found.num_words) == (1, 100)


def test_runs_do_not_reach_over_documents() -> None:
    assert measure_overlap([" ".join(WORDS[:12]), " ".join(WORDS[12:])], [" ".join(WORDS[6:18])]).share == 0


def test_the_overlap_of_an_evaluation_is_said(texts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "stories260k", "--text", *map(str, texts), "--training-text", str(texts[1])]) == 0
    shown = capsys.readouterr().out
    assert "one.txt: 100.00% of its words lie in runs of 13 words that the training text has too" in shown
    assert float(re.findall(r"many.txt: ([\d.]+)% of its words", shown)[0]) > 80


# --- costs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [llama, opt])
@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_every_weight_but_one_row_of_the_embedding(tmp_path: Path, build: Any, tied: bool) -> None:
    build(tmp_path, tie_word_embeddings=tied)
    checkpoint, model = open_checkpoint(tmp_path), load(tmp_path)
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    tables = [name for name in sizes if name == "positions.weight" or (name == "embedding.weight" and not tied)]
    rows = sum(model.spec.hidden_size for _ in ["embedding", *(["positions"] if "positions.weight" in sizes else [])])
    elements = sum(sizes.values()) - sum(sizes[name] for name in tables) + rows
    assert token_cost(checkpoint.spec, 4).bytes == 4 * elements


def test_a_token_costs_the_operations_that_torch_counts(tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    llama(tmp_path)
    model = load(tmp_path)
    with FlopCounterMode(display=False) as counter:
        model(torch.tensor([[1]]))
    attention = 4 * sum(layer.attention.num_heads * layer.attention.head_size for layer in model.spec.layers)
    counted = counter.get_total_flops()
    assert counted <= token_cost(model.spec, 4).flops <= counted + attention  # attention on a CPU is not counted


def test_a_longer_past_and_wider_numbers_cost_more_and_int8_less(tmp_path: Path) -> None:
    compress("stories260k", tmp_path / "int8", "int8")
    dense, int8 = (open_checkpoint(path).spec for path in ("stories260k", tmp_path / "int8"))
    assert token_cost(dense, 4, 100).bytes - token_cost(dense, 4).bytes == 100 * 4 * 5 * 2 * 4 * 8
    assert token_cost(int8, 4).bytes < 0.35 * token_cost(dense, 4).bytes
    assert token_cost(int8, 4).flops == token_cost(dense, 4).flops


def test_every_score_has_its_costs_beside_it(texts: list[Path]) -> None:
    cost = measure(Plan("stories260k", text=texts)).footprints[MODEL]
    assert cost.bytes_on_disk == 1_040_128 and cost.tokens_per_second and cost.tokens_per_second > 0
    assert 50e6 < cost.peak_memory_bytes <= peak_memory_bytes()


# --- the command and its report ------------------------------------------------------------------------------------


def test_a_report_is_a_table_a_picture_and_a_page_with_both(texts: list[Path], tmp_path: Path) -> None:
    tasks = tmp_path / "ask<me>.jsonl"
    tasks.write_text(json.dumps({"query": "a", "choices": ["b", "c"], "gold": 0}) + "\n")
    command = ["eval", "stories260k", "--against", "stories260k", "--text", str(texts[0])]
    assert main([*command, "--tasks", str(tasks), "--report", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    picture = (tmp_path / "report" / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and base64.b64encode(picture).decode() in page
    assert "many.txt: perplexity" in page and "ask&lt;me&gt;" in page and "http" not in page
    values = json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=pytest.fail)
    assert values["tasks"][0]["scores"]["model"]["agreement"] == 1
    assert values["texts"][0]["comparisons"]["perplexity"]["sign"] == 0


def test_eval_shows_what_a_difference_is_worth(texts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", "stories260k", "--against", "stories260k", "--floor", "--text", str(texts[0])])
    shown = capsys.readouterr().out
    assert "x1.0000 (1.0000 to 1.0000), no difference shown" in shown and "original in bf16" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--stride 600", "stride is 600, it must be below the window of 512"),
        ("--tier low", "tier 'low' is not among"),
        ("--floor", "--against"),
        ("--tasks nope --tasks-dir .", "there is no task 'nope'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "stories260k", *arguments.split()]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


# --- lm_eval -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers("stories260k")


def test_a_rolling_log_likelihood_is_that_of_windows_with_a_full_past(answers: Answers) -> None:
    text, model = STORY * 30, load("stories260k")
    ids = torch.tensor([Tokenizer.open(locate("stories260k")).encode(text)])
    expected = 0.0
    for begin, end, first in [(0, 513, 1), (ids.shape[1] - 513, ids.shape[1], 513)]:
        with torch.inference_mode():
            log_p = model(ids[:, begin : end - 1])[0].log_softmax(-1)
        targets = ids[0, begin + 1 : end].unsqueeze(1)
        expected += float(log_p.gather(1, targets)[first - begin - 1 :].sum())
    assert 513 < ids.shape[1] <= 1025
    assert answers.rolling_log_likelihood(text) == pytest.approx(expected, rel=1e-5)


def test_a_whole_text_is_as_likely_as_its_parts_one_after_another(answers: Answers) -> None:
    parts = [answers.log_likelihood("", "Once upon")[0], answers.log_likelihood("Once upon", " a time")[0]]
    assert sum(parts) == pytest.approx(answers.rolling_log_likelihood("Once upon a time"), rel=1e-5)


def test_generation_ends_before_a_stop(answers: Answers) -> None:
    assert answers.generate("Once upon a time", {"until": ["."]}) == ", there was a little girl named Lily"
    assert answers.log_likelihood("Once upon a time", ", there was")[1]


def test_too_long_a_prompt_loses_its_start(answers: Answers) -> None:
    assert answers.generate(STORY * 60 + "Once upon a", {"max_gen_toks": 2, "until": []}) == " time,"


def test_lm_eval_drives_a_model() -> None:
    api = pytest.importorskip("lm_eval.api.model", reason="lm_eval is not installed")
    model = lm_eval_model("stories260k")
    assert isinstance(model, api.LM)
    requests = [SimpleNamespace(args=("Once upon a", " time")), SimpleNamespace(args=("Once upon a", " tiger"))]
    likely, unlikely = model.loglikelihood(requests)
    assert likely[0] > unlikely[0] and likely[1] and not unlikely[1]
    assert model.loglikelihood_rolling([SimpleNamespace(args=("Once upon a time",))])[0] < 0
    asked = SimpleNamespace(args=("Once upon a time", {"until": ["."]}))
    assert model.generate_until([asked]) == [", there was a little girl named Lily"]


def test_without_lm_eval_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(SetupError, match="install it with: pip install lm_eval"):
        lm_eval_model("stories260k")
