import os
from pathlib import Path

import pytest

from fmray.errors import SpecError
from fmray.spec.load import job_from, load_job
from fmray.spec.ref import Ref


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "churn.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


SMALL = "data: {path: sample:iris, target: target}\n"


def test_only_path_and_target_are_required_and_the_name_is_the_files(write, tmp_path):
    job = load_job(write(SMALL))
    assert (job.name, job.folder) == ("churn", str(tmp_path))
    assert job.data.target == ("target",)
    assert job.train.seeds.n == 1


def test_a_job_from_python_equals_the_same_job_from_a_file(write, tmp_path):
    text = SMALL + "model: {mlp: {width: 8}}\ntrain: {seeds: 3, early_stop: null}\nname: a\n"
    value = {
        "name": "a",
        "data": {"path": "sample:iris", "target": "target"},
        "model": {"mlp": {"width": 8}},
        "train": {"seeds": 3, "early_stop": None},
    }
    assert load_job(write(text)) == job_from(value, tmp_path)


def test_a_resolved_job_is_a_job(write):
    job = load_job(write(SMALL + "train: {optimizer: {sgd: {lr: 0.1}}}\n"))
    again = {key: value for key, value in job.to_json().items() if key != "folder"}
    assert job_from(again, job.folder) == job


def test_extending_merges_maps_and_replaces_lists(write):
    write(SMALL + "train: {epochs: 5, seeds: 2}\nsteps: [auto, {drop: {columns: [a]}}]\n", "base.yaml")
    job = load_job(write("extends: base.yaml\ntrain: {epochs: 7}\nsteps: [standardise]\n"))
    assert (job.train.epochs, job.train.seeds.n) == (7, 2)
    assert job.steps == (Ref("standardise"),)


def test_a_mistake_in_the_extended_file_is_found_there(write):
    write(SMALL + "train:\n  epochs: 5\n  epoch: 3\n", "base.yaml")
    with pytest.raises(SpecError, match=r"base\.yaml:4 train\.epoch: unknown key 'epoch'\. Did you mean 'epochs'\?"):
        load_job(write("extends: base.yaml\n"))


def test_a_circle_of_extensions_is_refused(write):
    write("extends: churn.yaml\n", "base.yaml")
    with pytest.raises(SpecError, match="extends itself"):
        load_job(write("extends: base.yaml\n"))


def test_a_key_on_the_command_line_wins(write):
    job = load_job(
        write(SMALL + "train: {optimizer: adam}\n"), ["train.epochs=3", "train.optimizer.adam.lr=0.5", "model=linear"]
    )
    assert job.train.epochs == 3
    assert job.train.optimizer == Ref("adam", {"lr": 0.5})
    assert job.model == Ref("linear")


def test_variables_stand_in_paths(write, monkeypatch):
    monkeypatch.setenv("FMRAY_TEST_ROOT", "/data")
    text = "data: {path: '${FMRAY_TEST_ROOT}/x/${FMRAY_TEST_NONE:-y}', target: t}\n"
    assert load_job(write(text)).data.path == "/data/x/y"


