"""Give a whole run what goes wrong in practice, and read what it says."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import cli, workflow
from fmray.errors import ClusterError, DataError, SpecError
from fmray.events import to_json
from fmray.spec.load import job_from
from fmray.store import Store

QUICK = {"epochs": 3, "batch_rows": 32, "optimizer": {"adam": {"lr": 0.01}}}


@pytest.fixture
def table() -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 4))
    y = np.where(x[:, 0] - x[:, 1] + 0.3 * random.normal(size=600) > 0, "yes", "no")
    return pa.table({**{f"f{i}": c for i, c in enumerate(x.T)}, "y": y})


class Bench:
    """Write files and run jobs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(str(folder / "store"))
        (folder / "data").mkdir()
        self.events: list[dict] = []

    def write(self, table: pa.Table, name: str = "a.parquet") -> Path:
        pq.write_table(table, self.folder / "data" / name)
        return self.folder / "data" / name

    def run(self, **job):
        data = {"path": "data", "target": "y", **job.pop("data", {})}
        value = {"name": "bad", "data": data, "train": QUICK, "rigour": {"profile": "draft"}, **job}
        return workflow.execute(
            job_from(value, self.folder), self.store, report=lambda event: self.events.append(to_json(event))
        )

    def card(self, run):
        return self.store.read_json(f"{run.root}/card.json")

    def gates(self, run):
        return {gate["gate"]: gate for gate in self.store.read_json(f"{run.root}/gates.json")}

    def notes(self, run):
        card = self.card(run)
        return "\n".join([*card["notes"], *card["prepared"]["notes"]])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_1_a_label_column_missing_in_some_files_stops_with_the_files_and_the_nearest_name(bench, table):
    bench.write(table)
    bench.write(table.rename_columns([*table.column_names[:-1], "Y"]), "b.parquet")
    with pytest.raises((DataError, SpecError), match=r"'y'.*b\.parquet") as caught:
        bench.run()
    assert "'Y'" in str(caught.value)


@pytest.mark.slow
def test_2_labels_spelled_in_several_ways_are_shown_and_mapped_only_on_request(bench, table):
    spelled = [["yes", "Yes ", "YES"][i % 3] if v == "yes" else v for i, v in enumerate(table["y"].to_pylist())]
    bench.write(table.set_column(4, "y", pa.array(spelled)))
    run = bench.run()
    assert "'YES', 'Yes ', 'yes' look like spellings of one; data.labels can map them" in bench.notes(run)
    run = bench.run(name="mapped", data={"labels": {"Yes ": "yes", "YES": "yes"}})
    assert bench.card(run)["prepared"]["target"]["classes"] == ["no", "yes"]


def test_2_labels_of_several_types_stop_with_the_files(bench, table):
    bench.write(table)
    bench.write(table.set_column(4, "y", pa.array([1, 0] * 300)), "b.parquet")
    with pytest.raises((DataError, SpecError), match=r"'y'.*string.*int64|'y'.*int64.*string"):
        bench.run()


@pytest.mark.slow
def test_3_a_code_for_missing_is_suspected_and_the_cure_is_named(bench, table):
    values = table["f2"].to_numpy().copy()
    values[::20] = -999
    bench.write(table.set_column(2, "f2", pa.array(values)))
    assert "'f2' is -999 in" in bench.notes(bench.run())
    cured = bench.run(name="cured", data={"null_values": [-999]})
    assert "'f2' is -999" not in bench.notes(cured)
    assert "missing values of 'f2'" in bench.notes(cured)


def test_5_columns_that_name_rows_are_left_out_and_it_is_said(bench, table):
    named = table.append_column("customer", pa.array(range(600))).append_column(
        "token", pa.array([f"t{i}" for i in range(600)])
    )
    bench.write(named)
    run = bench.run()
    assert "auto leaves out 'customer'" in bench.notes(run)
    assert "auto leaves out 'token'" in bench.notes(run)
    assert {c["name"] for c in bench.card(run)["prepared"]["schema"]} == {"f0", "f1", "f2", "f3"}


def test_9_fifty_rows_claim_nothing(bench, table):
    bench.write(table[:50])
    run = bench.run()
    gates = bench.gates(run)
    assert gates["G20"]["status"] == gates["G22"]["status"] == "inconclusive"
    assert "test rows claim nothing" in gates["G20"]["text"]


def test_9_three_rows_of_a_class_are_named(bench, table):
    rare = table["y"].to_pylist()
    rare[:3] = ["perhaps"] * 3
    bench.write(table.set_column(4, "y", pa.array(rare)))
    try:
        gates = bench.gates(bench.run())
    except DataError as error:  # none of the three may have come to train
        assert "class 'perhaps'" in str(error)
    else:
        assert "the rarest class has" in gates["G20"]["text"]


