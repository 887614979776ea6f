"""A decoder that reads on with a cache answers as one that reads the whole text anew, whatever rows lie beside."""

import pytest
import torch
from lively_decoder import lively

from fmray.models.cache import MULTIPLE
from fmray.models.decoder import rotated

NUM_IDS = 30


def decoder(dtype=torch.float32):
    return lively(NUM_IDS).to(dtype)


def ids(*lengths, seed=0):
    source = torch.Generator().manual_seed(seed)
    return [torch.randint(1, NUM_IDS, (length,), generator=source) for length in lengths]


def whole(model, rows):
    """Give the outputs at the last token of each text, read alone and without a cache."""
    with torch.no_grad():
        return torch.stack([model(tokens=row[None])[0, -1] for row in rows])


def padded(rows, width=0, fill=0):
    made = torch.full((len(rows), max([width, *map(len, rows)])), fill)
    for place, row in enumerate(rows):
        made[place, : len(row)] = row
    return made, torch.tensor(list(map(len, rows)))


def follow(model, rows, cache, **how):
    with torch.no_grad():
        return model.follow(*padded(rows, **how), cache)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_one_token_at_a_time_is_the_whole_text_at_once(dtype, tolerance):
    model = decoder(dtype)
    (row,) = ids(3 * MULTIPLE)
    cache = model.new_cache(1)
    told = torch.cat([follow(model, [token[None]], cache) for token in row])
    with torch.no_grad():
        expected = model(tokens=row[None])[0]
    torch.testing.assert_close(told, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert torch.equal(told.argmax(-1), expected.argmax(-1))
    assert told.argmax(-1).unique().numel() > 3


def test_rows_of_different_lengths_go_on_as_each_does_alone():
    model = decoder(torch.float64)
    first, more, last = ids(5, 1, 9, 33), ids(2, 7, 1, 3, seed=1), ids(1, 1, 1, 1, seed=2)
    cache = model.new_cache(4)
    so_far = [torch.empty(0, dtype=torch.int64)] * 4
    for given in (first, more, last):
        so_far = [torch.cat([one, new]) for one, new in zip(so_far, given, strict=True)]
        told = follow(model, given, cache)
        torch.testing.assert_close(told, whole(model, so_far), rtol=1e-10, atol=1e-10)
    assert cache.lengths.tolist() == list(map(len, so_far))


@pytest.mark.parametrize(("width", "fill"), [(0, 7), (50, 0), (70, 29)])
def test_padding_changes_no_output(width, fill):
    model = decoder(torch.float64)
    rows, more = ids(4, 11, 1), ids(1, 1, 1, seed=5)
    caches = [model.new_cache(3) for _ in range(2)]
    for given in (rows, more):
        plain, filled = follow(model, given, caches[0]), follow(model, given, caches[1], width=width, fill=fill)
        torch.testing.assert_close(plain, filled, rtol=1e-12, atol=1e-12)


def test_rows_are_taken_in_any_order_and_more_than_once():
    model = decoder(torch.float64)
    rows = ids(4, 11, 1)
    cache = model.new_cache(3)
    follow(model, rows, cache)
    chosen = [2, 0, 0, 1]
    taken = cache.take(torch.tensor(chosen))
    more = ids(1, 1, 1, 1, seed=9)
    expected = whole(model, [torch.cat([rows[place], new]) for place, new in zip(chosen, more, strict=True)])
    torch.testing.assert_close(follow(model, more, taken), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(  # and what they were taken from goes on by itself
        follow(model, ids(1, 1, 1, seed=4), cache),
        whole(model, [torch.cat([row, new]) for row, new in zip(rows, ids(1, 1, 1, seed=4), strict=True)]),
        rtol=1e-10,
        atol=1e-10,
    )


def test_rows_that_are_put_back_stand_in_for_those_that_were_there():
    model = decoder(torch.float64)
    rows, new = ids(4, 11, 6), ids(40, 2, seed=1)
    cache = model.new_cache(3)
    follow(model, rows, cache)
    other = model.new_cache(2)
    follow(model, new, other)
    cache.put(torch.tensor([2, 0]), other)
    more = ids(1, 1, 1, seed=2)
    texts = [new[1], rows[1], new[0]]
    expected = whole(model, [torch.cat([text, one]) for text, one in zip(texts, more, strict=True)])
    torch.testing.assert_close(follow(model, more, cache), expected, rtol=1e-10, atol=1e-10)


def test_places_that_are_given_are_those_that_are_counted():
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    assert torch.equal(rotated(x), rotated(x, torch.arange(5).expand(2, 5)))
    shifted = rotated(x, torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]]))
    assert torch.equal(shifted[0], rotated(x)[0])
    assert torch.equal(shifted[1], rotated(torch.nn.functional.pad(x, (0, 0, 7, 0)))[1, :, 7:])
