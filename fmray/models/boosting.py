"""Boost trees by LightGBM, so that a training can be left after any round and continued to the same bits.

LightGBM's generators of rows and columns are reset before every round to seeds that follow from the round's number: a
resumed training, whose generators are new, would otherwise draw what the first rounds drew.
Shape legend: N rows, D inputs, O outputs.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fmray.errors import DataError, SpecError
from fmray.failures import PEER_LOST
from fmray.models.estimator import Table
from fmray.seeding import derive
from fmray.spec.components import models as declared

SEED_BITS = 0x7FFFFFFF
END = "end of trees\n"
CURE = "Copy the folder again, or have the model made again."
PER_NODE = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
"""What the text of a tree says of each inner node, and prediction reads."""


class LightGBM:
    """Predict by gradient-boosted trees.

    Args:
        params: As the job gives them.
        objective: As a task gives it: {"loss": "cross_entropy", "classes": C}, {"loss": "mse"} or {"loss": "huber",
            "delta": d}.
        seed: Of what is drawn.

    Raises:
        SpecError: If LightGBM is not installed, or does not minimise this loss.

    Source: Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.
    """

    artefact: ClassVar[str] = "lightgbm"

    def __init__(self, params: declared.Lightgbm, objective: Mapping[str, Any], seed: int) -> None:
        self._lightgbm = _library()
        self.rounds_per_epoch = params.rounds_per_epoch
        self._params = params
        self._objective = _objective(objective)
        self._num_classes = int(objective.get("classes", 0))
        self._seed = seed
        self._threads = 1
        self._booster: Any = None
        self._reader: Any = None
        self._dataset: Any = None
        self._settings: dict[str, Any] = {}

    @property
    def rounds(self) -> int:
        """Rounds that are in it; fewer than were asked for where no split was left that improves anything."""
        booster = self._fitted
        return 0 if booster is None else int(booster.current_iteration())

    @property
    def num_parameters(self) -> int:
        """Count leaves and splits."""
        text = self.save().decode()
        leaves = [int(line.partition("=")[2]) for line in text.splitlines() if line.startswith("num_leaves=")]
        return sum(2 * leaf - 1 for leaf in leaves)

    def start(self, table: Table, threads: int, network: Mapping[str, Any]) -> None:
        """Take the rows of this share; what was loaded before is grown on.

        Raises:
            DataError: If there are no rows.
        """
        if not len(table.x):
            raise DataError("0 rows are left to learn from. See the row accounting; check split and folds.", "train")
        self.close()
        params = self._params
        self._threads = threads
        shown = {name: getattr(params, name) for name in type(params).model_fields if name != "rounds_per_epoch"}
        self._settings = {
            **shown,
            **self._objective,
            "bagging_freq": int(params.bagging_fraction < 1),
            # neither the share of an even round nor of an odd one, so that the first one is drawn anew in any case
            "bagging_fraction": params.bagging_fraction * (1 - 2e-9 * (params.bagging_fraction < 1)),
            "seed": self._seed & SEED_BITS,
            "deterministic": True,
            "force_row_wise": True,  # otherwise chosen by timing, and the two ways sum in different orders
            "num_threads": threads,
            "verbosity": -1,
        }
        if network:
            # which says how it connects before it reads `verbosity`
            self._lightgbm.register_logger(logging.getLogger("lightgbm"))
            self._settings |= {**network, "tree_learner": "data", "pre_partition": True}
        self._dataset = self._lightgbm.Dataset(table.x, table.target, weight=table.weight)

    def grow(self, number: int) -> None:
        """Learn one more round.

        Raises:
            ConnectionError: If another worker of the training is gone.
        """
        try:
            self._grow(number)
        except self._lightgbm.basic.LightGBMError as error:
            if PEER_LOST.search(str(error)) is None:
                raise
            raise ConnectionError(str(error)) from error

    def train_loss(self) -> float:
        """Give the weighted mean loss on the rows of this share."""
        return float(self._booster.eval_train()[0][2])

    def outputs(self, x: np.ndarray, rounds: int | None = None) -> np.ndarray:
        """Give raw outputs (N, O), float64: logits, of which the first of two is 0; or numbers.

        Always of all trees together: sums by parts would differ in their last bits after a restart.
        """
        found: np.ndarray = self._fitted.predict(
            x, raw_score=True, num_iteration=-1 if rounds is None else rounds, num_threads=self._threads
        )
        if self._num_classes == 2:
            return np.stack([np.zeros_like(found), found], axis=1)
        return found.reshape(len(x), -1)

    def save(self, rounds: int | None = None) -> bytes:
        """Give the first so many rounds as LightGBM's own text, up to the end of its trees.

        What follows names the machines that trained, and equal trees are to have one digest wherever they grew.
        """
        text: str = self._fitted.model_to_string(num_iteration=-1 if rounds is None else rounds)
        return (text.partition(END)[0] + END).encode()

    def load(self, data: bytes, num_features: int) -> None:
        """Become what `save` gave.

        Raises:
            DataError: If the text is damaged, or of other inputs or outputs.
        """
        try:
            text = data.decode("ascii")
            _refuse_malformed(text, num_features, self._num_classes if self._num_classes > 2 else 1)
            self.close()
            self._reader = self._lightgbm.Booster(model_str=text)
        except (ValueError, KeyError, IndexError, self._lightgbm.basic.LightGBMError) as error:
            raise DataError(f"is no model of LightGBM as fmray writes it ({error!s:.200}). {CURE}") from error

    def close(self) -> None:
        """Let go of the rows and of the other workers; it still predicts."""
        if self._booster is not None:
            self._reader = self._lightgbm.Booster(model_str=self.save().decode())
            if "machines" in self._settings:
                self._booster.free_network()  # or the next training of this process finds its port taken
        self._booster = None
        self._dataset = None

    def _grow(self, number: int) -> None:
        if self._booster is not None:
            self._reset(self._booster, number)
            self._booster.update()
            return

        def reset(environment: Any) -> None:
            self._reset(environment.model, number)

        reset.before_iteration = True  # type: ignore[attr-defined]  # as LightGBM marks its callbacks
        self._booster = self._lightgbm.train(
            self._settings,
            self._dataset,
            num_boost_round=1,
            init_model=self._reader,
            keep_training_booster=True,
            callbacks=[reset],
        )
        self._reader = None

    @property
    def _fitted(self) -> Any:
        return self._reader if self._booster is None else self._booster

    def _reset(self, booster: Any, number: int) -> None:
        draws = self._draws(number)
        if not draws:
            return
        try:
            booster.reset_parameter(draws)
        except self._lightgbm.basic.LightGBMError as error:
            if "num_features" not in str(error):  # no input can be split: there is nothing to draw from
                raise

    def _draws(self, number: int) -> dict[str, Any]:
        """Give the settings by which a round draws from generators of its own.

        LightGBM makes a generator anew only if its setting changes, and that of bagging only if the share of rows does:
        so that differs in the ninth digit from one round to the next.
        """
        params = self._params
        found: dict[str, Any] = {}
        if params.feature_fraction < 1:
            found["feature_fraction_seed"] = self._drawn("columns", number)
        if params.extra_trees:
            found["extra_seed"] = self._drawn("thresholds", number)
        if params.bagging_fraction < 1:
            found["bagging_seed"] = self._drawn("rows", number)
            found["bagging_fraction"] = params.bagging_fraction * (1 - 1e-9 * (number % 2))
        return found

    def _drawn(self, name: str, number: int) -> int:
        return derive(self._seed, name, number) & SEED_BITS


def _library() -> Any:
    try:
        import lightgbm  # here, so that a job of another model needs no LightGBM
    except (ImportError, OSError) as error:  # OSError where OpenMP is missing
        raise SpecError(f"lightgbm needs the package lightgbm ({error}). Install fmray[trees].", "model") from error
    return lightgbm


def _objective(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Put a task's objective in LightGBM's words.

    Raises:
        SpecError: If LightGBM has none for it.
    """
    if asked.get("label_smoothing"):
        raise SpecError("label_smoothing has no effect on trees. Leave it out.", "task")
    match asked["loss"]:
        case "cross_entropy" if asked["classes"] == 2:
            return {"objective": "binary", "metric": "binary_logloss"}
        case "cross_entropy":
            return {"objective": "multiclass", "num_class": asked["classes"], "metric": "multi_logloss"}
        case "mse":
            return {"objective": "regression", "metric": "l2"}
        case "huber":
            return {"objective": "huber", "alpha": asked["delta"], "metric": "huber"}
    raise SpecError(f"loss {asked['loss']} is none of LightGBM's. Accepted: cross_entropy, mse, huber.", "task")


