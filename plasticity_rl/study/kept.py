"""A study's finished runs read back from the file that ``study keep`` made: the same report without the run folders.

The file is unpacked into a folder of its own, and read there as any study's runs are. Its maker is not trusted: every
name in it must be one that ``study keep`` gives, and nothing that its options name is imported.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.errors import UserError
from plasticity_rl.files.packing import unpacked
from plasticity_rl.files.places import CONFIG_OF_A_RUN, OF_LATER_STARTS
from plasticity_rl.files.strict_yaml import load as load_yaml
from plasticity_rl.results.events import LOST_BEFORE
from plasticity_rl.study.extends import RESOLVED, load
from plasticity_rl.study.keep import EVENTS, FINISHED, FORMAT, MANIFEST, STARTS, place_of
from plasticity_rl.study.spec import NOT_KEPT, Study
from plasticity_rl.study.stale import Provenance

PART = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
FILE = "|".join(
    [*map(re.escape, (CONFIG_OF_A_RUN, FINISHED, STARTS, EVENTS, LOST_BEFORE)), rf"{OF_LATER_STARTS}[\w.-]+\.yaml"]
)
OF_A_RUN = re.compile(rf"{PART}/{PART}/seed[0-9]+/({FILE})")
"""Names in the file, beside the manifest and the study; none leads out of a folder."""
NEEDED = (CONFIG_OF_A_RUN, FINISHED, EVENTS)


@dataclass(frozen=True)
class Kept:
    """The runs of a study from a file.

    Attributes:
        study: The study as it is now, with the unpacked runs as its folder.
        states: By name of a run that is not in the file: ``new``, ``stopped`` or ``stale`` when it was kept, else
            ``not kept``.
        stale: By name of a run that was stale then, why.
        changes: What the study says by now that it did not say when its runs were kept; a phrase each.
        file: The file.
    """

    study: Study
    states: Mapping[str, str]
    stale: Mapping[str, str]
    changes: tuple[str, ...]
    file: Path

    def with_what_was_known(self, provenance: Provenance) -> Provenance:
        """Add to what the files of the kept runs say about their options what was known of the others."""
        stale = {**self.stale, **provenance.stale}
        ordered = {run.name: stale[run.name] for run in self.study.runs() if run.name in stale}
        said = f"the file {self.file.name} was kept from an older version of the study: {'; '.join(self.changes)}"
        return Provenance(ordered, (*([said] if self.changes else []), *provenance.unchecked))


@contextlib.contextmanager
def opened(path: Path, study: Study) -> Iterator[Kept]:
    """Unpack what ``study keep`` made, as long as it is needed.

    Args:
        path: The file.
        study: The study as it is now, read from a file.

    Raises:
        UserError: When the file cannot be read, is damaged, holds what ``study keep`` does not write, or another study.
    """
    if not path.is_file():
        raise UserError(f"--from {path}: there is no such file; plasticity-rl study keep makes one")
    assert study.file is not None
    with tempfile.TemporaryDirectory(prefix="plasticity_rl_kept_") as folder:
        top, names = _unpack(path, Path(folder))
        manifest = _manifest(path, top.get(MANIFEST, b""))
        if manifest["study"] != study.name:
            raise UserError(
                f"--from {path} holds runs of the study {manifest['study']}, not of {study.name}: give it to that one; "
                f"where {study.file} names that one in shares, study run then finds in its folder what both have"
            )
        was = _content(path, top.get(RESOLVED, b""), RESOLVED)
        _check(path, names, manifest)
        here = replace(study, folder=Path(folder), alone=True)
        gone = [run.name for run in here.runs() if run.name not in manifest["runs"]]
        states = {name: manifest["missing"].get(name, NOT_KEPT) for name in gone}
        yield Kept(here, states, manifest["stale"], tuple(changes(was, load(study.file)[0])), path)


def _unpack(path: Path, folder: Path) -> tuple[dict[str, bytes], set[str]]:
    """Write the files of runs below a folder; return the others, and the names of those written."""
    top: dict[str, bytes] = {}
    names: set[str] = set()
    for name, content in unpacked(path):
        if name in (MANIFEST, RESOLVED):
            top[name] = content
        elif OF_A_RUN.fullmatch(name):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            names.add(name)
        else:
            raise UserError(f"{path} holds {name!r}, which plasticity-rl study keep does not write: do not trust it")
    return top, names


def _content(path: Path, text: bytes, name: str) -> Any:
    try:
        content = load_yaml(text.decode())
    except (ValueError, RecursionError, yaml.YAMLError):
        content = None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no readable {name}: it was not made by plasticity-rl study keep")
    return content


def _manifest(path: Path, text: bytes) -> Mapping[str, Any]:
    manifest = _content(path, text, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {manifest.get('format')!r}, and this version reads {FORMAT}: update plasticity-rl, or "
            "keep the runs again"
        )
    runs, missing, stale = (manifest.get(name) for name in ("runs", "missing", "stale"))
    known = isinstance(runs, list) and isinstance(missing, Mapping) and isinstance(stale, Mapping)
    words = [manifest.get("study"), *runs, *missing, *missing.values(), *stale, *stale.values()] if known else [None]
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"{path}: its {MANIFEST} is not as plasticity-rl study keep writes it")
    return manifest


def _check(path: Path, names: Container[str], manifest: Mapping[str, Any]) -> None:
    """Refuse a run whose files are not there."""
    for run in manifest["runs"]:
        for name in NEEDED:
            if f"{place_of(run)}/{name}" not in names:
                raise UserError(f"{path} lacks {place_of(run)}/{name}: get it anew, or keep the runs again")


# ---- what changed since ----------------------------------------------------------------------------------------------


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what two contents of a study file say differently; a phrase for each entry, of factors for each level."""
    for entry in dict.fromkeys([*now, *was]):
        one, other = was.get(entry), now.get(entry)
        if entry in ("name", "folder") or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping) and entry == "factors":
            yield from _changed_factors(one, other)
        elif entry == "base":
            yield "base has other options"
        else:
            yield f"{entry} {_verb(one, 'was')} {_words(one)}, {_verb(other, 'is')} {_words(other)}"


def _changed_factors(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for factor in dict.fromkeys([*now, *was]):
        one, other = was.get(factor), now.get(factor)
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            yield from ([] if one == other else [f"factor {factor} is {'new' if one is None else 'gone'}"])
            continue
        for level in dict.fromkeys([*other, *one]):
            if level not in one or level not in other:
                yield f"{factor} = {level} is {'new' if level in other else 'gone'}"
            elif one[level] != other[level]:
                yield f"{factor} = {level} adds other options"


def _verb(value: Any, singular: str) -> str:
    return {"was": "were", "is": "are"}[singular] if isinstance(value, list) else singular


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_words(one)}" for key, one in value.items()) + "}"
    return "not given" if value is None else str(value)
