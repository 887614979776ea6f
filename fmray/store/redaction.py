"""Keep secrets out of everything that fmray writes.

Whatever goes into a record, an event, a log or a report passes through `redact` first; what is taken from the
environment is an allow-list.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar, cast

T = TypeVar("T")

HIDDEN = "***"

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|\.")
_SECRET_WORDS = frozenset(
    {"secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "credential", "credentials"}
    | {"auth", "authorization", "apikey"}
)
_SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("account", "key")})
# "token" is also a word of language models: `token_embedding.weight` and `pad_token` are no secrets
_BEFORE_TOKEN = frozenset(
    {"pad", "bos", "eos", "sep", "cls", "mask", "unk", "class", "start", "end", "special", "image", "pos"}
    | {"first", "last", "next", "per"}
)
_AFTER_TOKEN = frozenset(
    {"id", "ids", "type", "types", "count", "counts", "index", "level", "length", "mask", "mixing", "shift", "dropout"}
    | {"emb", "embed", "embedding", "embeddings"}
)

_USER_INFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_NAME = r"(?<![A-Za-z0-9_.])([A-Za-z][\w.-]{0,80})"
_ASSIGNMENT = re.compile(_NAME + r"(=)([^\s&#\"',;]+|\"[^\"]*\"|'[^']*')")
_QUOTED = re.compile(_NAME + r"([\"']?\s*:\s*)(\"[^\"]*\"|'[^']*')")  # {"password": "..."} inside a message
_LINE = re.compile(r"(?m)^[ \t]*(?:-[ \t]+)?([A-Za-z][\w.-]{0,80})(:[ \t]+)(\S.*)$")  # a line of YAML
_BEARER = re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{8,}")
_SIGNATURES = frozenset({"sig", "x-amz-signature", "signature"})  # parameters that make a URL a key

# no RAY_* or SLURM_* at large: some carry whole environments or tokens
_ENVIRONMENT = re.compile(
    r"(CUDA|NCCL|GLOO|OMP|MKL|OPENBLAS|NUMEXPR|KMP|POLARS|ARROW|TORCH|PYTORCH|RAY_(TRAIN|TUNE|DATA))_[A-Z0-9_]+"
    r"|SLURM_(JOB_ID|NNODES|NTASKS|CPUS_PER_TASK)|NVIDIA_VISIBLE_DEVICES|FMRAY_(DATA|STORE)"
    r"|PYTHONHASHSEED|TZ|LANG|LC_ALL"
)


def redact(value: T) -> T:
    """Hide secrets in plain values: under keys named like one, in URIs, in `name=value` text and after `--name`.

    A name is read word by word (snake, camel or kebab case). Text under a secret name is hidden at any depth, a number
    only directly under it.
    """
    return cast(T, _redacted(value))


@lru_cache(maxsize=1 << 14)
def is_secret_name(name: str) -> bool:
    """Tell whether what goes by this name must not be written."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairwise(words)):
        return True
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if word == "token" and before not in _BEFORE_TOKEN and after not in _AFTER_TOKEN:
            return True
    return False


def captured_environment() -> dict[str, str]:
    """Give the environment variables that can change a result, from an allow-list."""
    return {
        name: _redact_text(value)
        for name, value in sorted(os.environ.items())
        if _ENVIRONMENT.fullmatch(name) and not is_secret_name(name)
    }


_NUMBERS = frozenset({int, float, bool, type(None)})


def _redacted(value: object) -> object:
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, Mapping):
        return {
            redact(key): _hide(item) if isinstance(key, str) and is_secret_name(key) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [item if type(item) in _NUMBERS else redact(item) for item in value]
        for i, option in enumerate(value[:-1]):
            # a command line as a list: ["--token", "abc"]
            if isinstance(option, str) and option.startswith("--") and "=" not in option and is_secret_name(option):
                items[i + 1] = _hide(value[i + 1])
        return items if isinstance(value, list) else tuple(items)
    return value


def _redact_text(text: str) -> str:
    if "://" in text:
        text = _USER_INFO.sub(f"{HIDDEN}@", text)
    if "=" in text:
        text = _ASSIGNMENT.sub(_hide_assigned, text)
    if ":" in text:
        text = _QUOTED.sub(_hide_assigned, text)
    if "\n" in text:
        text = _LINE.sub(_hide_assigned, text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text) if "bearer" in text.lower() else text


def _hide_assigned(match: re.Match[str]) -> str:
    name, sign, value = match.groups()
    if name.lower() not in _SIGNATURES and not is_secret_name(name):
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match[0][: match.start(2) - match.start()]}{sign}{quote}{HIDDEN}{quote}"


def _hide(value: object, depth: int = 0) -> object:
    if isinstance(value, Mapping):
        return {redact(key): _hide(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(item, depth + 1) for item in value]
    if isinstance(value, str | bytes):
        return HIDDEN if value else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return HIDDEN if is_number and depth == 0 else value
