"""Ask a language model for the next token of texts that grow, one token at a time.

A model sees a window: the mark of the beginning and all tokens, as in training. Once a window is full, texts go on with
its younger half, or the search ends them; see `Reading`.
Networks compute in float64. In float32 the last bits of an output depend on which texts are computed together, and a
draw at the border of two tokens would depend on the size of a batch.
Shape legend: B texts, N tokens, V ids.
"""

import copy
import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fmray.catalogue import MODELS
from fmray.data.cut import START, block_to_cut, context_of
from fmray.errors import DataError, SpecError
from fmray.models.cache import Cache
from fmray.records import Ensemble, Member, Prepared
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_of
from fmray.train.population import Population
from fmray.train.predict import Predictor

MOST_PAIRS = 1 << 24
"""Pairs of a new token and one before it that are weighed at once, where prompts are read."""
ACCEPTED = "Give a model of task language_model, whose members are networks"


class Network(Protocol):
    """Give outputs at the last token of each text, for the member behind it."""

    def begin(self, num_rows: int) -> "Passage":
        """Begin texts of which nothing has been read."""
        ...


class Passage(Protocol):
    """Hold what a network keeps of some texts."""

    def read(self, rows: Tensor, windows: Sequence[np.ndarray], new: np.ndarray) -> Tensor:
        """Give the outputs behind the last token of some texts (n, V).

        Args:
            rows: Which texts (n,).
            windows: All that the network may see of each of them.
            new: How many tokens of each window were not read before (n,); all of a window, where it begins anew.
        """
        ...

    def take(self, rows: Tensor) -> "Passage":
        """Give what is kept of some texts (n,), in any order, each as often as it is named."""
        ...


class Scores(Protocol):
    """Say what `Reading` asks of a model.

    Attributes:
        context: Tokens that a window holds at most.
        num_ids: V.
        weights: Of each member's probabilities; they sum to 1.
    """

    context: int
    num_ids: int
    weights: list[float]


