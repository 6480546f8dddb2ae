"""What the command line refuses before anything is built: config files, nulls, runs that would learn nothing."""

from __future__ import annotations

import inspect
import math
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.cli.early import option_values
from plasticity_rl.errors import UserError, at_least
from plasticity_rl.packaged import CONFIG

DEEPEST = 50
"""Levels of a config file; no option lies nearly as deep."""
SECTIONS = ("data", "model", "trainer")
"""Options of a config file that hold further options."""
LARGEST_INTEGER = 2**63 - 1
"""What counters in checkpoints, TensorBoard's x-axis and sizes of tensors can hold."""
MAY_BE_INFINITE = ("model.stddev_clip",)
"""Options of which infinity means that there is no limit."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                raise yaml.YAMLError(f"{key.value!r} twice in one section, {_place(key.start_mark)}; remove one")
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def check_config_files(args: Sequence[str]) -> None:
    """Raise UserError naming the first config file that is broken or holds no options."""
    for path in map(Path, option_values(args, *CONFIG)):
        if not path.is_file():
            continue  # options written out on the command line, or the parser says that there is none
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
            fix = "; indent with spaces, not with tabs" if r"'\t'" in reason else ""
            raise UserError(f"{path} is not valid YAML: {reason}{fix}") from error
        except RecursionError as error:
            raise UserError(f"{path} is not valid YAML: it is nested too deeply, or an alias holds itself") from error
        if not isinstance(content, dict):
            held = "nothing" if content is None else f"a {type(content).__name__}"
            raise UserError(f"{path} must hold options (data:, model:, trainer:, ...), but holds {held}")
        _check_keys(content, path)
        for name in SECTIONS:
            if not isinstance(content.get(name, {}), dict):
                raise UserError(
                    f"{path}: {name}: must hold options, {name}: {{name: value}}, but holds {content[name]!r}"
                )


def _check_keys(section: dict[Any, Any], path: Path, place: str = "") -> None:
    """Raise UserError where a config file has no word for the name of an option, or holds itself."""
    if place.count(".") > DEEPEST:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply, or an alias holds itself")
    for key, value in section.items():
        if not isinstance(key, str):
            raise UserError(
                f"{path}: {place}{key}: the name of an option must be a word, but this is a {type(key).__name__}; "
                "remove it, or put it in quotes"
            )
        if isinstance(value, dict):
            _check_keys(value, path, f"{place}{key}.")


def refuse_nulls(options: Any, cls: type, prefix: str) -> None:
    """Raise UserError when an option is null that has another default: the parser lets null stand for any type.

    Args:
        options: Parsed arguments of ``cls`` by name.
        cls: The class.
        prefix: What the option is called up to its name, e.g. ``data.``.
    """
    for name, parameter in inspect.signature(cls).parameters.items():
        if "None" in str(parameter.annotation):
            continue
        default = parameter.default
        if default not in (None, inspect.Parameter.empty) and name in options and options[name] is None:
            raise UserError(f"{prefix}{name}: null is no value; leave it out for the default, {default!r}")


def refuse_extreme_numbers(config: Any) -> None:
    """Raise UserError for the first number of a parsed command that is infinite, or an integer beyond 64 bits.

    Args:
        config: Parsed options of a subcommand: namespaces, mappings and lists of them.
    """
    for name, value in _numbers(config, ""):
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise UserError(f"{name}={value} does not fit in 64 bits; use a whole number up to {LARGEST_INTEGER}")
        if math.isinf(value) and name not in MAY_BE_INFINITE:
            raise UserError(f"{name}={value} must be a finite number; use a large one if you mean no limit")


def _numbers(value: Any, place: str) -> Iterator[tuple[str, int | float]]:
    """Return the numbers in a parsed config with their names, arguments of a class under the name of the class."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, place)
    elif isinstance(value, Mapping | Namespace):  # no other object: its attributes are not what the user wrote
        options = _mapping(value)
        if "class_path" in options:
            place, options = str(options["class_path"]).rpartition(".")[2], _mapping(options.get("init_args") or {})
        for name, item in options.items():
            yield from _numbers(item, f"{place}.{name}".lstrip("."))


def _mapping(options: Mapping[str, Any] | Namespace) -> Mapping[str, Any]:
    return options if isinstance(options, Mapping) else vars(options)


