"""A struct that nothing reads keeps its type, by which data sets of before are known; those of spans become one."""

import pyarrow as pa

from fmray.data.evolve import normal, wider

PLAIN = pa.struct([("type", pa.string()), ("start", pa.int64()), ("end", pa.int64())])


def test_structs_beside_lists_are_left_as_they_are():
    kind = pa.struct([pa.field("src", pa.large_string(), nullable=False), ("n", pa.dictionary(pa.int8(), pa.string()))])
    assert normal(kind) is kind


def test_structs_in_lists_are_read_as_one_type_whoever_wrote_them():
    views = pa.struct([("type", pa.string_view()), ("start", pa.int64()), ("end", pa.int64())])
    short = pa.struct([("type", pa.large_string()), ("start", pa.int32()), ("end", pa.int32())])
    assert normal(pa.large_list(views)) == pa.list_(PLAIN)
    assert wider(normal(pa.list_(short)), normal(pa.list_(views))) == pa.list_(PLAIN)
