"""Put together what a page says about a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fmray.metrics.metric import ranked
from fmray.records import Json, Member, Scores, SearchAccount
from fmray.report import sweep_plots
from fmray.report.importance import importance
from fmray.report.plots import Figure, number


@dataclass(frozen=True)
class Section:
    """Hold what the section of a sweep shows.

    Args:
        words: What it took, and how far its winner may be believed.
        figures: Side by side: leaders, rungs, importance, finalists, diversity.
        whole: Figures as wide as the page.
        slices: One per parameter.
        failed: [{"member", "params", "reason"}].
    """

    words: tuple[str, ...]
    figures: tuple[Figure, ...]
    whole: tuple[Figure, ...]
    slices: tuple[Figure, ...]
    failed: tuple[Json, ...]


def section(account: SearchAccount, members: Sequence[Member], scores: Scores) -> Section:
    """Say what a sweep did, and draw it."""
    metric = scores.primary
    searched = [member for member in members if member.role == "member"]
    best = ranked(searched, scores.higher_is_better)
    shares = importance(account.space, searched)
    paths = [*shares, *(path for path in account.space if path not in shares)]
    figures = []
    if account.leaderboard:
        figures.append(sweep_plots.leaderboard(metric, account.leaderboard, scores.extra.get("level", 0.95)))
    if account.rungs:
        figures.append(sweep_plots.rungs(metric, account.rungs, scores.higher_is_better))
    if shares:
        figures.append(sweep_plots.importance(shares))
    if account.finalists:
        figures.append(sweep_plots.finalists(metric, account.finalists))
    if account.diversity:
        figures += [sweep_plots.ambiguity(account.diversity), sweep_plots.differences(account.diversity)]
    return Section(
        words=(effort(account), *([believed(account.selection)] if account.selection else [])),
        figures=tuple(figures),
        whole=(sweep_plots.parallel(metric, account.space, paths, best),) if best and paths else (),
        slices=tuple(sweep_plots.slices(metric, {path: account.space[path] for path in paths}, best)),
        failed=account.failed,
    )


def effort(account: SearchAccount) -> str:
    """Say what a sweep took, in a sentence."""
    text = f"{_many(account.num_members, 'member')} of {_many(account.num_structures, 'structure')}"
    text += f" in {_many(account.num_packs, 'pack')}: {_many(account.member_epochs, 'epoch')} of members trained"
    if account.member_epochs < account.full_epochs:
        spared = 100 * (1 - account.member_epochs / account.full_epochs)
        text += f", {spared:.0f} % less than the {account.full_epochs:,} that all would have taken to the end"
    failed = f"; {_many(len(account.failed), 'member')} failed" if account.failed else ""
    return f"{text}, in {number(account.seconds, 3)} s{failed}."


def believed(selection: Json) -> str:
    """Say how much of the best score is luck."""
    raw = selection["raw"]
    corrected = selection["corrected"]
    optimism = selection["optimism"]
    best = (
        f"The best of {_many(selection['num_members'], 'member')} has {selection['metric']} {number(raw)} on validation"
    )
    if math.isnan(corrected):
        return f"{best}; too few rows to say how much of that is luck."
    found = f"{number(corrected)} [{number(selection['low'])}, {number(selection['high'])}]"
    how = f"A best one chosen on rows drawn anew scores {found} on the rows that had no part in choosing it"
    counted = f"(mean and range over {selection['replicates']} draws)"
    if optimism <= 2 * selection["error"]:
        return f"{best}. {how} {counted}: no luck in it to speak of."
    return f"{best}, which is about {number(optimism)} too good, because the same rows chose it. {how} {counted}."


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