MISTAKES = {
    "train:\n  epoch: 3\n": r"churn\.yaml:3 train\.epoch: unknown key 'epoch'\. Did you mean 'epochs'\?",
    "trian: {}\n": r"churn\.yaml:2 trian: unknown key 'trian'\. Did you mean 'train'\?",
    "train: {epochs: many}\n": r"churn\.yaml:2 train\.epochs: 'many'\. Accepted: a whole number",
    "train: {epochs: 0}\n": r"churn\.yaml:2 train\.epochs: 0\. Accepted: a number greater than or equal to 1",
    "train:\n  optimizer: adamm\n": r"churn\.yaml:3 train\.optimizer: unknown optimizer 'adamm'\. Did you mean 'adam",
    "train: {optimizer: {adam: {lr: 0.1, beta: 3}}}\n": r"optimizer\.adam\.beta: 'adam' has no parameter 'beta'\. Did you mean 'betas'\?",
    "model: {mlp: {wdith: 3}}\n": r"model\.mlp\.wdith: 'mlp' has no parameter 'wdith'\. Did you mean 'width'\?",
    "model: {linear: {width: 3}}\n": r"'linear' has no parameter 'width'\. It takes none\.",
    "model: mpl\n": r"model: unknown model 'mpl'\. Did you mean 'mlp'\?",
    "model: {mlp: 3}\n": r"model: .* is neither a name nor",
    "steps: [auto, {scael: {}}]\n": r"steps\.1: unknown step 'scael'",
    "steps: [{clip: {columns: [a], quantil: 0.9}}]\n": r"'clip' has no parameter 'quantil'\. Did you mean 'quantile'\?",
    "evaluate: {primary: acuracy}\n": r"evaluate\.primary: unknown metric 'acuracy'\. Did you mean 'accuracy'\?",
    "split: {by: random}\n": r"split\.by: 'random'\. Accepted: 'hash', 'group', 'time', 'given'",
    "split: {by: hash, column: s}\n": r"split\.column: has no effect with split\.by: hash\. It goes with given",
    "split: {by: given}\n": r"split\.column: is missing",
    "split: {by: time}\n": r"data\.time: is missing",
    "split: {val: 0.5, test: 0.5}\n": r"leave nothing to train on",
    "split: {val: 0}\n": r"split\.val: 0 leaves nothing to choose by",
    "train: {seeds: 012}\n": r"churn\.yaml:2 train\.seeds: 012 is no YAML 1\.2 number\. Write 12",
    "train: {epochs: 1_000}\n": r"churn\.yaml:2 train\.epochs: 1_000 is no YAML 1\.2 number\. Write 1000",
    "name: a\nname: b\n": r"churn\.yaml:3 name: duplicate key, which stands in line 2 already\. Keep one",
    "train: {epochs: 3\nmodel: linear\n": r"churn\.yaml:\d+: not YAML",
    "search: {members: 64}\n": r"churn\.yaml:2 search: has no effect: no value is a range\. Write one",
    "schedule: {cron: '0 3 * *'}\n": r"churn\.yaml:2 schedule\.cron: '0 3 \* \*' has 4 fields",
    "schedule: {timezone: UTC}\n": r"schedule\.cron: is missing\. Give five fields",
    "schedule: {cron: '61 3 * * 1'}\n": r"schedule\.cron: '61 3 \* \* 1': minute is not one of cron's",
    "schedule: {cron: '0 0 31 2 *'}\n": r"schedule\.cron: '0 0 31 2 \*': day-of-month is not one",
    "schedule: {cron: '0 3 * * 1', timezone: Europe/Berln}\n": r"'Europe/Berln' is no time zone",
    "schedule: {cron: '0 3 * * 1', overlap: wait}\n": r"'wait'. Accepted: 'skip', 'queue', 'replace'",
    "train: {optimizer: {adam: {lr: {log_uniform: [0, 1]}}}}\n": r"adam\.lr: \[0, 1\]\. Accepted: two numbers above zero",
    "train: {optimizer: {adam: {lr: {uniform: [1, 0]}}}}\n": r"adam\.lr: \[1, 0\]\. Accepted: .* the smaller first",
    "train: {batch_rows: {choice: [64]}}\n": r"batch_rows: \[64\]\. Accepted: a list of at least two different options",
    "train: {batch_rows: {choice: [64, 0]}}\n": r"churn\.yaml:2 train\.batch_rows: 0\. Accepted: a number greater than",
    "train: {batch_rows: {uniform: [8, 64]}}\n": r"train\.batch_rows: 8\.0\. Accepted: a whole number",
    "model: {mlp: {dropout: {uniform: [0, 1.5]}}}\n": r"model\.mlp\.dropout: 1\.5\. Accepted: a number in \[0, 1\)",
    "model: {mlp: {dorpout: {uniform: [0, 1]}}}\n": r"'mlp' has no parameter 'dorpout'\. Did you mean 'dropout'",
    "model: {choice: [mlp, {mlp: {widht: 3}}]}\n": r"'mlp' has no parameter 'widht'\. Did you mean 'width'",
    "split: {val: {uniform: [0.1, 0.2]}}\n": r"split\.val: .* is a range, and this is not searched\. Ranges stand in",
    "train: {seeds: {int: [1, 5]}}\n": r"train\.seeds: .* is a range, and this is not searched",
    "ranges: {}\n": r"ranges: is no key",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nensemble: adaboost\n": r"ensemble: adaboost boosts one configuration",
    "train: {folds: 3}\nensemble: adaboost\n": r"train\.folds: has no effect with ensemble: adaboost",
    "train: {seeds: 3}\nensemble: adaboost\n": r"train\.seeds: 3 seeds are as many configurations",
    "ensemble: {greedy: {bags: 0}}\n": r"ensemble\.greedy\.bags: 0\. Accepted: a whole number in \[1, inf\)",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: grid}\n": r"churn\.yaml:3 search\.by: grid tries every value, and model\.mlp\.dropout has no end",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: optuna}\n": r"optuna proposes structures, and no range changes one",
    "model: {mlp: {width: {int: [8, 64]}}}\nsearch: {by: optuna, more: 3}\n": r"more: has no effect with by: optuna, which proposes",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {structures: 3}\n": r"structures: has no effect with no range that changes",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {stop: none, eta: 4}\n": r"search\.eta: has no effect with stop: none",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {stop: none, epochs: 40}\n": r"search\.epochs: has no effect",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {time: 2 h}\nrun: {deterministic: true}\n": r"search\.time: ends the search by the clock",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {time: 2 weeks}\n": r"search\.time: '2 weeks'\. Accepted: seconds, or a time, e\.g\. 90 s, 30 min, 2 h",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {first_rung: 20}\n": r"first_rung: 20 is never reached",
    "model: {mlp: {width: {int: [8, 64]}}}\nsearch: {by: pbt}\n": r"churn\.yaml:3 search\.by: pbt moves members of one structure, and model\.mlp\.width changes it\. Give one value, or search by sobol",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, stop: none}\n": r"search\.stop: has no effect with by: pbt",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, eta: 4}\n": r"search\.eta: has no effect with by: pbt",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, first_rung: 2}\n": r"search\.first_rung: has no effect with by: pbt",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, structures: 2}\n": r"search\.structures: has no effect",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, more: 2}\n": r"search\.more: has no effect with by: pbt",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, epochs: 40}\n": r"search\.epochs: has no effect with by: pbt, where every member trains to train\.epochs",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, time: 1 h}\n": r"search\.time: has no effect with by: pbt",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, members: 1}\n": r"search\.members: 1 has nobody to go on from\. Ask for at least 2",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt, interval: 20}\n": r"search\.interval: 20 is never reached before the end at epoch 20",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {interval: 2}\n": r"search\.interval: has no effect with by: sobol\. It goes with pbt",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt}\nrun: {workers: 0}\n": r"churn\.yaml:4 run\.workers: 0 trains in this process, and pbt is run by Ray Tune",
    "model: {mlp: {dropout: {uniform: [0, 0.5]}}}\nsearch: {by: pbt}\nrun: {deterministic: true}\n": r"run\.deterministic: true is more than pbt can hold",
    "rigour: {waive: {G99: x}}\n": r"'G99' is no gate",
    "rigour: {prefer: simple}\n": r"simple has no effect on model 'mlp'",
    "run: {workers: 4.5}\n": r"run\.workers: 4\.5\. Accepted: ",
    "name: '../../etc'\n": r"name: '\.\./\.\./etc'",
    "train: {schedule: {plateau: {patience: 9}}}\n": r"patience 9 is never reached",
}  # fmt: skip


