"""A pretrained encoder as small as one can be, made on the spot."""

import warnings
from pathlib import Path

import pytest

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "red", "green", "blue", "##s", "##ing"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIDTH, PLACES = 16, 32


def make_encoder(folder: Path, seed: int = 0) -> Path:
    """Write an untrained BERT of two layers with its tokenizer, or skip where transformers is missing."""
    with warnings.catch_warnings(action="ignore"):
        transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=PLACES,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.BertModel(config, add_pooling_layer=False)
    for parameter in model.parameters():  # as it begins, all that it says of texts is nearly the same
        parameter.data.mul_(8 if parameter.dim() == 2 else 1)
    model.save_pretrained(folder)
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(pad_id=0, length=12)  # as published tokenizers do; neither is asked for here
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
