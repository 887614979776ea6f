"""Say how texts are generated, and what a generated text is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fmray.errors import SpecError
from fmray.records import Json

Beyond = Literal["slide", "stop"]
Ended = Literal["length", "stop", "context", "allowed"]
WHERE = "generate"


@dataclass(frozen=True)
class Generation:
    """Say how texts are generated; the rules, in their order, are those of transformers' `generate`.

    Args:
        max_new_tokens: Of a text, at most.
        temperature: Scores are divided by it before a token is drawn; 0 takes the most likely token. By default 1,
            and 0 with beams.
        top_k: Tokens that are drawn from, the most likely; 0 for all.
        top_p: Tokens that are drawn from: the fewest that have this probability together.
        repetition_penalty: Scores of tokens that the prompt or the text holds are divided by it, or multiplied where
            they are below 0; above 1 they become less likely.
        beams: Texts that are followed side by side; the one with the best score wins.
        length_penalty: The score of a beam is ln of its probability over its tokens to this power; above 0, longer
            texts are preferred.
        stop: Texts at whose first occurrence a text ends; they are no part of it.
        stop_tokens: Ids that end a text; they are no part of it.
        allowed: Texts of which one is generated; none for any text.
        beyond: What happens to a text that fills the model's context: its beginning is no longer read, or it ends.
        seed: Of the draws.
        num: Texts for each prompt.

    Raises:
        SpecError: If values do not fit.
    """

    max_new_tokens: int = 200
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    allowed: tuple[str, ...] = ()
    beyond: Beyond = "slide"
    seed: int = 0
    num: int = 1

    def __post_init__(self) -> None:
        for name in ("stop", "stop_tokens", "allowed"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, least in (("max_new_tokens", 1), ("top_k", 0), ("beams", 1), ("num", 1)):
            if getattr(self, name) < least:
                raise SpecError(f"{getattr(self, name)}. Give {least} or more.", f"{WHERE}.{name}")
        if not 0 < self.top_p <= 1:
            raise SpecError(f"{self.top_p}. Give a number above 0, at most 1.", f"{WHERE}.top_p")
        if not self.repetition_penalty > 0:
            raise SpecError(f"{self.repetition_penalty}. Give a number above 0.", f"{WHERE}.repetition_penalty")
        if not np.isfinite(self.length_penalty):
            raise SpecError(f"{self.length_penalty}. Give a finite number.", f"{WHERE}.length_penalty")
        if self.temperature is not None and not 0 <= self.temperature < np.inf:
            raise SpecError(f"{self.temperature}. Give 0 or more.", f"{WHERE}.temperature")
        if "" in self.stop:
            raise SpecError("a stop is empty. Give text.", f"{WHERE}.stop")
        if self.beyond not in ("slide", "stop"):
            raise SpecError(f"{self.beyond!r}. Give slide or stop.", f"{WHERE}.beyond")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse what would have no effect."""
        drawing = [name for name, none in (("top_k", 0), ("top_p", 1)) if getattr(self, name) != none]
        if self.beams > 1 and (self.temperature or drawing):
            name = drawing[0] if drawing else "temperature"
            raise SpecError("beams draw nothing. Leave it out, or beams.", f"{WHERE}.{name}")
        if not self.draws and self.seed != 0:
            raise SpecError("nothing is drawn. Leave it out, or beams, or temperature 0.", f"{WHERE}.seed")
        if self.allowed and self.beams > 1 and self.num > len(self.allowed):
            raise SpecError(f"{self.num} of {len(self.allowed)} allowed texts. Give fewer.", f"{WHERE}.num")
        if self.beams == 1 and self.length_penalty != 1:
            raise SpecError("one text is followed, and none compared. Give beams.", f"{WHERE}.length_penalty")
        if self.beams == 1 and self.temperature == 0:
            if drawing:
                raise SpecError("temperature 0 draws nothing. Leave it out.", f"{WHERE}.{drawing[0]}")
            if self.num > 1:
                raise SpecError(f"{self.num} texts would all be equal. Give a temperature.", f"{WHERE}.num")
        if 1 < self.beams < self.num:
            raise SpecError(f"{self.num} of {self.beams} beams. Give more beams.", f"{WHERE}.num")
        for name in ("stop", "stop_tokens"):
            if self.allowed and getattr(self, name):
                raise SpecError("allowed texts end where they end. Leave it out.", f"{WHERE}.{name}")

    @property
    def draws(self) -> bool:
        """Tell whether tokens are drawn; else the most likely ones are taken."""
        return self.beams == 1 and self.temperature != 0

    def to_json(self) -> Json:
        """Give the settings as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Generation":
        """Read what `to_json` gave."""
        return cls(**told)


@dataclass(frozen=True)
class Generated:
    """Hold a generated text.

    Args:
        text: Without the prompt and without what stopped it.
        ids: Its tokens, and those of what stopped it.
        log_probability: Sum of ln of the probability that the model gives to each of these tokens, whatever rules
            chose it.
        ended: Why: "length", "stop", "context" (it is full) or "allowed" (an allowed text is complete).
        score: Of the beam; as `log_probability` without beams.
    """

    text: str
    ids: tuple[int, ...]
    log_probability: float
    ended: Ended
    score: float


@dataclass
class Remarks:
    """Count what a person should know of prompts and texts.

    Args:
        prompts, texts, tokens: How many there are.
        cut: Prompts whose beginning is not read, as the context is full.
        slid: Texts that went on beyond the context, so that their beginning was no longer read.
        unknown: Prompts that hold what the vocabulary lacks.
        ended: Texts by why they ended.
        context: Tokens that the model sees.
    """

    prompts: int = 0
    texts: int = 0
    tokens: int = 0
    cut: int = 0
    slid: int = 0
    unknown: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    context: int = 0

    def add(self, other: "Remarks") -> None:
        """Add up."""
        for name in ("prompts", "texts", "tokens", "cut", "slid", "unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for why, number in other.ended.items():
            self.ended[why] = self.ended.get(why, 0) + number
        self.context = max(self.context, other.context)

    def lines(self) -> list[str]:
        """Say it in words."""
        why = ", ".join(f"{number:,} by {name}" for name, number in sorted(self.ended.items()))
        made = f"{_counted(self.texts, 'text')} of {_counted(self.tokens, 'token')}"
        told = [f"{made} for {_counted(self.prompts, 'prompt')}; ended: {why or 'none'}"]
        if self.cut:
            text = f"{self.cut:,} of {self.prompts:,} prompts are longer than the context of {self.context} tokens"
            told.append(f"{text}: their beginning is not read")
        if self.slid:
            text = f"{self.slid:,} of {self.texts:,} texts go on beyond the context of {self.context} tokens"
            told.append(f"{text}: each time it is full, its older half is no longer read (beyond: slide)")
        if self.unknown:
            told.append(f"{self.unknown:,} of {self.prompts:,} prompts hold what the model's vocabulary lacks")
        return told


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


COLUMNS: dict[str, pa.DataType] = {
    "sample": pa.int32(),
    "text": pa.string(),
    "tokens": pa.int32(),
    "log_probability": pa.float64(),
    "ended": pa.string(),
}
"""Of a table of generated texts, behind what tells their prompts apart."""


def columns_of(texts: Sequence[Sequence[Generated | None]]) -> dict[str, pa.Array]:
    """Lay generated texts out as columns, prompt by prompt; nulls stand for those that are missing."""
    flat = [pair for own in texts for pair in enumerate(own)]
    values = {
        "sample": [number for number, _ in flat],
        "text": [one and one.text for _, one in flat],
        "tokens": [one and len(one.ids) for _, one in flat],
        "log_probability": [one and one.log_probability for _, one in flat],
        "ended": [one and one.ended for _, one in flat],
    }
    return {name: pa.array(values[name], kind) for name, kind in COLUMNS.items()}
