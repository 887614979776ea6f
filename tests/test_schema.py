import json

import pytest

from fmray.errors import SpecError
from fmray.schema import Column, Schema, image_shape

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


@pytest.mark.parametrize(
    ("image", "width", "shape"),
    [
        (None, 784, (1, 28, 28)),
        (None, 3072, (3, 32, 32)),
        (None, 1, (1, 1, 1)),
        ([2, 3, 5], 30, (2, 3, 5)),
        ([4, 2, 2], 16, (4, 2, 2)),
    ],
)
def test_rows_are_images_of_the_shape_given_or_square(image, width, shape):
    assert image_shape(image, width, "model") == shape


@pytest.mark.parametrize(
    ("image", "width", "message"),
    [
        (None, 785, "785 inputs are no square image of 1 or 3 channels. Give [channels, height, width]."),
        (None, 0, "0 inputs are no square image"),
        ([28, 28], 784, "[28, 28]. Accepted: [channels, height, width], whole numbers from 1."),
        ([1, 28, 28.0], 784, "[1, 28, 28.0]. Accepted"),
        ([1, 0, 28], 0, "[1, 0, 28]. Accepted"),
        ([3, 28, 28], 784, "[3, 28, 28] has 2352 pixels, the prepared rows have 784 inputs."),
    ],
)
def test_rows_that_are_no_image_are_refused_in_words(image, width, message):
    with pytest.raises(SpecError) as caught:
        image_shape(image, width, "model.resnet.image")
    assert str(caught.value).startswith(f"model.resnet.image: {message}")
