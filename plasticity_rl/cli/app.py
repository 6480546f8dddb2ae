"""The LightningCLI behind ``plasticity-rl fit`` and ``validate``: wiring only."""

from __future__ import annotations

import datetime
import enum
import functools
import importlib
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import lightning.pytorch as pl
import yaml
from jsonargparse import ActionConfigFile, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from plasticity_rl import __version__
from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.drqv2.agent import DrQV2
from plasticity_rl.agents.sac.agent import SAC
from plasticity_rl.callback.bases import Intervention, RLCallback
from plasticity_rl.checkpoint_files import read_checkpoint
from plasticity_rl.cli.checks import (
    check_config_files,
    first_line,
    refuse_bad_lists,
    refuse_extreme_numbers,
    refuse_idle_run,
    refuse_nulls,
    refuse_trainer_options,
    trainer_error,
)
from plasticity_rl.cli.early import setting, settings, with_run_config
from plasticity_rl.cli.parser_errors import UNION, one_line
from plasticity_rl.data.module import RLDataModule, data_module_of
from plasticity_rl.distributed.launch import same_run_dir
from plasticity_rl.distributed.strategy import asks_for_ranks, choose_strategy, refuse_other_strategy
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.former_names import todays_name
from plasticity_rl.run.callback_checks import refuse_late_events, refuse_unsuitable
from plasticity_rl.run.description import short_name
from plasticity_rl.run.folder import refuse_other_run, refuse_unwritable, requeued_checkpoint
from plasticity_rl.run.logger import run_logger
from plasticity_rl.run.trainer import TRAINER_DEFAULTS, place_checkpoints, run_callbacks, with_checkpoint_io

RUNS = Path("runs")
"""Where runs go that name no folder: ``runs/<task>_<interventions>_seed<seed>_<date>-<time>``."""

AGENTS: dict[str, type[RLModule]] = {"drqv2": DrQV2, "sac": SAC}
"""Values of ``--agent``: whose arguments are the options ``--model.*``."""
PARSER_MODE = "omegaconf+"
"""YAML in which ``${...}`` follows overrides on the command line."""


def load_yaml(text: str) -> Any:
    """Load YAML whose keys ``on`` and ``off`` are names: YAML 1.1 reads them as true and false.

    Classes that moved since a file was written are given the name they have today.
    """
    return _with_text_keys(get_loader("yaml")(text))


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    if isinstance(value, dict):
        names = {True: "on", False: "off"}
        return {names[key] if isinstance(key, bool) else key: _with_text_keys(item) for key, item in value.items()}
    return todays_name(value) if isinstance(value, str) else value


def _write_member(dumper: yaml.SafeDumper, member: enum.Enum) -> yaml.Node:
    """Write the default of an option that is declared as text, but is a member of an Enum (Lightning's Timer)."""
    return dumper.represent_data(member.value)


class OneLineParser(LightningArgumentParser):
    """LightningCLI's parser, with errors of one line instead of sixty."""

    known_options: ClassVar[set[str]] = set()
    agent: ClassVar[str] = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the console script prints as one line with exit code 2."""
        own = set(self._option_string_actions)  # inside a callback: its arguments
        line = one_line(message, own if "is not accepted" in message else self.known_options)
        if re.match(r"(unrecognized arguments: --|there is no option ')model\.", line):
            line += f" (these are of --agent {self.agent})"
        raise UserError(line) from ex

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; unresolved ``${...}`` is the user's error too."""
        try:
            return super().parse_args(*args, **kwargs)
        except OmegaConfBaseException as error:
            hint = "keys are absolute and start with the subcommand, e.g. ${fit.data.batch_size}"
            raise UserError(f"{str(error).splitlines()[0]} ({hint})") from error


class SaveRunConfig(SaveConfigCallback):
    """Writes the resolved ``config.yaml`` into a new run folder; a resumed run keeps the old file and adds its own."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write nothing yet: other callbacks and the checkpoint may still refuse to start."""

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save once, on rank 0, when all was accepted and the folder is this run's (``RunFolder`` comes before)."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.yaml"
        if path.exists():
            path = folder / f"config_resumed_{datetime.datetime.now():%Y%m%d-%H%M%S}.yaml"
        self.parser.save(self.config, path, overwrite=True, multifile=False)