def _refuse_malformed(text: str, num_features: int, per_round: int) -> None:
    """Refuse text that would lead LightGBM out of its arrays or round in circles: it checks little of what it reads.

    Args:
        per_round: Trees of a round.

    Raises:
        ValueError, KeyError, IndexError: If it does not fit together.
    """
    head, _, rest = text.partition("\n\n")
    about = dict(line.split("=", 1) for line in head.splitlines()[1:] if "=" in line)
    if head.splitlines()[0] != "tree" or int(about["max_feature_idx"]) != num_features - 1:
        raise ValueError(f"it is not of {num_features} inputs")
    if int(about["num_tree_per_iteration"]) != per_round or int(about["num_class"]) != per_round:
        raise ValueError(f"it has not {per_round} trees in a round")
    body, end, tail = rest.partition(END)
    if not end or tail:
        raise ValueError("it does not end as it should")
    sizes = [int(size) for size in about["tree_sizes"].split()]
    if sum(sizes) != len(body) or not sizes or len(sizes) % per_round or min(sizes) < 1:
        raise ValueError("its sizes are not those of its trees")
    start = 0
    for number, size in enumerate(sizes):
        _refuse_tree(body[start : start + size], number, num_features)
        start += size


def _refuse_tree(text: str, number: int, num_features: int) -> None:
    """Refuse a tree whose nodes are not those of a tree."""
    lines = text.splitlines()
    if lines[0] != f"Tree={number}":
        raise ValueError(f"tree {number} is not where it should be")
    facts = dict(line.split("=", 1) for line in lines[1:] if "=" in line)
    leaves = int(facts["num_leaves"])
    if facts["num_cat"] != "0" or facts["is_linear"] != "0" or leaves < 1:
        raise ValueError(f"tree {number} is of another kind")
    values = [float(value) for value in facts["leaf_value"].split()]
    if len(values) != leaves or not all(map(math.isfinite, values)):
        raise ValueError(f"tree {number} has not {leaves} leaves")
    nodes = {name: facts[name].split() for name in PER_NODE}
    if any(len(given) != leaves - 1 for given in nodes.values()):
        raise ValueError(f"tree {number} has not {leaves - 1} nodes")
    if not all(0 <= int(place) < num_features for place in nodes["split_feature"]):
        raise ValueError(f"tree {number} splits by an input that is none")
    children = [(place, int(child)) for side in PER_NODE[3:] for place, child in enumerate(nodes[side])]
    inner = sorted(child for _, child in children if child >= 0)
    outer = sorted(~child for _, child in children if child < 0)
    # a node is numbered after its parent, each is the child of one, so no way leads back
    if inner != list(range(1, leaves - 1)) or outer != (list(range(leaves)) if leaves > 1 else []):
        raise ValueError(f"tree {number} does not reach each node once")
    if any(0 <= child <= place for place, child in children):
        raise ValueError(f"tree {number} leads back to a node")
