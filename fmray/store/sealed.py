"""Seal JSON with a checksum of its own text, so that a file that was changed is told from what was written.

The checksum is the last key of an object and covers every byte before it and the place of the file in its store: a
flipped bit, an edited number, a cut tail and a file put in another's place all fail to match. Other programs read a
sealed file as the plain JSON object that it is.
"""

import hashlib
import logging
import re
from functools import cache
from typing import Any

from fmray.errors import DataError
from fmray.store.plain import read_text, write_visible
from fmray.store.redaction import redact

log = logging.getLogger("fmray.unverified")  # shown by the command line, other warnings are for driver.log

CHECKSUM = "checksum"
"""Key that no sealed value may use itself."""

_END = re.compile(rb',?\s*"checksum":\s?"([0-9a-f]{32})"\s*\}\s*\Z')
_TAIL_BYTES = 80


def seal_text(value: dict[str, Any], place: str, *, indent: int | None = None) -> bytes:
    """Give an object as JSON that ends in a checksum.

    Args:
        place: Where it will lie, relative to what may be moved as a whole.
        indent: As `write_text` takes it.

    Raises:
        DataError: If the object has a checksum already.
    """
    if CHECKSUM in value:
        raise DataError(f"{place}: '{CHECKSUM}' is the store's own key. Use another name.")
    return seal_body(write_visible(value, indent=indent).encode(), place)


def seal_body(text: bytes, place: str) -> bytes:
    """Give the text of an object with a checksum at its end, laid out as the text is; see `seal_text`."""
    body = text.rstrip().removesuffix(b"}").rstrip()
    comma = b"" if body == b"{" else b","
    # an indented object has its second line behind the brace
    apart, colon, end = (b"\n ", b": ", b"\n}") if body[1:2] == b"\n" else (b"", b":", b"}")
    return b"".join(
        [body, comma, apart, b'"', CHECKSUM.encode(), b'"', colon, b'"', _digest(body, place).encode(), b'"', end]
    )


def open_text(data: bytes, place: str, path: str, *, is_sealed: bool, cure: str = "") -> Any:
    """Read back what `seal_text` gave, without its checksum.

    Args:
        place: As it was given to `seal_text`.
        path: As errors name it.
        is_sealed: Refuse an object without a checksum; otherwise it is read as it is, and said to be unverified.
        cure: What to do about damage; by default to restore the file.

    Raises:
        DataError: If it is not what was written.
    """
    return parse(unsealed(data, place, path, is_sealed=is_sealed, cure=cure), path)


def unsealed(data: bytes, place: str, path: str, *, is_sealed: bool, cure: str = "") -> bytes:
    """Give the text that `seal_text` sealed, as JSON without the checksum; see `open_text`.

    Raises:
        DataError: If it is not what was written.
    """
    found = _END.search(data, max(0, len(data) - _TAIL_BYTES))
    if found is not None:
        if found[1].decode() == _digest(data[: found.start()], place):
            return data[: found.start()] + b"}"
        raise damaged(path, cure)
    if data[:1] == b"{" and (is_sealed or f'"{CHECKSUM}"'.encode() in data[-_TAIL_BYTES:]):
        raise damaged(path, cure)
    if data[:1] == b"{":
        say_unverified()
    return data


def has_checksum(data: bytes) -> bool:
    """Tell whether a text ends in a checksum, right or wrong; one that only speaks of checksums does not."""
    return _END.search(data, max(0, len(data) - _TAIL_BYTES)) is not None


def parse(data: bytes, path: str) -> Any:
    """Parse the JSON of a file.

    Raises:
        DataError: If it is no JSON, or nested deeper than a parser goes.
    """
    try:
        return read_text(data)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON ({error})"
        raise DataError(f"{redact(path)} is damaged: {reason}.") from None


def damaged(path: str, cure: str = "") -> DataError:
    """Say that a file is not what was written."""
    text = cure or "Restore it from a copy; what can be made again is, once it is removed."
    return DataError(f"{redact(path)} is damaged or has been changed: its checksum does not match. {text}")


@cache
def say_unverified() -> None:
    """Say, once in a process, that records of an earlier version carry no checksums."""
    log.warning("this store holds records of an earlier version, without checksums: they are not verified")


def _digest(body: bytes, place: str) -> str:
    digest = hashlib.blake2b(f"{place}\0".encode(), digest_size=16)
    digest.update(body)
    return digest.hexdigest()
