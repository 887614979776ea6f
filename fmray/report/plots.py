"""Draw the figures of a report as inline SVG, each with its numbers as a table.

Colours come from the page, so figures follow light, dark and print; text in them is escaped here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from fmray.records import Interval, Json

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
NUM_TICKS = 5
Point = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """Hold a figure and its numbers.

    Args:
        title: What it shows, one line.
        svg: The picture.
        head, rows: The numbers behind it.
        caption: How to read it.
        rest: Which file of the run has the numbers that a page has no room for.
    """

    title: str
    svg: Markup
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    rest: str = "history.parquet"


def number(value: float | int | None, digits: int = 4) -> str:
    """Spell a number for a person."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "not defined" if value is None or math.isnan(value) else ("∞" if value > 0 else "-∞")
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 10 else f"{value:.{digits}f}"


def spell(found: Interval) -> str:
    """Spell a value with its interval."""
    if math.isnan(found.value):
        return f"not defined ({found.method})"
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


class Axes:
    """Place numbers on the plane of a figure.

    Args:
        x, y: Lowest and highest values shown.
        labels: Of the axes.
        x_ticks: Values and what is written below them, where round numbers would not do.
    """

    def __init__(
        self,
        x: Point,
        y: Point,
        labels: tuple[str, str],
        height: int = HEIGHT,
        x_ticks: Sequence[tuple[float, str]] | None = None,
    ) -> None:
        self.x_ticks = x_ticks
        self.x_range = _widened(x)
        self.y_range = _widened(y)
        self.labels = labels
        self.height = height
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> Point:
        """Give the place of a point, in pixels."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        across = (x - x0) / (x1 - x0)
        up = (y - y0) / (y1 - y0)
        bottom = self.height - BOTTOM
        return LEFT + across * (WIDTH - LEFT - RIGHT), bottom - min(max(up, -0.02), 1.02) * (bottom - TOP)

    def line(self, points: Sequence[Point], style: str, name: str = "") -> None:
        """Draw a line through points; those that are not finite are left out."""
        placed = [self.at(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        title = f"<title>{escape(name)}</title>" if name else ""
        if len(placed) == 1:
            self.parts.append(
                f'<circle class="{style} dot" cx="{placed[0][0]:.1f}" cy="{placed[0][1]:.1f}" r="3">{title}</circle>'
            )
        elif placed:
            self.parts.append(f'<polyline class="{style}" points="{path}">{title}</polyline>')

    def whisker(self, x: float, low: float, high: float, y: float) -> None:
        """Draw a point with its interval, upright."""
        (cx, cy), (_, top), (_, bottom) = self.at(x, y), self.at(x, high), self.at(x, low)
        self.parts.append(f'<line class="whisker" x1="{cx:.1f}" x2="{cx:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        self.parts.append(f'<circle class="mark" cx="{cx:.1f}" cy="{cy:.1f}" r="3.5"/>')

    def bar(self, x0: float, x1: float, y: float, style: str = "bar") -> None:
        """Draw a bar from zero."""
        (left, top), (right, bottom) = self.at(x0, y), self.at(x1, 0)
        self.parts.append(
            f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{max(bottom - top, 0):.1f}"/>'
        )

    def svg(self, title: str) -> Markup:
        """Give the picture."""
        bottom = self.height - BOTTOM
        grid = []
        for value in ticks(*self.y_range):
            y = self.at(self.x_range[0], value)[1]
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            grid.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick(value)}</text>')
        for value, written in self.x_ticks or [(value, tick(value)) for value in ticks(*self.x_range)]:
            x = self.at(value, self.y_range[0])[0]
            grid.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(written)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        names = (
            f'<text x="{middle:.0f}" y="{self.height - 6}" text-anchor="middle">{escape(self.labels[0])}</text>'
            f'<text transform="translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.labels[1])}</text>"
        )
        return frame(title, WIDTH, self.height, "".join([*grid, *self.parts, names]))


def frame(title: str, width: int, height: int, inside: str) -> Markup:
    """Give an SVG picture that scales to its place and says what it is."""
    return Markup(  # every text inside was escaped where it was put in
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )


def ticks(low: float, high: float) -> list[float]:
    """Give round numbers in a range."""
    step = 10 ** math.floor(math.log10((high - low) / NUM_TICKS))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= NUM_TICKS), 10)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def learning_curves(
    metric: str, curves: Sequence[tuple[str, Sequence[Point], bool]], best: Sequence[Point], caption: str = ""
) -> Figure:
    """Draw a metric over epochs for every member; those chosen stand out.

    Args:
        curves: (name, points, is chosen).
        best: Kept epoch and value of those chosen.
        caption: Which members are drawn.
    """
    xs, ys = zip(*[p for _, points, _ in curves for p in points], strict=True)
    axes = Axes((min(xs), max(xs)), core(ys), ("epoch", metric))
    for name, points, is_chosen in sorted(curves, key=lambda c: c[2]):
        axes.line(points, "curve chosen" if is_chosen else "curve", name)
    for point in best:
        if all(map(math.isfinite, point)):
            x, y = axes.at(*point)
            axes.parts.append(
                f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>kept state</title></circle>'
            )
    rows = [[name, number(points[0][1]), number(points[-1][1]), str(int(points[-1][0]))] for name, points, _ in curves]
    return Figure(
        metric,
        axes.svg(f"{metric} per epoch"),
        head=("member", "first epoch", "last epoch", "epochs"),
        rows=rows,
        caption=caption,
    )


def intervals(metric: str, found: Sequence[tuple[str, Interval]], title: str = "", caption: str = "") -> Figure:
    """Draw values with intervals below each other."""
    height = TOP + BOTTOM + 34 * len(found)
    ends = [end for _, i in found for end in (i.low, i.high, i.value) if math.isfinite(end)] or [0.0, 1.0]
    axes = Axes((min(ends), max(ends)), (0, len(found)), (metric, ""), height)
    inside = []
    for place, (name, i) in enumerate(found):
        y = TOP + 34 * place + 20
        inside.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(short(name, 9))}</text>')
        if math.isfinite(i.value):
            low, value, high = (
                axes.at(v, 0)[0]
                for v in (
                    i.low if math.isfinite(i.low) else i.value,
                    i.value,
                    i.high if math.isfinite(i.high) else i.value,
                )
            )
            inside.append(f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
            inside.append(
                f'<circle class="mark" cx="{value:.1f}" cy="{y}" r="4"><title>{escape(spell(i))}</title></circle>'
            )
    for value in ticks(*axes.x_range):
        x = axes.at(value, 0)[0]
        inside.insert(0, f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        inside.append(f'<text x="{x:.1f}" y="{height - BOTTOM + 17}" text-anchor="middle">{tick(value)}</text>')
    inside.append(f'<text x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle">{escape(metric)}</text>')
    title = title or f"{metric} on the test rows"
    rows = [[name, spell(i), number(i.n), i.method] for name, i in found]
    svg = frame(title, WIDTH, height, "".join(inside))
    return Figure(title, svg, head=("", "value and interval", "n", "method"), rows=rows, caption=caption)


def confusion(table: Json) -> Figure:
    """Draw how often each true class was given each predicted class."""
    classes = table["classes"]
    counts = table["counts"]
    size = min(56, max(16, 420 // len(classes)))
    left = 110
    width = left + size * len(classes) + 14
    height = 40 + size * len(classes) + 96
    inside = [f'<text x="{left}" y="14">predicted →, true ↓; shade: share of the true class</text>']
    for i, row in enumerate(counts):
        total = max(sum(row), 1)
        y = 26 + i * size
        inside.append(
            f'<text x="{left - 6}" y="{y + size / 2 + 4:.0f}" text-anchor="end">{escape(short(classes[i], 14))}</text>'
        )
        for j, count in enumerate(row):
            x = left + j * size
            share = count / total
            inside.append(
                f'<rect class="cell" x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" fill-opacity="{share:.3f}">'
                f"<title>{escape(classes[i])} as {escape(classes[j])}: {count}</title></rect>"
            )
            if size >= 28:
                dark = " on-dark" if share > 0.5 else ""
                place = f'x="{x + size / 2:.0f}" y="{y + size / 2 + 4:.0f}" text-anchor="middle"'
                inside.append(f'<text class="count{dark}" {place}>{count}</text>')
    for j, name in enumerate(classes):
        place = f"translate({left + j * size + size / 2:.0f} {34 + size * len(classes)}) rotate(50)"
        inside.append(f'<text transform="{place}">{escape(short(name, 12))}</text>')
    rows = [[name, *(f"{count:,}" for count in row)] for name, row in zip(classes, counts, strict=True)]
    svg = frame("confusion matrix", max(width, 330), height, "".join(inside))
    return Figure("Confusion matrix", svg, head=("true \\ predicted", *classes), rows=rows, caption=table["note"])


def calibration(table: Json) -> Figure:
    """Draw observed against predicted shares."""
    axes = Axes((0, 1), (0, 1), ("predicted probability", "observed share"))
    axes.line([(0, 0), (1, 1)], "guide")
    for b in table["bins"]:
        axes.whisker(b["predicted"], b["low"], b["high"], b["observed"])
    rows = [
        [number(b["predicted"]), number(b["observed"]), f"[{number(b['low'])}, {number(b['high'])}]", number(b["n"])]
        for b in table["bins"]
    ]
    caption = f"Probability of {table['of']}, bins of equal size; on the diagonal, predictions mean what they say."
    return Figure(
        "Calibration",
        axes.svg("calibration"),
        head=("predicted", "observed", "interval", "n"),
        rows=rows,
        caption=caption,
    )


def roc(table: Json) -> Figure:
    """Draw the ROC curve."""
    points = list(zip(table["false_positive_rate"], table["true_positive_rate"], strict=True))
    axes = Axes((0, 1), (0, 1), ("false positive rate", "true positive rate"))
    axes.line([(0, 0), (1, 1)], "guide")
    axes.line(points, "curve chosen")
    few = points[:: max(1, len(points) // 20)]
    return Figure(
        "ROC curve",
        axes.svg("ROC curve"),
        ("false positive rate", "true positive rate"),
        [[number(x), number(y)] for x, y in few],
    )


def residuals(table: Json) -> list[Figure]:
    """Draw the errors, and true values over predictions."""
    edges = table["edges"]
    counts = table["counts"]
    name = table["target"]
    histogram = Axes((edges[0], edges[-1]), (0, max([*counts, 1])), (f"true - predicted {short(name, 30)}", "rows"))
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        histogram.bar(low, high, count)
    rows = [[f"{number(a)} to {number(b)}", number(c)] for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)]
    bins = table["bins"]
    ends = [b[key] for b in bins for key in ("predicted", "q25", "q75")]
    against = Axes(
        (min(b["predicted"] for b in bins), max(b["predicted"] for b in bins)),
        (min(ends), max(ends)),
        ("predicted", "true"),
    )
    against.line([(b["predicted"], b["predicted"]) for b in bins], "guide")
    for b in bins:
        against.whisker(b["predicted"], b["q25"], b["q75"], b["median"])
    quartiles = [
        [number(b["predicted"]), number(b["q25"]), number(b["median"]), number(b["q75"]), number(b["n"])] for b in bins
    ]
    errors = histogram.svg("histogram of errors")
    middle = "Median and middle half of the true values, in bins of equal size; the line is perfection."
    head = ("predicted", "25 %", "median", "75 %", "n")
    return [
        Figure(
            "Errors",
            errors,
            head=("error", "rows"),
            rows=rows,
            caption="The outer 0.5 % at each end are in the last bars.",
        ),
        Figure(
            "True against predicted", against.svg("true against predicted"), head=head, rows=quartiles, caption=middle
        ),
    ]


def _widened(ends: Point) -> Point:
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        return float(low), float(high)
    return low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05


def core(values: Sequence[float]) -> Point:
    """Give a range that shows nearly all values; one that exploded must not flatten the rest."""
    found = sorted(v for v in values if math.isfinite(v))
    if not found:
        return 0.0, 1.0
    low = found[int(0.02 * (len(found) - 1))]
    high = found[math.ceil(0.98 * (len(found) - 1))]
    room = 0.05 * (high - low)
    return max(found[0], low - room), min(found[-1], high + room)


def tick(value: float) -> str:
    """Write a number below or beside an axis."""
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.2g}"


def short(text: str, most: int) -> str:
    """Cut a text that has no room."""
    return text if len(text) <= most else text[: most - 1] + "…"
