"""Read the text of a job file, or say what was given in its place."""

import stat
from pathlib import Path

from fmray.errors import SpecError

MOST_BYTES = 1 << 20
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}


def read_text(file: Path) -> str:
    """Give the text of a job file, without a byte order mark.

    Raises:
        SpecError: If it is no file, larger than any job, or no text in UTF-8.
    """
    where = str(file)
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SpecError("is a folder. Give the path of a job file.", where)
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            raise SpecError("is a pipe or a device. Give the path of a job file.", where)
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"cannot be read: {reason}. Give the path of a job file.", where) from error
    if len(data) > MOST_BYTES:
        raise SpecError(f"is larger than {MOST_BYTES >> 20} MiB, which no job is. Give the path of a job file.", where)
    for mark, name in MARKS.items():
        if data.startswith(mark):
            cure = "Save it as UTF-8" if name == "UTF-16" else "Give the path of a job file"
            raise SpecError(f"is {name}, not UTF-8 text. {cure}.", where)
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise SpecError("holds a NUL byte, so it is binary or UTF-16. Save it as UTF-8.", f"{where}:{line}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = f"0x{data[error.start]:02x}"
        raise SpecError(f"holds the byte {byte}, which is not UTF-8. Save it as UTF-8.", f"{where}:{line}") from error
