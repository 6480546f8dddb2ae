"""The LightningCLI behind ``plasticity-rl fit`` and ``validate``: wiring only."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_rl import __version__
from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.dqn.agent import DQN
from plasticity_rl.agents.drqv2.agent import DrQV2
from plasticity_rl.agents.hooks import RLCallback, callbacks_of
from plasticity_rl.agents.initial_weights import init_weights
from plasticity_rl.agents.sac.agent import SAC
from plasticity_rl.checkpoint_files import CheckpointReader
from plasticity_rl.cli.checks import as_seed, refuse_nulls
from plasticity_rl.cli.early import CommandLine, option_values
from plasticity_rl.cli.early_checks import agent_name
from plasticity_rl.cli.own_files import find_own
from plasticity_rl.cli.own_options import AGENT, CONFIG_HELP, FROM_OTHERS, HIDDEN, OWN_OPTIONS
from plasticity_rl.cli.parser import PARSER_MODE, OneLineParser, use_our_yaml
from plasticity_rl.cli.parser_errors import UNION, one_line
from plasticity_rl.cli.run_config import SaveRunConfig, with_configuration
from plasticity_rl.cli.run_dirs import callbacks_in, default_run_dir, last_checkpoint
from plasticity_rl.cli.start_checks import (
    checked_weights,
    own_network_options,
    refuse_missing_replay,
    refuse_other_network,
    write_out_places,
)
from plasticity_rl.cli.trust import refuse_other_kinds
from plasticity_rl.data.module import data_module_of
from plasticity_rl.distributed.launch import same_run_dir
from plasticity_rl.distributed.ranks import say
from plasticity_rl.distributed.strategy import asks_for_ranks
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import no_file
from plasticity_rl.run.callback_checks import idle_run, late_events
from plasticity_rl.run.ending import AlreadyFinished, stop_if_finished
from plasticity_rl.run.failure import run_failure
from plasticity_rl.run.folder import refuse_other_run, refuse_unwritable, requeued_checkpoint
from plasticity_rl.run.number_checks import refuse_extreme_numbers
from plasticity_rl.run.stop_signals import StopRun, stopped
from plasticity_rl.run.trainer import TRAINER_DEFAULTS, as_list, make_trainer, with_checkpoint_io
from plasticity_rl.run.trainer_checks import first_line, refuse_trainer_options

AGENTS: dict[str, type[RLModule]] = {"drqv2": DrQV2, "sac": SAC, "dqn": DQN}
"""Values of ``--agent``: whose arguments are the options ``--model.*``."""


class RLCLI(LightningCLI):
    """LightningCLI with frames as the budget, one seed, and one run folder.

    Args:
        command: What was given.
        checkpoints: By which the checkpoint that it names is read: once, and kept until it is loaded.
        **options: Of LightningCLI.
    """

    def __init__(self, *args: Any, command: CommandLine, checkpoints: CheckpointReader, **options: Any) -> None:
        self.command, self.checkpoints = command, checkpoints
        try:
            super().__init__(*args, **options)  # parses, builds and runs
        except (UserError, StopRun):
            raise
        except (Exception, SystemExit) as error:  # Lightning makes a SystemExit of a KeyboardInterrupt
            trainer: pl.Trainer | None = getattr(self, "trainer", None)
            if isinstance(error.__context__, KeyboardInterrupt) and isinstance(error, SystemExit):
                # Before training or after it, where nothing notes it, and in an evaluation by itself.
                if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
                    say(stopped("by SIGINT", as_agent(trainer.lightning_module)))
                raise StopRun(signal.SIGINT) from None
            if trainer is None or trainer.state.fn != TrainerFn.FITTING:
                raise
            raise run_failure(error, trainer) from error

    writes = True
    """Whether a run is going to write into its folder."""
    _made: Path | None = None

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Use the parser with short errors."""
        parser = OneLineParser(dump_header=[f"plasticity_rl=={__version__}"], **kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help=CONFIG_HELP)
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Offer training and evaluation."""
        return {"fit": set(HIDDEN), "validate": set(HIDDEN)}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--max_frames`` and derive what depends on other options."""
        parser.add_argument("--agent", type=Literal[tuple(AGENTS)], default=AGENT.default, help=AGENT.help)
        types = {"int": int, "bool": bool, "str | None": str | None}
        for name, kind, default, text in OWN_OPTIONS:
            parser.add_argument(f"--{name}", type=types[kind], default=default, help=text)
        for origin, target in FROM_OTHERS:
            if f"--{target}" not in parser._option_string_actions:
                continue  # of another kind of agent
            if origin == "seed_everything":
                parser.link_arguments(origin, target, compute_fn=as_seed)
            else:
                parser.link_arguments(origin, target, apply_on="instantiate" if origin.startswith("data.") else "parse")
        linked = {f"--{target}" for _, target in FROM_OTHERS}
        OneLineParser.known_options = set(parser._option_string_actions) - linked

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave out the box of Lightning that repeats our table, unless ``validate --verbose true`` asks for it."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "validate":
            parser.set_defaults({"verbose": False})
        return parser

    def _parse_ckpt_path(self) -> None:
        """Take the network's options from the checkpoint for evaluation only; Lightning does so for training too.

        There it would hide that the command asks for another network than the checkpoint holds. Lightning would also
        read the file by itself, and ignore what the user asks for; here that counts, or is refused as in training.
        """
        subcommand = self.config.subcommand
        config = self.config[subcommand]
        path = config.ckpt_path
        if path is None or (path == "last" and (subcommand == "fit" or config.trainer.default_root_dir is None)):
            return
        path = last_checkpoint(Path(config.trainer.default_root_dir)) if path == "last" else path
        if not Path(path).is_file():
            raise UserError(
                f"--ckpt_path {path}: {no_file(path)}; give a .ckpt file (RUN/checkpoints/last.ckpt) or 'last'"
            )
        checkpoint = self.checkpoints.look(path)
        saved = checkpoint.get("hyper_parameters", {})
        asked = own_network_options(self.command)
        network = {name: value for name, value in saved.items() if name != "_instantiator" and name not in asked}
        if subcommand != "fit" and saved:
            refuse_other_network(config.model, asked, checkpoint)
            self.command.refuse_foreign({"model": network}, str(path))
            self.config = self.parser.parse_object({subcommand: {"model": network}}, self.config)

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, choose the run folder, and refuse one that holds another run."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        write_out_places(config)
        if self.subcommand != "fit" and self.command.foreign:
            config.trainer.logger, config.trainer.profiler = False, None  # they would write where the run's config says
        self._refuse_options(config)
        config.data.seed = config.model.seed = as_seed(config.seed_everything)  # `true` has become a number by now
        if config.trainer.default_root_dir is None:
            several = asks_for_ranks(*(config.trainer.get(name) for name in ("devices", "num_nodes", "accelerator")))
            choose = functools.partial(default_run_dir, config, make=self.writes and self.subcommand == "fit")
            self._made = same_run_dir(choose, several=several)
            config.trainer.default_root_dir = str(self._made)
        run_dir = Path(config.trainer.default_root_dir)
        saved = self.checkpoints.look(last_checkpoint(run_dir)) if config.ckpt_path == "last" else {}
        if self.subcommand == "fit" and config.ckpt_path is None:
            config.ckpt_path = requeued_checkpoint(run_dir)
        if self.subcommand == "fit" and config.init_weights is not None:
            config.init_weights = checked_weights(config, saved or None, self.checkpoints)
        if self.subcommand == "fit" and config.ckpt_path is not None:
            path = last_checkpoint(run_dir) if config.ckpt_path == "last" else config.ckpt_path
            saved = saved or self.checkpoints.look(path)
            if self.writes:  # what only looks at a finished run is no start of it
                stop_if_finished(run_dir, saved.get("rl", {}).get("env_frames", 0), config.max_frames)
        if self.subcommand == "fit":
            self._claim_folder(run_dir)

    def _claim_folder(self, run_dir: Path) -> None:
        if self.command.alone is not None:
            refuse_missing_replay(self.command.alone, self.config.fit.data, run_dir, self.checkpoints)
        refuse_other_run(run_dir, resuming=self.config.fit.ckpt_path is not None)

    def _refuse_options(self, config: Any) -> None:
        refuse_extreme_numbers(config)
        refuse_nulls(config.data, data_module_of(config.data.task or ""), "data.")
        refuse_nulls(config.model, AGENTS[config.agent], "model.")
        for cls, arguments in callbacks_in(config):
            if issubclass(cls, RLCallback):  # those of Lightning are its own business
                refuse_nulls(arguments, cls, f"{cls.__name__}.")
        refuse_trainer_options(vars(config.trainer))  # make_trainer does so too, but after environments are built
        if config.data.replay_dir is not None:
            refuse_unwritable(Path(config.data.replay_dir), "data.replay_dir:", "--data.replay_dir")
        if self.subcommand == "validate" and config.ckpt_path is None:
            raise UserError(
                "validate needs --ckpt_path RUN/checkpoints/last.ckpt, or --ckpt_path last with "
                "--trainer.default_root_dir RUN"
            )

    def instantiate_classes(self) -> None:
        """Build; a folder that was made for a run that is refused goes again."""
        with self._no_empty_folder():
            super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run, likewise."""
        with self._no_empty_folder():
            super()._run_subcommand(subcommand)

    @contextlib.contextmanager
    def _no_empty_folder(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._made is not None:
                with contextlib.suppress(OSError):  # it holds something by now
                    self._made.rmdir()
            raise

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Let :func:`make_trainer` assemble it, as for a program; add what only the command line knows."""
        assert self.subcommand is not None
        config = self.config_init[self.subcommand]
        options = {**vars(config.trainer), **kwargs}
        callbacks = as_list(options.pop("callbacks"))
        if self.subcommand == "fit":
            self._refuse_short_run(callbacks)
            callbacks.append(SaveRunConfig(self._parser("fit"), self.config.fit))
        else:
            options["logger"] = False
        options["plugins"] = with_checkpoint_io(options["plugins"], self.checkpoints)
        run_dir = options.pop("default_root_dir")
        return make_trainer(run_dir, callbacks=callbacks, detect_nan=config.detect_nan, **options)

    def _refuse_short_run(self, callbacks: Sequence[pl.Callback]) -> None:
        """Refuse a run that ends before an event, or before it learns; a program may want either, and is told."""
        config = self.config_init.fit
        lines = late_events(callbacks, config.max_frames, config.data.frames_per_step)
        for line in [*lines, *idle_run(callbacks, config.max_frames, config.model.num_seed_frames)]:
            raise UserError(line)

    def before_fit(self) -> None:
        """Refuse numbers that several ranks cannot share, before they are started; load weights to begin with."""
        self.datamodule.refuse_uneven(self.trainer.world_size)
        config = self.config_init.fit
        if config.init_weights is not None and config.ckpt_path is None:
            init_weights(self.model, config.init_weights, callbacks_of(self.trainer))
        elif config.init_weights is not None:
            self.model.began_with(config.init_weights, loaded=False)


