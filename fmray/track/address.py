"""Say where MLflow is, without saying how one gets in.

An address may hold a password. Only `uri` does; what is shown, written or logged is `shown`, and what others say of the
address goes through `hide` first.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from fmray.errors import SpecError
from fmray.store import Store, redact

DEFAULT = "default"
FOLDER = "mlflow"
"""Folder of a store with all that belongs to MLflow but its database: artefacts, leases, runs that are not told yet."""
CONNECT_SECONDS = 5
"""How long the driver of a database server may take to connect; left alone it waits for minutes."""


@dataclass(frozen=True)
class Address:
    """Know where MLflow is.

    Args:
        uri: As MLflow reads it, password included.
        shown: The same without secrets.
        artifacts: Where artefacts of new experiments go; None leaves it to the server.
        store: Whose own database it is, which its processes use one after another: two that lay it out at once would
            spoil it; None for any other.
    """

    uri: str = field(repr=False)
    shown: str
    artifacts: str | None
    store: Store | None = None

    def hide(self, text: str) -> str:
        """Take what must not be written out of a text, e.g. of an error."""
        text = text.replace(self.uri, self.shown)
        password = urlsplit(self.uri).password
        for spelled in {password, unquote(password)} if password else ():
            text = text.replace(spelled, "***")
        return redact(text)


def address_of(to: str, store: Store) -> Address:
    """Give the address behind `track.mlflow`.

    Raises:
        SpecError: If it is the store's own database, and the store lies where no database can.
    """
    if to != DEFAULT:
        if "***@" in to:
            raise SpecError(f"{to} lacks its password, which is never written. Give the whole address.", "track.mlflow")
        return Address(_hurried(to), redact(to), None if to.startswith("http") else _artifacts(store))
    if "://" in store.root:
        raise SpecError(
            f"'default' is SQLite in the store, which cannot lie in {redact(store.root)}. Give the URI of a server.",
            "track.mlflow",
        )
    return Address(f"sqlite:///{store.path('mlflow.db')}", DEFAULT, _artifacts(store), store)


def _artifacts(store: Store) -> str:
    return store.path(FOLDER, "artifacts")


def _hurried(uri: str) -> str:
    if not re.match(r"(postgresql|mysql)", uri) or "connect_timeout=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}connect_timeout={CONNECT_SECONDS}"
