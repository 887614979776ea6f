"""Name what a file is by its first bytes, so that a message can say more than "not Parquet".

Only signatures that are published decide; a file that has none of them is called unknown.
"""

HEAD_BYTES = 512
PLAIN, ENCRYPTED = b"PAR1", b"PARE"
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer; run 'git lfs pull' to get the file itself"),
    (b"\x1f\x8b", "gzip-compressed; unpack it"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it"),
    (b"BZh", "bzip2-compressed; unpack it"),
    (b"\xfd7zXZ\x00", "xz-compressed; unpack it"),
    (b"\x04\x22\x4d\x18", "lz4-compressed; unpack it"),
    (b"ARROW1", "an Arrow IPC (Feather) file; convert it to Parquet"),
    (b"\xff\xff\xff\xff", "an Arrow IPC stream; convert it to Parquet"),
    (b"FEA1", "a Feather V1 file; convert it to Parquet"),
    (b"ORC", "an ORC file; convert it to Parquet"),
    (b"Obj\x01", "an Avro file; convert it to Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file; convert it to Parquet"),
    (b"SQLite format 3", "an SQLite database; convert it to Parquet"),
    (b"\x93NUMPY", "a NumPy array; convert it to Parquet"),
    (b"\x80\x04", "a pickle; convert it to Parquet"),
    (b"\x80\x05", "a pickle; convert it to Parquet"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)


def kind_of(head: bytes) -> str:
    """Name what the first bytes of a file that is not Parquet show it to be; empty if nothing is recognised."""
    if head[:4] == ENCRYPTED:
        return "an encrypted Parquet file; decrypt it"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = head.decode("utf-16", errors="replace").strip()
    else:
        try:
            text = head.decode("utf-8-sig", errors="strict" if len(head) < HEAD_BYTES else "ignore").strip()
        except UnicodeDecodeError:
            return ""
    if not text or not all(sign.isprintable() or sign in "\t\r\n" for sign in text):
        return ""
    if text[0] in "{[":
        return "JSON text; convert it to Parquet"
    if text[0] == "<":
        is_html = text[:256].lower().startswith(("<!doctype html", "<html", "<head", "<body"))
        return "an HTML page, perhaps of a failed download" if is_html else "XML text"
    for sign, name in ((",", "CSV text"), (";", "CSV text"), ("\t", "tab-separated text")):
        if sign in text.splitlines()[0]:
            return f"{name}; convert it to Parquet"
    return "text"
