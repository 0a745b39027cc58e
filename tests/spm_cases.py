"""Directories with SentencePiece models in place of tokenizer.json, the models trained on the spot."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders import edit_json, llama
from source_cases import END, SOURCE_CASES, START

from moesaic.evaluate.texts import embedded_text

CODE = ">>fra<<"


def trained(lines: Sequence[str], kind: str = "unigram", size: int = 120, **settings: Any) -> bytes:
    """A SentencePiece model of these lines."""
    from sentencepiece import SentencePieceTrainer

    out = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=size, model_type=kind, hard_vocab_limit=False,
        minloglevel=2, **settings,
    )  # fmt: skip
    return out.getvalue()


def english() -> list[str]:
    """Lines of the text that the package has."""
    return [line for line in embedded_text().read_text(encoding="utf-8").split("\n") if line.strip()][:200]


def marian(folder: Path, **settings: Any) -> Path:
    """A tiny Marian with a model of each side and one vocab.json, which lacks some pieces of the source."""
    from sentencepiece import SentencePieceProcessor

    next(case for case in SOURCE_CASES if case.family == "marian").build(folder)
    (folder / "tokenizer.json").unlink()
    sides = {"source.spm": trained(english(), **settings), "target.spm": trained([line[::-1] for line in english()])}
    names = list[str]()
    for name, content in sides.items():
        (folder / name).write_bytes(content)
        read = SentencePieceProcessor(model_proto=content)
        names += [read.id_to_piece(i) for i in range(3, read.get_piece_size())]
    names = [name for name in dict.fromkeys(names) if name not in ("▁the", "s")]
    special = {"<pad>": START, "</s>": END, "<unk>": 258}
    ids = {name: i for i, name in enumerate([*names[: START - 1], CODE])}
    (folder / "vocab.json").write_text(json.dumps(ids | special))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
    return folder


def t5(folder: Path) -> Path:
    """A tiny T5 with its spiece.model."""
    next(case for case in SOURCE_CASES if case.family == "t5").build(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(trained(english(), pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)
    return folder


def llama_of_spm(folder: Path, **settings: Any) -> Path:
    """A tiny Llama with its tokenizer.model, of bytes and merges, and these settings of its tokenizer."""
    llama(folder, num_hidden_layers=1, vocab_size=400)
    (folder / "tokenizer.json").unlink()
    content = trained(english(), "bpe", 400, byte_fallback=True, normalization_rule_name="identity",
                      remove_extra_whitespaces=False)  # fmt: skip
    (folder / "tokenizer.model").write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
