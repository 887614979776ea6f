"""Let a language model go on with texts: greedily, by draws or by beams, within a set of texts if asked.

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
from fmray.train.next_tokens import NextTokens, Reading

BATCH_PROMPTS = 32
Key = int | str
Tell = Callable[[int, int, str], None]
"""Takes a prompt's place, the number of its text, and what of it is settled, each time that grows."""


class Generator:
    """Go on with prompts.

    Args:
        source: Scores of the next token.
        vocabulary: Of the model.
        asked: How texts are generated.

    Raises:
        SpecError: If what is asked does not fit the model.
    """

    def __init__(self, source: NextTokens, vocabulary: Vocabulary, asked: Generation) -> None:
        self.source = source
        self.rules = Rules(asked, vocabulary)
        self.asked = asked
        self.notes = [*source.notes, *self.rules.notes]

    def __call__(
        self, prompts: Sequence[str], keys: Sequence[Key], tell: Tell | None = None, batch_prompts: int = BATCH_PROMPTS
    ) -> tuple[list[list[Generated]], Remarks]:
        """Give the texts of each prompt, and what a person should know of them.

        Args:
            keys: What draws of each prompt depend on, beside the seed; equal prompts of equal keys have equal texts.
            tell: Takes texts as they grow; of beams, nothing.
            batch_prompts: Prompts that are gone on with together; it changes no text.
        """
        encoded = self.rules.vocabulary.encode(prompts)
        ids = [encoded[slice(row, row + 1)].compact().values.astype(np.int64) for row in range(len(prompts))]
        remarks = Remarks(prompts=len(prompts), context=self.source.context)
        remarks.unknown = sum(self.rules.vocabulary.unknown in own for own in ids)
        made: list[list[Generated]] = [[] for _ in prompts]
        order = np.argsort([len(own) for own in ids], kind="stable")  # texts of like length are read together
        for start in range(0, len(order), batch_prompts):
            some = order[start : start + batch_prompts].tolist()
            reading = self.source.begin([ids[row] for row in some])
            remarks.cut += int(reading.is_cut.sum())
            texts = [
                Text(ids[row], GrowingText(self.rules.vocabulary, begins=not len(ids[row]), stops=self.rules.stops))
                for row in some
            ]
            if self.asked.beams > 1:
                found = beams.search(reading, texts, rules=self.rules, remarks=remarks)
            else:
                found = self._followed(reading, texts, [(row, keys[row]) for row in some], remarks, tell)
            for row, own in zip(some, found, strict=True):
                made[row] = own
        for one in (one for own in made for one in own):
            remarks.texts += 1
            remarks.tokens += len(one.ids)
            remarks.ended[one.ended] = remarks.ended.get(one.ended, 0) + 1
        return made, remarks

    def _followed(
        self,
        reading: Reading,
        prompts: Sequence[Text],
        named: Sequence[tuple[int, Key]],
        remarks: Remarks,
        tell: Tell | None,
    ) -> list[list[Generated]]:
        """Follow texts token by token, so many of each prompt, until all have ended."""
        num = self.asked.num
        origin = np.repeat(np.arange(len(prompts)), num)
        texts = [
            Text(
                prompts[place].prompt,
                prompts[place].grown.copy(),
                np.random.Philox(key=derive(self.asked.seed, "generate", named[place][1], number)),
            )
            for place in range(len(prompts))
            for number in range(num)
        ]
        live = np.arange(len(texts))
        began_cut = reading.is_cut[origin]
        slid = np.zeros(len(texts), bool)
        scores = reading.scores()[origin]  # a prompt is read once for all of its texts
        is_full = reading.is_full[origin]
        parents = origin
        while len(live):
            growing = [texts[place] for place in live]
            tokens = self.rules.chosen(scores, growing)
            logs = choose.log_softmax(scores)[np.arange(len(tokens)), tokens]
            for text, token, log, full in zip(growing, tokens.tolist(), logs.tolist(), is_full.tolist(), strict=True):
                text.take(token, log, rules=self.rules, is_full=full)
            if tell is not None:
                for place, text in zip(live.tolist(), growing, strict=True):
                    tell(named[origin[place]][0], place % num, text.grown.settled)
            stays = np.array([text.ended is None for text in growing], bool)
            live = live[stays]
            if len(live):
                reading.go_on(parents[stays], tokens[stays])
                slid[live] |= reading.is_cut
                is_full = reading.is_full
                scores = reading.scores()
                parents = np.arange(len(live))
        remarks.slid += int((slid & ~began_cut).sum())
        made = [text.finished(self.rules) for text in texts]
        return [made[start : start + num] for start in range(0, len(made), num)]
