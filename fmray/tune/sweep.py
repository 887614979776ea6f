"""Train the members a job asks for, and keep them as one record.

A plain training is a sweep of one. A killed sweep goes on from the newest checkpoint of each pack; a finished one is
read back.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save as write_tensors

from fmray.errors import TrainError
from fmray.metrics.metric import Metric
from fmray.records import Json, Member, Prepared
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Draft, Store, fingerprint, source_digest
from fmray.train.ingest import Rows
from fmray.train.loop import fit
from fmray.train.pack import Pack, Plan
from fmray.train.predict import TENSORS
from fmray.train.state import Checkpoints
from fmray.tune.packs import choose_width

Report = Callable[[Json], None]
Role = Literal["member", "baseline"]
KIND = "members"
FLOORS = ("train", "models", "tasks", "metrics", "tune")
"""Whose source decides what members become."""
LINEAR_RATES = (0.1, 0.02, 0.004, 0.0008)


@dataclass(frozen=True)
class Sweep:
    """Hold what a sweep gave.

    Args:
        key: Fingerprint of its record.
        members: In the order of their plans.
        health: Numeric events of the training.
        widths: Members per pack.
        reused: Whether it was read back rather than trained.
    """

    key: str
    members: tuple[Member, ...]
    health: tuple[Json, ...]
    widths: tuple[int, ...]
    reused: bool

    def best(self, metric: Metric) -> Member:
        """Give the member with the best score on validation.

        Raises:
            TrainError: If none has one.
        """
        able = [member for member in self.members if member.val_score is not None]
        if not able:
            raise TrainError(f"train: none of {len(self.members)} members has a validation score. See their reasons.")
        sign = 1 if metric.higher_is_better else -1
        return max(able, key=lambda member: sign * (member.val_score or 0.0))


def plans_of(job: Job, task: Ref) -> list[Plan]:
    """List the members a job asks for: today, one per seed."""
    seeds = job.train.seeds
    return [
        Plan(
            index=index,
            seed=derive(job.train.seed, "member", index),
            model=job.model,
            optimizer=job.train.optimizer,
            task=task,
            params={"train.seeds": index} if seeds.n > 1 else {},
        )
        for index in range(seeds.n)
    ]


def linear_plans(job: Job, task: Ref) -> list[Plan]:
    """List the members behind the linear baseline: one per learning rate, so that none can be called badly tuned."""
    plain = Ref(task.name)
    return [
        Plan(i, derive(job.train.seed, "linear", i), Ref("linear"), Ref("adam", {"lr": lr}), plain, {"lr": lr})
        for i, lr in enumerate(LINEAR_RATES)
    ]


def sweep(
    job: Job,
    plans: Sequence[Plan],
    prepared: Prepared,
    metric: Metric,
    store: Store,
    device: torch.device | str,
    *,
    attempt: str = "",
    role: Role = "member",
    report: Report = lambda event: None,
) -> Sweep:
    """Train members, or read them back if this was done before.

    Args:
        plans: One per member.
        device: Where to train.
        attempt: Sets a repeated training apart from the first.
        role: What the members are for.
        report: Gets one event per epoch and pack.

    Raises:
        TrainError: If no member could be trained.
    """
    if not plans:
        return Sweep("", (), (), (), reused=True)
    code = source_digest(*(f"fmray.{floor}" for floor in FLOORS), *job.modules())
    asked = (job.train, [vars(plan) for plan in plans], prepared.fingerprint, metric.name, attempt, role)
    key = fingerprint(KIND, *asked, job.run.deterministic, code)
    report({"event": "record", "kind": KIND, "fingerprint": key})
    with store.create(KIND, key) as draft:
        reused = draft.existing is not None
        manifest = draft.existing or _train(job, plans, prepared, metric, store, key, draft, device, role, report)
    folder = Path(manifest["folder"])
    members = tuple(
        Member.from_json({**value, "root": str(folder / f"{value['index']:05d}")}) for value in manifest["members"]
    )
    if members and all(member.status == "failed" for member in members):
        raise TrainError(f"train: all {len(members)} members failed. The first: {members[0].reason}.")
    return Sweep(key, members, tuple(manifest["health"]), tuple(manifest["widths"]), reused)


def _train(
    job: Job,
    plans: Sequence[Plan],
    prepared: Prepared,
    metric: Metric,
    store: Store,
    key: str,
    draft: Draft,
    device: torch.device | str,
    role: Role,
    report: Report,
) -> Json:
    train_rows, val_rows = Rows(prepared, "train", device), Rows(prepared, "val", device)

    def build(some: Sequence[Plan]) -> Pack:
        return Pack(some, prepared.schema, prepared.target, job.train, metric.higher_is_better, device)

    home = store.path("checkpoints", key)
    groups = _packs(job, plans, build, train_rows, store, f"{home}/packs.json")
    members: list[Member] = []
    health: list[Json] = []
    for number, group in enumerate(groups):
        folder = f"{home}/{number:05d}"
        with store.lease(folder) as lease:
            checkpoints = Checkpoints(store, f"{folder}/states", job.run.checkpoint_seconds, lease.check)
            place = {"role": role, "pack": number, "packs": len(groups)}
            tell = partial(_tell, report, place)
            pack = _train_pack(build(group), train_rows, val_rows, metric, job, checkpoints, tell)
        members += [_write_member(pack, place, role, Path(draft.folder)) for place in range(len(group))]
        health += pack.state.health
    manifest = draft.commit(
        {"members": [m.to_json() for m in members], "health": health, "widths": [len(group) for group in groups]}
    )
    store.remove(home)
    return manifest


def _tell(report: Report, place: Json, event: Json) -> None:
    report({**event, **place})


def _packs(
    job: Job, plans: Sequence[Plan], build: Callable[[Sequence[Plan]], Pack], rows: Rows, store: Store, path: str
) -> list[list[Plan]]:
    """Cut the plans into packs; a width once chosen is replayed."""
    if job.train.seeds.order:
        return [[plan] for plan in plans]
    if store.exists(path):
        width = store.read_json(path)["width"]
    else:
        width = choose_width(plans, build, rows, job.run.deterministic)
        store.write_json(path, {"width": width})
    return [list(plans[start : start + width]) for start in range(0, len(plans), width)]


def _train_pack(
    pack: Pack,
    train_rows: Rows,
    val_rows: Rows,
    metric: Metric,
    job: Job,
    checkpoints: Checkpoints,
    report: Report,
) -> Pack:
    state = checkpoints.latest()
    if state is not None:
        report({"event": "resumed", "epoch": state.epoch, "step": state.step, "class": "exact"})
        pack.restore(state)
    order = ["order", pack.plans[0].index] if job.train.seeds.order else ["order"]
    fit(pack, train_rows, val_rows, metric, derive(job.train.seed, *order), checkpoints, report)
    return pack


def _write_member(pack: Pack, place: int, role: Role, folder: Path) -> Member:
    plan, state = pack.plans[place], pack.state
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in pack.member_tensors(place).items()}
    data = write_tensors(tensors)
    home = folder / f"{plan.index:05d}"
    home.mkdir(parents=True, exist_ok=True)
    (home / TENSORS).write_bytes(data)
    end: dict[str, Any] = state.ends.get(str(place), {"status": "finished", "reason": "", "epochs": state.epoch})
    score = float(state.best_score[place]) * pack.sign
    return Member(
        index=plan.index,
        model={"name": plan.model.name, "params": dict(plan.model.params)},
        params=dict(plan.params),
        seed=plan.seed,
        root=str(home),
        status=end["status"],
        best_epoch=int(state.best_epoch[place]),
        epochs=end["epochs"],
        val_score=score if end["status"] != "failed" and torch.isfinite(state.best_score[place]) else None,
        tensor_hash=tensor_hash(tensors),
        history=tuple(
            {k: e[k] for k in ("epoch", "metric", "value")} for e in state.history if e["member"] == plan.index
        ),
        reason=end["reason"],
        role=role,
    )


def tensor_hash(tensors: dict[str, torch.Tensor]) -> str:
    """Digest tensors by name, type, shape and bits (SHA-256)."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor.item()).encode()
        )
    return digest.hexdigest()


def linear_job(job: Job) -> Job:
    """Give the job by which the linear baseline trains: same rows and batches, patient, nothing fancy."""
    train = replace(
        job.train, optimizer=Ref("adam"), schedule=Ref("constant"), clip_norm=None, accumulate=1, precision="float32"
    )
    return replace(job, train=train)
