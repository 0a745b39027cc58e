"""SentencePiece models in place of tokenizer.json: ids and texts of transformers, and of sentencepiece."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from builders import edit_json
from source_cases import END
from spm_cases import CODE, english, llama_of_spm, marian, t5, trained
from tokenizers import normalizers

from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.evaluate.pairs import read_pairs
from moesaic.models.errors import CheckpointError
from moesaic.models.spm_files import read_spm
from moesaic.models.tokenizer import Tokenizer

pytest.importorskip("sentencepiece", reason="sentencepiece makes these, and checks them")
TEXTS = (
    "", "   ", "\t\n", *english()[:20], "  The   horse  ran ", "ﬁ é ½ ＡＢ 我们 我", "a</s>b", "x <pad> y<unk>z",
    "<s>a</s>", f"{CODE} The horse", f"{CODE}The", f" {CODE} a", f"a {CODE} b", ">>xyz<< The horse", ">>", "▁The▁",
    "a\u00a0b\u200bc", "@A@ x@A@", "😀 the😀😀 the",
)  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "as published": {},
    "as it stands": {"normalization_rule_name": "identity"},
    "spaces kept": {"remove_extra_whitespaces": False},
    "no space before": {"add_dummy_prefix": False},
    "symbols of its own": {"user_defined_symbols": ["@A@"], "control_symbols": ["<c>"]},
    "bytes": {"byte_fallback": True, "size": 400},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("marian")
    marian(where)
    return where


def of_transformers(folder: Path) -> Any:
    with pytest.warns(UserWarning, match="sacremoses"):
        return transformers.MarianTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("form", FORMS)
def test_a_marian_of_two_sides_has_the_ids_and_texts_of_transformers(form: str, folder: Path, tmp_path: Path) -> None:
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "source.spm").write_bytes(trained(english(), **FORMS[form]))
    ours, theirs = Tokenizer.open(tmp_path), of_transformers(tmp_path)
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids, text
        assert ours.encode_target(text) == theirs(text_target=text).input_ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def test_sides_cut_a_text_otherwise_and_pairs_know_which_is_which(folder: Path, tmp_path: Path) -> None:
    text, tokenizer = english()[3], Tokenizer.open(folder)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"source": text, "target": text}))
    (pair,) = read_pairs([tmp_path / "pairs.jsonl"], tokenizer, None, (999, 999))
    theirs = of_transformers(folder)
    assert list(pair.source) == theirs(text).input_ids != list(pair.answer) == theirs(text_target=text).input_ids


def test_ends_count_the_letters_of_a_code_too(folder: Path) -> None:
    tokenizer = Tokenizer.open(folder)
    ids, ends = tokenizer.encode_with_ends(f"{CODE} The horse")
    assert ids == tokenizer.encode(f"{CODE} The horse") and ids[-1] == END
    assert (ends[0], ends[-2], ends[-1]) == (len(CODE), len(f"{CODE} The horse"), 0) and ends[:-1] == sorted(ends[:-1])


def test_special_tokens_may_be_letters(folder: Path) -> None:
    tokenizer = Tokenizer.open(folder)
    assert END in tokenizer.encode_rendered("a</s>b") and END not in tokenizer.encode_as_text("a</s>b")
    assert tokenizer.special_tokens == {"</s>": END, "<pad>": 256, "<unk>": 258} and tokenizer.eos_ids == (END,)


def test_what_is_made_of_a_marian_carries_its_files_and_is_scored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pairs = tmp_path / "int8", tmp_path / "pairs.jsonl"
    (tmp_path / "text.txt").write_text("The horse ran to the house.\n<|endoftext|>\nA man was kind to him.\n")
    pairs.write_text('{"source": "The horse ran.", "target": "nar esroh ehT"}\n' * 2)
    stages = [{"quantize": {"linears": "int8"}}]
    compress(folder, out, {"evaluation": {"text": [str(tmp_path / "text.txt")]}, "stages": stages})
    assert not (out / "tokenizer.json").exists()
    assert Tokenizer.open(out).fingerprint() == Tokenizer.open(folder).fingerprint()
    assert len(LLM(out).generate(["The horse"], max_new_tokens=4)[0].token_ids) <= 4
    assert main(["eval", str(out), "--against", str(folder), "--text", str(pairs)]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_a_target_s_model_makes_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("source.spm", "vocab.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    assert Tokenizer.open(tmp_path).fingerprint() != Tokenizer.open(folder).fingerprint()


def test_a_marian_that_is_not_read_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    edit_json(tmp_path / "tokenizer_config.json", separate_vocabs=True)
    with pytest.raises(CheckpointError, match="separate_vocabs is true in tokenizer_config.json, and moesaic reads"):
        Tokenizer.open(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", separate_vocabs=None, eos_token="<end>")
    with pytest.raises(CheckpointError, match="vocab.json has no '<end>', which is the eos_token; copy it again"):
        Tokenizer.open(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", eos_token=None)
    (tmp_path / "target.spm").write_bytes(trained(english(), "bpe"))
    with pytest.raises(CheckpointError, match="target.spm is no unigram model with spaces before words"):
        Tokenizer.open(tmp_path)
    (tmp_path / "target.spm").write_bytes(b"\x0f\x00")
    with pytest.raises(CheckpointError, match="source.spm and target.spm and vocab.json cannot be read as a tokenizer"):
        Tokenizer.open(tmp_path)


OUTSIDE = b"\x10\0\0\0" + b"\xff" * 16 + b"abc\0"  # a map of letters over which the library panics


@pytest.mark.parametrize("name", ["source.spm", "spiece.model", "tokenizer.json"])
def test_a_map_of_letters_that_leads_outside_of_itself_is_refused(name: str, tmp_path: Path) -> None:
    (marian if name == "source.spm" else t5)(tmp_path)
    if name == "tokenizer.json":
        inner = Tokenizer.open(tmp_path)._inner
        inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Precompiled(OUTSIDE)])
        inner.save(str(tmp_path / name))
    else:
        proto = read_spm(tmp_path / name)
        proto.normalizer_spec.precompiled_charsmap = OUTSIDE
        (tmp_path / name).write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="its map of letters, precompiled_charsmap, leads outside of itself"):
        Tokenizer.open(tmp_path)


def test_the_spiece_model_of_a_t5_is_its_tokenizer(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    ours, theirs = Tokenizer.open(t5(tmp_path)), transformers.T5Tokenizer.from_pretrained(tmp_path)
    plain = SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for text in english()[:20]:
        assert ours.encode(text) == theirs(text).input_ids == [*plain.encode(text), 1]
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text).input_ids, skip_special_tokens=True)
    assert ours.id_of("<extra_id_0>") == plain.get_piece_size() + 99 and ours.eos_ids == (1,)
    assert LLM(tmp_path).generate(["The horse"], max_new_tokens=4)


def test_the_tokenizer_model_of_a_llama_is_its_tokenizer_where_its_class_is_named(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    llama_of_spm(tmp_path, tokenizer_class="LlamaTokenizer", add_bos_token=True, bos_token="<s>")
    plain = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = Tokenizer.open(tmp_path)
    for text in (*english()[:20], "é 我"):
        assert ours.encode(text) == [ours.bos_id, *plain.encode(text)] and ours.decode(ours.encode(text)) == text
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cuts text otherwise than sentencepiece does; name the tokenizer_class"):
        Tokenizer.open(tmp_path)


def test_transformers_is_imported_for_no_other_directory(folder: Path) -> None:
    script = (
        "import sys; from moesaic.models.tokenizer import Tokenizer; from moesaic.models.locate import locate\n"
        f"for folder in (locate('stories260k'), {str(folder)!r}):\n"
        "    Tokenizer.open(folder); print([name in sys.modules for name in ('transformers', 'sentencepiece')])"
    )
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert shown.stdout.split("\n")[:2] == ["[False, False]", "[False, True]"]
