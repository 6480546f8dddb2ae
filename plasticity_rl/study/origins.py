"""Where the numbers of a study come from: when, with which code and on which machine its runs were trained.

Every start of a run is noted in its ``starts.yaml``, its end in ``finished.yaml``. A run folder of an older version
notes less, one that was copied perhaps nothing; what is not there is said to be unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.files.strict_yaml import load

UNKNOWN = "unknown"
REVISION = 12
"""Letters of a git revision that are shown: enough to find it."""
NOTED = ("started", "git_revision", "python", "platform", "hardware", "versions")
"""What is read of a start."""


def origins_of(folders: Sequence[Path]) -> list[tuple[str, str]]:
    """Return what is known of where runs come from: a name, and a sentence, each.

    Args:
        folders: Of the finished runs.
    """
    starts = [starts_of(folder) for folder in folders]
    ends = [end for folder in folders if (end := _read(folder / "finished.yaml", "finished"))]
    begun = sorted(str(start["started"]) for run in starts for start in run if start.get("started"))
    return [
        ("Trained", _span(begun, sorted(ends))),
        ("Code revision", _counted(starts, _revision)),
        ("Machine", _counted(starts, _machine)),
        ("Software", _counted(starts, _software)),
    ]


def code_of(folder: Path) -> frozenset[str]:
    """Return the revisions and packages that a run was trained with, one text for each; of those that are known."""
    known = ((_revision(start), start) for start in starts_of(folder))
    return frozenset(f"{revision}, {_software(start)}" for revision, start in known if revision not in ("", UNKNOWN))


def starts_of(folder: Path) -> list[Mapping[str, Any]]:
    """Return what a run noted at each of its starts; nothing where that cannot be read."""
    try:
        content = load((folder / "starts.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return []
    return [start for start in content if isinstance(start, Mapping)] if isinstance(content, list) else []


def _read(path: Path, key: str) -> str:
    try:
        return str(load(path.read_text(encoding="utf-8")).get(key) or "")
    except (AttributeError, OSError, ValueError, RecursionError, yaml.YAMLError):
        return ""


def _span(begun: Sequence[str], ends: Sequence[str]) -> str:
    if not begun:
        return f"until {_moment(ends[-1])}" if ends else UNKNOWN
    return f"{_moment(begun[0])} to {_moment(ends[-1])}" if ends else f"from {_moment(begun[0])}"


def _moment(text: str) -> str:
    """Return a time in ISO 8601 as people read it: to the minute, with its offset."""
    day, _, rest = text.partition("T")
    return f"{day} {rest[:5]} (UTC{rest[8:]})" if len(rest) > 8 else text


def _counted(runs: Iterable[Sequence[Mapping[str, Any]]], words: Any) -> str:
    """Return what the runs had, the most common first, each with the number of its runs if they differ."""
    counts: Counter[str] = Counter()
    for starts in runs:
        counts.update({words(start) or UNKNOWN for start in starts} or {UNKNOWN})
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({number} run{'s' * (number != 1)})" for text, number in counts.most_common())


def _revision(start: Mapping[str, Any]) -> str:
    revision = str(start.get("git_revision") or "")
    letters, plus, changes = revision.partition("+")
    return letters[:REVISION] + (f" with {changes} in files" if plus else "") if letters != UNKNOWN else UNKNOWN


def _machine(start: Mapping[str, Any]) -> str:
    hardware = start.get("hardware")
    own = hardware if isinstance(hardware, Mapping) else {}
    gpus = own.get("gpus") if isinstance(own.get("gpus"), list) else []
    cores = own.get("cores")
    named = [*([f"{cores} core{'s' * (cores != 1)}"] if cores else []), str(own.get("processor") or "")]
    parts = [*(str(gpu) for gpu in gpus or []), " of ".join(filter(None, named)), str(start.get("platform") or "")]
    return ", ".join(filter(None, parts))


def _software(start: Mapping[str, Any]) -> str:
    versions = start.get("versions")
    packages = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, Mapping) else []
    python = start.get("python")
    return ", ".join([*([f"Python {python}"] if python else []), *packages])
