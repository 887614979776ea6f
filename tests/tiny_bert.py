"""A tiny BERT with a tokenizer of its own, made on the spot, as save_pretrained leaves one."""

from pathlib import Path

import pytest

WORDS = ["red", "green", "blue", "yellow", "black", "white", "brown", "grey", "card", "lost", "##s", "##er"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write(folder: Path, seed: int = 0, **config: int) -> Path:
    """Write config.json, model.safetensors and tokenizer.json.

    Args:
        config: Changes of the description.
    """
    pytest.importorskip("transformers", reason="the extra `hf` is not installed")
    import torch
    from transformers import AutoModel, BertConfig

    asked = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    asked |= {"vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 64, "initializer_range": 0.3, **config}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModel.from_config(BertConfig(**asked)).save_pretrained(folder)
    tokenizer(folder / "tokenizer.json")
    return folder


def tokenizer(path: Path, special: list[str] = SPECIAL) -> None:
    """Write a tokenizer of whole words and their ends, which pads to a fixed length, as published ones do."""
    library = pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    made = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = library.normalizers.Lowercase()
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = library.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.enable_padding(length=128, pad_id=vocabulary["[PAD]"])
    made.enable_truncation(128)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(str(path))
