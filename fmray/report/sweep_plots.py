"""Draw the figures of a sweep: who led, who was stopped, what mattered, how much members differ.

Hundreds of members must stay readable and small: points are a few bytes each, lines are drawn for the best only.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from fmray.records import Interval, Json, Member
from fmray.report.importance import spelled
from fmray.report.plots import WIDTH, Axes, Figure, core, frame, intervals, number, short, tick, ticks

MOST_LEADERS, MOST_LINES, MOST_AXES, MOST_CELLS, MOST_STEPS = 20, 100, 8, 30, 8
BEST_LINES = 10
BAR, LABELS = 26, 190
CEILING, FLOOR, ACROSS, MARGIN = 40, 290, 150, 75
"""Of parallel axes, in pixels."""


def leaderboard(metric: str, rows: Sequence[Json], level: float) -> Figure:
    """Draw the best members with their intervals."""
    shown = rows[:MOST_LEADERS]
    found = [
        (str(r["member"]), Interval(r["score"], r["low"], high=r["high"], n=r.get("n", 0), method="")) for r in shown
    ]
    made = intervals(metric, found, f"The best {len(shown)} members: {metric} on validation")
    table = [
        [str(place), name, number(i.value), number(i.low), number(i.high)] for place, (name, i) in enumerate(found, 1)
    ]
    caption = f"Intervals at {100 * level:g} % of each member alone; that these are the best of many is not in them."
    return Figure(
        made.title,
        made.svg,
        head=("place", "member", metric, "low", "high"),
        rows=table,
        caption=caption,
        rest="members.parquet",
    )


def rungs(metric: str, found: Sequence[Json], higher_is_better: bool) -> Figure:
    """Draw how many members reached each rung, and how many went on; `cutoff` is shown as the metric has it."""
    sign = 1 if higher_is_better else -1  # rungs hold scores as they are compared, higher for better
    cutoffs = [None if rung.get("cutoff") is None else sign * rung["cutoff"] for rung in found]
    written = [(float(place), f"epoch {rung['epoch']}") for place, rung in enumerate(found)]
    axes = Axes((-0.6, len(found) - 0.4), (0, max(r["reached"] for r in found)), ("rung", "members"), x_ticks=written)
    for place, rung in enumerate(found):
        axes.bar(place - 0.38, place, rung["reached"], "light")
        axes.bar(place, place + 0.38, rung["survived"])
    rows = [
        [str(r["epoch"]), number(r["reached"]), number(r["survived"]), number(cutoff)]
        for r, cutoff in zip(found, cutoffs, strict=True)
    ]
    caption = f"Grey reached the rung, blue went on; the cutoff is the worst {metric} that did."
    return Figure(
        "Rungs",
        axes.svg("members per rung"),
        head=("epoch", "reached", "survived", "cutoff"),
        rows=rows,
        caption=caption,
    )


def importance(shares: dict[str, float]) -> Figure:
    """Draw how much of the scores each parameter explains."""
    rows = [(path, share, f"{100 * share:.0f} %") for path, share in shares.items()]
    caption = (
        "Shares of what a random forest learns from parameters about scores, noise too: small shares mean nothing. "
        "Members that were stopped count with the best score they had."
    )
    table = [[path, f"{100 * share:.1f} %"] for path, share in shares.items()]
    return Figure(
        "What the scores depend on", bars("importance", rows), head=("parameter", "share"), rows=table, caption=caption
    )  # fmt: skip


def bars(title: str, rows: Sequence[tuple[str, float, str]], light: Sequence[int] = ()) -> Markup:
    """Draw named bars below each other: (name, length, what is written behind it)."""
    height = BAR * len(rows) + 8
    longest = max([length for _, length, _ in rows if math.isfinite(length)] or [0]) or 1.0
    inside = []
    for place, (name, length, written) in enumerate(rows):
        y = BAR * place + 4
        wide = (WIDTH - LABELS - 70) * max(length, 0) / longest if math.isfinite(length) else 0
        style = "bar light" if place in light else "bar"
        inside.append(
            f'<text x="{LABELS - 8}" y="{y + 15}" text-anchor="end">{escape(tail(name, 27))}'
            f"<title>{escape(name)}</title></text>"
            f'<rect class="{style}" x="{LABELS}" y="{y + 2}" width="{max(wide, 1):.1f}" '
            f'height="{BAR - 8}"/><text x="{LABELS + wide + 6:.1f}" y="{y + 15}">{escape(written)}</text>'
        )
    return frame(title, WIDTH, height, "".join(inside))


def tail(path: str, most: int) -> str:
    """Cut a dotted path that has no room; its end says more than its beginning."""
    if len(path) <= most:
        return path
    end = path[len(path) - most + 1 :]
    return "…" + (end.split(".", 1)[1] if "." in end else end)  # whole words where there are any


class Scale:
    """Place the values of a parameter on a line: as they are, by their logarithm, or by the place of an option."""

    def __init__(self, range_: Json) -> None:
        self.kind = range_["kind"]
        self.options = [spelled(option) for option in range_.get("options", ())]
        ends = (0, len(self.options) - 1) if self.options else (self.at(range_["low"]), self.at(range_["high"]))
        self.stepped = self.kind == "choice" or (self.kind == "int" and ends[1] - ends[0] <= MOST_STEPS)
        room = 0.5 if self.stepped else 0.0  # points of one step lie side by side
        self.low = ends[0] - room
        self.high = ends[1] + room

    def at(self, value: object) -> float:
        """Give the place of a value; NaN where it has none."""
        if self.kind == "choice":
            name = spelled(value)
            return float(self.options.index(name)) if name in self.options else math.nan
        x = float(value)  # type: ignore[arg-type]
        return (math.log10(x) if x > 0 else math.nan) if self.kind.startswith("log") else x

    def share(self, place: float) -> float:
        """Give how far between the ends a place lies, never beyond them; NaN stays."""
        if math.isnan(place) or self.high <= self.low:
            return place if math.isnan(place) else 0.5
        return min(max((place - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Give places and what is written there."""
        if self.kind == "choice":
            room = 64 // min(len(self.options), 8)
            step = math.ceil(len(self.options) / 8)
            return [(float(place), short(name, room)) for place, name in enumerate(self.options)][::step]
        if self.stepped:
            return [(float(whole), str(whole)) for whole in range(math.ceil(self.low), math.floor(self.high) + 1)]
        if not self.kind.startswith("log"):
            low, high = (self.low, self.high) if self.high > self.low else (self.low - 1, self.high + 1)
            return [(value, tick(value)) for value in ticks(low, high)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
            places = [math.log10(step) + decade for decade in decades for step in steps]
            inside = [place for place in places if self.low - 1e-9 <= place <= self.high + 1e-9]
            if len(inside) >= 3:
                break
        inside = inside if len(inside) >= 2 else [self.low, self.high]
        return [(place, f"{10**place:.3g}") for place in inside[:: math.ceil(len(inside) / 8)]]


def slices(metric: str, space: Json, members: Sequence[Member]) -> list[Figure]:
    """Draw for each parameter the score over the value; members that a rung stopped are lighter."""
    return [_slice(metric, path, Scale(range_), members) for path, range_ in space.items()]


def _slice(metric: str, path: str, scale: Scale, members: Sequence[Member]) -> Figure:
    found = [m for m in members if path in m.params and m.val_score is not None and math.isfinite(m.val_score)]
    name = f"{tail(path, 44)}{' (log)' if scale.kind.startswith('log') else ''}"
    y_range = core([m.val_score or 0.0 for m in found])
    axes = Axes((scale.low, scale.high), y_range, labels=(name, metric), height=240, x_ticks=scale.ticks())
    for member in sorted(found, key=lambda m: not is_stopped(m)):  # those that went on lie above
        place = scale.at(member.params[path])
        if scale.stepped:  # side by side, not in one line
            place += 0.5 * ((member.index * 0.6180339887) % 1 - 0.5)
        if math.isfinite(place):
            x, y = axes.at(place, member.val_score or 0.0)
            style = "early" if is_stopped(member) else "point"
            axes.parts.append(f'<circle class="{style}" cx="{x:.0f}" cy="{y:.0f}" r="3"/>')
    rows = [[str(m.index), spell_value(m.params[path]), number(m.val_score), _went(m)] for m in found]
    return Figure(
        tail(path, 60),
        axes.svg(f"{metric} by {path}"),
        head=("member", "value", metric, ""),
        rows=rows,
        caption="",
        rest="members.parquet",
    )


def is_stopped(member: Member) -> bool:
    """Tell whether a rung stopped a member."""
    return any(not rung["survived"] for rung in member.rungs)


def _went(member: Member) -> str:
    return f"stopped after epoch {member.epochs}" if is_stopped(member) else "went on to the end"


def spell_value(value: object) -> str:
    """Spell a parameter's value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else spelled(value)


def parallel(metric: str, space: Json, paths: Sequence[str], best: Sequence[Member]) -> Figure:
    """Draw a line per member through the values of its parameters to its score.

    Args:
        paths: Parameters, the most important first.
        best: Members with scores, best first.
    """
    shown = list(paths[:MOST_AXES])
    drawn = list(best[:MOST_LINES])
    low, high = core([m.val_score or 0.0 for m in drawn])
    scales = [Scale(space[path]) for path in shown] + [Scale({"kind": "uniform", "low": low, "high": high})]
    titles = [*(tail(path, 21) for path in shown), metric]
    inside = []
    for rank in range(len(drawn) - 1, -1, -1):  # the best lie above
        values = [*(drawn[rank].params.get(path) for path in shown), drawn[rank].val_score]
        ups = [
            math.nan if v is None and s.kind != "choice" else s.share(s.at(v))
            for v, s in zip(values, scales, strict=True)
        ]
        points = " ".join(f"{ACROSS * i + MARGIN},{height_of(up):.0f}" for i, up in enumerate(ups) if math.isfinite(up))
        style = "thin best" if rank < BEST_LINES else "thin"
        inside.append(
            f'<polyline class="{style}" points="{points}"><title>member {drawn[rank].index}</title></polyline>'
        )
    inside += [_upright(place, *axis) for place, axis in enumerate(zip(titles, scales, strict=True))]
    rows = [
        [str(m.index), *(spell_value(m.params[p]) if p in m.params else "none" for p in shown), number(m.val_score)]
        for m in drawn
    ]
    caption = f"The best {len(drawn)} members, the best {min(BEST_LINES, len(drawn))} of them in blue"
    caption += f"; the {len(shown)} most important of {len(paths)} parameters." if len(paths) > len(shown) else "."
    svg = frame("parallel coordinates", 2 * MARGIN + ACROSS * len(shown), FLOOR + 30, "".join(inside))
    return Figure(
        "What the best have in common",
        svg,
        head=("member", *shown, metric),
        rows=rows,
        caption=caption,
        rest="members.parquet",
    )


def _upright(place: int, title: str, scale: Scale) -> str:
    """Draw an upright axis with its name above and its values beside it."""
    x = MARGIN + ACROSS * place
    marks = [
        f'<text class="halo" x="{x + 5}" y="{height_of(scale.share(value)) + 4:.0f}">{escape(text)}</text>'
        for value, text in scale.ticks()
    ]
    name = f'<text x="{x}" y="18" text-anchor="middle">{escape(title)}</text>'
    return f'<line class="axis" x1="{x}" x2="{x}" y1="{CEILING}" y2="{FLOOR}"/>{name}{"".join(marks)}'


def height_of(share: float) -> float:
    """Give the place of a share of an upright axis, in pixels."""
    return FLOOR - share * (FLOOR - CEILING)


def finalists(metric: str, found: Sequence[Json]) -> Figure:
    """Draw the scores of each finalist over its seeds."""
    height = 30 * len(found) + 56
    left = 62
    scores = [score for f in found for score in f["scores"] if math.isfinite(score)]
    axes = Axes((min(scores), max(scores)) if scores else (0.0, 1.0), (0, 1), (metric, ""), height)
    for place, finalist in enumerate(found):
        y = 14 + 30 * place + 12
        axes.parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{finalist["member"]}</text>')
        for score in finalist["scores"]:
            if math.isfinite(score):
                axes.parts.append(f'<circle class="point" cx="{axes.at(score, 0)[0]:.1f}" cy="{y}" r="4"/>')
        if math.isfinite(finalist["mean"]):
            x = axes.at(finalist["mean"], 0)[0]
            axes.parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9}" y2="{y + 9}"/>')
    for value in ticks(*axes.x_range):
        x = axes.at(value, 0)[0]
        axes.parts.append(f'<text x="{x:.1f}" y="{height - 27}" text-anchor="middle">{tick(value)}</text>')
    axes.parts.append(f'<text x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle">{escape(metric)}</text>')
    rows = [[str(f["member"]), number(f["mean"]), number(f["sd"]), ", ".join(map(number, f["scores"]))] for f in found]
    caption = "Each dot is the same configuration with another seed; the stroke is their mean."
    svg = frame("scores of finalists over seeds", WIDTH, height, "".join(axes.parts))
    return Figure(
        "Finalists over seeds, by member", svg, head=("member", "mean", "sd", "scores"), rows=rows, caption=caption
    )


def ambiguity(found: Json) -> Figure:
    """Draw what members' errors are, what their spread takes off, and what is left to the mean of them."""
    rows = [
        ("mean error of members", found["mean_member"], number(found["mean_member"])),
        ("- their spread", found["ambiguity"], number(found["ambiguity"])),
        ("= error of their mean", found["ensemble"], number(found["ensemble"])),
    ]
    title = f"What differing is worth ({found['measure']})"
    caption = "The mean of members errs by their mean error less their spread around it, exactly."
    table = [[name, written] for name, _, written in rows]
    return Figure(
        title, bars("ambiguity decomposition", rows, (1,)), head=("", found["measure"]), rows=table, caption=caption
    )


def differences(found: Json) -> Figure:
    """Draw how much each two members differ."""
    members = found["members"][:MOST_CELLS]
    matrix = [row[:MOST_CELLS] for row in found["matrix"][:MOST_CELLS]]
    size = max(12, min(34, 440 // len(members)))
    left = 34
    differ = found["compared"] == "disagreement"
    values = [v for i, row in enumerate(matrix) for j, v in enumerate(row) if v is not None and i != j]
    most = max([*values, 1e-12]) if differ else 1.0
    inside = []
    for i, row in enumerate(matrix):
        y = 4 + i * size
        inside.append(f'<text x="{left - 5}" y="{y + size / 2 + 4:.0f}" text-anchor="end">{members[i]}</text>')
        for j, value in enumerate(row):
            shade = min(max((value or 0.0) / most, 0.0), 1.0)
            inside.append(
                f'<rect class="cell" x="{left + j * size}" y="{y}" width="{size - 1}" height="{size - 1}" '
                f'fill-opacity="{shade:.2f}"><title>{members[i]} and {members[j]}: {number(value)}</title></rect>'
            )
    for j, index in enumerate(members):
        place = f"translate({left + j * size + size / 2 + 4:.0f} {10 + size * len(members)}) rotate(-90)"
        inside.append(f'<text transform="{place}" text-anchor="end">{index}</text>')
    side = left + size * len(members) + 8
    rows = [[str(index), *map(number, row)] for index, row in zip(members, matrix, strict=True)]
    what = "share of rows where two members name different classes" if differ else "correlation of two members' errors"
    reach = f"darkest {number(most)}" if differ else "darkest 1, white 0 or less"
    few = f" The first {len(members)} of {len(found['members'])}." if len(found["members"]) > len(members) else ""
    svg = frame("pairwise " + found["compared"], max(side, 300), 4 + size * len(members) + 44, "".join(inside))
    title = "Pairwise disagreement" if differ else "Correlation of errors"
    return Figure(
        title,
        svg,
        head=("member", *map(str, members)),
        rows=rows,
        caption=f"Shade: {what}; {reach}.{few}",
        rest="card.json",
    )