def test_10_infinite_numbers_go_to_quarantine_with_their_reason(bench, table):
    values = table["f1"].to_numpy().copy()
    values[[3, 77]] = [np.inf, -np.inf]
    values[5] = np.nan
    bench.write(table.set_column(1, "f1", pa.array(values)))
    run = bench.run()
    facts = bench.store.read_json(f"{run.root}/run.json")
    assert facts["quarantine"] == {"'f1' is infinite": 2}
    assert facts["rows"]["read"] == 600 == sum(n for name, n in facts["rows"].items() if name != "read")


def test_10_too_many_infinite_numbers_stop_the_run(bench, table):
    values = np.where(np.arange(600) % 10 == 0, np.inf, table["f1"].to_numpy())
    bench.write(table.set_column(1, "f1", pa.array(values)))
    with pytest.raises(
        DataError, match=r"data\.max_quarantine: 60 of 600 rows cannot be used \('f1' is infinite: 60 rows\)"
    ):
        bench.run()


@pytest.mark.slow
def test_10_a_number_of_1e30_does_not_drown_the_others(bench, table):
    values = table["f1"].to_numpy().copy()
    values[7] = 1e30
    bench.write(table.set_column(1, "f1", pa.array(values)))
    run = bench.run(train={**QUICK, "epochs": 20})
    assert "'f1' its normal rank" in bench.notes(run)
    assert run.scores.test["roc_auc"].value > 0.9


@pytest.mark.parametrize("kind", ["empty folder", "zero bytes", "truncated", "not Parquet", "no rows"])
def test_10_damaged_files_are_named(bench, table, kind):
    path = bench.folder / "data/b.parquet"
    if kind not in ("empty folder", "no rows"):
        bench.write(table)
    match kind:
        case "zero bytes":
            path.write_bytes(b"")
        case "truncated":
            whole = bench.write(table, "b.parquet").read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "not Parquet":
            path.write_text("a,b\n1,2\n" * 100)
        case "no rows":
            bench.write(table[:0])
    with pytest.raises(
        (DataError, SpecError), match="is empty|no rows" if kind in ("empty folder", "no rows") else r"b\.parquet"
    ):
        bench.run()


def test_10_a_file_damaged_inside_names_file_and_row_group(bench, table):
    path = bench.write(table)
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)  # the first page's header; Parquet itself cannot tell a changed number from the right one
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: row group 0"):
        bench.run()


def test_11_levels_unseen_in_train_have_a_place(bench, table):
    city = ["Oslo"] * 400 + ["Bonn"] * 200
    split = ["train"] * 400 + ["val"] * 100 + ["test"] * 100
    bench.write(
        table.append_column("city", pa.array(city))
        .append_column("split", pa.array(split))
        .append_column("k", pa.array(["a", "b"] * 300))
    )
    run = bench.run(split={"by": "given", "column": "split"})
    assert run.status == "finished"


@pytest.mark.slow
def test_14_data_edited_in_place_are_other_data_and_another_run(bench, table):
    bench.write(table)
    first = bench.run()
    values = table["f0"].to_numpy().copy()
    values[0] = 5.0
    bench.write(table.set_column(0, "f0", pa.array(values)))
    assert bench.run().id != first.id


def test_14_two_processes_on_one_run_are_told_who_holds_it(bench, table):
    bench.write(table)
    run = bench.run()
    facts = bench.store.read_json(f"{run.root}/run.json")
    bench.store.write_json(f"{run.root}/run.json", {**facts, "status": "running"})
    bench.store.remove(f"{run.root}/finished.json")
    with bench.store.lease(run.root), pytest.raises(ClusterError, match="pid|process"):
        bench.run()


def test_a_gpu_that_is_not_there_is_refused_before_any_work(bench, table):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    bench.write(table)
    with pytest.raises(SpecError, match=r"run\.gpu: true, but no CUDA device is visible"):
        bench.run(run={"gpu": True})
    assert bench.store.list("prepared") == []


@pytest.mark.slow
def test_a_planted_secret_appears_nowhere_in_the_store(bench, table, monkeypatch):
    bench.write(table)
    secret = "hunter2-7f3a9c"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("MY_TOKEN", secret)
    (bench.folder / "my_net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, schema, num_outputs, api_token=''):\n"
        "        super().__init__()\n        self.map = nn.Linear(schema.width, num_outputs)\n\n"
        "    def forward(self, x):\n        return self.map(x)\n"
    )
    run = bench.run(model={"my_net:Net": {"api_token": secret}})
    found = [p for p in bench.folder.joinpath("store").rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    assert found == []
    assert run.status == "finished"
    assert "model.my_net:Net.api_token holds a secret, which is written nowhere" in bench.notes(run)


def test_bad_input_is_exit_code_5_and_json_from_the_command_line(bench, table, capsys, monkeypatch):
    bench.write(table)
    (bench.folder / "bad.yaml").write_text("data: {path: data, target: z}\n")
    monkeypatch.chdir(bench.folder)
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "bad.yaml", "--json"])
    assert caught.value.code == 5
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "column 'z' is not in a.parquet" in answer["error"]["message"]
