"""Hold texts that grow token by token, and the rules by which their tokens are chosen.

Shape legend: n texts, V ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fmray.data.vocabulary import GrowingText, Vocabulary
from fmray.errors import SpecError
from fmray.inference import choose
from fmray.inference.allowed import Allowed
from fmray.inference.generation import WHERE, Ended, Generated, Generation


class Rules:
    """Turn scores of a model into scores that a token is chosen by; see `Generation`.

    Args:
        asked: How texts are generated.
        vocabulary: Of the model.

    Raises:
        SpecError: If allowed texts cannot be told apart or are longer than the texts asked for.
    """

    def __init__(self, asked: Generation, vocabulary: Vocabulary) -> None:
        self.asked = asked
        self.vocabulary = vocabulary
        self.stops = tuple(map(vocabulary.normal, asked.stop))
        self.notes = [
            f"the model reads {stop!r} as {read!r}: texts end there"
            for stop, read in zip(asked.stop, self.stops, strict=True)
            if stop != read
        ]
        unknown = [stop for stop in asked.stop if vocabulary.unknown in vocabulary.encode([stop]).values]
        if unknown:
            raise SpecError(f"{unknown[0]!r} holds what the model's vocabulary lacks. Leave it out.", f"{WHERE}.stop")
        if "" in self.stops:
            raise SpecError("the model reads a stop as no text. Leave it out.", f"{WHERE}.stop")
        wrong = [number for number in asked.stop_tokens if not 0 <= number < len(vocabulary)]
        if wrong:
            raise SpecError(f"{wrong[0]}. Give ids below {len(vocabulary):,}.", f"{WHERE}.stop_tokens")
        self.silent = [number for number in vocabulary.silent if number not in asked.stop_tokens]
        self.allowed = Allowed(asked.allowed, vocabulary) if asked.allowed else None
        if self.allowed is not None and self.allowed.depth > asked.max_new_tokens:
            text = f"an allowed text has {self.allowed.depth} tokens, and {asked.max_new_tokens} are generated"
            raise SpecError(f"{text}. Give more.", f"{WHERE}.max_new_tokens")

    def applied(self, scores: np.ndarray, texts: "Sequence[Text]") -> np.ndarray:
        """Apply all but what concerns draws, to a row of scores for each text (n, V)."""
        made = scores
        if self.asked.repetition_penalty != 1:
            made = choose.penalised(made, [text.seen for text in texts], self.asked.repetition_penalty)
        if self.allowed is not None:
            made = choose.only(made, [self.allowed.next(text.node) for text in texts])
        return choose.without(made, self.silent)

    def chosen(self, scores: np.ndarray, texts: "Sequence[Text]") -> np.ndarray:
        """Choose the next token of each text (n,)."""
        made = self.applied(scores, texts)
        if not self.asked.draws:
            return np.asarray(made.argmax(-1))
        temperature = 1.0 if self.asked.temperature is None else self.asked.temperature
        with np.errstate(over="ignore"):  # what is that unlikely is never drawn
            made = (made - made.max(-1, keepdims=True)) / temperature
        made = choose.top_p(choose.top_k(made, self.asked.top_k), self.asked.top_p)
        return choose.drawn(made, np.array([text.uniform() for text in texts]))


@dataclass
class Text:
    """Hold a text that grows.

    Args:
        prompt: Ids before it (N,).
        grown: What its tokens say.
        numbers: Draws numbers, one per token.
        ids, log_probability: Of its tokens so far.
        node: Where it stands in the tree of allowed texts.
        ended: Why it ended; None while it goes on.
        score: As a beam.
    """

    prompt: np.ndarray
    grown: GrowingText
    numbers: np.random.Philox | None = None
    ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    node: int = 0
    ended: Ended | None = None
    score: float = 0.0

    @property
    def seen(self) -> np.ndarray:
        """Ids of the prompt and of the text."""
        return np.concatenate([self.prompt, np.array(self.ids, np.int64)])

    def uniform(self) -> float:
        """Give the number, in [0, 1), that the next token is drawn by; called once for each."""
        if self.numbers is None:
            return 0.0
        return float(int(self.numbers.random_raw()) >> 11) * 2.0**-53

    def branch(self, token: int, log_probability: float, rules: Rules, is_full: bool) -> "Text":
        """Give this text with one more token, as another one."""
        made = Text(
            self.prompt,
            self.grown.copy(),
            self.numbers,
            ids=list(self.ids),
            log_probability=self.log_probability,
            node=self.node,
        )
        made.take(token, log_probability, rules=rules, is_full=is_full)
        return made

    def take(self, token: int, log_probability: float, rules: Rules, is_full: bool) -> None:
        """Add a token, and see whether the text ends with it.

        Args:
            is_full: The context is full, so that with one more token its beginning is no longer read.
        """
        self.ids.append(token)
        self.log_probability += log_probability
        if token in rules.asked.stop_tokens:
            self.ended = "stop"
            return
        self.grown.add(token)
        if rules.allowed is not None:
            self.node = rules.allowed.step(self.node, token)
        if self.grown.is_stopped:
            self.ended = "stop"
        elif rules.allowed is not None and rules.allowed.text(self.node) is not None:
            self.ended = "allowed"
        elif len(self.ids) >= rules.asked.max_new_tokens:
            self.ended = "length"
        elif is_full and rules.asked.beyond == "stop":
            self.ended = "context"

    def finished(self, rules: Rules, score: float | None = None) -> Generated:
        """Give the text as it ended."""
        self.grown.end()
        whole = None if rules.allowed is None else rules.allowed.text(self.node)
        return Generated(
            text=self.grown.text if whole is None else whole,
            ids=tuple(self.ids),
            log_probability=self.log_probability,
            ended=self.ended or "length",
            score=self.log_probability if score is None else score,
        )
