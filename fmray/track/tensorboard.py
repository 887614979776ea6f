"""Write the histories of members as TensorBoard event files, with their parameters for its HPARAMS page.

The folder is made anew from the records each time and put in place whole, so it says what they say: no epoch appears
twice, however often a training was interrupted.
"""

import json
import os
import time
from collections.abc import Sequence

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, text

from fmray.records import Json, Member
from fmray.store import named_errors, redact
from fmray.store.copies import folder_to_write


def write_events(folder: str, members: Sequence[Member], primary: str = "") -> None:
    """Replace a folder by one with a sub-folder per member, e.g. `member-00003`, which TensorBoard shows as a run.

    Each metric is a curve over epochs, its values as float32. What the member is stands beside as text. Members that
    have parameters of their own stand in the table of the HPARAMS page too.

    Args:
        folder: On a local or mounted disk; created, with its parents, where it is not there.
        primary: The metric behind `val_score`, which is written as `best/<primary>` at the epoch that was kept.

    Raises:
        DataError: If the disk is full.
        ClusterError: If the filesystem refuses.
    """
    with named_errors(folder), folder_to_write(folder) as partial:
        for member in members:
            home = f"{partial}/{member.role}-{member.index:05d}"
            os.makedirs(home)
            _write_member(home, member, primary)


def _write_member(home: str, member: Member, primary: str) -> None:
    now = time.time()  # records keep epochs, not hours
    # SummaryWriter would write from a thread of its own, which a full disk ends in silence
    writer = EventsWriter(f"{home}/events")
    writer.write_event(Event(wall_time=now, step=0, summary=text("member", _described(member))))
    for entry in member.history:
        value = Summary.Value(tag=str(entry["metric"]), simple_value=float(entry["value"]))
        writer.write_event(Event(wall_time=now, step=int(entry["epoch"]), summary=Summary(value=[value])))
    for step, summary in _hparams(member, primary):
        writer.write_event(Event(wall_time=now, step=step, summary=summary))
    writer.close()


def _hparams(member: Member, primary: str) -> list[tuple[int, Summary]]:
    """Give the parameters of a member, and the score they led to, as TensorBoard's HPARAMS page reads them."""
    if not member.params:
        return []
    plain = {name: _plain(value) for name, value in redact(member.params).items()}
    if not primary or member.val_score is None:
        return [(0, summary) for summary in hparams(plain, {})]
    best = Summary.Value(tag=f"best/{primary}", simple_value=member.val_score)
    named = [(0, summary) for summary in hparams(plain, {best.tag: member.val_score})]
    return [*named, (member.best_epoch, Summary(value=[best]))]


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)


def _described(member: Member) -> str:
    """Give a member's facts as a table in Markdown."""
    model = member.model
    facts = redact(member.params)
    known: Json = {
        "model": model["name"],
        **{f"model.{name}": value for name, value in redact(model["params"]).items()},
        **facts,
        "seed": member.seed,
        "status": f"{member.status}: {member.reason}" if member.reason else member.status,
        "best epoch": f"{member.best_epoch} of {member.epochs}",
    }
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in known.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
