"""Make candidates out of arrays."""

import numpy as np

from fmray.ensemble.candidates import Candidates
from fmray.evaluate.intervals import paired
from fmray.metrics.find import find_metric
from fmray.records import Interval, Member, Target


def member(index: int, **changes) -> Member:
    plain = {"model": {"name": "linear", "params": {}}, "params": {}, "seed": index, "root": "/somewhere"}
    plain |= {"status": "finished", "best_epoch": 1, "epochs": 1, "val_score": 0.5, "tensor_hash": str(index)}
    return Member(index=index, **{**plain, **changes})


def candidates(outputs, target, metric="log_loss", **more) -> Candidates:
    """Members are numbered 10, 11 ...: an index is no position."""
    outputs, target = np.asarray(outputs), np.asarray(target)
    number = find_metric(metric, _target(outputs, metric))
    half = more.pop("half", np.arange(len(target)) % 2 == 0)
    members = more.pop("members", None) or tuple(member(10 + i) for i in range(len(outputs)))
    plain = {"weight": None, "group": None, **more}
    return Candidates(members, outputs, target, half=half, metric=number, **plain)


def _target(outputs, metric) -> Target:
    if metric in ("r2", "mse", "rmse", "mae"):
        return Target(tuple(f"t{i}" for i in range(outputs.shape[2])), "number")
    return Target(
        ("y",), "class", tuple("abcdefghijklmnop"[: outputs.shape[2]]), positive=1 if outputs.shape[2] == 2 else -1
    )


def gain_in(some: Candidates):
    def gain(ours, theirs, target, weight, group) -> Interval:
        flat = [output[:, 0] if output.shape[1] == 1 else output for output in (ours, theirs)]
        return paired(some.metric, (flat[0], target, weight), (flat[1], target, weight), group, 0.95)[0]

    return gain


def softmax(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def classes(num_members=6, num_rows=400, num_classes=3, noise=1.5, seed=0):
    """Members that see the same signal, each through noise of its own."""
    source = np.random.default_rng(seed)
    target = source.integers(0, num_classes, num_rows)
    signal = 2.0 * (np.arange(num_classes) == target[:, None])
    return softmax(signal + noise * source.standard_normal((num_members, num_rows, num_classes))), target


def numbers(num_members=6, num_rows=400, num_targets=1, seed=0):
    source = np.random.default_rng(seed)
    target = source.standard_normal((num_rows, num_targets))
    spread = source.uniform(0.3, 1.2, num_members)[:, None, None]
    outputs = target + spread * source.standard_normal((num_members, num_rows, num_targets))
    return outputs, target[:, 0] if num_targets == 1 else target