def refuse_idle_run(max_frames: int, num_seed_frames: int) -> None:
    """Raise UserError when a run would end before its first gradient update."""
    if max_frames <= num_seed_frames:
        raise UserError(
            f"max_frames={max_frames} ends in the seed phase (model.num_seed_frames={num_seed_frames} of random "
            f"actions), so the agent would never learn: raise --max_frames above {num_seed_frames}, or lower "
            "--model.num_seed_frames"
        )


OF_DATA_SETS = {
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "overfit_batches": 0.0,
    "val_check_interval": 1.0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
"""Options of the Trainer that choose batches or evaluations, with the values that leave both as they are."""


def refuse_bad_lists(callbacks: Sequence[Any]) -> None:
    """Raise UserError when a callback is given no modules, so that it would do nothing, or one thing twice."""
    for callback in callbacks:
        arguments = callback.arguments() if hasattr(callback, "arguments") else {}
        for name in ("modules", "taus", "at_frames"):
            items = list(arguments.get(name) or [])
            if twice := [item for item in items if items.count(item) > 1]:
                raise UserError(f"{type(callback).__name__}.{name}={items} lists {twice[0]} twice; remove one")
        modules = arguments.get("modules")
        if isinstance(modules, list | tuple) and not modules:
            raise UserError(
                f"{type(callback).__name__}.modules=[] names no module, so it would do nothing: list some, or leave it "
                "out for the default"
            )


def refuse_trainer_options(options: Any) -> None:
    """Raise UserError for options of the Trainer that mean something else here, or that it would take without a word.

    Args:
        options: Parsed options ``--trainer.*``.
    """
    for name in ("max_steps", "min_steps"):
        if options[name] not in (None, -1):
            raise UserError(
                f"trainer.{name}={options[name]} counts the steps of all optimizers; give env frames: --max_frames"
            )
    for name in ("max_epochs", "min_epochs"):
        if options.get(name) not in (None, -1):
            raise UserError(f"trainer.{name}={options[name]} counts evaluations here; give env frames: --max_frames")
    for name, usual in OF_DATA_SETS.items():
        if options.get(name) not in (None, usual):
            raise UserError(
                f"trainer.{name}={options[name]} is for data sets, of which there are none here; leave it out. "
                "Evaluations: --data.eval_every_n_frames and --data.num_eval_episodes"
            )
    if options.default_root_dir is not None and not str(options.default_root_dir).strip():
        raise UserError("trainer.default_root_dir='' names no folder; give one, or leave it out for a new one in runs/")
    if options.log_every_n_steps is not None:
        at_least("trainer.log_every_n_steps", options.log_every_n_steps, 1, " (env steps)")
    if isinstance(options.num_nodes, int) and options.num_nodes > 1 and not _knows_first_node():
        raise UserError(
            f"trainer.num_nodes={options.num_nodes}, but nothing says where the first node is (no SLURM, no torchrun, "
            "no MASTER_ADDR), so it would wait: start it with torchrun or SLURM (docs/multi_gpu.md), or leave out "
            "--trainer.num_nodes"
        )
    if not _is_devices(options.devices):
        raise UserError(
            f"trainer.devices={options.devices!r} must be a number of devices >= 1, a list of GPUs such as [0, 1], "
            "or auto"
        )


def _knows_first_node() -> bool:
    """Whether a launcher, or the user, has set where the ranks of several machines meet."""
    return any(name in os.environ for name in ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE"))


def _is_devices(value: Any) -> bool:
    if isinstance(value, str):
        parts = value.split(",")
        return value in ("auto", "-1") or (all(part.strip().isdecimal() for part in parts) and value.strip() != "0")
    if isinstance(value, int):
        return value == -1 or value >= 1
    return isinstance(value, list) and bool(value) and all(isinstance(index, int) and index >= 0 for index in value)


def trainer_error(error: Exception, options: Any) -> UserError:
    """Return what the Trainer refused as one line, with the options that it speaks of.

    Args:
        error: What its constructor raised.
        options: Parsed options ``--trainer.*``.
    """
    text = first_line(error)
    if options.accelerator in ("gpu", "cuda", "mps", "tpu"):
        return UserError(
            f"trainer.accelerator={options.accelerator}: {text} Use --trainer.accelerator=cpu or auto; "
            "`plasticity-rl doctor` says what torch sees"
        )
    given = [f"--trainer.{name}={value}" for name, value in _named_in(text, options)]
    return UserError(f"trainer: {text}{' (given: ' + ', '.join(given) + ')' if given else ''}")


def _named_in(text: str, options: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(options).items():
        if isinstance(value, str | int | float) and not isinstance(value, bool) and name in text:
            yield name, value


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or the name of its class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
