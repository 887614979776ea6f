"""Add up verdicts on programs, several for each prompt, into shares with intervals.

Programs of one prompt are alike, so a prompt counts as one piece; only sums over prompts are held.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fmray.evaluate.intervals import mean_of_shares, wilson
from fmray.evaluate.unit_tests import Verdict
from fmray.records import Interval, Json

DRAWS = (1, 10, 100)
"""The k of pass@k that are usually given."""


def pass_at_k(num: int, hits: int, k: int) -> float:
    """Estimate, without bias, how likely one of k programs passes, from `num` programs of which `hits` do.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1.
    """
    return 1.0 - math.comb(num - hits, k) / math.comb(num, k)


@dataclass
class Shares:
    """Hold sums over prompts.

    Args:
        per_prompt: Programs of each prompt.
        prompts: How many there are.
        total, squared: Sums of a share of each prompt, and of its square, by name: `parses` and `pass@k`.
        reasons: Programs that do not parse or pass, by kind of reason.
    """

    per_prompt: int = 1
    prompts: int = 0
    total: dict[str, float] = field(default_factory=dict)
    squared: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def take(self, verdicts: Sequence[Verdict]) -> None:
        """Add the programs of one prompt."""
        num = len(verdicts)
        self.prompts += 1
        shares = {"parses": sum(verdict.parsed for verdict in verdicts) / num}
        if verdicts[0].passed is not None:
            hits = sum(bool(verdict.passed) for verdict in verdicts)
            shares |= {f"pass@{k}": pass_at_k(num, hits, k) for k in sorted({*DRAWS, num}) if k <= num}
        for name, share in shares.items():
            self._sum(name, share, share * share)
        for verdict in verdicts:
            if verdict.reason:
                self.reasons[verdict.kind] = self.reasons.get(verdict.kind, 0) + 1

    def add(self, other: "Shares") -> None:
        """Add the prompts of another part."""
        self.prompts += other.prompts
        for name, total in other.total.items():
            self._sum(name, total, other.squared[name])
        for kind, number in other.reasons.items():
            self.reasons[kind] = self.reasons.get(kind, 0) + number

    def _sum(self, name: str, total: float, squared: float) -> None:
        self.total[name] = self.total.get(name, 0.0) + total
        self.squared[name] = self.squared.get(name, 0.0) + squared

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Give the shares: Wilson's interval where a prompt has one program, else by prompt."""
        return {name: self._interval(name, level) for name in self.total}

    def _interval(self, name: str, level: float) -> Interval:
        if self.per_prompt > 1:
            return mean_of_shares(self.total[name], self.squared[name], self.prompts, level)
        low, high = wilson(self.total[name], self.prompts, level)
        return Interval(self.total[name] / self.prompts, low, high=high, n=self.prompts, method="wilson")

    def most_reasons(self, num: int = 5) -> Json:
        """Give the most frequent reasons, the first first."""
        return dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))[:num])
