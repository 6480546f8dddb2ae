"""Studies written as another one plus what is different: ``extends: ../augmentation_x_reset.yaml``.

What a study file says is laid over what it extends. Of ``factors`` the levels are merged by name; every other entry
replaces the one of that name as a whole, lists too. ``null`` takes out an entry, a factor or a level. A level written
as a mapping, ``{trainer.callbacks.every_n_frames: 4000}``, is the level of that name with other values of these
options. Name and folder are a study's own and never taken over. OmegaConf's merge was looked at: it takes nothing out,
and would merge the halves of two endpoints into one that neither file means.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.files.credentials import mentions_secret
from plasticity_rl.files.strict_yaml import load as load_yaml
from plasticity_rl.files.writing import replace_file
from plasticity_rl.packaged import find_study, no_study
from plasticity_rl.study.claims import AS_IT_WAS_RUN, Claim, claim_in, claim_over

EXTENDS = "extends"
RESOLVED = "study.yaml"
REQUIRED = ("base", "max_frames", "tasks", "seeds", "factors")
OWN = ("name", "folder")
OPTIONAL = (*OWN, "shares", "max_return", "normalize", "measures", "baseline", "primary", "secondary", "effect")
WORDS = {True: "on", False: "off"}
"""YAML reads a level called ``on`` or ``off`` as a truth value."""

Content = dict[str, Any]


def load(path: Path) -> tuple[Content, Path]:
    """Return what a study file says, with all that it extends, and the file itself; errors as of :func:`load_all`."""
    return load_all(path)[:2]


def load_all(path: Path) -> tuple[Content, Path, Claim]:
    """Return the same, and what the files claim in words.

    Args:
        path: The file, or the name of a packaged study.

    Raises:
        UserError: When a file is missing or no study, or extends itself; one line that names the file and the entry.
    """
    found = find_study(str(path))
    if found is None:
        raise UserError(f"{path}: {no_study(str(path))}")
    content, claim = _load(path, found, ())
    return content, found, claim


def files_of(path: Path) -> list[Path]:
    """Return the file of a study that :func:`load` accepts, and those of all that it extends."""
    found = find_study(str(path))
    if found is None:
        return []
    names = _names((load_yaml(found.read_text(encoding="utf-8")) or {}).get(EXTENDS, []))
    return [found, *(file for name in names for file in files_of(_beside(name, found)))]


def _load(path: Path, found: Path, extending: tuple[Path, ...]) -> tuple[Content, Claim]:
    try:
        text = found.read_text(encoding="utf-8")
        content, claim = load_yaml(text), claim_in(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a study file, or one of plasticity-rl list studies") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{path} is no YAML: {reason}") from error
    try:
        own = _checked(content)
        names = _names(own.pop(EXTENDS, []))
        files = [_beside(name, found) for name in names]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not names:
        return own, claim
    below: Content = {}
    claims = []
    for name, file in zip(names, files, strict=True):
        chain = (*extending, found.resolve())
        if file.resolve() in chain:
            raise UserError(f"{path}: extends: {name} extends itself, here or on the way; leave it out")
        there, said = _load(file, file, chain)
        claims.append(said)
        below = _over(below, {entry: value for entry, value in there.items() if entry not in OWN}, f"{path}: {name}")
    return _over(below, own, str(path), named=", ".join(names)), claim_over(claim, claims)


def _checked(content: Any) -> Content:
    """Return a copy in which levels called ``on`` and ``off`` are words."""
    if not isinstance(content, Mapping):
        raise UserError(f"a study has the entries {', '.join(REQUIRED)}")
    known = (*REQUIRED, *OPTIONAL, EXTENDS)
    for name in content:
        if name not in known:
            raise UserError(f"no entry {name!r} in a study.{suggestion(str(name), known)}")
    copy = dict(content)
    if isinstance(copy.get("factors"), Mapping):
        factors = _in_words(copy["factors"], "factors")
        copy["factors"] = {factor: _in_words(levels, f"factors.{factor}") for factor, levels in factors.items()}
    return copy


def _in_words(levels: Any, where: str) -> Any:
    """Return names as they become names of folders: ``on`` is ``"on"``, and 1 is ``"1"``."""
    if not isinstance(levels, Mapping):
        return levels
    named = [(WORDS[level] if isinstance(level, bool) else level, items) for level, items in levels.items()]
    words = [str(level) for level, _ in named]
    for word in words:
        if words.count(word) > 1:
            raise UserError(f"{where}: {word} is there twice, with and without quotes; remove one")
    return {str(level) if isinstance(level, int) else level: items for level, items in named}


def _names(names: Any) -> list[str]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise UserError(
            f"extends={names!r} must be a study file, relative to this one, or the name of a packaged study; or a list "
            "of them, of which later ones replace what earlier ones say"
        )
    return listed


def _beside(name: str, file: Path) -> Path:
    """Return the study file of that name beside ``file``, else as ``study run`` finds it."""
    beside = file.parent / name
    found = beside if beside.is_file() else find_study(name)
    if found is None:
        raise UserError(f"extends: {name}: {no_study(name)}; paths are relative to the folder of this file")
    return found


def _over(below: Content, own: Content, where: str, *, named: str = "") -> Content:
    """Return ``own`` laid over ``below``; with ``named``, what ``below`` comes from, null takes out."""
    factors = below.get("factors")
    merged = _laid(below, own, where, "", named)
    if isinstance(factors, Mapping) and isinstance(own.get("factors"), Mapping):
        merged["factors"] = _laid(factors, own["factors"], where, "factors.", named)
        for factor, levels in own["factors"].items():
            if isinstance(levels, Mapping) and isinstance(factors.get(factor), Mapping):
                merged["factors"][factor] = _laid(factors[factor], levels, where, f"factors.{factor}.", named)
                for level, changes in levels.items():
                    if isinstance(changes, Mapping):
                        place = f"{where}: factors.{factor}.{level}"
                        merged["factors"][factor][level] = _changed(factors[factor].get(level), changes, place)
    return merged


def _laid(below: Mapping[str, Any], own: Mapping[str, Any], where: str, prefix: str, named: str) -> Content:
    if named:
        for entry, value in own.items():
            if value is None and entry not in below:
                near = suggestion(str(entry), map(str, below))
                raise UserError(
                    f"{where}: {prefix}{entry}: null takes out what is extended, and {named} has no such entry.{near} "
                    "A level that adds nothing is written []"
                )
    return {entry: value for entry, value in {**below, **own}.items() if not (named and value is None and entry in own)}


def _changed(items: Any, changes: Mapping[str, Any], where: str) -> list[str]:
    """Return the items of a level with other values of the options that ``changes`` names."""
    changed = list(items or [])
    for option, value in changes.items():
        places = [place for place, item in enumerate(changed) if str(item).partition("=")[0] == option]
        if len(places) != 1:
            near = suggestion(str(option), [str(item).partition("=")[0] for item in changed])
            raise UserError(
                f"{where}: {option} stands {len(places)} times in the level that is extended, not once.{near} Give the "
                "level as a list"
            )
        changed[places[0]] = f"{option}={str(value).lower() if isinstance(value, bool) else value}"
    return changed


def write_resolved(path: Path, name: str, folder: Path) -> Path:
    """Write what a study file says, with all that it extends, into the folder of its runs; return that file.

    Files change. This one says what was run, and ``study report`` reads it like any other. One that says something else
    is kept beside it, under the time at which it was written.

    Raises:
        UserError: When the folder cannot be written.
    """
    text = resolved_text(path, name, folder)
    resolved = folder / RESOLVED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if resolved.is_file():
            if _content_of(resolved) == load_yaml(text):
                return resolved
            _keep(resolved)
        replace_file(resolved, text, private=mentions_secret(load_yaml(text)))
    except OSError as error:
        raise UserError(f"{resolved} cannot be written ({error.strerror})") from error
    return resolved


def resolved_text(path: Path, name: str, folder: Path) -> str:
    """Return a study file that says all that ``path`` and what it extends say, with its name, folder and claim."""
    content, _, claim = load_all(path)
    own = {"name": name, "folder": str(folder)}
    head = f"# {path} {AS_IT_WAS_RUN}\n{claim.comment()}"
    return head + yaml.safe_dump({**own, **content, **own}, sort_keys=False, width=120, default_flow_style=None)


def _content_of(path: Path) -> Any:
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError):
        return None  # nothing that was written here; it is kept


def _keep(path: Path) -> None:
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime)
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}_{written:%Y%m%d-%H%M%S}{f'_{number}' * (number > 1)}{path.suffix}")
        try:
            os.link(path, kept)  # unlike a rename, never over another one
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if kept.exists():
                continue
            path.rename(kept)
            return
        path.unlink()
        return
