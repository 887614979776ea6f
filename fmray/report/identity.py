"""Name a run by what was asked and by the data, so that asking again finds the same directory."""

import string

from fmray.spec.job import Job
from fmray.store import Store, code_digest, fingerprint

NOT_ASKED = ("track", "run", "promote", "schedule", "folder")
"""Parts of a job that say how, where and when it runs and what follows; another run would give the same."""


def name_run(job: Job, data_fingerprint: str, store: Store | None, fresh: bool = False) -> str:
    """Give the id of the newest run of this job on this data, or of the first.

    Args:
        data_fingerprint: Of the files as scanned; empty if they are not seen.
        store: That holds the runs; None if there are none.
        fresh: Name one beside those that are there.
    """
    asked = {key: value for key, value in job.to_json().items() if key not in NOT_ASKED}
    if data_fingerprint:  # which says what the data are, wherever they lie and however that is spelled
        asked["data"] = {key: value for key, value in asked["data"].items() if key != "path"}
    first = fingerprint(asked, data_fingerprint, code_digest(*job.modules()))[:12]
    names = store.list(store.path("runs", job.name)) if store else []
    taken = [name for name in names if name.split("-")[0] == first]
    newest = max(taken, key=lambda name: (len(name), name), default=first)
    return f"{first}-{_letters(len(taken))}" if fresh and taken else newest


def _letters(number: int) -> str:
    """Spell an attempt: b, c ... z, ab, ac ..."""
    rest, last = divmod(number, 26)
    return ("" if rest == 0 else _letters(rest - 1)) + string.ascii_lowercase[last]
