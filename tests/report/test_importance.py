import numpy as np
import pytest

from fmray.records import Member
from fmray.report.importance import importance

SPACE = {
    "lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1, "packable": True},
    "dropout": {"kind": "uniform", "low": 0.0, "high": 0.5, "packable": True},
    "depth": {"kind": "int", "low": 1, "high": 4, "packable": False},
    "act": {"kind": "choice", "options": ["relu", ["gelu", 2], None], "packable": False},
}


def sweep(score, num=150, seed=0):
    random = np.random.default_rng(seed)
    members = []
    for index in range(num):
        params = {"lr": float(10 ** random.uniform(-4, -1)), "dropout": float(random.uniform(0, 0.5)),
                  "depth": int(random.integers(1, 5)), "act": SPACE["act"]["options"][random.integers(3)]}  # fmt: skip
        members.append(Member(index, {"name": "mlp", "params": {}}, params, index, "", "finished", 1, 1,
                              score(params, random), ""))  # fmt: skip
    return members


@pytest.mark.parametrize(
    ("cause", "score"),
    [("lr", lambda p, r: -abs(np.log10(p["lr"]) + 2.5)), ("dropout", lambda p, r: p["dropout"]),
     ("depth", lambda p, r: float(p["depth"] % 2)), ("act", lambda p, r: float(p["act"] is None))],
)  # fmt: skip
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_what_alone_explains_the_scores_has_nearly_all_the_importance(cause, score, noise):
    found = importance(SPACE, sweep(lambda p, r: score(p, r) + noise * float(r.normal())))
    assert next(iter(found)) == cause
    assert found[cause] > (0.95 if noise == 0 else 0.8)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_two_causes_of_equal_weight_share_it():
    found = importance(SPACE, sweep(lambda p, r: np.log10(p["lr"]) / 3 + p["dropout"] * 2, num=300))
    assert found["lr"] == pytest.approx(0.5, abs=0.1)
    assert found["dropout"] == pytest.approx(0.5, abs=0.1)


def test_members_without_a_score_are_left_out():
    members = sweep(lambda p, r: p["dropout"])
    failed = Member(**{**vars(members[0]), "val_score": None, "status": "failed", "params": {}})
    assert importance(SPACE, [*members, failed]) == importance(SPACE, members)


@pytest.mark.parametrize(
    "members", [[], sweep(lambda p, r: p["lr"], num=5), sweep(lambda p, r: 0.5)], ids=["none", "few", "all the same"]
)
def test_where_nothing_can_be_said_nothing_is(members):
    assert importance(SPACE, members) == {}


def test_a_parameter_that_never_varied_has_none():
    found = importance(
        SPACE, [Member(**{**vars(m), "params": {**m.params, "depth": 2}}) for m in sweep(lambda p, r: p["lr"])]
    )
    assert found.get("depth", 0.0) == 0.0


def test_nothing_is_said_to_the_terminal(capfd):
    importance(SPACE, sweep(lambda p, r: p["lr"]))
    assert capfd.readouterr() == ("", "")
