"""Read event files back with TensorBoard's own reader, which checks every record's checksum."""

import math
import os

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from fmray.errors import ClusterError
from fmray.records import Member
from fmray.track.tensorboard import write_events

METRICS = {"train_loss": lambda e: 1 / e, "val_loss": lambda e: 2 / e, "f1[>50K, a/b]": lambda e: e / 9}


def member(index=0, epochs=3, **more):
    history = tuple(
        {"epoch": e, "metric": name, "value": value(e)} for e in range(1, epochs + 1) for name, value in METRICS.items()
    )
    known = {
        "index": index, "model": {"name": "mlp", "params": {"width": 8}}, "params": {"train.seeds": index}, "seed": 7,
        "root": "/nowhere", "status": "finished", "best_epoch": 2, "epochs": epochs, "val_score": 0.5,
        "tensor_hash": "", "history": history,
    }  # fmt: skip
    return Member(**{**known, **more})


def read(folder):
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return reader.Reload()


def curves(folder):
    reader = read(folder)
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def described(folder):
    (value,) = read(folder).Tensors("member/text_summary")
    return value.tensor_proto.string_val[0].decode()


def test_every_epoch_of_every_metric_is_a_point_of_a_curve(tmp_path):
    folder = tmp_path / "run" / "tensorboard"
    write_events(str(folder), [member(0), member(1, epochs=5), member(0, epochs=2, role="baseline")])
    assert sorted(os.listdir(folder)) == ["baseline-00000", "member-00000", "member-00001"]
    for name, epochs in (("member-00000", 3), ("member-00001", 5), ("baseline-00000", 2)):
        found = curves(folder / name)
        assert found.keys() == METRICS.keys()
        for metric, value in METRICS.items():
            assert found[metric] == [(e, np.float32(value(e))) for e in range(1, epochs + 1)]


def test_writing_again_leaves_each_epoch_once_and_nothing_of_before(tmp_path):
    folder = tmp_path / "tensorboard"
    write_events(str(folder), [member(0, epochs=2), member(1), member(2)])
    (tmp_path / "tensorboard.partial" / "member-00009").mkdir(parents=True)  # a writer was killed in the middle
    for _ in range(2):
        write_events(str(folder), [member(0, epochs=4), member(1)])
    assert sorted(os.listdir(tmp_path)) == ["tensorboard"]
    assert sorted(os.listdir(folder)) == ["member-00000", "member-00001"]
    assert len(os.listdir(folder / "member-00000")) == 1
    assert [step for step, _ in curves(folder / "member-00000")["train_loss"]] == [1, 2, 3, 4]


def test_numbers_that_are_none_and_those_beyond_float32_are_kept_as_such(tmp_path):
    values = [math.nan, math.inf, -math.inf, 1e300, 1e-300]
    history = tuple({"epoch": e, "metric": "loss", "value": value} for e, value in enumerate(values, 1))
    write_events(str(tmp_path / "t"), [member(history=history)])
    found = [value for _, value in curves(tmp_path / "t/member-00000")["loss"]]
    assert found == pytest.approx([math.nan, math.inf, -math.inf, math.inf, 0.0], nan_ok=True)


def test_the_text_beside_says_what_the_member_is_and_keeps_secrets(tmp_path):
    params = {"train.seeds": 3, "api_key": "hunter2", "columns": "a|b"}
    given = member(params=params, status="stopped", reason="no improvement on validation for 2 epochs")
    write_events(str(tmp_path / "t"), [given])
    text = described(tmp_path / "t/member-00000")
    assert "| model | mlp |" in text
    assert "| model.width | 8 |" in text
    assert "| train.seeds | 3 |" in text
    assert "| columns | a\\|b |" in text
    assert "| status | stopped: no improvement on validation for 2 epochs |" in text
    assert "| best epoch | 2 of 3 |" in text
    assert "hunter2" not in text


def test_a_failed_member_without_an_epoch_is_shown_with_its_reason(tmp_path):
    write_events(str(tmp_path / "t"), [member(epochs=0, status="failed", reason="the loss was not finite")])
    assert curves(tmp_path / "t/member-00000") == {}
    assert "failed: the loss was not finite" in described(tmp_path / "t/member-00000")


def hparams(folder):
    found = read(folder)._plugin_to_tag_to_content["hparams"]
    return {tag: HParamsPluginData.FromString(content) for tag, content in found.items()}


def test_parameters_and_the_score_they_led_to_are_read_back_by_the_hparams_plugin(tmp_path):
    params = {"train.optimizer.adamw.lr": 0.003, "model.mlp.depth": 2, "model.mlp.act": "relu", "x.norm": True,
              "model.mlp.widths": [64, 32], "x.api_key": "hunter2"}  # fmt: skip
    write_events(str(tmp_path / "t"), [member(params=params, best_epoch=2, val_score=0.875)], "roc_auc")
    found = hparams(tmp_path / "t/member-00000")
    start = found["_hparams_/session_start_info"].session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    assert values.pop("x.api_key") != "hunter2"
    assert values == {"train.optimizer.adamw.lr": 0.003, "model.mlp.depth": 2, "model.mlp.act": "relu", "x.norm": True,
                      "model.mlp.widths": "[64, 32]"}  # fmt: skip
    (metric,) = found["_hparams_/experiment"].experiment.metric_infos
    assert metric.name.tag == "best/roc_auc"
    assert curves(tmp_path / "t/member-00000")["best/roc_auc"] == [(2, 0.875)]


def test_a_failed_member_has_parameters_and_no_score(tmp_path):
    write_events(str(tmp_path / "t"), [member(params={"lr": 9.0}, status="failed", val_score=None, epochs=0)], "r2")
    assert hparams(tmp_path / "t/member-00000")["_hparams_/session_start_info"].session_start_info.hparams
    assert curves(tmp_path / "t/member-00000") == {}


def test_a_member_without_parameters_stands_in_no_table(tmp_path):
    write_events(str(tmp_path / "t"), [member(params={})], "roc_auc")
    assert "hparams" not in read(tmp_path / "t/member-00000")._plugin_to_tag_to_content
    assert curves(tmp_path / "t/member-00000").keys() == METRICS.keys()


def test_no_members_are_an_empty_folder(tmp_path):
    write_events(str(tmp_path / "t"), [])
    assert os.listdir(tmp_path / "t") == []


def test_what_the_filesystem_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ClusterError, match=r"file/t: the filesystem refused"):
        write_events(str(tmp_path / "file" / "t"), [member()])