class RLCLI(LightningCLI):
    """LightningCLI with frames as the budget, one seed, and one run folder."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Use the parser with short errors."""
        parser = OneLineParser(dump_header=[f"plasticity_rl=={__version__}"], **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="YAML file; repeat to merge, `callbacks+:` in a file appends.",
        )
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Offer training and evaluation."""
        hidden = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": hidden, "validate": hidden}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--max_frames`` and derive what depends on other options."""
        parser.add_argument(
            "--agent",
            type=Literal[tuple(AGENTS)],
            default="drqv2",
            help="Agent to train; it decides which options --model.* there are (see `--agent sac --help`).",
        )
        parser.add_argument(
            "--max_frames",
            type=int,
            default=3_100_000,
            help="Env frames (simulator frames, action repeat included) at which training stops.",
        )
        parser.add_argument(
            "--detect_nan",
            type=bool,
            default=True,
            help="Whether a loss or weight that is NaN or infinite ends the run, before it is saved.",
        )
        parser.link_arguments("max_frames", "data.max_frames")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=as_seed)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=as_seed)
        parser.link_arguments("data.obs_shape", "model.obs_shape", apply_on="instantiate")
        parser.link_arguments("data.action_dim", "model.action_dim", apply_on="instantiate")
        linked = {"--data.max_frames", "--data.seed", "--model.seed", "--model.obs_shape", "--model.action_dim"}
        OneLineParser.known_options = set(parser._option_string_actions) - linked

    def _parse_ckpt_path(self) -> None:
        """Take the network's options from the checkpoint for evaluation only; Lightning does so for training too.

        There it would hide that the command asks for another network than the checkpoint holds.
        """
        path = self.config[self.config.subcommand].ckpt_path
        if path in (None, "last"):
            return
        if not Path(path).is_file():
            raise UserError(f"--ckpt_path {path}: no such file; give a .ckpt file or 'last'")
        read_checkpoint(path)
        if self.config.subcommand != "fit":
            super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, choose the run folder, and refuse one that holds another run."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        self._refuse_options(config)
        config.data.seed = config.model.seed = as_seed(config.seed_everything)  # `true` has become a number by now
        if config.trainer.default_root_dir is None:
            several = asks_for_ranks(*(config.trainer.get(name) for name in ("devices", "num_nodes", "accelerator")))
            choose = functools.partial(default_run_dir, config, self.subcommand)
            config.trainer.default_root_dir = str(same_run_dir(choose, several=several))
        run_dir = Path(config.trainer.default_root_dir)
        if config.ckpt_path == "last":
            checkpoints = list((run_dir / "checkpoints").glob("last*.ckpt"))
            if not checkpoints:
                raise UserError(
                    f"--ckpt_path last: no checkpoint in {run_dir}; name the run with --trainer.default_root_dir"
                )
            for path in checkpoints:
                read_checkpoint(path)
        if self.subcommand == "fit":
            if config.ckpt_path is None:
                config.ckpt_path = requeued_checkpoint(run_dir)
            self._claim_folder(run_dir)

    def _claim_folder(self, run_dir: Path) -> None:
        refuse_other_run(run_dir, resuming=self.config.fit.ckpt_path is not None)

    def _refuse_options(self, config: Any) -> None:
        refuse_extreme_numbers(config)
        refuse_nulls(config.data, data_module_of(config.data.task or ""), "data.")
        refuse_nulls(config.model, AGENTS[config.agent], "model.")
        for cls, arguments in _callbacks(config):
            if issubclass(cls, RLCallback):  # those of Lightning are its own business
                refuse_nulls(arguments, cls, f"{cls.__name__}.")
        refuse_trainer_options(config.trainer)
        if config.data.replay_dir is not None:
            refuse_unwritable(Path(config.data.replay_dir), "data.replay_dir:", "--data.replay_dir")
        if self.subcommand == "validate" and config.ckpt_path is None:
            raise UserError(
                "validate needs --ckpt_path RUN/checkpoints/last.ckpt, or --ckpt_path last with "
                "--trainer.default_root_dir RUN"
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add logger, checkpoints, progress bar and run folder, unless the user chose others."""
        options = self.config_init[self.subcommand].trainer
        run_dir = Path(options.default_root_dir)
        callbacks = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
        callbacks = run_callbacks(
            [callback for callback in callbacks if callback],
            progress_bar=options.enable_progress_bar is not False,
            checkpoints=options.enable_checkpointing is not False,
            detect_nan=self.config_init[self.subcommand].detect_nan,
        )
        kwargs["plugins"] = with_checkpoint_io(options.plugins)
        if self.subcommand == "fit":
            refuse_bad_lists(callbacks)
            refuse_unsuitable(callbacks)
            refuse_late_events(callbacks, self.config_init.fit.max_frames, self.config_init.fit.data.frames_per_tick)
            if not any(isinstance(callback, Intervention) and callback.fills_replay for callback in callbacks):
                refuse_idle_run(self.config.fit.max_frames, self.config.fit.model.num_seed_frames)
        place_checkpoints(callbacks, run_dir)
        if self.subcommand == "validate":
            kwargs["logger"] = False
        elif options.logger in (None, True):
            kwargs["logger"] = run_logger(run_dir)
        places = {name: options[name] for name in ("devices", "num_nodes", "accelerator")}
        kwargs["strategy"] = choose_strategy(options.strategy, **places)
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except UserError:
            raise
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise trainer_error(error, options) from error
        refuse_other_strategy(trainer)
        return trainer

    def before_fit(self) -> None:
        """Refuse numbers that several ranks cannot share, before they are started."""
        self.datamodule.refuse_uneven(self.trainer.world_size)


def agent_class(args: Sequence[str]) -> type[RLModule]:
    """Return the agent that a command asks for, from its options and config files: the parser depends on it.

    Raises:
        UserError: For a name that there is no agent of, or another one than a config file was written for.
    """
    name = setting(args, "agent", "drqv2")
    if name not in AGENTS:
        raise UserError(f"agent={name!r} is not an agent; there are {list(AGENTS)}.{suggestion(str(name), AGENTS)}")
    for source, other in settings(args, "agent"):
        if other != name and not source.startswith("--"):
            raise UserError(f"{source} holds the options of agent={other}, but the command ends up with agent={name}")
    return AGENTS[name]


def as_seed(seed: int | bool | None) -> int:
    """Turn ``--seed_everything`` into a number: false means 0 to the framework's own generators."""
    seed = 0 if seed is None or isinstance(seed, bool) else seed
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything={seed} must be a whole number from 0 to {2**32 - 1}")
    return seed


def default_run_dir(config: Any, subcommand: str) -> Path:
    """Return the folder of a run that names none: a new one, or with ``--ckpt_path`` that of the checkpoint."""
    name = short_name([(cls, given) for cls, given in _callbacks(config) if issubclass(cls, Intervention)])
    prefix = f"{config.data.task}_{name + '_' if name else ''}seed{as_seed(config.seed_everything)}_"
    if config.ckpt_path == "last":
        candidates = sorted(RUNS.glob(f"{prefix}*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise UserError(
                f"--ckpt_path last: no run called {RUNS / prefix}* has a checkpoint; "
                "name the run's folder with --trainer.default_root_dir"
            )
        return candidates[-1].parent.parent
    if config.ckpt_path is not None and Path(config.ckpt_path).resolve().parent.name == "checkpoints":
        return Path(config.ckpt_path).resolve().parent.parent
    return RUNS / f"{prefix}{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _callbacks(config: Any) -> list[tuple[type, dict[str, Any]]]:
    """Return class and arguments of the callbacks in a parsed config; their paths were checked by the parser."""
    entries = config.trainer.callbacks or []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        module, _, name = entry.class_path.rpartition(".")
        found.append((getattr(importlib.import_module(module), name), dict((entry.get("init_args") or {}).items())))
    return found


def quiet() -> None:
    """Keep other packages' hints out of the way of the progress bar."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"jsonargparse\..*")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torchrl\..*")


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (the subcommand first) and run it.

    Raises:
        UserError: When the input is wrong.
    """
    quiet()
    _build(RLCLI, args)


def _build(cls: type[RLCLI], args: Sequence[str]) -> RLCLI:
    """Parse ``args`` with one of the classes above, and turn what is wrong into UserError."""
    check_config_files(args)
    args = with_run_config(args)
    set_loader(PARSER_MODE, load_yaml, exceptions=(yaml.YAMLError,))
    yaml.SafeDumper.add_multi_representer(enum.Enum, _write_member)
    agent = agent_class(args)
    OneLineParser.agent = next(name for name, known in AGENTS.items() if known is agent)
    try:
        return cls(
            agent,
            data_module_of(str(setting(args, "data.task", ""))),
            args=args,
            seed_everything_default=1,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=SaveRunConfig,
            auto_configure_optimizers=False,
            parser_kwargs={"parser_mode": PARSER_MODE},
        )
    except UserError:
        raise
    except MisconfigurationException as error:
        raise UserError(first_line(error)) from error
    except ValueError as error:
        # A callback's constructor refused its arguments: the parser wraps that in its report about types.
        if UNION in str(error):
            raise UserError(one_line(str(error))) from error
        raise


class _WithoutRunning(RLCLI):
    """Parses and builds, and leaves the rest to the caller."""

    def _claim_folder(self, run_dir: Path) -> None:
        """Nothing is going to be written."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class RestoredRun:
    """Agent, data and callbacks as a run's configuration describes them; nothing is loaded yet."""

    run_dir: Path
    agent: RLModule
    data: RLDataModule
    callbacks: list[pl.Callback]


def build_only(args: Sequence[str]) -> RestoredRun:
    """Build what a command describes, without running it; writes nothing.

    Args:
        args: The command, the subcommand first.

    Raises:
        UserError: When the input is wrong.
    """
    quiet()
    cli = _build(_WithoutRunning, args)
    callbacks = list(cli.trainer.callbacks)  # type: ignore[attr-defined]
    return RestoredRun(Path(cli.trainer.default_root_dir), cli.model, cli.datamodule, callbacks)


def restore_only(checkpoint: Path) -> RestoredRun:
    """Build what the ``config.yaml`` of a checkpoint's run describes, as ``validate`` does, without running it.

    Raises:
        UserError: When the folder of the run holds no ``config.yaml``, or it is broken.
    """
    run_dir = checkpoint.resolve().parent.parent
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{checkpoint} does not lie in a run folder: there is no {run_dir / 'config.yaml'}")
    return replace(build_only(["validate", f"--ckpt_path={checkpoint}"]), run_dir=run_dir)
