"""What a start of ``fit`` or ``validate`` finds on the disk: its paths, and whether what it needs is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plasticity_rl.agents.hooks import plain
from plasticity_rl.agents.options import RECORD
from plasticity_rl.agents.resume import refuse
from plasticity_rl.agents.resume_rules import Change, rule_of
from plasticity_rl.agents.spelling import absolute, same
from plasticity_rl.checkpoint_files import CheckpointReader
from plasticity_rl.cli.early import CommandLine
from plasticity_rl.cli.given import given
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded
from plasticity_rl.replay.files import holds_replay
from plasticity_rl.run.trainer import as_list


def write_out_places(config: Any) -> None:
    """Replace ``~`` and variables in the paths of a config, wherever they came from."""
    for section, name in ((config.trainer, "default_root_dir"), (config.data, "replay_dir"), (config, "ckpt_path")):
        if section.get(name):
            section[name] = expanded(str(section[name]), f"{'' if section is config else '--'}{name}")
    for part in ("callbacks", "logger", "profiler"):
        for entry in as_list(config.trainer.get(part)):
            arguments = (entry.get("init_args") if hasattr(entry, "get") else None) or {}
            for name in ("dirpath", "save_dir"):
                if isinstance(arguments.get(name), str):
                    arguments[name] = expanded(arguments[name], f"trainer.{part}.{name}")
    if config.data.replay_dir:
        config.data.replay_dir = os.path.abspath(config.data.replay_dir)  # the run may go on from another folder


def checked_weights(config: Any, saved: Mapping[str, Any] | None, checkpoints: CheckpointReader) -> str:
    """Return the file of ``--init_weights``, unless a run goes on that began with other ones.

    Args:
        config: Of ``fit``.
        saved: The checkpoint with which a run goes on, where it was read already.
        checkpoints: By which it is read.

    Raises:
        UserError: When there is no such file, or the run that goes on began with other weights.
    """
    path = absolute(config.init_weights)
    if config.ckpt_path is None and not path.is_file():
        raise UserError(f"--init_weights {config.init_weights}: no such file; give RUN/checkpoints/last.ckpt")
    if config.ckpt_path is not None:
        saved = saved or checkpoints.look(config.ckpt_path)
        began_with = saved.get(RECORD, {}).get("options", {}).get("init_weights")
        if began_with != str(path):  # a run's own config names what it began with, also when it goes on
            raise UserError(
                f"--init_weights {config.init_weights} begins a new run, but --ckpt_path {config.ckpt_path} goes "
                f"on with one that began with {began_with or 'weights of its own'}: give one of them"
            )
    return str(path)


def refuse_missing_replay(checkpoint: str, data: Any, run_dir: Path, checkpoints: CheckpointReader) -> None:
    """Raise UserError when the replay of a checkpoint that left its run folder is not where the run looks for it.

    Args:
        checkpoint: The file.
        data: Options of the data module.
        run_dir: Where the run goes on.
        checkpoints: By which the file is read.
    """
    replay = checkpoints.look(checkpoint).get("RLDataModule", {}).get("replay")
    folder = Path(data.replay_dir or run_dir / "replay")
    needed = replay is not None and bool(replay["storage"]["written"].any())
    if needed and not data.allow_empty_replay and not holds_replay(folder / "rank0"):
        raise UserError(
            f"--ckpt_path {checkpoint} lies in no run folder, and its replay is not in {folder}: put the file back "
            "into RUN/checkpoints/, or name the run with --trainer.default_root_dir RUN or the replay with "
            "--data.replay_dir RUN/replay, or go on with an empty one, not exact: --data.allow_empty_replay true"
        )


def own_network_options(command: CommandLine) -> set[str]:
    """Return the options of the network that the user gives: not those in files that a run wrote."""
    own = {name: content for name, content in command.contents.items() if name not in command.foreign}
    found = set()
    for one in given(replace(command, contents=own)):
        section, _, rest = one.name.partition(".")
        if section == "model":
            found |= {rest.partition(".")[0]} if rest else set(one.value if isinstance(one.value, Mapping) else ())
    return found


def refuse_other_network(network: Mapping[str, Any], asked: Iterable[str], checkpoint: Mapping[str, Any]) -> None:
    """Raise UserError for an option with which a checkpoint cannot be evaluated, as ``fit`` does when it goes on.

    Args:
        network: Options of the network, parsed.
        asked: Names of those that the user gives.
        checkpoint: What is evaluated.
    """
    saved, folder = checkpoint["hyper_parameters"], str(checkpoint.get(RECORD, {}).get("folder", os.getcwd()))
    pairs = {name: (plain(saved[name]), plain(network[name])) for name in asked if name in saved}
    other = {name: pair for name, pair in pairs.items() if not same(*pair, folder)}
    refuse(Change(f"model.{name}", *pair, rule_of(f"model.{name}")) for name, pair in other.items())
