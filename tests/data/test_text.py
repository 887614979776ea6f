"""Check steps that read text against scikit-learn and by hand."""

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from fmray.data.text import merged_sample, sample_of
from fmray.data.tfidf import Tfidf
from fmray.data.tokenize import Tokenize
from fmray.errors import DataError, SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared

SCHEMA = Schema((Column("text", "text"),))
TEXTS = ["Free prize, call NOW now", "call me later", None, "", "a b a b a", "ünïcode 漢字 call", "free free free call"]
FRAME = pl.DataFrame({"text": TEXTS}, schema={"text": pl.String})


def learned(step, frame=FRAME):
    return step.learn(step.fit(frame, SCHEMA), SCHEMA)


@pytest.mark.slow
@pytest.mark.parametrize("sublinear", [True, False])
@pytest.mark.parametrize(("of", "analyzer", "pattern"), [
    ("words", "word", r"\w+"), ("marks", "word", r"\w+|[^\w\s]"), ("characters", "char", ""),
])  # fmt: skip
@pytest.mark.parametrize("longest", [1, 3])
def test_weights_are_those_of_scikit_learn(of, analyzer, pattern, sublinear, longest):
    what = {"of": "words", "marks": True} if of == "marks" else {"of": of}
    step = Tfidf(declared.Tfidf(columns="text", longest=longest, sublinear=sublinear, buckets=1 << 22, **what))
    bags = step.apply(FRAME, learned(step).state)["text"].to_list()
    words = {"token_pattern": pattern} if pattern else {}
    vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, longest), sublinear_tf=sublinear, **words)
    theirs = vectorizer.fit_transform([text or "" for text in TEXTS])
    assert theirs.shape[1] > 5
    for bag, row in zip(bags, theirs.toarray(), strict=True):
        np.testing.assert_allclose(sorted(e["weight"] for e in bag), sorted(row[row > 0]), rtol=1e-5)


def test_missing_and_empty_texts_are_empty_rows():
    for step in (Tfidf(declared.Tfidf(columns="text")), Tokenize(declared.Tokenize(columns="text"))):
        made = step.apply(FRAME, learned(step).state)["text"]
        assert made.null_count() == 0
        assert made.list.len().to_list()[2:4] == [0, 0]
        assert step.apply(FRAME[:0], learned(step).state).height == 0


STEPS = {
    "tfidf": (Tfidf(declared.Tfidf(columns="text")), "n-gram of words"),
    "tokenize": (Tokenize(declared.Tokenize(columns="text")), "text"),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_rows_without_text_are_counted_and_where_no_row_has_any_the_step_is_refused(name):
    step, what = STEPS[name]
    parts = [step.fit(rows, SCHEMA) for rows in (FRAME[:3], FRAME[3:])]
    for partial in (step.merge(*parts), step.merge(*parts[::-1])):
        assert step.learn(partial, SCHEMA).notes[0].endswith("; 2 of 7 training rows have none")
    assert "have none" not in learned(step, FRAME[4:]).notes[0]
    for rows in (FRAME[2:4], FRAME[:0]):
        with pytest.raises(
            DataError, match=rf"steps\.{name}\.columns: no training row has any {what} in column 'text'\."
        ):
            learned(step, rows)


def test_tokens_are_cut_and_the_note_counts_them():
    step = Tokenize(declared.Tokenize(columns="text", kind="words", max_tokens=3))
    found = learned(step)
    assert step.apply(FRAME, found.state)["text"].list.len().to_list() == [3, 3, 0, 0, 3, 3, 3]
    assert "3 of 6 training texts are cut after 3 tokens (the longest has 6" in found.notes[0]


def test_unknown_words_have_the_id_one_and_known_ones_above():
    step = Tokenize(declared.Tokenize(columns="text", kind="words"))
    found = learned(step)
    ids = step.apply(pl.DataFrame({"text": ["free zebra"]}), found.state)["text"].to_list()[0]
    assert ids[0] > 1
    assert ids[1] == 1
    assert found.schema.columns[0].kind == "tokens"
    assert (
        max(i for row in step.apply(FRAME, found.state)["text"].to_list() for i in row) < found.schema.columns[0].width
    )


def test_bytes_read_everything():
    step = Tokenize(declared.Tokenize(columns="text", kind="bytes"))
    lengths = step.apply(FRAME, learned(step).state)["text"].list.len().to_list()
    assert lengths == [len((text or "").lower().encode()) for text in TEXTS]


def test_a_sample_depends_on_neither_order_nor_grouping():
    random = np.random.default_rng(0)
    texts = pl.Series([f"text {i}" for i in random.integers(0, 400, 2000)])
    whole = sample_of(texts, 50)
    shuffled = texts[random.permutation(len(texts))]
    parts = [sample_of(shuffled[start : start + 300], 50) for start in range(0, 2000, 300)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged_sample(part, merged, 50)
    assert merged == whole
    counts = texts.value_counts()
    assert all(counts.filter(pl.col("") == text)["count"].item() == rows for _, text, rows in whole)


def test_a_block_that_cannot_be_called_so_is_refused():
    assert "small letters" in declared.Tokenize.problems({"columns": "text", "block": "x"})[0][1]
    assert declared.Tokenize.problems({"columns": "text", "block": "question"}) == []


def test_numbers_are_no_text():
    with pytest.raises(SpecError, match="column 'n' holds number. Accepted: text"):
        Tfidf(declared.Tfidf(columns="n")).fit(FRAME, Schema((Column("n", "number"),)))
