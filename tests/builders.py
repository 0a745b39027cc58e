"""Tiny real checkpoints for tests: made by the original implementation, saved as its users save them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

WORDS = ["<s>", "</s>", "<unk>"]


def llama(folder: Path, **changes: Any) -> Any:
    """A random Llama, grouped-query attention, saved to `folder`; the original model is returned."""
    values: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "tie_word_embeddings": True, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": None,
    }  # fmt: skip
    config = transformers.LlamaConfig(**(values | changes))
    return saved(transformers.LlamaForCausalLM(config), folder)


def opt(folder: Path, **changes: Any) -> Any:
    """A random OPT with biases, saved to `folder`; the original model is returned."""
    values: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 64, "word_embed_proj_dim": 48, "bos_token_id": 256, "eos_token_id": 257,
        "pad_token_id": None,
    }  # fmt: skip
    config = transformers.OPTConfig(**(values | changes))
    return saved(transformers.OPTForCausalLM(config), folder)


def saved(model: Any, folder: Path) -> Any:
    """A model with random weights, saved to `folder`; it is returned."""
    randomised(model).eval().save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return model


def randomised(model: Any) -> Any:
    """Every parameter random, biases and norms too, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * noise if "norm" in name and "weight" in name else 0.2 * noise)
    return model


def with_ends(folder: Path) -> None:
    """The tokenizer of a directory then puts a token before each text and one behind."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def byte_tokenizer() -> tokenizers.Tokenizer:
    """256 bytes and three special tokens: any text has ids, nothing is ever unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(WORDS)
    return tokenizer


def merging_tokenizer() -> tokenizers.Tokenizer:
    """The bytes, three merges, two special tokens: 261 of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "he", "hel", "Ġt"])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [("h", "e"), ("he", "l"), ("Ġ", "t")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    return made


def word_pieces() -> tokenizers.Tokenizer:
    """A WordPiece of some words, in lower case, between two tokens as BERT has them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "##at", ".", "é", "c", "##a"]
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.add_special_tokens(words[:5])
    return made


def edit_json(file: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; None removes one."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
