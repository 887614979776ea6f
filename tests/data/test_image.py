"""Check that pixels are those of the file, and that bytes which are no image never stop a run unnamed."""

import io
import re
import struct
import zlib

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fmray.catalogue import STEPS
from fmray.data.arrow_frames import as_frame, faults
from fmray.data.image import DecodeImage, is_image
from fmray.data.lanes import Lanes
from fmray.errors import DataError, SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps
from fmray.train.blocks import as_floats

SCHEMA = Schema((Column("photo", "image"),))


def encoded(pixels, form="PNG", **options):
    held = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(held, form, **options)
    return held.getvalue()


def colours(height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def decoded(values, **params):
    step = DecodeImage(steps.DecodeImage(columns="photo", **params))
    frame = pl.DataFrame({"photo": pl.Series(values, dtype=pl.Binary)})
    learned = step.learn(step.fit(frame, SCHEMA), SCHEMA)
    return step.apply(frame, learned.state)["photo"], learned.schema.columns[0]


def test_colours_are_laid_out_channel_after_channel():
    found, column = decoded([encoded(colours()), encoded(colours(seed=1))], size=[4, 5])
    expected = np.stack([colours().transpose(2, 0, 1).reshape(-1), colours(seed=1).transpose(2, 0, 1).reshape(-1)])
    np.testing.assert_array_equal(found.to_numpy(), expected)
    assert found.dtype == pl.Array(pl.UInt8, 60)
    assert column == Column("photo", "bytes", 60)


def test_what_decoding_leaves_out_is_said():
    step = DecodeImage(steps.DecodeImage(columns="photo", size=[4, 5]))
    assert step.learn(None, SCHEMA).notes == (
        "decode_image brings 'photo' to 4 x 5 pixels of red, green and blue, 8 bits each: transparency and finer levels "
        "are left out",
    )


def test_grey_levels_are_what_the_file_says():
    levels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    found, column = decoded([encoded(levels)], size=[4, 5], channels=1)
    assert found[0].to_list() == list(range(20))
    assert column.width == 20


def test_sixteen_bit_levels_keep_their_upper_bits():
    levels = np.array([[0, 255, 256], [4096, 65535, 513]], np.uint16)
    assert decoded([encoded(levels)], size=[2, 3], channels=1)[0][0].to_list() == [0, 0, 1, 16, 255, 2]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGB"])
def test_images_of_every_sort_become_the_channels_asked_for(mode):
    image = Image.fromarray(np.full((4, 5, 3), 255, np.uint8)).convert(mode)
    for channels in (1, 3):
        found, _ = decoded([encoded(image)], size=[4, 5], channels=channels)
        assert set(found[0].to_list()) == {255}


def test_jpeg_is_decoded_up_to_its_loss():
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 5
    found, _ = decoded([encoded(smooth, "JPEG", quality=95)], size=[16, 24], channels=1)
    np.testing.assert_allclose(found[0].to_numpy(), smooth.reshape(-1), atol=6)


def test_other_sizes_are_resized_bilinearly():
    ramp = np.array([[0, 100], [100, 200]], np.uint8)
    found, _ = decoded([encoded(ramp), encoded(np.full((7, 3), 9, np.uint8))], size=[4, 4], channels=1)
    at = np.array([0.0, 0.25, 0.75, 1.0])  # centres of four pixels where two were, held at the edge
    np.testing.assert_allclose(found[0].to_numpy().reshape(4, 4), np.add.outer(at, at) * 100, atol=1)
    assert set(found[1].to_list()) == {9}


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width, height, pixels, text=0):
    """Give a PNG whose few bytes claim, or unpack to, far more: pixels, or a text beside them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    words = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(text))) if text else b""
    return b"\x89PNG\r\n\x1a\n" + head + words + chunk(b"IDAT", zlib.compress(bytes(pixels), 1)) + chunk(b"IEND", b"")


BROKEN = {
    "pixels beyond what Pillow takes for a bomb": bomb(10_000, 9_500, 9_500 * 10_001),
    "a gigapixel": bomb(60_000, 60_000, 1000),
    "text that unpacks to more than is read": bomb(4, 4, 20, text=1 << 26),
    "missing": None,
    "empty": b"",
    "text": b"no image",
    "cut short": encoded(colours(40, 40))[:-700],
    "cut jpeg": encoded(colours(40, 40), "JPEG")[:-300],
    "header only": encoded(colours())[:33],
    "another format": encoded(colours(), "BMP"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_bytes_that_are_no_image_are_told(case):
    assert not is_image(BROKEN[case])
    with pytest.raises(DataError, match=r"steps.decode_image: column 'photo', row 1 of 2: .* Accepted: PNG, JPEG."):
        decoded([encoded(colours()), BROKEN[case]], size=[4, 5])


def test_an_image_that_would_not_fit_into_memory_is_told(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert not is_image(encoded(colours()))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_rows_without_an_image_are_set_aside_with_a_reason(kind):
    table = pa.table({"photo": pa.array([encoded(colours()), b"x", None], kind)})
    codes, reasons = faults(table, SCHEMA, [])
    assert [reasons[code] for code in codes] == ["", *["'photo' is no image that can be decoded"] * 2]
    assert as_frame(table, SCHEMA, ("?",))["photo"].to_list() == table.column(0).to_pylist()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": [28]}, "step.decode_image.size: [28]. Accepted: a list of 2 whole numbers in [1, inf)."),
        ({"size": [28, 0]}, "step.decode_image.size: [28, 0]. Accepted: a list of 2 whole numbers in [1, inf)."),
        ({"size": 28}, "step.decode_image.size: 28. Accepted: a list of 2 whole numbers in [1, inf)."),
        ({"size": [28, 28], "channels": 2}, "step.decode_image.channels: 2. Accepted: 1 or 3."),
    ],
)
def test_sizes_and_channels_that_cannot_be_are_refused(params, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        STEPS.build("decode_image", params={"columns": ["photo"], **params})


def test_a_column_that_holds_no_bytes_is_refused_by_its_kind():
    with pytest.raises(SpecError, match="column 'photo' holds text. Accepted: image."):
        DecodeImage(steps.DecodeImage(columns=["photo"], size=[2, 2])).fit(
            pl.DataFrame(), Schema((Column("photo", "text"),))
        )


@pytest.mark.parametrize("steps", [["decode", "auto"], ["auto", "decode"]])
def test_encoded_images_are_prepared_and_broken_ones_accounted_for(write, prepared, steps):
    images = [encoded(colours(seed=i)) for i in range(300)]
    images[17], images[40], images[55] = b"broken", None, BROKEN["pixels beyond what Pillow takes for a bomb"]
    folder = write("a.parquet", pa.table({"photo": images, "y": [i % 2 for i in range(300)]}))
    decode = {"decode_image": {"columns": ["photo"], "size": [4, 5]}}
    made = prepared(folder, steps=[decode if step == "decode" else step for step in steps])
    assert made.quarantine == {"'photo' is no image that can be decoded": 3}
    assert made.rows["quarantined"] == 3
    assert made.schema.width == 60
    x = as_floats(torch.from_numpy(Lanes(made, "train").load(["x"])["x"]))
    assert x.max().item() == pytest.approx(1.0 if steps[0] == "decode" else 255.0)
    aside = pq.read_table(f"{made.root}/quarantine").to_pydict()
    assert sorted(aside["quarantine_row"]) == [17, 40, 55]
