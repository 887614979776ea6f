"""Search for the most likely text by beams, as transformers' `generate` does with `early_stopping=False`.

Shape legend: b beams of a prompt, V ids.
"""

from collections.abc import Sequence

import numpy as np

from fmray.inference import choose
from fmray.inference.generation import Generated, Remarks
from fmray.inference.texts import Rules, Text
from fmray.train.next_tokens import Reading


class Search:
    """Hold the beams of one prompt.

    Args:
        text: The prompt, without a token.
        rules: What scores become.

    Attributes:
        running: Texts that go on, the best first, at most so many as there are beams.
        done: Texts that ended and their scores, the best first.
    """

    def __init__(self, text: Text, rules: Rules) -> None:
        self.running = [text]
        self.done: list[tuple[float, Text]] = []
        self.is_over = False
        self._rules = rules
        self._num = rules.asked.beams
        self._most = max(2, 1 + len(rules.asked.stop_tokens)) * self._num

    def step(self, scores: np.ndarray, is_full: Sequence[bool]) -> np.ndarray:
        """Let every beam grow by a token, and keep the best; give the beam that each running one goes on (b,).

        Args:
            scores: Of the model, for each running text (b, V).
            is_full: Which of them fill the context.
        """
        logs = choose.log_softmax(scores)
        made = self._rules.applied(logs, self.running)
        total = made + np.array([text.score for text in self.running])[:, None]
        flat = total.ravel()
        best = np.argsort(-flat, kind="stable")[: self._most]
        parents = []
        running: list[Text] = []
        for rank, place in enumerate(best[np.isfinite(flat[best])].tolist()):
            beam, token = divmod(place, total.shape[1])
            text = self.running[beam].branch(token, float(logs[beam, token]), self._rules, is_full[beam])
            text.score = float(flat[place])
            if text.ended is None:
                if len(running) < self._num:
                    running.append(text)
                    parents.append(beam)
            elif rank < self._num:
                # what ended behind the beams' own places only made room for what runs
                self._keep(text)
        self.running = running
        self.is_over = not running or not self._can_improve()
        return np.array(parents, np.int64)

    def best(self) -> list[Generated]:
        """Give the best texts, so many as are asked for."""
        return [text.finished(self._rules, score) for score, text in self.done[: self._rules.asked.num]]

    def _keep(self, text: Text) -> None:
        score = text.score / len(text.ids) ** self._rules.asked.length_penalty
        self.done = sorted([*self.done, (score, text)], key=lambda pair: -pair[0])[: self._num]

    def _can_improve(self) -> bool:
        """Tell whether the best running text, if it ended now, would be among those that ended."""
        now = self.running[0]
        possible = now.score / len(now.ids) ** self._rules.asked.length_penalty
        return len(self.done) < self._num or possible > self.done[-1][0]


def search(reading: Reading, texts: Sequence[Text], rules: Rules, remarks: Remarks) -> list[list[Generated]]:
    """Give the best texts of each prompt.

    Source: Wu et al., "Google's Neural Machine Translation System", 2016 (length penalty, here without their offset).
    """
    searches = [Search(text, rules) for text in texts]
    live = list(range(len(searches)))
    began_cut = reading.is_cut
    while live:
        scores = reading.scores()
        is_full = reading.is_full.tolist()
        rows: list[int] = []
        start = 0
        for own in (searches[place] for place in live):
            stop = start + len(own.running)
            parents = own.step(scores[start:stop], is_full[start:stop])
            rows += [] if own.is_over else (start + parents).tolist()
            start = stop
        live = [place for place in live if not searches[place].is_over]
        if live:
            tokens = [text.ids[-1] for place in live for text in searches[place].running]
            reading.go_on(np.array(rows, np.int64), np.array(tokens, np.int64))
    context = reading.context
    found = [own.best() for own in searches]
    for text, told, was_cut in zip(texts, found, began_cut.tolist(), strict=True):
        # the mark of the beginning and all tokens but the last are read
        remarks.slid += sum(not was_cut and len(text.prompt) + len(one.ids) > context for one in told)
    return found
