"""Decide about real runs: who becomes champion, what is written, and what a kill or a rival in between changes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from promote.conftest import build

from fmray import workflow
from fmray.cli import main
from fmray.errors import ClusterError, DataError, SpecError
from fmray.events import to_json
from fmray.promote import approve, decide, promote, rollback
from fmray.promote.history import History
from fmray.promote.registry import registry_of
from fmray.report.card import read_card
from fmray.rigour.ledger import Ledger
from fmray.spec.job import Job
from fmray.spec.promotion import Promote
from fmray.store.manifest import measure

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SEALED = Promote(evidence="sealed", horizon=2)


def log(house) -> list[dict]:
    return History(house.store, "p").events()


def kinds(house) -> list[str]:
    return [event["event"] for event in log(house)]


def champion(house) -> str | None:
    return History(house.store, "p").standing().champion


def looks(house, run) -> int:
    return len(Ledger(house.store).verify(read_card(run.root, house.store).prepared.test_identity))


def test_the_first_run_whose_gates_pass_becomes_champion(house):
    house, runs = house
    for name, text in (("failed", "gates that failed: G14, G22"), ("draft", "it is a draft")):
        refused = promote(runs[name], house.store)
        assert (refused.verdict, refused.text, refused.champion) == ("refused", text, None)
        assert promote(runs[name], house.store) == refused
    first = promote(runs["weak"], house.store)
    assert (first.verdict, first.text) == ("promoted", "the first run of the job whose gates pass")
    assert champion(house) == runs["weak"].id
    assert kinds(house) == ["decision", "decision", "decision", "move"]
    assert looks(house, runs["weak"]) == 2  # of this run and the draft: the first is looked at by nobody else


def test_a_better_run_is_promoted_by_fresh_rows_and_all_is_written_down(house):
    house, runs = house
    promote(runs["weak"], house.store)
    outcome = promote(runs["strong"], house.store)
    assert outcome.verdict == "promoted"
    facts = outcome.evidence["champion"]
    assert facts["p"] < outcome.evidence["attempt"]["level"] == pytest.approx(0.05 * 6 / np.pi**2)
    seen, now = (read_card(runs[name].root, house.store).prepared.num_rows("test") for name in ("weak", "strong"))
    assert outcome.evidence["num_rows"] == now - seen  # data only grew, and no row changed sides
    assert kinds(house) == ["decision", "move", "attempt", "decision", "move"]
    line = {key: value for key, value in log(house)[-1].items() if key not in ("line", "previous", "hash")}
    assert line | {"when": 0, "who": ""} == {
        "event": "move", "from": runs["weak"].id, "to": runs["strong"].id, "anchor": runs["strong"].id,
        "why": "promote", "by": "", "when": 0, "who": "",
    }  # fmt: skip
    assert looks(house, runs["strong"]) == 2
    written, before = log(house), outcome
    assert promote(runs["strong"], house.store).verdict == "promoted"
    assert promote(runs["strong"], house.store).evidence == before.evidence
    assert log(house) == written
    assert looks(house, runs["strong"]) == 2


def test_a_worse_run_is_not_promoted_and_not_compared_again(house):
    house, runs = house
    for name in ("weak", "strong"):
        promote(runs[name], house.store)
    outcome = promote(runs["worse"], house.store)
    assert (outcome.verdict, outcome.champion) == ("kept", runs["strong"].id)
    assert outcome.text.startswith("no gain is shown (-0.")
    assert outcome.evidence["attempt"]["t"] == 2
    assert promote(runs["worse"], house.store, Promote(alpha=0.4)) == outcome
    assert looks(house, runs["worse"]) == 2


def test_rows_that_the_champion_has_seen_are_not_fresh(house):
    house, runs = house
    promote(runs["strong"], house.store)
    outcome = promote(runs["weak"], house.store)
    assert outcome.verdict == "inconclusive"
    assert outcome.text.startswith("there are 0 fresh test rows, and 30 or more are needed.")
    assert "attempt" not in kinds(house)
    assert promote(runs["weak"], house.store) == outcome
    assert kinds(house).count("decision") == 2


def test_rows_whose_score_another_run_showed_are_not_fresh(house):
    house, runs = house
    promote(runs["weak"], house.store)
    again = house.run(1, 30)
    assert promote(again, house.store).text.startswith("there are 0 fresh test rows")
    assert promote(runs["strong"], house.store).verdict == "promoted"  # which was there before


def test_sealed_rows_say_one_bit_and_are_spent_at_last(house):
    house, runs = house
    promote(runs["strong"], house.store)
    kept = promote(runs["worse"], house.store, SEALED)
    assert (kept.verdict, kept.evidence) == ("kept", {})
    assert kept.text == "decided by sealed test rows, attempt 1 of 2"
    assert "reports of 1 runs show scores of these test rows" in kept.notes[0]
    (path,) = Path(house.store.root).glob("promotions/p/sealed/*.json")
    evidence = json.loads(path.read_text())
    assert evidence["verdict"] == "keep"
    assert evidence["attempt"]["level"] == pytest.approx(0.025)
    assert evidence["champion"]["gain"] < 0
    shown = json.dumps([kept.to_json(), log(house)])
    for number in (evidence["champion"]["gain"], evidence["champion"]["p"], evidence["champion"]["error"]):
        assert str(number) not in shown
    with pytest.raises(SpecError, match=r"promote.alpha: 0.4, and decisions on these test rows began under 0.05"):
        promote(runs["weak"], house.store, Promote(evidence="sealed", horizon=2, alpha=0.4))
    assert promote(runs["weak"], house.store, SEALED).verdict == "kept"
    house.store.gc(dry_run=False)
    assert path.exists()
    assert promote(runs["draft"], house.store, SEALED).verdict == "refused"
    other = house.run(1, 12)
    spent = promote(other, house.store, SEALED)
    assert spent.verdict == "spent"
    assert "Set split.redefine: true" in spent.text


@pytest.mark.parametrize("at", ["attempt", "looked", "judged", "decision"])
def test_killed_before_the_move_a_repeat_ends_the_same_decision(house, at, monkeypatch):
    house, runs = house
    promote(runs["weak"], house.store)

    def killed_after(function):
        def call(*given, **values):
            found = function(*given, **values)
            if at in ("looked", "judged") or at == given[1]:
                raise KeyboardInterrupt
            return found

        return call

    place, name = {"looked": (Ledger, "look"), "judged": (decide, "judge")}.get(at, (History, "add"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, name, killed_after(getattr(place, name)))
        promote(runs["strong"], house.store)
    assert champion(house) == runs["weak"].id
    assert kinds(house)[:3] == ["decision", "move", "attempt"]  # written before a row is looked at
    assert looks(house, runs["strong"]) == (1 if at == "attempt" else 2)
    outcome = promote(runs["strong"], house.store, Promote(min_effect=0.9))  # too late to ask for more
    assert outcome.verdict == "promoted"
    assert kinds(house) == ["decision", "move", "attempt", "decision", "move"]
    assert looks(house, runs["strong"]) == 2


CODE = """
import os, signal, sys
from fmray.promote import promote
from fmray.promote.history import History
from fmray.promote.registry import registry_of
from fmray.report.folder import read_run
from fmray.store import Store
store = Store(sys.argv[1])
real = History.add
def add(self, kind, **values):
    event = real(self, kind, **values)
    if kind == os.environ.get("DIE_AFTER"):
        os.kill(os.getpid(), signal.SIGKILL)
    return event
