"""Declare the parameters of ensembles."""

from typing import Annotated, Literal

from pydantic import Field

from fmray.spec.components.base import Flag, Params, Real, Whole

Count = Annotated[Whole, Field(ge=1)]


class Single(Params):
    """Take the member that is best on validation."""


class Ensemble(Params):
    """Hold what every combination of members takes."""

    keep: Literal["when_better", "always"] = Field(
        "when_better", description="Keep the ensemble only if it beats its best member, or always."
    )


class Adaboost(Ensemble):
    """Train members one after another on reweighted rows, and let them vote (SAMME)."""

    rounds: Count = Field(10, description="Members, trained one after another.")
    learning_rate: Annotated[Real, Field(gt=0)] = Field(1.0, description="Factor of every vote's weight.")


class Auto(Ensemble):
    """Take the average of all members or the best one, whichever validation prefers."""


class Average(Ensemble):
    """Take the mean prediction of all members."""


class Bagging(Ensemble):
    """Train members on bootstrap samples of the training rows, and combine them."""

    members: Count = Field(10, description="Members of each configuration.")
    kind: Literal["soft", "hard"] = Field("soft", description="Mean of probabilities, or share of votes.")


class Greedy(Ensemble):
    """Add the member that helps most, again and again, on random subsets of the members."""

    rounds: Count = Field(50, description="Members added in each bag.")
    bags: Count = Field(20, description="Random subsets of members; with one, all members may be taken.")
    share: Annotated[Real, Field(gt=0, le=1)] = Field(0.5, description="Share of the members that a bag may take.")
    start: Count = Field(5, description="Members that a bag may start from at most.")
    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="Of the bags.")


class Soup(Ensemble):
    """Average the parameters of members of one pack."""

    greedy: Flag = Field(True, description="Add members from the best on, each only if validation gets no worse.")


class Stacking(Ensemble):
    """Learn how members are combined from validation rows."""

    kind: Literal["nnls", "logistic"] = Field("nnls", description="Non-negative weights, or logistic regression.")
    l2: Annotated[Real, Field(gt=0)] = Field(1.0, description="Penalty of logistic regression.")


class Vote(Ensemble):
    """Give each class the share of members that name it (hard), or the mean of their probabilities (soft)."""

    kind: Literal["hard", "soft"] = Field("hard", description="Share of votes, or mean of probabilities.")