def quiet() -> None:
    """Keep other packages' hints out of the way of the progress bar."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"jsonargparse\..*")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torchrl\..*")


def run(command: CommandLine) -> None:
    """Parse a command and run it.

    Raises:
        UserError: When the input is wrong.
    """
    try:
        build(RLCLI, command)
    except AlreadyFinished as finished:
        say(str(finished))


def build(cls: type[RLCLI], command: CommandLine, checkpoints: CheckpointReader | None = None) -> RLCLI:
    """Parse a command and run it, as far as ``cls`` does, and turn what is wrong into UserError.

    Args:
        cls: The class, which parses, builds and runs by being made.
        command: The subcommand first.
        checkpoints: By which a checkpoint that the command names is read.
    """
    if command.args[0] == "validate" and option_values(command.args, "--init_weights"):
        raise UserError("--init_weights is for fit: validate evaluates the weights of --ckpt_path")
    quiet()
    use_our_yaml()
    checkpoints = checkpoints or CheckpointReader()
    command = with_configuration(command, checkpoints)
    find_own(command)
    for given in () if command.trusts else command.foreign:
        refuse_other_kinds(command.contents[given], command.source(given), command.own_texts())
    OneLineParser.agent = agent_name(command)
    try:
        return cls(
            AGENTS[OneLineParser.agent],
            data_module_of(str(command.setting("data.task", ""))),
            command=command,
            checkpoints=checkpoints,
            args=list(command.args),
            seed_everything_default=1,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=None,  # instantiate_trainer adds ours
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