class NextTokens:
    """Give the next token's scores by an ensemble, averaging the probabilities of its members at every token.

    Args:
        networks: Of the members.
        weights: Of each member's probabilities; they sum to 1.
        context: Tokens that a window holds at most.
        num_ids: V.
        notes: What a person should know of how they compute.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        weights: Sequence[float],
        context: int,
        num_ids: int,
        notes: Sequence[str] = (),
    ) -> None:
        self.context = context
        self.num_ids = num_ids
        self.weights = list(weights)
        self.notes = list(notes)
        self._networks = list(networks)

    @classmethod
    def of(
        cls, predictor: Predictor, members: Sequence[Member], ensemble: Ensemble, prepared: Prepared, task: Ref
    ) -> "NextTokens":
        """Take over the members of a model from what predicts by them.

        Raises:
            SpecError: If the model generates no text.
        """
        refuse_others(predictor, members, ensemble, prepared=prepared, task=task)
        names = [member.model["name"] for member in members]
        own = [name for name in names if not MODELS.is_catalogued(name)]
        networks = [
            network_of(population, block_to_cut(prepared.schema), in_float64=MODELS.is_catalogued(name))
            for population, name in zip(predictor.populations, names, strict=False)  # a soup is one of several
            if isinstance(population, Population)
        ]
        for network, name in zip(networks, names, strict=False):
            if isinstance(network, _Whole) and network.looks_ahead():
                text = f"{name} looks at tokens ahead, and a text that grows has none"
                raise SpecError(f"{text}. Give a model that looks back only.", "MODEL")
        return cls(
            networks,
            [1.0] if len(networks) == 1 else list(map(float, ensemble.weights)),
            context=context_of(task),
            num_ids=codec_of(prepared.target).num_outputs,
            notes=[f"{own[0]} is computed in float32, a text at a time, and anew for each token"] if own else [],
        )

    def begin(self, prompts: Sequence[np.ndarray]) -> "Reading":
        """Begin texts by the ids of their prompts; of a prompt longer than the context the end is read."""
        passages = [network.begin(len(prompts)) for network in self._networks]
        return Reading(self, [np.concatenate([[START], ids]).astype(np.int64) for ids in prompts], passages)


class Reading:
    """Hold texts that grow.

    A window holds at most `context` tokens, the mark of the beginning among them. When one more comes, the older half
    goes, and what is left is read anew as a text that goes on. So a token is foretold from at least half a context.

    Args:
        source: The model.
        inputs: The mark of the beginning and the tokens of each text.
        passages: What each member keeps of them, which is nothing yet.
    """

    def __init__(self, source: "Scores", inputs: list[np.ndarray], passages: Sequence[Passage]) -> None:
        self._source = source
        self._inputs = inputs
        self._starts = [max(0, len(own) - source.context) for own in inputs]
        self._unread = [len(own) - start for own, start in zip(inputs, self._starts, strict=True)]
        self._passages = list(passages)

    def __len__(self) -> int:
        return len(self._inputs)

    @property
    def context(self) -> int:
        """Give the tokens that a window holds at most."""
        return self._source.context

    @property
    def is_cut(self) -> np.ndarray:
        """Tell of which texts the model does not see the beginning any more (B,), bool."""
        return np.array([start > 0 for start in self._starts], bool)

    @property
    def is_full(self) -> np.ndarray:
        """Tell which texts fill the context, so that with one more token their beginning goes (B,), bool."""
        pairs = zip(self._inputs, self._starts, strict=True)
        return np.array([len(own) - start >= self._source.context for own, start in pairs], bool)

    def scores(self) -> np.ndarray:
        """Give scores of the next token of every text (B, V), float64, whose softmax is its distribution.

        Those of one member are its outputs. Those of several are ln of their mean probabilities, to which the mean of
        what their own scores are normalised by is added: so scores of equal members are those of each.

        Raises:
            DataError: If they are no numbers.
        """
        unread = np.array(self._unread)
        found = np.empty((len(self), self._source.num_ids))
        windows = [own[start:] for own, start in zip(self._inputs, self._starts, strict=True)]
        for rows in _groups(unread, max(map(len, windows), default=1)):
            chosen = torch.from_numpy(rows)
            some = [windows[row] for row in rows]
            told = [passage.read(chosen, some, unread[rows]).double() for passage in self._passages]
            found[rows] = _combined(told, self._source.weights).cpu().numpy()
        self._unread = [0] * len(self)
        if np.isnan(found).any() or np.isposinf(found).any():
            raise DataError("the model's outputs are no finite numbers. Give a model that has not diverged.", "MODEL")
        return found

    def go_on(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """Let texts be those of these rows (n,), in this order, each with one more token (n,)."""
        if not np.array_equal(rows, np.arange(len(self))):
            chosen = torch.from_numpy(rows)
            self._passages = [passage.take(chosen) for passage in self._passages]
        context = self._source.context
        inputs = []
        starts = []
        unread = []
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            own = np.append(self._inputs[row], token)
            start = self._starts[row]
            is_over = len(own) - start > context
            inputs.append(own)
            starts.append(len(own) - (context + 1) // 2 if is_over else start)
            unread.append(len(own) - starts[-1] if is_over else self._unread[row] + 1)
        self._inputs = inputs
        self._starts = starts
        self._unread = unread


def _groups(unread: np.ndarray, longest: int) -> list[np.ndarray]:
    """Choose which texts are read together.

    Those of which much is read are apart from those that go on by a token, which would be padded to their length, and
    are so few that memory holds what is weighed at once.
    """
    begun = np.flatnonzero(unread > 1)
    most = max(1, MOST_PAIRS // longest**2)
    groups = [begun[start : start + most] for start in range(0, len(begun), most)]
    going = np.flatnonzero(unread == 1)
    return [*groups, going] if len(going) else groups


def _combined(told: list[Tensor], weights: list[float]) -> Tensor:
    """Combine the outputs of members (B, V); see `Reading.scores`."""
    if len(told) == 1:
        return told[0]
    norms = [output.logsumexp(-1, keepdim=True) for output in told]
    pairs = zip(weights, told, norms, strict=True)
    mean = sum((weight * (output - norm).exp() for weight, output, norm in pairs), torch.zeros_like(told[0]))
    norm = sum((weight * norm for weight, norm in zip(weights, norms, strict=True)), torch.zeros_like(norms[0]))
    return mean.log() + norm


class SourceTokens:
    """Give the next token's scores of texts that are generated from others, by the networks of an ensemble.

    Args:
        modules: Of the members, in float64; each has `encode` and `follow` and names its `source`.
        weights: Of each member's probabilities; they sum to 1.
        num_ids: V.
    """

    context = sys.maxsize
    notes: Sequence[str] = ()

    def __init__(self, modules: Sequence[nn.Module], weights: Sequence[float], num_ids: int) -> None:
        self.num_ids = num_ids
        self.weights = list(weights)
        self._modules = list(modules)

    @classmethod
    def of(cls, predictor: Predictor, ensemble: Ensemble) -> "SourceTokens":
        """Take over the members of a model from what predicts by them.

        Raises:
            SpecError: If one of them generates no text.
        """
        modules = []
        for population in predictor.populations:
            module = population.module if isinstance(population, Population) else None
            if module is None or not (hasattr(module, "encode") and hasattr(module, "follow")):
                name = type(module or population).__name__
                raise SpecError(f"{name} generates no text from another one. Take encoder_decoder.", "model")
            modules.append(copy.deepcopy(module).eval().double())
        weights = [1.0] if len(modules) == 1 else list(map(float, ensemble.weights))
        return cls(modules, weights, predictor.task.num_outputs)

    @property
    def source(self) -> str:
        """Name the block of tokens that texts are generated from."""
        return str(self._modules[0].source)

    def begin(self, sources: Sequence[np.ndarray]) -> Reading:
        """Begin texts, by the ids of what they are generated from."""
        passages: list[Passage] = []
        for module in self._modules:
            ids, lengths = _padded(sources, next(module.parameters()).device)
            with torch.no_grad():
                passages.append(_CachedPassage(module, module.encode(ids, lengths)))  # type: ignore[operator]
        return Reading(self, [np.array([START], np.int64)] * len(sources), passages)


class _Cached:
    """Read with a network that keeps keys and values, a decoder."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def begin(self, num_rows: int) -> "_CachedPassage":
        return _CachedPassage(self.module, self.module.new_cache(num_rows))  # type: ignore[operator]


