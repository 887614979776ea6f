"""Keep generated texts within a set: a tree of their tokens says which tokens may come next."""

from collections.abc import Sequence

from fmray.data.vocabulary import Vocabulary
from fmray.errors import SpecError

WHERE = "allowed"


class Allowed:
    """Hold the texts that may be generated, as a tree of token ids.

    A text ends with its last token. A model has no token for the end of a text, so none may begin as another one is.

    Args:
        texts: All of them.
        vocabulary: By which each is cut into tokens, on its own.

    Raises:
        SpecError: If a text has no tokens or an unknown one, or is the beginning of another.
    """

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary) -> None:
        self.texts = tuple(texts)
        self.depth = 0
        self._next: list[dict[int, int]] = [{}]
        self._text: dict[int, int] = {}
        ids = vocabulary.encode(self.texts)
        for number, text in enumerate(self.texts):
            own = ids[slice(number, number + 1)].compact().values.tolist()
            if not own:
                raise SpecError(f"{text!r} has no tokens. Leave it out.", WHERE)
            if not set(own).isdisjoint(vocabulary.silent):
                raise SpecError(f"{text!r} holds what the model's vocabulary lacks. Leave it out.", WHERE)
            self._add(own, number)

    def next(self, node: int) -> list[int]:
        """Give the ids that may come next, ascending."""
        return sorted(self._next[node])

    def step(self, node: int, token: int) -> int:
        """Give the node behind a token."""
        return self._next[node][token]

    def text(self, node: int) -> str | None:
        """Give the text that ends here; None where none does."""
        return self.texts[self._text[node]] if node in self._text else None

    def _add(self, ids: Sequence[int], number: int) -> None:
        node = 0
        for token in ids:
            self._refuse_prefix(node, number)
            if token not in self._next[node]:
                self._next[node][token] = len(self._next)
                self._next.append({})
            node = self._next[node][token]
        self._refuse_prefix(node, number)
        if self._next[node]:
            longer = next(self.texts[other] for end, other in self._text.items() if self._leads(node, end))
            raise SpecError(_beginning(self.texts[number], longer), WHERE)
        self._text[node] = number
        self.depth = max(self.depth, len(ids))

    def _refuse_prefix(self, node: int, number: int) -> None:
        if node in self._text:
            raise SpecError(_beginning(self.texts[self._text[node]], self.texts[number]), WHERE)

    def _leads(self, node: int, end: int) -> bool:
        left = [node]
        while left:
            here = left.pop()
            if here == end:
                return True
            left += self._next[here].values()
        return False


def _beginning(short: str, long: str) -> str:
    if short == long:
        return f"{short!r} stands there twice. Leave one out."
    text = f"{long!r} begins with the tokens of {short!r}, and a model cannot tell where a text ends"
    return f"{text}. End both by a sign that they do not hold, such as a line break."