@pytest.mark.parametrize("text", list(MISTAKES), ids=lambda text: text.strip().replace("\n", " ")[:40])
def test_a_mistake_is_named_at_its_line_with_what_is_accepted(write, text):
    with pytest.raises(SpecError, match=MISTAKES[text]):
        load_job(write(SMALL + text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: linear\n", r"data: is missing"),
        ("data: {target: y}\n", r"data\.path: is missing"),
        ("[1, 2]\n", "a job is a map of keys"),
        ("", "a job is a map of keys"),
        ("data: {path: '${FMRAY_TEST_NONE}/x', target: y}\n", r"data\.path: \$\{FMRAY_TEST_NONE\} is not set"),
    ],
)
def test_a_file_that_is_no_job_is_refused(write, text, message):
    with pytest.raises(SpecError, match=message):
        load_job(write(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nothing\.yaml: cannot be read: No such file"):
        load_job(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("override", "message"), [("train.epochs", "Give key=value"), ("train.epoch=3", "--set train.epoch: unknown key")]
)
def test_a_bad_override_is_named(write, override, message):
    with pytest.raises(SpecError, match=message):
        load_job(write(SMALL), [override])


SEVEN = """\
data:
  path: ${FMRAY_TEST_NONE}
  target: y
model: {mlp: {widht: 3}}
train:
  epoch: 3
  batch_rows: many
  optimizer: adamm
split: {val: 2}
run: {deterministic: on, workers: 0, max_failures: 4}
schedule: {cron: '0 3 * *'}
"""


def test_seven_mistakes_are_seven_errors_in_the_order_of_the_file(tmp_path):
    (tmp_path / "bad.yaml").write_text(SEVEN)
    with pytest.raises(SpecError) as caught:
        load_job(tmp_path / "bad.yaml")
    places = [error.where.rpartition(":")[2] for error in caught.value.errors]
    assert places == [
        "2 data.path",
        "4 model.mlp.widht",
        "6 train.epoch",
        "7 train.batch_rows",
        "8 train.optimizer",
        "9 split.val",
        "10 run.deterministic",
        "10 run.max_failures",
        "11 schedule.cron",
    ]
    assert str(caught.value).count("\n") == 8
    assert (caught.value.where, caught.value.message) == (caught.value.errors[0].where, caught.value.errors[0].message)


DOUBLES = """\
data: {path: a, target: y}
train:
  epochs: 3
  batch_rows: many
  seeds: 2
model: mpl
train:
  seeds: 3
  seeds: 4
"""


def test_duplicate_keys_are_said_together_with_all_other_mistakes(tmp_path):
    (tmp_path / "bad.yaml").write_text(DOUBLES)
    with pytest.raises(SpecError) as caught:
        load_job(tmp_path / "bad.yaml")
    assert [error.where.rpartition(":")[2] for error in caught.value.errors] == [
        "4 train.batch_rows",
        "6 model",
        "7 train",
        "9 train.seeds",
    ]
    assert "duplicate key, which stands in line 2 already. Keep one." in caught.value.errors[2].message
    assert "duplicate key, which stands in lines 5 and 8 already. Keep one." in caught.value.errors[3].message


ONE_MISTAKE = {
    "a misspelt key that would be required": "data: {path: a, targte: y}\n",
    "a misspelt key that another reads": SMALL + "split: {by: given, colum: x}\n",
    "a misspelt value that others depend on": SMALL + "split: {by: givn, column: x}\n",
    "a range that cannot be read": SMALL
    + "train: {optimizer: {adamw: {lr: {uniform: [2, 1]}}}}\nsearch: {members: 4}\n",
    "a section that is no map": SMALL + "train: [1]\n",
    "an old number": SMALL + "train: {epochs: 012}\n",
}


@pytest.mark.parametrize("text", ONE_MISTAKE.values(), ids=ONE_MISTAKE)
def test_what_follows_from_a_mistake_is_not_a_second_one(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_job(tmp_path / "bad.yaml")
    assert [str(error) for error in caught.value.errors] == [str(caught.value)]


FORMS = {
    "utf16": (SMALL.encode("utf-16"), r"bad\.yaml: is UTF-16, not UTF-8 text\. Save it as UTF-8"),
    "utf16 without a mark": (SMALL.encode("utf-16-le"), r"bad\.yaml:1: holds a NUL byte.* Save it as UTF-8"),
    "cp1252": (b"# gr\xf6\xdfe\n" + SMALL.encode(), r"bad\.yaml:1: holds the byte 0xf6, .* Save it as UTF-8"),
    "a NUL": (SMALL.encode() + b"\0", r"bad\.yaml:2: holds a NUL byte"),
    "Parquet": (b"PAR1" + bytes(40), r"bad\.yaml: is Parquet, not UTF-8 text"),
    "a large file": (b"#" * (2 << 20), r"bad\.yaml: is larger than 1 MiB"),
    "deep maps": (b"{a: " * 100_000, r"bad\.yaml:1: is nested more than 50 deep"),
    "deep lists": (b"[" * 100_000, r"bad\.yaml:1: is nested more than 50 deep"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(500)).encode(), r"is nested more than 50 deep"),
    "nothing": (b"", r"a job is a map of keys, and this is nothing"),
    "a list": (b"- a\n", r"a job is a map of keys, and this is a list"),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_a_file_that_is_no_job_is_told_what_it_is(tmp_path, name):
    data, message = FORMS[name]
    (tmp_path / "bad.yaml").write_bytes(data)
    with pytest.raises(SpecError, match=message) as caught:
        load_job(tmp_path / "bad.yaml")
    assert len(caught.value.errors) == 1


def test_aliases_of_aliases_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "bad.yaml").write_text("\n".join(lines))
    with pytest.raises(SpecError, match="unfolds to more than 100,000 values"):
        load_job(tmp_path / "bad.yaml")


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(SpecError, match=r"pipe\.yaml: is a pipe or a device"):
        load_job(tmp_path / "pipe.yaml")
    with pytest.raises(SpecError, match="is a folder"):
        load_job(tmp_path)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + SMALL.encode(), SMALL.replace("\n", "\r\n").encode()])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, data):
    (tmp_path / "good.yaml").write_bytes(data)
    assert load_job(tmp_path / "good.yaml").name == "good"