class _CachedPassage:
    def __init__(self, module: nn.Module, cache: Cache) -> None:
        self._module = module
        self._cache = cache

    def read(self, rows: Tensor, windows: Sequence[np.ndarray], new: np.ndarray) -> Tensor:
        device = self._cache.lengths.device
        chosen = rows.to(device)
        is_new = torch.from_numpy(np.array([len(own) for own in windows]) == new).to(device)
        ids, lengths = _padded([own[len(own) - number :] for own, number in zip(windows, new, strict=True)], device)
        is_whole = len(rows) == len(self._cache.lengths)
        own = self._cache if is_whole else self._cache.take(chosen)
        own.lengths = own.lengths.masked_fill(is_new, 0)
        with torch.no_grad():
            outputs: Tensor = self._module.follow(ids, lengths, own)  # type: ignore[operator]
        if not is_whole:
            self._cache.put(chosen, own)
        return outputs

    def take(self, rows: Tensor) -> "_CachedPassage":
        return _CachedPassage(self._module, self._cache.take(rows.to(self._cache.lengths.device)))


class _Whole:
    """Read with any network of tokens: each window is computed anew.

    Args:
        one_by_one: Compute a text at a time, unpadded, where the network computes in float32.
    """

    def __init__(self, module: nn.Module, block: str, device: torch.device, one_by_one: bool) -> None:
        self.module = module
        self._block = block
        self._device = device
        self._one_by_one = one_by_one

    def begin(self, num_rows: int) -> "_Whole":
        return self  # it keeps nothing

    def read(self, rows: Tensor, windows: Sequence[np.ndarray], new: np.ndarray) -> Tensor:
        groups = [[own] for own in windows] if self._one_by_one else [list(windows)]
        with torch.no_grad():
            return torch.cat([self._outputs(group) for group in groups])

    def _outputs(self, windows: list[np.ndarray]) -> Tensor:
        ids, lengths = _padded(windows, self._device)
        outputs: Tensor = self.module(**{self._block: ids, f"{self._block}_lengths": lengths})
        return outputs[torch.arange(len(ids), device=self._device), lengths - 1]

    def take(self, rows: Tensor) -> "_Whole":
        return self

    def looks_ahead(self) -> bool:
        """Tell whether an output depends on tokens behind its place, by two texts that begin alike."""
        texts = [torch.tensor([[START, 1, 1, *end]], device=self._device) for end in ((1, 1, 1), (0, 0, 0))]
        lengths = torch.tensor([6], device=self._device)
        with torch.no_grad():
            one, other = (self.module(**{self._block: ids, f"{self._block}_lengths": lengths}) for ids in texts)
        return not torch.allclose(one[:, :3], other[:, :3], rtol=1e-4, atol=1e-5)


