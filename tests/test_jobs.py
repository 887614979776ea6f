"""Every job file that comes with fmray does what its first lines say, on the data it names."""

import os
from importlib.util import find_spec
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from ruamel.yaml import YAML

from fmray.data.preview import preview
from fmray.spec.job import Job
from fmray.spec.load import load_job
from fmray.spec.pretrained import FOLDERS, PACKAGE

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
NAMES = [path.stem for path in JOBS]
TASKS = {
    **dict.fromkeys(("bike_sharing", "california_housing", "california_search"), "regression"),
    "goemotions": "multi_label",
    "goemotions_mlm": "masked_language_model",
    "python_code": "language_model",
    "restaurant8k_spans": "span_extraction",
    "tatoeba_deu_eng": "sequence_to_sequence",
    "tiny_shakespeare": "language_model",
    "ud_english_tags": "tagging",
    "wnut17_entities": "tagging",
    "wnut17_minilm": "tagging",
}
"""Job -> its task, where that is not classification."""


@pytest.fixture
def real() -> object:
    """Load a job by name whose data are here, or skip."""

    def load(name: str) -> tuple[Job, Path]:
        job = load_job(ROOT / "jobs" / f"{name}.yaml")
        folder = Path(job.folder, job.data.path)
        if "FMRAY_DATA" not in os.environ and not folder.is_dir():
            pytest.skip(f"{folder} is not here; set FMRAY_DATA")
        for ref in (job.model, *job.steps):
            named = str(ref.params.get(FOLDERS.get(ref.name, ""), ""))
            if named.startswith(PACKAGE) and find_spec(named.removeprefix(PACKAGE)) is None:
                pytest.skip(f"{named} is not installed")
            if named and not named.startswith(PACKAGE) and not Path(job.folder, named).is_dir():
                pytest.skip(f"{named} is not here; run the job that the first lines name")
        return job, folder

    return load


def column(folder: Path, name: str) -> list[object]:
    return ds.dataset(folder, format="parquet").to_table([name]).column(0).to_pylist()


def test_the_jobs_are_those_that_readers_are_promised():
    assert NAMES == [
        "adult",
        "adult_lightgbm",
        "banking77_encoder",
        "banking77_heads",
        "banking77_minilm",
        "banking77_pretrained",
        "bike_sharing",
        "california_housing",
        "california_search",
        "goemotions",
        "goemotions_mlm",
        "letter_ensemble",
        "mnist_linear",
        "mnist_mlp",
        "mnist_resnet",
        "perceptron",
        "python_code",
        "quickstart",
        "restaurant8k_spans",
        "sms_spam",
        "sms_spam_heads",
        "sms_spam_tokens",
        "tatoeba_deu_eng",
        "tiny_shakespeare",
        "ud_english_tags",
        "wnut17_entities",
        "wnut17_minilm",
    ]


@pytest.mark.parametrize("path", JOBS, ids=NAMES)
def test_a_job_is_valid_opens_with_what_it_shows_and_is_named_by_its_file(path):
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 40
    assert "name" not in YAML(typ="safe").load(text)
    assert load_job(path).name == path.stem


@pytest.mark.parametrize("path", JOBS, ids=NAMES)
def test_data_are_bundled_or_below_one_folder_that_a_variable_moves(path, monkeypatch):
    monkeypatch.setenv("FMRAY_DATA", "/elsewhere")
    found = load_job(path).data.path
    assert found.startswith(("sample:", "/elsewhere/"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "quickstart"])
def test_a_job_fits_its_data_without_a_doubt(real, name):
    job, _ = real(name)
    seen = preview(job)
    assert seen.inputs is not None
    assert seen.task.name == TASKS.get(name, "classification")
    assert not any("cannot settle" in note for note in seen.notes)


def test_the_quickstart_is_small_bundled_and_a_population():
    job = load_job(ROOT / "jobs/quickstart.yaml")
    seen = preview(job)
    assert job.train.seeds.n == 5
    assert seen.dataset.num_rows < 2_000
    assert len(seen.dataset.files) > 1
    assert seen.dataset.num_rows * job.train.epochs / job.train.batch_rows < 5_000, "too many steps for a first job"


def test_adult_maps_every_spelling_of_its_two_labels_and_every_marker_of_missing(real):
    job, folder = real("adult")
    spelled = set(column(folder, "income"))
    assert len(spelled) == 4
    assert {job.data.labels.get(label, label) for label in spelled} == {"<=50K", ">50K"}
    assert "?" in set(column(folder, "workclass"))
    assert job.data.null_values == ("?",)
    assert (job.split.by, job.split.column) == ("given", "split")
    assert set(column(folder, "split")) == {"train", "test"}
    assert "fnlwgt" in job.data.ignore
    assert job.data.positive == ">50K"


def test_customers_ask_in_the_published_split_and_validation_is_a_share_of_its_training_rows(real):
    job, folder = real("banking77_encoder")
    assert set(column(folder, "split")) == {"train", "test"}
    assert (job.split.by, job.split.column) == ("given", "split")
    seen = preview(job)
    assert len(set(column(folder, "intent"))) == 77
    assert list(seen.inputs.blocks) == ["tokens"]
    assert not any("does not read" in note for note in seen.notes)


