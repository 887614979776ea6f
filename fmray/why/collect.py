"""Collect the evidence of a run from its directory, processes, disk and cluster, each for a limited time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fmray.records import Json
from fmray.store import Store, redact
from fmray.why.cluster import look
from fmray.why.evidence import (
    LOOK_SECONDS,
    READ_SECONDS,
    SPARE_BYTES,
    Evidence,
    ask,
    disk_of,
    is_local,
    lines_of,
    places_of,
    read,
    time_storage,
)
from fmray.why.stacks import Ask, ask_processes, told_before
from fmray.why.waits import silence

ALIVE = ("running", "unknown")


@dataclass(frozen=True)
class Contact:
    """Hold how the cluster of a run is reached, and what it says of the run's submission.

    Args:
        address: Of its dashboard; "" if none is known.
        error: Why that does not answer; "" if it does.
        attempt: The submission, as `Attempt.to_json` gives it, with "message"; empty without one.
        log: Gives what the submission printed.
        ask: Has the cluster run a command.
    """

    address: str = ""
    error: str = ""
    attempt: Json = field(default_factory=dict)
    log: Callable[[], str] = str
    ask: Ask | None = None


def collect(name: str, root: str = "", store: Store | None = None, contact: Contact = Contact()) -> Evidence:
    """Give what is known of a run now.

    Args:
        name: As it was asked for.
        root: Its directory; "" if it has none that is seen from here.
        store: That it lies in.
        contact: With its cluster.
    """
    address = contact.address
    error = contact.error
    attempt = contact.attempt
    now = time.time()
    found = ask({"run": lambda: read(root, store)}, READ_SECONDS)["run"] if store is not None and root else {}
    told: Json = found.get("value", {})
    status = told.get("status", "unknown")
    looks: dict[str, Callable[[], Any]] = {}
    if address and not error:
        looks["cluster"] = lambda: look(address)
    if attempt:
        looks["printed"] = lambda: lines_of(redact(contact.log()), f"log of {attempt['submission_id']}")
    if store is not None and status in (*ALIVE, "interrupted"):
        disk = ask({"disk": lambda: disk_of(store.root)}, READ_SECONDS)["disk"] if is_local(store) else {}
        if status in ALIVE and disk.get("value", {"free": SPARE_BYTES})["free"] >= SPARE_BYTES:
            looks["storage"] = lambda: time_storage(store)
    else:
        disk = {}
    if status == "running" and silence(Evidence(name, now, status=status, events=told["events"]))[0]:
        looks["stacks"] = lambda: ask_processes(places_of(told["events"]), contact.ask)
    answers = ask(looks, LOOK_SECONDS)
    given = {key: answers[key]["value"] for key in ("printed", "stacks") if "value" in answers.get(key, {})}
    given["stacks"] = given.get("stacks") or told_before(told.get("traces", {}))
    cluster = answers.get("cluster", {})
    return Evidence(
        name=name,
        now=now,
        root=root,
        disk=disk,
        storage=answers.get("storage", {}),
        attempt=attempt,
        cluster=cluster.get("value")
        or ({"address": address, "error": error or cluster["error"]} if error or cluster else {}),
        error=found.get("error", ""),
        **told,
        **given,
    )
