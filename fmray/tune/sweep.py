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
from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric
from fmray.records import Json, Member, Prepared
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Draft, Fence, Store, fingerprint, source_digest
from fmray.train.device import circumstances
from fmray.train.ingest import Rows
from fmray.train.loop import fit
from fmray.train.pack import Pack, Plan
from fmray.train.predict import TENSORS
from fmray.train.state import Checkpoints
from fmray.train.workers import Worker, train
from fmray.tune.packs import choose_width

Report = Callable[[Json], None]
Role = Literal["member", "baseline"]
Workers = int | tuple[int, int]
KIND = "members"
RESULT = "result.json"
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
    workers: Workers = 0,
    *,
    attempt: str = "",
    role: Role = "member",
    report: Report = lambda event: None,
) -> Sweep:
    """Train members, or read them back if this was done before.

    Args:
        plans: One per member.
        workers: On how many workers to train; 0 trains in this process.
        attempt: Sets a repeated training apart from the first.
        role: What the members are for.
        report: Gets one event per epoch and pack.

    Raises:
        TrainError: If no member could be trained.
    """
    if not plans:
        return Sweep("", (), (), (), reused=True)
    code = source_digest(*(f"fmray.{floor}" for floor in FLOORS), *job.modules())
    who = [vars(plan) for plan in plans]
    asked = (job.train, job.live_steps, who, prepared.fingerprint, metric.name, attempt, role)
    key = fingerprint(KIND, *asked, job.run.deterministic, code)
    report({"event": "record", "kind": KIND, "fingerprint": key})
    with store.create(KIND, key) as draft:
        reused = draft.existing is not None
        manifest = draft.existing or _train(job, plans, prepared, metric, store, key, draft, role, workers, report)
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
    role: Role,
    workers: Workers,
    report: Report,
) -> Json:
    home = store.path("checkpoints", key)
    with store.lease(home) as lease:
        work = _Training(job, tuple(plans), prepared, metric.name, store, home, draft.folder, role, lease.fence)
        train(work, job, workers, key, store, report)
        manifest = draft.commit(store.read_json(f"{home}/{RESULT}"))
    store.remove(home)
    return manifest


@dataclass(frozen=True)
class _Training:
    """Train pack after pack on any number of workers; the first one writes.

    Args:
        home: Where checkpoints go, and at the end the result.
        folder: Where members' tensors go.
        fence: Whoever stands outside must not write there any more.
    """

    job: Job
    plans: tuple[Plan, ...]
    prepared: Prepared
    metric: str
    store: Store
    home: str
    folder: str
    role: Role
    fence: Fence

    def __call__(self, worker: Worker) -> None:
        epochs = self.job.train.epochs
        train_rows = worker.rows(
            self.prepared, "train", epochs, self.job.live_steps, self.job.train.order, any(p.rows for p in self.plans)
        )
        val_rows = worker.rows(self.prepared, "val", epochs)
        groups = self._packs(worker, train_rows)
        members: list[Member] = []
        health: list[Json] = []
        for number, group in enumerate(groups):
            place = {"role": self.role, "pack": number, "packs": len(groups)}
            pack = self._fit(worker, group, train_rows, val_rows, f"{self.home}/{number:05d}", place)
            if worker.group.is_first:
                self.fence.check()
                members += [_write_member(pack, place, self.role, Path(self.folder)) for place in range(len(group))]
            health += pack.state.health
        if worker.group.is_first:
            self.fence.check()
            widths = [len(group) for group in groups]
            result = {"members": [m.to_json() for m in members], "health": health, "widths": widths}
            self.store.write_json(f"{self.home}/{RESULT}", result)

    def _build(self, device: torch.device, plans: Sequence[Plan]) -> Pack:
        prepared, better = self.prepared, self._metric.higher_is_better
        return Pack(plans, prepared.schema, prepared.target, self.job.train, better, device, self.job.live_steps)

    @property
    def _metric(self) -> Metric:
        return find_metric(self.metric, self.prepared.target)

    def _packs(self, worker: Worker, rows: Rows) -> list[list[Plan]]:
        """Cut the plans into packs; a width once chosen is replayed."""
        if self.job.train.seeds.order:
            return [[plan] for plan in self.plans]
        path, width = f"{self.home}/packs.json", None
        if worker.group.is_first:
            if self.store.exists(path):
                width = self.store.read_json(path)["width"]
            else:
                build = partial(self._build, worker.device)
                width = choose_width(self.plans, build, rows, self.job.run.deterministic)
                self.store.write_json(path, {"width": width})
        width = worker.group.tell(width)
        return [list(self.plans[start : start + width]) for start in range(0, len(self.plans), width)]

    def _fit(
        self, worker: Worker, plans: Sequence[Plan], train_rows: Rows, val_rows: Rows, folder: str, place: Json
    ) -> Pack:
        group, now = worker.group, circumstances(worker.group.size, worker.device)
        seconds = self.job.run.checkpoint_seconds
        states = Checkpoints(self.store, f"{folder}/states", seconds, self.fence.check, circumstances=now)
        pack = self._build(worker.device, plans)
        found = group.tell(states.newest() if group.is_first else None)
        if found is not None:
            name, before = found
            state = states.read(name)
            same = "exact" if before == now else "same batches"
            event = {"event": "resumed", "epoch": state.epoch, "step": state.step, "class": same}
            worker.report({**event, **place, "changed": _differences(before, now)})
            pack.restore(state, group.rank)
        order = ["order", plans[0].index] if self.job.train.seeds.order else ["order"]
        order_seed = derive(self.job.train.seed, *order)
        tell = partial(_tell, worker.report, place)
        own = states if group.is_first else None
        fit(pack, train_rows, val_rows, self._metric, order_seed, own, tell, group)
        return pack


def _differences(before: Json, now: Json) -> str:
    changed = [f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
    return ", ".join(changed)


def _tell(report: Report, place: Json, event: Json) -> None:
    report({**event, **place})


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
        job.train,
        optimizer=Ref("adam"),
        schedule=Ref("constant"),
        clip_norm=None,
        accumulate=1,
        ema=None,
        precision="float32",
    )
    return replace(job, train=train, steps=job.prepared_steps)
