"""Describe what a pack of members came to: their records, and what they predict on a sample of validation."""

import numpy as np

from fmray.data.hashing import sample_of
from fmray.ragged import Ragged
from fmray.records import Json, Member
from fmray.train.group import Group
from fmray.train.ingest import Rows
from fmray.train.learner import Learner
from fmray.train.loop import outputs


def unplaced(member: Member, home: str) -> Json:
    """Give a member whose folder is named relative to its pack's: a store may be moved."""
    return {**member.to_json(), "root": member.root.removeprefix(f"{home}/")}


def located(pack: Json, home: str) -> Json:
    """Give what a pack came to with whole paths."""
    members = [{**member, "root": f"{home}/{member['root']}" if member["root"] else ""} for member in pack["members"]]
    said = f"{home}/{pack['said']}" if pack["said"] else ""
    return {**pack, "folder": home, "members": members, "said": said}


def what_members_say(pack: Learner, rows: Rows, group: Group) -> np.ndarray:
    """Give the predictions of every member of a pack at its best, on a sample of validation rows in their sequence.

    Which rows depends on their identities alone, so members of any pack, on any workers, predict the same.

    Shapes:
        returns: (M, n, C or T), float32, an entry per token where tokens have targets; empty on all workers but the
            first.
    """
    ids = rows.lanes.load(["row_id"], rows.share)["row_id"]
    kept = sample_of(ids, rows.num_rows)
    with pack.at_best() as every:
        predictions, _ = outputs(every, rows, group, kept=kept)
    positions = rows.share.places(0, rows.num_rows, rows.lanes.num_lanes)[kept]
    target = rows.lanes.load(["target"], rows.share)["target"]
    if isinstance(target, Ragged):
        positions = np.repeat(positions, target.lengths[kept])
    parts = group.all_gather((positions, predictions.astype(np.float32)))
    if not group.is_first:
        return np.zeros(0, np.float32)
    order = np.argsort(np.concatenate([positions for positions, _ in parts]), kind="stable")
    return np.concatenate([values for _, values in parts], axis=1)[:, order]
