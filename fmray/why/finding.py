"""Hold what was found out about a run, and spell quantities for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fmray.failures import AGAIN
from fmray.records import Json
from fmray.store import redact

NEW_NODE = "Bring the node back or add one, and it goes on by itself; or stop it and run it with fewer run.workers"
FREE_CPUS = (
    "Free CPUs for reading: stop other work, add a node, or set fewer run.workers; "
    "or set run.ingest: map where all nodes see the store"
)


@dataclass(frozen=True)
class Finding:
    """Say one thing about a run: why it stands as it does.

    Args:
        kind: In a word or two, for programs: "hang", "full disk", "memory", ...
        cause: In a sentence, for people.
        evidence: (where it is seen, what is seen there).
        fix: What to do.
    """

    kind: str
    cause: str
    evidence: tuple[tuple[str, str], ...]
    fix: str

    def to_json(self) -> Json:
        """Give the record as plain values, without secrets."""
        told = [{"where": where, "text": text} for where, text in self.evidence]
        return redact({"kind": self.kind, "cause": self.cause, "evidence": told, "fix": self.fix})


def then_again(fix: str) -> str:
    """Give what to do, and that the same command then continues."""
    return f"{fix}{' If so, change it,' if fix.endswith('?') else ';'} {AGAIN}"


def spell_seconds(seconds: float) -> str:
    """Spell a duration: 4 s, 3 min, 2 h 10 min."""
    minutes = int(seconds + 30) // 60
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def spell_bytes(count: float) -> str:
    """Spell a number of bytes in its largest unit."""
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    unit, size = next(((unit, size) for unit, size in units if count >= size), ("bytes", 1))
    return f"{count / size:.3g} {unit}"


def spell_needs(needs: Mapping[str, float], count: int = 1) -> str:
    """Spell a bundle of resources: 2 x (1 CPU, 1 GPU)."""
    parts = [
        spell_bytes(value) + f" {name}" if name.endswith("memory") else f"{value:g} {name}"
        for name, value in needs.items()
    ]
    spelled = ", ".join(parts) or "nothing"
    return f"{count} x ({spelled})" if count > 1 else spelled


def shorten(text: str, most: int = 300) -> str:
    """Give a text on one line, cut where it becomes long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def spell_names(names: Sequence[str]) -> str:
    """Join names as in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
