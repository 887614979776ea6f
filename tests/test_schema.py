import json

from fmray.schema import Column, Schema

SCHEMA = Schema(
    (
        Column("age", "number"),
        Column("sex", "one_hot", 2, ("Female", "Male")),
        Column("pixels", "bytes", 3),
        Column("age_missing", "missing"),
    )
)


def test_the_width_is_the_number_of_floats_per_row():
    assert SCHEMA.width == 1 + 2 + 3 + 1
    assert Schema(()).width == 0


def test_every_float_has_a_name():
    expected = ["age", "sex=Female", "sex=Male", "pixels[0]", "pixels[1]", "pixels[2]", "age_missing"]
    assert SCHEMA.feature_names() == expected
    assert len(expected) == SCHEMA.width


def test_a_schema_written_as_json_and_read_is_the_same():
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA


def test_a_schema_can_be_a_key():
    assert {SCHEMA: 1}[Schema.from_json(SCHEMA.to_json())] == 1
