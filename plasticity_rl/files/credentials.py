"""What looks like a password or a key to a service, and must not be read by everybody who may read a run. Light."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NAME = re.compile(
    r"(?i)(api_?key|auth(_?token|orization)?$|token$|tokens$|passw(or)?d|passphrase|secret|credential|private_?key"
    r"|access_?key|(^|_)pat$|(^|_)pwd$)"
)
"""Names of options, and of environment variables, whose values are secrets."""
VALUE = re.compile(
    r"(://[^/\s:@]*:[^/\s@]+@|\b(sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{16,}|\bhf_[A-Za-z0-9]{20,}|\bxox[abprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{12,}|\bey[JK][\w-]{8,}\.[\w-]{8,}\."
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|(?i:\bBearer\s+\S{8,}))"
)
"""Texts that are secrets whatever their name: passwords in addresses, keys of well-known services, tokens, headers."""
FOLDERS = ("PWD", "OLDPWD")
"""Variables that a shell sets to the current folder and the one before: no passwords."""
HIDDEN = "***"
SHORTEST = 6
"""Letters of the value of an environment variable that is looked for elsewhere; shorter ones stand everywhere."""


def is_secret(name: str, value: Any) -> bool:
    """Return whether the value of an option looks like a secret, by its name or by itself."""
    if not isinstance(value, str) or not value:
        return False
    return bool(NAME.search(name.rpartition(".")[2])) or VALUE.search(value) is not None or _in_environment(value)


def _in_environment(value: str) -> bool:
    return any(secret in value for secret in _secrets_of_environment())


def _secrets_of_environment() -> list[str]:
    return [value for name, value in os.environ.items() if len(value) >= SHORTEST and _is_name(name)]


def _is_name(variable: str) -> bool:
    return variable not in FOLDERS and NAME.search(variable) is not None


def holds_secret(content: Any, name: str = "") -> bool:
    """Return whether there is a secret anywhere in a configuration."""
    if isinstance(content, Mapping):
        return any(holds_secret(value, str(key)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return any(holds_secret(value, name) for value in content)
    return is_secret(name, content)


def without_secrets(content: Any, name: str = "") -> Any:
    """Return a configuration in which ``***`` stands for every secret."""
    if isinstance(content, Mapping):
        return {key: without_secrets(value, str(key)) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_secrets(value, name) for value in content]
    return HIDDEN if is_secret(name, content) else content


def mentions_secret(content: Any) -> bool:
    """Return whether a list of options that are written ``name=value``, at any depth, holds a secret."""
    if isinstance(content, Mapping):
        return any(mentions_secret(value) for value in content.values())
    if isinstance(content, list | tuple):
        return any(mentions_secret(value) for value in content)
    return isinstance(content, str) and command_without_secrets([f"--{content}"]) != f"--{content}"


def command_without_secrets(args: Sequence[str]) -> str:
    """Return a command line in one text, with ``***`` for every secret."""
    return " ".join(_hidden_in(args))


def _hidden_in(args: Sequence[str]) -> Iterator[str]:
    before = ""
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("-") and equals:
            yield f"{name}={HIDDEN if is_secret(name.lstrip('-'), value) else _in_text(value)}"
        elif before and is_secret(before.lstrip("-"), arg):
            yield HIDDEN
        else:
            yield _in_text(arg)
        before = arg if arg.startswith("-") and not equals else ""


def _in_text(text: str) -> str:
    """Hide secrets in a value that holds several options itself: ``{class_path: ..., init_args: {api_key: ...}}``."""
    text = re.sub(
        r"""(['"]?([\w.]+)['"]?\s*[:=]\s*)(['"]?)([^'",{}\[\]\s]+)\3""",
        lambda match: f"{match[1]}{HIDDEN}" if NAME.search(match[2].rpartition(".")[2]) else match[0],
        text,
    )
    return HIDDEN if is_secret("", text) else text