def test_a_file_whose_name_is_no_name_is_told_to_set_one(tmp_path):
    (tmp_path / "my job v2.yaml").write_text(SMALL)
    with pytest.raises(SpecError, match=r"'my job v2' cannot name a job.* Set name: in the file, or rename the file"):
        load_job(tmp_path / "my job v2.yaml")
    (tmp_path / "my job v2.yaml").write_text(SMALL + "name: mine\n")
    assert load_job(tmp_path / "my job v2.yaml").name == "mine"


ODD_FILES = {
    "train: {epochs: 3}\n---\na: 1\n": r"churn\.yaml:\d+: not YAML: but found another document",
    "train:\n\tepochs: 3\n": r"churn\.yaml:3: not YAML: found character '\\t'",
    "model: !!python/object:os.system x\n": r"churn\.yaml:2 model: tag .*os\.system is not read\. Write a plain value",
    "model: !mine {a: 1}\n": r"churn\.yaml:2 model: tag !mine is not read",
    "steps: !mine [a, b]\n": r"churn\.yaml:2 steps: tag !mine is not read",
    "steps: !!python/object/apply:os.system [a]\n": r"churn\.yaml:2 steps: tag .*os\.system is not read",
    "3: x\n": r"churn\.yaml:2 3: 3 is no text\. Put the key in quotes",
    "model: " + "[" * 3000 + "]" * 3000 + "\n": r"churn\.yaml:2: is nested more than 50 deep",
    "model: &a\n  mlp: *a\n": r"churn\.yaml:3: \*a stands inside of &a",
    "run: {deterministic: on}\n": r"run\.deterministic: 'on'\. Accepted: true or false",
    "data2: '${HOME}'\n": r"churn\.yaml:2 data2: '\$\{HOME\}' holds a variable\. Variables stand in data\.path and track\.mlflow only",
    "model: a\x07b\n": r"holds a character that YAML does not allow",
    "api_token: hunter2\n": r"churn\.yaml:2 api_token: unknown key 'api_token'",
}