def _padded(rows: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lay rows of ids side by side, (B, N) and their lengths (B,)."""
    lengths = np.array([len(own) for own in rows])
    ids = np.full((len(rows), lengths.max()), START, np.int64)
    for place, own in enumerate(rows):
        ids[place, : len(own)] = own
    return torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)


def network_of(population: Population, block: str, in_float64: bool) -> Network:
    """Give the network of a member alone, in a copy.

    Args:
        block: Its input, ids of tokens.
        in_float64: Whether the module can compute in float64; one that cannot reads a text at a time.
    """
    module = copy.deepcopy(population.module).eval()
    if in_float64:
        module = module.double()
        if hasattr(module, "follow") and hasattr(module, "new_cache"):
            return _Cached(module)
    return _Whole(module, block, device=population.flat.device, one_by_one=not in_float64)


def refuse_others(
    predictor: Predictor, members: Sequence[Member], ensemble: Ensemble, prepared: Prepared, task: Ref
) -> None:
    """Refuse a model that generates no text, by name."""
    if codec_of(prepared.target).generates:
        text = f"a model of task {task.name} goes on with no prompt: it generates the text of rows"
        raise SpecError(f"{text}. Take fmray predict, which does so as task.{task.name} says.", "MODEL")
    if not context_of(task) or codec_of(prepared.target).hides:
        raise SpecError(f"a model of task {task.name} generates no text. {ACCEPTED}.", "MODEL")
    if len({prepared.for_member(member).fingerprint for member in members}) > 1:
        text = "its members have vocabularies of their own, and their probabilities cannot be averaged token by token"
        raise SpecError(f"{text}. Train it without strict folds.", "MODEL")
    for population, member in zip(predictor.populations, members, strict=False):
        name = member.model["name"]
        if not isinstance(population, Population):
            raise SpecError(f"{name} generates no text. {ACCEPTED}.", "MODEL")
        block = block_to_cut(prepared.schema)
        others = sorted(population.takes - {block, f"{block}_lengths"})
        if others:
            text = f"{name} reads {', '.join(others)} beside {block}, and a prompt has none"
            raise SpecError(f"{text}. Give a model that reads the text alone.", "MODEL")
    if ensemble.combine not in ("mean", "soup"):
        text = f"'{ensemble.name}' combines members by {ensemble.combine}"
        raise SpecError(f"{text}. Give an ensemble that averages their probabilities.", "MODEL")