History.add = add
print(promote(read_run(sys.argv[2], store), store).verdict)
"""


def start(house, run, die_after: str = "") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DIE_AFTER": die_after}
    call = [sys.executable, "-c", CODE, house.store.root, run.root]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_a_decision_that_the_next_one_carries_out(house):
    house, runs = house
    promote(runs["weak"], house.store)
    process = start(house, runs["strong"], "decision")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert champion(house) == runs["weak"].id
    assert promote(runs["strong"], house.store).verdict == "promoted"
    assert kinds(house) == ["decision", "move", "attempt", "decision", "move"]


def test_of_two_promoters_at_once_one_wins_and_the_other_says_so(house):
    house, runs = house
    promote(runs["weak"], house.store)
    processes = [start(house, runs[name]) for name in ("strong", "worse")]
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    verdicts = [stdout.strip() for stdout, _ in said]
    moves = [event for event in log(house) if event["event"] == "move"]
    assert [move["from"] for move in moves] == [None, *(move["to"] for move in moves[:-1])]  # each from the one before
    assert moves[-1]["to"] == champion(house)
    first = "strong" if moves[1]["to"] == runs["strong"].id else "worse"
    assert verdicts[("strong", "worse").index(first)] == "promoted"
    decided = [event for event in log(house) if event["event"] == "decision"][-1]
    assert decided["champion"] == runs[first].id  # the second was compared with the first, or said why not
    assert verdicts[("worse", "strong").index(first)] == {"strong": "kept", "worse": "inconclusive"}[first]
    assert champion(house) == runs[first].id


def test_what_needs_approval_waits_for_a_person(house):
    house, runs = house
    rule = Promote(approval="required")
    assert promote(runs["weak"], house.store, rule).verdict == "pending"
    assert champion(house) is None
    assert approve(runs["weak"], house.store, "Ada").text == "approved by Ada"
    pending = promote(runs["strong"], house.store, rule)
    assert (pending.verdict, pending.champion) == ("pending", runs["weak"].id)
    assert promote(runs["strong"], house.store, rule) == pending
    with pytest.raises(DataError, match="nothing speaks for run"):
        approve(runs["worse"], house.store, "Ada")
    assert approve(runs["strong"], house.store, "Bob").verdict == "promoted"
    assert [event["by"] for event in log(house) if event["event"] in ("approval", "move")] == [
        "Ada",
        "Ada",
        "Bob",
        "Bob",
    ]
    assert approve(runs["strong"], house.store, "Eve").text == "it is champion already"
    assert promote(runs["strong"], house.store, rule).verdict == "promoted"


def test_what_was_compared_with_another_champion_is_not_approved(house):
    house, runs = house
    promote(runs["weak"], house.store)
    assert promote(runs["worse"], house.store, Promote(approval="required")).verdict == "pending"
    promote(runs["strong"], house.store)
    assert champion(house) == runs["strong"].id
    with pytest.raises(
        DataError, match=f"was compared with {runs['weak'].id}, and {runs['strong'].id} is champion now"
    ):
        approve(runs["worse"], house.store, "Ada")


def test_a_rollback_goes_one_champion_back_each_time(house):
    house, runs = house
    promote(runs["weak"], house.store)
    promote(runs["strong"], house.store)
    promote(runs["worse"], house.store, Promote(evidence="sealed", mode="refresh", margin=0.5))
    assert champion(house) == runs["worse"].id
    for name, anchor in (("strong", "strong"), ("weak", "weak")):
        assert rollback("p", house.store, "Ada").champion == runs[name].id
        standing = History(house.store, "p").standing()
        assert (standing.champion, standing.anchor) == (runs[name].id, runs[anchor].id)
    with pytest.raises(DataError, match="none before it"):
        rollback("p", house.store, "Ada")
    again = promote(runs["strong"], house.store)
    assert again.verdict == "kept"
    assert "was rolled back" in again.text
    assert approve(runs["strong"], house.store, "Ada").champion == runs["strong"].id


def test_a_refresh_leaves_the_anchor_where_it_is(house):
    house, runs = house
    promote(runs["strong"], house.store)
    outcome = promote(runs["worse"], house.store, Promote(mode="refresh", margin=0.5))
    assert outcome.verdict == "promoted"
    assert set(outcome.evidence["predictions"]) == {"challenger", "champion", "anchor"}
    standing = History(house.store, "p").standing()
    assert (standing.champion, standing.anchor) == (runs["worse"].id, runs["strong"].id)


def damage(run) -> None:
    path = next(Path(run.root).glob("model/*/model.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_model_is_neither_compared_nor_put_into_use(house):
    house, runs = house
    promote(runs["weak"], house.store)
    damage(runs["weak"])
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        promote(runs["strong"], house.store)
    assert kinds(house) == ["decision", "move"]
    assert champion(house) == runs["weak"].id
    damage(runs["draft"])
    damage(runs["strong"])
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        promote(runs["strong"], house.store)


def test_a_rollback_to_a_damaged_model_is_refused(house):
    house, runs = house
    promote(runs["weak"], house.store)
    promote(runs["strong"], house.store)
    damage(runs["weak"])
    with pytest.raises(DataError, match="is damaged"):
        rollback("p", house.store, "Ada")
    assert champion(house) == runs["strong"].id


def test_a_champion_whose_run_is_gone_is_named(house):
    house, runs = house
    promote(runs["weak"], house.store)
    shutil.rmtree(runs["weak"].root)
    with pytest.raises(DataError, match=f"{runs['weak'].id}/card.json"):
        promote(runs["strong"], house.store)


def test_a_run_that_is_judged_by_another_metric_is_refused(house):
    house, runs = house
    promote(runs["weak"], house.store)
    root = runs["weak"].root
    card = house.store.read_json(f"{root}/card.json")
    card["scores"]["primary"] = "roc_auc"
    house.store.write_json(f"{root}/card.json", card)
    facts = house.store.read_json(f"{root}/run.json")
    files = {**facts["files"], **measure(root, ["card.json"])}
    house.store.write_json(f"{root}/run.json", {**facts, "files": files})
    with pytest.raises(DataError, match="is judged by accuracy, champion .* by roc_auc"):
        promote(runs["strong"], house.store)


def test_data_that_changed_since_the_run_are_refused(house, monkeypatch):
    house, runs = house
    promote(runs["weak"], house.store)
    file = house.folder / "stage1/d1.parquet"
    kept = file.read_bytes()
    try:
        file.unlink()
        with pytest.raises(DataError, match=r"1 data files came, went or changed since the run, e.g. .*d1.parquet"):
            promote(runs["strong"], house.store)
    finally:
        file.write_bytes(kept)


class Memory:
    """A registry in memory, one that may be down."""

    def __init__(self):
        self.names, self.known, self.is_down = {}, [], False

    def register(self, run):
        if self.is_down:
            raise ClusterError("the server does not answer")
        self.known += [run.id] if run.id not in self.known else []
        return self.known.index(run.id) + 1

    def alias(self, name):
        return self.names.get(name)

    def move(self, name, expected, new):
        self.names[name] = new
        return True

    def versions(self):
        return self.known


def test_a_registry_is_told_and_catches_up_once_it_answers(house):
    house, runs = house
    registry = Memory()
    promote(runs["weak"], house.store, registry=registry)
    assert registry.names == {"champion": 1}
    registry.is_down = True
    outcome = promote(runs["strong"], house.store, registry=registry)
    assert outcome.verdict == "promoted"
    assert "the server does not answer" in outcome.notes[-1]
    registry.is_down = False
    promote(runs["worse"], house.store, registry=registry)
    assert registry.known == [runs["weak"].id, runs["strong"].id, runs["worse"].id]
    assert registry.names == {"champion": 2, "challenger": 3}
    rollback("p", house.store, "Ada", registry)
    assert registry.names["champion"] == 1


def call(capsys, *arguments) -> tuple[int, dict]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    return ended.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_commands_answer_with_one_json_object(house, capsys):
    house, runs = house
    code, answer = call(capsys, "promote", runs["failed"].root)
    assert (code, answer["status"], answer["verdict"]) == (2, "refused", "refused")
    code, answer = call(capsys, "promote", runs["weak"].root)
    assert (code, answer["status"], answer["champion"]) == (0, "promoted", runs["weak"].id)
    assert call(capsys, "promote", runs["strong"].root)[1]["status"] == "promoted"
    code, answer = call(capsys, "rollback", "p", "--store", house.store.root, "--by", "Ada")
    assert (code, answer["status"], answer["champion"]) == (0, "rolled back", runs["weak"].id)
    code, answer = call(capsys, "approve", runs["strong"].root, "--by", "Ada")
    assert (code, answer["champion"]) == (0, runs["strong"].id)
    assert call(capsys, "rollback", "q", "--store", house.store.root)[0] == 5
    assert call(capsys, "approve", runs["worse"].root)[0] == 5


def test_fmray_run_says_what_became_of_the_run(house, capsys):
    house, runs = house
    text = "data: {path: stage0, target: y, ignore: [z, who]}\nmodel: linear\npromote: {evidence: sealed}\n"
    text += "train: {epochs: 6, batch_rows: 64, optimizer: {adam: {lr: 0.004}}, early_stop: null}\n"
    job = house.folder / "p.yaml"
    job.write_text(text + "split: {test: 0.4}\nevaluate: {baselines: [dummy], primary: accuracy}\n")
    code, answer = call(capsys, "run", job, "--store", house.store.root)
    assert (code, answer["run_id"]) == (0, runs["weak"].id)
    assert answer["promotion"]["verdict"] == "promoted"
    assert champion(house) == runs["weak"].id
    code, answer = call(capsys, "check", job)
    assert "evidence sealed" in answer["plan"]["promote"]


def test_a_job_with_a_promote_section_decides_at_its_end_and_is_the_same_run(house):
    house, runs = house
    events = []
    card = read_card(runs["weak"].root, house.store)
    job = Job.from_json({**card.job, "promote": {"approval": "required"}})
    found = workflow.execute(job, house.store, report=lambda event: events.append(to_json(event)))
    assert found.id == runs["weak"].id
    assert [event["verdict"] for event in events if event["event"] == "promotion"] == ["pending"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, by MLflow
def test_champion_and_challenger_are_aliases_of_models_in_mlflow(tmp_path):
    house = build(tmp_path)
    sections = {"track": {"mlflow": "default"}, "promote": {}}
    weak, strong = house.run(0, 6, **sections), house.run(1, 40, **sections)
    registry = registry_of("p", strong.root, house.store)
    assert [(v.run, v.aliases) for v in registry.versions()] == [(weak.id, ()), (strong.id, ("champion",))]
    house.run(2, 10, **sections)
    assert [v.aliases for v in registry.versions()] == [(), ("champion",), ("challenger",)]
    rollback("p", house.store, "Ada", registry)
    assert [v.aliases for v in registry.versions()] == [("champion",), (), ("challenger",)]


def test_numbers_are_promoted_by_their_squared_errors(tmp_path):
    house = build(tmp_path)
    weak, strong = house.run(0, 3, "z"), house.run(1, 40, "z")
    promote(weak, house.store)
    outcome = promote(strong, house.store)
    assert outcome.verdict == "promoted"
    facts = outcome.evidence["champion"]
    assert facts["gain"] > 0
    assert "only_challenger" not in facts


def test_rows_in_groups_count_as_groups(tmp_path):
    house = build(tmp_path)
    sections = {"data": {"group": "who"}, "split": {"by": "group", "test": 0.4}}
    weak, strong = (house.run(stage, epochs, **sections) for stage, epochs in ((0, 6), (1, 40)))
    promote(weak, house.store)
    outcome = promote(strong, house.store)
    assert outcome.verdict == "promoted"
    assert 30 < outcome.evidence["champion"]["pieces"] < outcome.evidence["num_rows"] / 3
