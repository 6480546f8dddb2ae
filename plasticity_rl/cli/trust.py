"""What a configuration that somebody else may have written is allowed to name, before anything in it is built. Light.

A class path is code: whoever builds the class runs its module. A file that a user names with ``--config`` is the user's
own, like a script. The ``config.yaml`` of a run is not: run folders and checkpoints are copied and sent around. Of such
a file, and of what a checkpoint itself holds, only classes of the packages below are built, and only those that have
their place in a configuration. ``--trust`` says that the user knows who wrote it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plasticity_rl.envs.backends import names_code
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import CONFIG_OF_A_RUN, OF_LATER_STARTS
from plasticity_rl.former_names import todays_name

OPTION = "--trust"
PACKAGES = ("plasticity_rl", "callbacks", "lightning", "torch", "torchvision", "kornia")
"""Whose classes a foreign configuration may name."""
OWN = ("plasticity_rl.", "callbacks.")
LAYERS = ("torch.nn.", "torchvision.transforms.", "kornia.", "plasticity_rl.augment.")
"""Where modules of an agent may come from: others load files or download them."""
FACTORIES = ("plasticity_rl.make_env", "plasticity_rl.envs.make_env", "plasticity_rl.envs.make.make_env")
"""The one function that the configuration of a run names: the default of ``data.env``."""
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
FILE = re.compile(r".*\.(ya?ml|json|jsonnet|toml)", re.IGNORECASE)
READ_FROM = ("trainer", "model", "data.env")
"""Options that hold classes, so that the parser may import what a text there names."""
PLAIN = ("default_root_dir", "monitor", "filename", "dirpath", "save_dir", "name", "version")
"""Texts among them that are never imported, though they may have a dot in them."""
WRITTEN_BY_A_RUN = ("checkpoints", "replay", "starts.yaml")


def is_of_a_run(path: Path) -> bool:
    """Return whether a config file was written by a run, as far as its name and its folder tell."""
    path = path.resolve()
    if path.name != CONFIG_OF_A_RUN and not path.name.startswith(OF_LATER_STARTS):
        return False
    return any((path.parent / name).exists() for name in WRITTEN_BY_A_RUN)


def refuse_foreign(content: Mapping[str, Any], source: str, own: Iterable[str]) -> None:
    """Raise UserError for the first thing in a configuration that would run code of somebody else.

    Args:
        content: What it holds.
        source: The file that it was read from.
        own: What the user wrote: options and texts of files. What is named there too is the user's own choice.
    """
    texts = list(own)
    for place, what, name in _suspicious(content):
        if not any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text) for text in texts):
            raise _refusal(source, place, what, name)


def _refusal(source: str, place: str, what: str, name: str) -> UserError:
    return UserError(
        f"{source}: {place} names {name!r}, {what}: building it would run code that came with this file. Only classes "
        f"of {', '.join(PACKAGES)} are built from the files of a run; if you know who wrote it, add {OPTION}"
    )


def _suspicious(value: Any, place: tuple[str, ...] = (), own_class: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield option, kind and name of what is no class of ours or of the packages, wherever the parser could find it."""
    if isinstance(value, Mapping):
        path = value.get("class_path")
        if isinstance(path, str):
            path = todays_name(path)
            if path.partition(".")[0] not in PACKAGES or not DOTTED.fullmatch(path):
                yield _shown(place), "a class of another package", path
            own_class = path.startswith(OWN)
        for key, below in value.items():
            keys = [part.rstrip("+") for part in str(key).split(".")]
            if keys == ["config"] and not place:
                yield "config", "another file", str(below)
            if keys[-1].startswith("__"):
                yield _shown((*place, *keys)), "a key of the parser's own", keys[-1]
            if keys == ["class_path"] and isinstance(below, str):
                continue
            yield from _suspicious(below, (*place, *keys), own_class)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _suspicious(below, place, own_class)
    elif isinstance(value, str):
        yield from _text(value, place, own_class)


def _text(text: str, place: tuple[str, ...], own_class: bool) -> Iterator[tuple[str, str, str]]:
    option = _shown(place)
    if "${" in text:  # a run writes what such a reference stood for
        yield option, "a reference", text
    if names_code(text):  # a task may stand in an argument of a callback of ours too
        yield option, "a task that is a class or function of another package", text
    if own_class or not _is_below(option, READ_FROM) or (place and place[-1] in PLAIN):
        return
    if place[-1] == "class_path":  # written with dots: trainer.callbacks.class_path
        if text.partition(".")[0] not in PACKAGES:
            yield option, "a class of another package", text
    elif FILE.fullmatch(text):
        yield option, "another file", text
    elif DOTTED.fullmatch(text) and text not in FACTORIES and _can_be_imported(text.partition(".")[0]):
        yield option, "a function or class as an argument", text


def _is_below(option: str, options: Iterable[str]) -> bool:
    return any(option == one or option.startswith(f"{one}.") for one in options)


def _shown(place: tuple[str, ...]) -> str:
    return ".".join(place) or "the file"


def _can_be_imported(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# ---- with Lightning and torch at hand --------------------------------------------------------------------------------


def refuse_other_kinds(content: Mapping[str, Any], source: str, own: Iterable[str] = ()) -> None:
    """Raise UserError for a name of one of the packages that is no class, or none that a configuration holds.

    Torch and Lightning contain functions and classes that run commands and load pickles.
    """
    from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
    from lightning.pytorch.accelerators import Accelerator
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.plugins import LayerSync, Precision
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy
    from torch.nn import Module

    parts = (Callback, Logger, Profiler, Strategy, Accelerator, CheckpointIO, ClusterEnvironment, LayerSync, Precision)
    texts = list(own)
    for place, path in _class_paths(content):
        if any(path in text for text in texts):
            continue
        elsewhere = path.startswith(("torch.", "torchvision.")) and not path.startswith(LAYERS)
        found: Any = path if elsewhere else _named(path)  # some modules of torch do more than define when imported
        is_class = isinstance(found, type) and found.__module__.partition(".")[0] in PACKAGES
        is_layer = is_class and issubclass(found, Module) and f"{found.__module__}.".startswith(LAYERS)
        is_part = is_layer or (is_class and issubclass(found, parts))
        if found is not None and not is_part:  # what there is not, the parser says
            raise _refusal(source, place, "which is no callback, logger, profiler, strategy, plugin or layer", path)


def _class_paths(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            *above, last = str(key).split(".")
            if last == "class_path" and isinstance(below, str):
                yield _shown((*place, *above)), todays_name(below)
            yield from _class_paths(below, (*place, *above, last.rstrip("+")))
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _class_paths(below, place)


def _named(path: str) -> Any:
    """Return what a dotted name leads to, through modules first and then through what they hold; or None."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
            for name in parts[length:]:
                found = getattr(found, name)
            return found
        except (ImportError, AttributeError, ValueError):
            continue
    return None
