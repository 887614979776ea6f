"""Where records live: atomic writes, leases, reuse by fingerprint, on any fsspec filesystem.

What other floors use is named here; how it is done lies in the files beside.
"""

from fmray.store.files import MANIFEST, is_disk_full, named_errors
from fmray.store.lease import Fence, Lease
from fmray.store.manifest import read_atomic_folder, require_whole, verify, write_atomic_folder
from fmray.store.patience import is_transient, waiting
from fmray.store.plain import fingerprint
from fmray.store.redaction import captured_environment, redact
from fmray.store.sources import code_digest, source_digest, with_imported
from fmray.store.store import FORMAT, Draft, Store

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Draft",
    "Fence",
    "Lease",
    "Store",
    "captured_environment",
    "code_digest",
    "fingerprint",
    "is_disk_full",
    "is_transient",
    "named_errors",
    "read_atomic_folder",
    "redact",
    "require_whole",
    "source_digest",
    "verify",
    "waiting",
    "with_imported",
    "write_atomic_folder",
]
