"""Make up the members and the account of a sweep: scores depend on the learning rate, members are halved at rungs."""

import numpy as np

from fmray.evaluate.diversity import diversity
from fmray.evaluate.selection import corrected
from fmray.metrics.classification import ACCURACY
from fmray.records import Member, SearchAccount

EPOCHS, RUNGS = 16, (2, 4, 8)
SPACE = {
    "train.optimizer.adamw.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1, "packable": True},
    "train.optimizer.adamw.weight_decay": {"kind": "log_uniform", "low": 1e-6, "high": 1e-2, "packable": True},
    "model.mlp.dropout": {"kind": "uniform", "low": 0.0, "high": 0.5, "packable": True},
    "model.mlp.width": {"kind": "log_int", "low": 16, "high": 256, "packable": False},
    "model.mlp.depth": {"kind": "int", "low": 1, "high": 4, "packable": False},
    "model.mlp.activation": {"kind": "choice", "options": ["relu", "gelu", "tanh"], "packable": False},
    "steps.clip.quantile": {"kind": "choice", "options": [None, 0.99, [0.001, 0.999]], "packable": False},
    "train.batch_rows": {"kind": "choice", "options": [256, 1024], "packable": False},
}


def drawn(range_, random):
    """Draw a value of a range."""
    match range_["kind"]:
        case "choice":
            return range_["options"][random.integers(len(range_["options"]))]
        case "log_uniform":
            return float(np.exp(random.uniform(np.log(range_["low"]), np.log(range_["high"]))))
        case "log_int":
            return round(np.exp(random.uniform(np.log(range_["low"]), np.log(range_["high"]))))
        case "int":
            return int(random.integers(range_["low"], range_["high"] + 1))
        case _:
            return float(random.uniform(range_["low"], range_["high"]))


def fake_members(num=200, space=None, metric="roc_auc", seed=0):
    """Train nothing: curves rise to a height that the first parameter sets; every 50th member fails."""
    random, space = np.random.default_rng(seed), space or SPACE
    params = [{path: drawn(range_, random) for path, range_ in space.items()} for _ in range(num)]
    lr = [p.get("train.optimizer.adamw.lr", 3e-3) for p in params]
    height = 0.92 - 0.08 * np.abs(np.log10(lr) + 2.5) ** 2 + random.normal(0, 0.01, num)
    curves = height[:, None] * (1 - 0.4 * np.exp(-np.arange(1, EPOCHS + 1) / 3)) + random.normal(
        0, 0.004, (num, EPOCHS)
    )
    failed, alive, rungs = np.arange(num) % 50 == 49, np.arange(num) % 50 != 49, [[] for _ in range(num)]
    epochs, account = np.full(num, EPOCHS), []
    for epoch in RUNGS:
        best = np.maximum.accumulate(curves, 1)[:, epoch - 1]
        cutoff = float(np.quantile(best[alive], 0.5))
        for index in np.flatnonzero(alive):
            rungs[index].append({"epoch": epoch, "score": float(best[index]), "survived": bool(best[index] >= cutoff)})
        dropped = alive & (best < cutoff)
        account.append({"epoch": epoch, "reached": int(alive.sum()), "survived": int((alive & ~dropped).sum()), "cutoff": cutoff})  # fmt: skip
        epochs[dropped], alive = epoch, alive & ~dropped
    return [_member(i, params[i], curves[i], 0 if failed[i] else int(epochs[i]), rungs[i], metric) for i in range(num)], account  # fmt: skip


def _member(index, params, curve, epochs, rungs, metric):
    values = curve[:epochs].tolist()
    history = [
        {"epoch": e, "metric": name, "value": value}
        for e, v in enumerate(values, 1)
        for name, value in ((metric, v), ("val_loss", 1 - v), ("train_loss", 0.9 - v))
    ]
    best = int(np.argmax(curve[:epochs])) if epochs else 0
    return Member(
        index=index, model={"name": "mlp", "params": {}}, params=params, seed=index, root="",
        status="failed" if not epochs else "stopped" if epochs < EPOCHS else "finished", best_epoch=best + 1,
        epochs=epochs, val_score=values[best] if epochs else None, tensor_hash="ab" * 32, history=tuple(history),
        reason="" if epochs else "the loss was not finite at epoch 1", rungs=tuple(rungs), structure=index // 25,
        pack=index // 25,
    )  # fmt: skip


def fake_account(members, rungs, space=None, kind="class", compared=50):
    """Give the account of such members, with predictions made up for those compared."""
    random = np.random.default_rng(1)
    best = sorted((m for m in members if m.val_score is not None), key=lambda m: -m.val_score)[:compared]
    target = random.integers(0, 2, 400)
    p = np.clip(0.2 + 0.6 * target + random.normal(0, 0.2, 400) + random.normal(0, 0.15, (len(best), 400)), 0, 1)
    outputs = np.stack([1 - p, p], 2)
    compared_as = diversity(kind, [m.index for m in best], outputs if kind == "class" else p, target)
    finalists = [{"member": m.index, "params": m.params, "scores": (s := (m.val_score + random.normal(0, 0.006, 5)).tolist()),
                  "mean": float(np.mean(s)), "sd": float(np.std(s, ddof=1))} for m in best[:5]]  # fmt: skip
    return SearchAccount(
        space=space or SPACE,
        num_members=len(members),
        num_structures=len({m.structure for m in members}),
        num_packs=len({m.pack for m in members}),
        member_epochs=sum(m.epochs for m in members),
        full_epochs=EPOCHS * len(members),
        seconds=93.4,
        rungs=tuple(rungs),
        leaderboard=tuple({"member": m.index, "score": m.val_score, "low": m.val_score - 0.02, "high": m.val_score + 0.018} for m in best),
        selection=corrected(ACCURACY, outputs, target, replicates=50).to_json(),
        finalists=tuple(finalists),
        diversity=compared_as.to_json(),
        failed=tuple({"member": m.index, "reason": m.reason} for m in members if m.status == "failed"),
    )  # fmt: skip
