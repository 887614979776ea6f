"""Find out from evidence why a run stands as it does: the most likely cause first.

Pure: it sees nothing but the evidence, so every verdict can be had without a cluster, a disk or a clock.
"""

from collections.abc import Iterator

from fmray.events import Failure
from fmray.failures import LEFT_OUT, trouble_in
from fmray.why.ends import (
    failed,
    failures_of,
    finished,
    halves,
    interrupted,
    killed_for_memory,
    left_out,
    of_attempt,
)
from fmray.why.evidence import Evidence
from fmray.why.finding import Finding, shorten
from fmray.why.room import missing_room
from fmray.why.waits import fine, locked, lost_node, progress, skewed, slowed, stalled, storage


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Give what was found, the most likely cause first; there is at least one."""
    found = list(_findings(evidence))
    kinds = [finding.kind for finding in found]
    return tuple(finding for index, finding in enumerate(found) if finding.kind not in kinds[:index])


def _findings(evidence: Evidence) -> Iterator[Finding]:
    match evidence.status:
        case "finished":
            yield from finished(evidence)
            yield from left_out(evidence)
        case "failed":
            yield from failed(evidence)
            yield from skewed(evidence)
        case "running":
            yield from _running(evidence)
            yield from unreachable(evidence)
        case "interrupted":
            yield from (one for one in storage(evidence) if one.kind == "full disk")
            yield from interrupted(evidence)
            yield from unreachable(evidence)
        case _:
            found = [*missing_room(evidence), *of_attempt(evidence), *unreachable(evidence)]
            yield from found or _unknown(evidence)


def _running(evidence: Evidence) -> Iterator[Finding]:
    rules = (lost_node, missing_room, stalled, storage, locked, slowed, skewed)
    wrong = [finding for rule in rules for finding in rule(evidence)]
    yield from wrong
    yield from () if wrong else (fine(evidence),)
    yield from _restarted(evidence)


def _restarted(evidence: Evidence) -> Iterator[Finding]:
    """Tell of failures that a running run has got over."""
    yield from (
        Finding("got over", f"workers were restarted: {one.cause}", one.evidence, one.fix)
        for one in killed_for_memory(evidence)
    )
    yield from left_out(evidence)
    failures = [line.event for line in evidence.of(Failure) if line.event.action != LEFT_OUT]
    if failures:
        last = failures[-1]
        what = f"the last a matter of {last.kind}: {shorten(last.text, 160)}"
        cause = f"it got over {len(failures)} failures, {what}"
        seen = (*failures_of(evidence), *progress(evidence))
        yield Finding("got over", cause, seen, "Nothing to do, unless it happens again and again")


def unreachable(evidence: Evidence) -> Iterator[Finding]:
    """Say that its cluster does not answer, or wants another token."""
    error = evidence.cluster.get("error", "")
    if not error:
        return
    trouble = trouble_in(error)
    address = evidence.cluster.get("address", "")
    said = shorten(halves(error)[0], 200)
    if trouble is not None and trouble.name == "token":
        fix = "Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token here, and ask again"
        yield Finding("token", f"its cluster is no help: {said}", ((address, error),), fix)
    else:
        fix = "Give the URL of its dashboard with --address; if the cluster is gone, start one and submit the job again"
        yield Finding("address", f"its cluster is no help: {said}", ((address, error),), fix)


def _unknown(evidence: Evidence) -> Iterator[Finding]:
    if evidence.error:
        yield Finding(
            "storage",
            f"its directory cannot be read: {shorten(evidence.error)}",
            ((evidence.root, evidence.error),),
            "Mend the disk or mount that its store lies on",
        )
    else:
        yield Finding("unknown", "nothing is known of it here", (), "Give --store and --address as it was started with")
