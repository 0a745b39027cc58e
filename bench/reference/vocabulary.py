"""A byte-level BPE trained on the training text, written so that moesaic and transformers both read it. No torch."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from ...models.errors import TextError

END = "<|endoftext|>"  # begins every document, and so ends the one before; id 0
END_ID = 0
_SAMPLE_CHARACTERS = 40_000_000  # more changes no merge that matters, and takes minutes
_PIECE_CHARACTERS = 10_000


def train_tokenizer(documents: Sequence[str], entries: int) -> tokenizers.Tokenizer:
    """A tokenizer of exactly `entries` ids, from an even sample of the documents.

    Its encoding begins a text with <|endoftext|>, as the documents in training begin. Raises TextError where the
    text is too small to fill the vocabulary.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_sample(documents), trainer)
    if tokenizer.get_vocab_size() < entries:
        raise TextError(
            f"the text gives a vocabulary of {tokenizer.get_vocab_size():,} entries, "
            f"the description asks for {entries:,}; give more text or a smaller vocabulary"
        )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, END_ID)])
    return tokenizer


def _sample(documents: Sequence[str]) -> Iterator[str]:
    """Pieces spread evenly over every document, and all of it where that is little."""
    total = sum(map(len, documents))
    stride = max(1, total // _SAMPLE_CHARACTERS)
    for document in documents:
        for begin in range(0, len(document), _PIECE_CHARACTERS * stride):
            yield document[begin : begin + _PIECE_CHARACTERS]


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path, context: int) -> None:
    """tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