@pytest.mark.parametrize("text", list(ODD_FILES), ids=lambda text: text.strip()[:24])
def test_what_yaml_allows_and_a_job_does_not_is_named(write, text):
    with pytest.raises(SpecError, match=ODD_FILES[text]) as caught:
        load_job(write(SMALL + text))
    assert "hunter2" not in str(caught.value)


def test_aliases_that_unfold_without_end_are_stopped(write):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(SpecError, match="unfolds to more than 100,000 values"):
        load_job(write(SMALL + "\n".join(rows)))


def test_maps_merge_and_mistakes_in_them_are_placed(write):
    text = "name: &n a\nsplit: &s {val: 0.2}\ntrain:\n  optimizer: adam\n  early_stop: {<<: {patience: 7}}\n"
    assert load_job(write(SMALL + text)).train.early_stop.patience == 7
    with pytest.raises(SpecError, match=r"churn\.yaml:6 train\.early_stop\.patiense: unknown key"):
        load_job(write(SMALL + text.replace("patience", "patiense")))


def test_numbers_of_yaml_1_2_are_numbers(write):
    job = load_job(write(SMALL + "train: {epochs: 0x10, batch_rows: 0o20, optimizer: {adam: {lr: 1e-3}}}\n"))
    assert (job.train.epochs, job.train.batch_rows, job.train.optimizer.params["lr"]) == (16, 16, 0.001)