def test_a_tuned_encoder_reads_ids_of_its_own_tokenizer_in_the_published_split(real):
    job, folder = real("banking77_minilm")
    assert set(column(folder, "split")) == {"train", "test"}
    seen = preview(job)
    assert seen.inputs.blocks["tokens"].width == 30_522
    (share,) = {group.lr_scale for group in job.train.groups}
    assert share == 0.1


def test_bikes_are_judged_on_later_days_and_the_parts_of_the_target_are_left_out(real):
    job, folder = real("bike_sharing")
    parts = zip(*(column(folder, name) for name in ("casual", "registered", "count")), strict=True)
    assert all(casual + registered == count for casual, registered, count in parts)
    assert {"casual", "registered", "instant"} <= set(job.data.ignore)
    assert (job.split.by, job.data.time) == ("time", "date")
    assert column(folder, "instant") == list(range(1, 17_380))
    read = {c.name for c in preview(job).columns.columns}
    assert not read & {"casual", "registered", "instant", "date", "count"}


@pytest.mark.parametrize("name", ["mnist_linear", "mnist_mlp", "mnist_resnet"])
def test_digits_are_read_as_bytes_of_the_published_split(real, name):
    job, folder = real(name)
    assert {len(image) for image in column(folder, "image")} == {784}
    assert column(folder, "split").count("test") == 10_000
    assert preview(job).inputs.width == 784
    assert job.split.column == "split"


def test_houses_without_a_count_of_bedrooms_are_kept(real):
    job, folder = real("california_housing")
    assert column(folder, "total_bedrooms").count(None) > 0
    notes = " ".join(preview(job).notes)
    assert "missing values of 'total_bedrooms'" in notes
    assert job.data.max_quarantine < 0.05


def test_a_treebank_has_a_part_of_speech_for_each_word_of_the_published_split(real):
    job, folder = real("ud_english_tags")
    words, tags = (column(folder, name) for name in ("tokens", "upos"))
    assert [len(row) for row in words] == [len(row) for row in tags]
    assert job.split.column == "split"
    assert set(column(folder, "split")) == {"train", "dev", "test"}
    seen = preview(job)
    assert list(seen.inputs.blocks) == ["tokens", "suffix3", "suffix2", "prefix2", "shape"]
    assert len(seen.target.classes) > 10


def test_comments_have_labels_of_the_published_split_and_not_their_numbers_as_inputs(real):
    job, folder = real("goemotions")
    named, numbered = (column(folder, name) for name in ("labels", "label_ids"))
    assert [len(row) for row in named] == [len(row) for row in numbered]
    assert "label_ids" in job.data.ignore
    assert set(column(folder, "split")) == {"train", "dev", "test"}
    seen = preview(job)
    assert len(seen.target.classes) == 28
    assert list(seen.inputs.blocks) == ["bag"]
    assert job.task.params["thresholds"] == "per_label"


def test_entities_are_marked_in_tags_as_long_as_the_words_of_the_published_split(real):
    job, folder = real("wnut17_entities")
    words, tags = (column(folder, name) for name in ("tokens", "ner_tags"))
    assert [len(row) for row in words] == [len(row) for row in tags]
    assert set(column(folder, "split")) == {"train", "dev", "test"}
    assert len({tag[2:] for row in tags for tag in row} - {""}) == 6
    assert "which mark entities" in " ".join(preview(job).notes)


def test_a_tuned_encoder_reads_pieces_of_the_same_words_in_the_same_split(real):
    job, _ = real("wnut17_minilm")
    other, _ = real("wnut17_entities")
    assert (job.data, job.split, job.task) == (other.data, other.split, other.task)
    seen = preview(job)
    assert {name: block.kind for name, block in seen.inputs.blocks.items()} == {
        "pieces": "pieces",
        "tokens": "tokens",
        "shape": "tokens",
    }
    assert "read in windows" not in " ".join(seen.notes)  # no tweet is longer than a window


def test_slots_of_a_dialogue_are_spans_by_characters_of_the_published_split(real):
    job, folder = real("restaurant8k_spans")
    texts, spans, sides = (column(folder, name) for name in ("text", "spans", "split"))
    assert (sides.count("train"), sides.count("test")) == (8_198, 3_731)
    pairs = [(text, text[one["start"] : one["end"]]) for text, row in zip(texts, spans, strict=True) for one in row]
    assert all(found for _, found in pairs)
    wide = [
        (text, found) for text, found in pairs if not text.isascii()
    ]  # counted in bytes, these would be cut elsewhere
    assert len(wide) > 20
    for text, found in wide:
        before, _, after = text.partition(found)
        assert not (before[-1:] + found[0]).isalpha() or not before
        assert not (found[-1] + after[:1]).isalpha() or not after
    seen = preview(job)
    assert list(seen.inputs.blocks)[-1] == "beside_requested_slots"
    assert [name[2:] for name in seen.target.classes[1::2]] == ["date", "first_name", "last_name", "people", "time"]
