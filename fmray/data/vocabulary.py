"""Turn token ids back into text, by the vocabulary that `fmray.data.tokenize` has learned.

Every id stands for some bytes, and a text is what the bytes of its ids spell in UTF-8. So what is told of a growing
text never ends within a character.
"""

import codecs
import json
from collections.abc import Sequence

import numpy as np

from fmray.data.tokenize import SPECIAL, UNKNOWN, encode, tokenizer_of
from fmray.errors import SpecError
from fmray.ragged import Ragged
from fmray.records import Json

SPACE = "▁"
"""Stands for a space in pieces of words."""
STRANGE = "\N{REPLACEMENT CHARACTER}"
"""Stands for what the vocabulary lacks, and for bytes that are no character."""


class Vocabulary:
    """Turn text into ids and back.

    Bytes and characters come back as they were normalised: NFKC, and small letters where the step reads them so. Words
    come back with a space between any two, pieces of words with every run of them.

    Args:
        steps: Fitted steps of a model, as `Prepared.steps` holds them.
        column: Of the text; by default the only one of which a step makes tokens.

    Raises:
        SpecError: If no step turns the column into tokens.
    """

    def __init__(self, steps: Sequence[Json], column: str = "") -> None:
        own = [step for step in steps if step["name"] == "tokenize"]
        if column:
            own = [step for step in own if column in step["state"]["columns"]]
        made = [step["state"] for step in own]
        if any(step.get("params", {}).get("pretrained") for step in own):
            raise SpecError("its ids are those of a pretrained tokenizer. Give a model with ids of its own.", "MODEL")
        if len(made) != 1 or (len(made[0]["columns"]) != 1 and not column):
            text = f"{len(made)} steps of the model are tokenize. Give a model with one, of one column"
            raise SpecError(f"{text}.", "MODEL")
        self.column: str = column or made[0]["columns"][0]
        self._tokenizer: str = made[0]["tokenizer"]
        told = json.loads(self._tokenizer)
        self._kind: str = told["pre_tokenizer"]["type"]
        vocabulary: dict[str, int] = told["model"]["vocab"]
        self._bytes = [b""] * len(vocabulary)
        for piece, number in vocabulary.items():
            self._bytes[number] = self._bytes_of(piece)

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def silent(self) -> tuple[int, ...]:
        """Ids that stand for no text: padding, and what the vocabulary lacks."""
        return tuple(range(len(SPECIAL)))

    @property
    def unknown(self) -> int:
        """Id of what the vocabulary lacks."""
        return SPECIAL.index(UNKNOWN)

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Give the ids of texts."""
        return encode(list(texts), self._tokenizer)

    def normal(self, text: str) -> str:
        """Give a text as the model would write it: normalised; words have a space between any two."""
        if self._kind == "BertPreTokenizer":
            return self.decode(self.encode([text]).values)
        return str(tokenizer_of(self._tokenizer).normalizer.normalize_str(text))

    def bytes_of(self, number: int) -> bytes:
        """Give what an id stands for."""
        return self._bytes[number]

    @property
    def opens_with_space(self) -> bool:
        """Tell whether the first token of a text stands for a space as well, which the text does not begin with."""
        return self._kind in ("BertPreTokenizer", "Metaspace")

    def decode(self, ids: Sequence[int] | np.ndarray, *, begins: bool = True) -> str:
        """Give the text of some ids.

        Args:
            begins: They are the first of a text; else they go on behind others.
        """
        whole = GrowingText(self, begins=begins)
        for number in ids:
            whole.add(int(number))
        whole.end()
        return whole.text

    def _bytes_of(self, piece: str) -> bytes:
        if piece in SPECIAL:
            return STRANGE.encode() if piece == UNKNOWN else b""
        match self._kind:
            case "ByteLevel":
                return bytes(BYTES[sign] for sign in piece)
            case "Metaspace":
                return piece.replace(SPACE, " ").encode()
            case "BertPreTokenizer":
                return f" {piece}".encode()
        return piece.encode()


class GrowingText:
    """Hold a text to which tokens are added, until a stop occurs in it.

    Args:
        vocabulary: What ids stand for.
        begins: The first token opens the text; else it goes on behind a prompt.
        stops: Texts at whose first occurrence it ends; they are no part of it.
    """

    def __init__(self, vocabulary: Vocabulary, *, begins: bool, stops: Sequence[str] = ()) -> None:
        self.text = ""
        self.is_stopped = False
        self._vocabulary = vocabulary
        self._drops_space = begins and vocabulary.opens_with_space
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def copy(self) -> "GrowingText":
        """Give the same text, to which other tokens are added."""
        made = GrowingText(self._vocabulary, begins=False, stops=self._stops)
        made.text = self.text
        made.is_stopped = self.is_stopped
        made._drops_space = self._drops_space
        made._decoder.setstate(self._decoder.getstate())
        return made

    def add(self, number: int) -> None:
        """Add a token; nothing is added to a text that is stopped."""
        given = self._vocabulary.bytes_of(number)
        if self._drops_space and given:
            self._drops_space = False
            given = given.removeprefix(b" ")
        self._grow(self._decoder.decode(given))

    def end(self) -> None:
        """Add what stands for half a character, if the text ends within one."""
        self._grow(self._decoder.decode(b"", final=True))

    @property
    def settled(self) -> str:
        """Give what of the text no further token takes back: all but what may be the beginning of a stop."""
        if self.is_stopped:
            return self.text
        most = min(max(map(len, self._stops), default=1) - 1, len(self.text))
        for length in range(most, 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stops):
                return self.text[:-length]
        return self.text

    def _grow(self, more: str) -> None:
        if self.is_stopped or not more:
            return
        reach = max(map(len, self._stops), default=0)
        start = max(0, len(self.text) - reach)
        self.text += more
        found = [place for stop in self._stops if (place := self.text.find(stop, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.is_stopped = True


def _bytes_by_sign() -> dict[str, int]:
    """Give the byte that each sign of the byte-level alphabet stands for.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, `bytes_to_unicode`.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _bytes_by_sign()