def test_numbers_that_yaml_1_2_lacks_may_stand_in_quotes_and_in_text(write):
    text = "data: {path: sample:iris, target: target, null_values: ['012', 'a 1_000']}\n"
    assert load_job(write(text)).data.null_values == ("012", "a 1_000")


@pytest.mark.parametrize("base", ["nothing.yaml", ".", "[a]"])
def test_a_base_that_is_no_file_is_named_at_its_line(write, base):
    with pytest.raises(SpecError, match=r"churn\.yaml:2 extends: .* is no file\. Give the path of one job file"):
        load_job(write(SMALL + f"extends: {base}\n"))


BAD_OVERRIDES = {
    "train..epochs=3": "Give key=value",
    "=3": "Give key=value",
    "train.epochs=012": r"--set train\.epochs: 012 is no YAML 1\.2 number",
    "train.seeds=[1": r"--set train\.seeds:1: not YAML",
    "steps.0=drop": r"points into a list\. Give it whole: steps=\[\.\.\.\]",
    "data.path=${FMRAY_TEST_NONE}/x": r"--set data\.path: \$\{FMRAY_TEST_NONE\} is not set",
    "data.path=${HOME/x": r"holds a \$\{ that is no variable",
    "data.path=${FMRAY_TEST_NONE:-}": r"data\.path: ''\. Accepted: text that is not empty",
}


@pytest.mark.parametrize("override", list(BAD_OVERRIDES))
def test_an_override_goes_through_the_same_rules_as_the_file(write, override):
    with pytest.raises(SpecError, match=BAD_OVERRIDES[override]):
        load_job(write(SMALL + "steps: [auto]\n"), [override])


@pytest.mark.parametrize("text", ["[1]\n", "", "just text\n"])
def test_an_override_of_a_file_that_is_no_job_is_refused_in_words(write, text):
    with pytest.raises(SpecError, match="a job is a map of keys"):
        load_job(write(text), ["train.epochs=3"])


@pytest.mark.parametrize("value", [[1], None, "job"])
def test_from_python_too_a_job_is_a_map(value):
    with pytest.raises(SpecError, match="a job is a map of keys"):
        job_from(value)


def test_a_dollar_is_written_twice_to_stay_one(write):
    assert load_job(write("data: {path: 'a$$b', target: t}\n")).data.path == "a$b"


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"a\.yaml: is UTF-16, not UTF-8 text. Save it as UTF-8"):
        load_job(tmp_path / "a.yaml")


def test_nothing_is_looked_for_where_the_data_could_not_be_read(write):
    looked = []
    with pytest.raises(SpecError) as caught:
        load_job(write("data: !mine [a]\n"), also=lambda job: looked.append(job.data.path))
    assert looked == []
    assert "nothing lies" not in str(caught.value)
