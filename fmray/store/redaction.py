"""Keep secrets out of everything that fmray writes.

Whatever goes into a record, an event, a log or a report passes through `redact` first; what is taken from the
environment is an allow-list.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar, cast

T = TypeVar("T")

HIDDEN = "***"

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
# A name ends in what it holds: `client_secret` holds one, `secret_size` holds a size.
_SECRET_NOUNS = frozenset(
    {"secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "credential", "credentials"}
    | {"auth", "authorization", "apikey"}
)
_SECRET_KEYS = frozenset({"api", "access", "private", "account", "secret"})
# "token" is foremost a word of language models: `oov_token` is no secret, so the tokens that are secrets are named
_SECRET_TOKENS = frozenset(
    {
        "access",
        "api",
        "auth",
        "authentication",
        "authorization",
        "aws",
        "bearer",
        "csrf",
        "deploy",
        "gh",
        "git",
        "github",
    }
    | {
        "gitlab",
        "hf",
        "huggingface",
        "identity",
        "jwt",
        "login",
        "mlflow",
        "oauth",
        "personal",
        "private",
        "pypi",
        "ray",
    }
    | {"refresh", "sas", "secret", "security", "session", "slack", "tracking", "wandb"}
)
_AFTERWARDS = frozenset({"id", "value", "json"})
"""Words that may follow the noun of a secret, as in `aws_access_key_id`."""

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
    """Hide secrets in plain values: text in fields that hold one, in URIs, in `name=value` text and after `--name`.

    Numbers in fields are parameters of something and stay, whatever the field is called.
    """
    return cast(T, _redacted(value))


@lru_cache(maxsize=1 << 14)
def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a secret, in snake, camel or kebab case, alone or as a dotted path."""
    field = name.rpartition(".")[2]
    words = [word.lower() for word in _WORDS.findall(field)]
    if words and words[-1] == "token":
        is_variable = field.isupper() and len(words) > 1  # `MY_TOKEN` of an environment
        return len(words) == 1 or words[-2] in _SECRET_TOKENS or is_variable
    while words and (words[-1] in _AFTERWARDS or words[-1].isdigit()):
        words.pop()
    if not words:
        return False
    return words[-1] in _SECRET_NOUNS or (words[-1] == "key" and words[-2:-1] != [] and words[-2] in _SECRET_KEYS)


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


def _hide(value: object) -> object:
    if isinstance(value, Mapping):
        return {redact(key): _hide(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(item) for item in value]
    return HIDDEN if isinstance(value, str | bytes) and value else value
