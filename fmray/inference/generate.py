"""Let a model go on with texts, or generate them from others: greedily, by draws or by beams, in a set if asked.

A token is drawn by a number that depends on the seed, the prompt's key and the number of the token, and networks
compute in float64; so neither the size of a batch nor who generates beside it changes a text.
Shape legend: n texts, V ids.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fmray.data.vocabulary import GrowingText, Vocabulary
from fmray.inference import beams, choose
from fmray.inference.generation import Generated, Generation, Remarks
from fmray.inference.texts import Rules, Text
from fmray.seeding import derive
from fmray.train.next_tokens import NextTokens, Reading, SourceTokens

BATCH_TEXTS = 64
Key = int | str
Tell = Callable[[int, int, str], None]
"""Takes a prompt's place, the number of its text, and what of it is settled, each time that grows."""


class Generator:
    """Go on with prompts, or generate texts from others.

    Args:
        source: Scores of the next token.
        vocabulary: Of the model.
        asked: How texts are generated.

    Raises:
        SpecError: If what is asked does not fit the model.
    """

    def __init__(self, source: NextTokens | SourceTokens, vocabulary: Vocabulary, asked: Generation) -> None:
        self.source = source
        self.rules = Rules(asked, vocabulary)
        self.asked = asked
        self.notes = [*source.notes, *self.rules.notes]

    def __call__(
        self, prompts: Sequence[str], keys: Sequence[Key], tell: Tell | None = None, batch_texts: int = BATCH_TEXTS
    ) -> tuple[list[list[Generated]], Remarks]:
        """Give the texts of each prompt, and what a person should know of them.

        Args:
            keys: What draws of each prompt depend on, beside the seed; equal prompts of equal keys have equal texts.
            tell: Takes texts as they grow; of beams, nothing.
            batch_texts: Texts that grow side by side; it changes none of them.
        """
        encoded = self.rules.vocabulary.encode(prompts)
        ids = [encoded[slice(row, row + 1)].compact().values.astype(np.int64) for row in range(len(prompts))]
        remarks = Remarks(prompts=len(prompts), context=self.source.context)
        remarks.unknown = sum(self.rules.vocabulary.unknown in own for own in ids)
        remarks.cut = sum(len(own) + 1 > self.source.context for own in ids)  # the mark of the beginning is read too
        return self._generated(ids, ids, keys, remarks, tell=tell, batch_texts=batch_texts), remarks

    def from_sources(
        self, sources: Sequence[np.ndarray], keys: Sequence[Key], batch_texts: int = BATCH_TEXTS
    ) -> tuple[list[list[Generated]], Remarks]:
        """Give the texts that are generated from each source, by its ids, one at least."""
        remarks = Remarks(prompts=len(sources), context=self.source.context)
        nothing = [np.zeros(0, np.int64)] * len(sources)
        return self._generated(sources, nothing, keys, remarks, tell=None, batch_texts=batch_texts), remarks

    def _generated(
        self,
        begun: Sequence[np.ndarray],
        prompts: Sequence[np.ndarray],
        keys: Sequence[Key],
        remarks: Remarks,
        *,
        tell: Tell | None,
        batch_texts: int,
    ) -> list[list[Generated]]:
        """Give the texts of each prompt.

        Args:
            begun: What the model reads before the first token of each text: the prompt, or a source.
        """
        made: list[list[Generated]] = [[] for _ in begun]
        order = np.argsort([len(own) for own in begun], kind="stable").tolist()  # those of like length go together
        if self.asked.beams > 1:
            step = max(1, batch_texts // self.asked.beams)
            for some in (order[start : start + step] for start in range(0, len(order), step)):
                reading = self.source.begin([begun[row] for row in some])
                texts = [self._text(prompts[row]) for row in some]
                for row, own in zip(some, beams.search(reading, texts, rules=self.rules, remarks=remarks), strict=True):
                    made[row] = own
        else:
            wanted = [(row, number) for row in order for number in range(self.asked.num)]
            for pairs in (wanted[start : start + batch_texts] for start in range(0, len(wanted), batch_texts)):
                rows, parents = np.unique([row for row, _ in pairs], return_inverse=True)
                reading = self.source.begin([begun[row] for row in rows.tolist()])  # is read once for all of its texts
                seeds = [derive(self.asked.seed, "generate", keys[row], number) for row, number in pairs]
                texts = [
                    self._text(prompts[row], np.random.Philox(key=seed))
                    for (row, _), seed in zip(pairs, seeds, strict=True)
                ]
                self._follow(texts, reading, parents, remarks, tell=_telling(tell, pairs))
                for (row, _), text in zip(pairs, texts, strict=True):
                    made[row].append(text.finished(self.rules))
        for one in (one for own in made for one in own):
            remarks.texts += 1
            remarks.tokens += len(one.ids)
            remarks.ended[one.ended] = remarks.ended.get(one.ended, 0) + 1
        return made

    def _text(self, prompt: np.ndarray, numbers: np.random.Philox | None = None) -> Text:
        """Give a text without tokens behind a prompt."""
        grown = GrowingText(self.rules.vocabulary, begins=not len(prompt), stops=self.rules.stops)
        return Text(prompt, grown, numbers)

    def _follow(
        self,
        texts: Sequence[Text],
        reading: Reading,
        parents: np.ndarray,
        remarks: Remarks,
        *,
        tell: Callable[[int, str], None] | None,
    ) -> None:
        """Follow texts token by token until all have ended.

        Args:
            parents: What of that which is read each text goes on (n,).
            tell: Takes a text's place and what of it is settled.
        """
        began_cut = reading.is_cut[parents]
        slid = np.zeros(len(texts), bool)
        live = np.arange(len(texts))
        scores = reading.scores()[parents]
        is_full = reading.is_full[parents]
        while len(live):
            growing = [texts[place] for place in live.tolist()]
            tokens = self.rules.chosen(scores, growing)
            logs = choose.log_softmax(scores)[np.arange(len(tokens)), tokens]
            for text, token, log, full in zip(growing, tokens.tolist(), logs.tolist(), is_full.tolist(), strict=True):
                text.take(token, log, rules=self.rules, is_full=full)
            if tell is not None:
                for place, text in zip(live.tolist(), growing, strict=True):
                    tell(place, text.grown.settled)
            stays = np.array([text.ended is None for text in growing], bool)
            live = live[stays]
            if len(live):
                reading.go_on(parents[stays], tokens[stays])
                slid[live] |= reading.is_cut
                is_full = reading.is_full
                scores = reading.scores()
                parents = np.arange(len(live))
        remarks.slid += int((slid & ~began_cut).sum())


def _telling(tell: Tell | None, pairs: Sequence[tuple[int, int]]) -> Callable[[int, str], None] | None:
    """Name texts by prompt and number where they are told."""
    return None if tell is None else lambda place, settled: tell(*pairs[place], settled)
