"""Find the filesystem that a path or URI lies on."""

import functools

import fsspec

from fmray.store.files import Files, named_errors
from fmray.store.local import LocalFiles
from fmray.store.patience import PatientFiles
from fmray.store.remote import RemoteFiles


@functools.cache
def _files_of(protocol: str, bucket: str) -> Files:
    if protocol == "file":
        return PatientFiles(LocalFiles())
    with named_errors(f"{protocol}://{bucket}", kind=Exception):
        fs, _ = fsspec.core.url_to_fs(f"{protocol}://{bucket}", use_listings_cache=False)
        return PatientFiles(RemoteFiles(fs, protocol))


def files_of(path: str) -> Files:
    """Give the filesystem that a path or URI lies on."""
    protocol, mark, rest = path.partition("://")
    return _files_of(protocol, rest.partition("/")[0]) if mark else _files_of("file", "")
