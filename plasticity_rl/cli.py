"""The LightningCLI behind ``plasticity-rl fit`` and ``validate``: wiring only."""

from __future__ import annotations

import datetime
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import lightning.pytorch as pl
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf.errors import OmegaConfBaseException

from plasticity_rl import __version__
from plasticity_rl.agent import DrQV2
from plasticity_rl.cli_errors import UNION, one_line
from plasticity_rl.data import RLDataModule
from plasticity_rl.errors import UserError
from plasticity_rl.run_folder import refuse_other_run
from plasticity_rl.trainer import TRAINER_DEFAULTS, place_checkpoints, run_callbacks

RUNS = Path("runs")
"""Where runs go that name no folder: ``runs/<task>_seed<seed>_<date>-<time>``."""


class OneLineParser(LightningArgumentParser):
    """LightningCLI's parser, with errors of one line instead of sixty."""

    known_options: ClassVar[set[str]] = set()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the console script prints as one line with exit code 2."""
        raise UserError(one_line(message, self.known_options)) from ex

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
        """Save once, on rank 0, when training."""
        if stage != "fit" or not trainer.is_global_zero:
            return
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
            "--max_frames",
            type=int,
            default=3_100_000,
            help="Env frames (simulator frames, action repeat included) at which training stops.",
        )
        parser.link_arguments("max_frames", "data.max_frames")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=as_seed)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=as_seed)
        parser.link_arguments("data.obs_shape", "model.obs_shape", apply_on="instantiate")
        parser.link_arguments("data.action_dim", "model.action_dim", apply_on="instantiate")
        OneLineParser.known_options |= set(parser._option_string_actions)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, and refuse one that holds another run."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        resuming = config.ckpt_path is not None
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(default_run_dir(config, self.subcommand))
        if self.subcommand == "fit":
            run_dir = Path(config.trainer.default_root_dir)
            refuse_other_run(run_dir, resuming=resuming)
            if config.ckpt_path == "last" and not (run_dir / "checkpoints").is_dir():
                raise UserError(
                    f"--ckpt_path last: no checkpoint in {run_dir}; name the run with --trainer.default_root_dir"
                )
        if config.ckpt_path not in (None, "last", "best") and not Path(config.ckpt_path).is_file():
            raise UserError(f"--ckpt_path {config.ckpt_path}: no such file; give a .ckpt file or 'last'")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add logger, checkpoints, progress bar and run folder, unless the user chose others."""
        options = self.config_init[self.subcommand].trainer
        run_dir = Path(options.default_root_dir)
        callbacks = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
        callbacks = run_callbacks(
            [callback for callback in callbacks if callback], progress_bar=options.enable_progress_bar is not False
        )
        place_checkpoints(callbacks, run_dir)
        if self.subcommand == "validate":
            kwargs["logger"] = False
        elif options.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(str(run_dir), name="", version="")
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)


def as_seed(seed: int | bool | None) -> int:
    """Turn ``--seed_everything`` into a number: true and false mean 0 to the framework's own generators."""
    return 0 if seed is None or isinstance(seed, bool) else seed


def default_run_dir(config: Any, subcommand: str) -> Path:
    """Return the folder of a run that names none: a new one, or with ``--ckpt_path`` that of the checkpoint."""
    prefix = f"{config.data.task}_seed{as_seed(config.seed_everything)}_"
    if config.ckpt_path == "last":
        candidates = sorted(RUNS.glob(f"{prefix}*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise UserError(
                f"--ckpt_path last: no run called {RUNS / prefix}* has a checkpoint; "
                "name the run's folder with --trainer.default_root_dir"
            )
        return candidates[-1].parents[1]
    if config.ckpt_path is not None:
        return Path(config.ckpt_path).resolve().parents[1]
    return RUNS / f"{prefix}{datetime.datetime.now():%Y%m%d-%H%M%S}"


def with_run_config(args: Sequence[str]) -> list[str]:
    """Add the run folder's ``config.yaml`` to a command that names a checkpoint but no config."""
    args = list(args)
    if any(arg == "--config" or arg.startswith("--config=") or arg == "-c" for arg in args):
        return args
    for i, arg in enumerate(args):
        value = arg.partition("=")[2] or (args[i + 1] if i + 1 < len(args) else "")
        if arg.split("=")[0] == "--ckpt_path" and value.endswith(".ckpt"):
            config = Path(value).parent.parent / "config.yaml"
            if config.is_file():
                return [args[0], "--config", str(config), *args[1:]]
    return args


def quiet() -> None:
    """Keep other packages' hints out of the way of the progress bar."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
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
    try:
        RLCLI(
            DrQV2,
            RLDataModule,
            args=with_run_config(args),
            seed_everything_default=1,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=SaveRunConfig,
            auto_configure_optimizers=False,
            parser_kwargs={"parser_mode": "omegaconf+"},
        )
    except UserError:
        raise
    except ValueError as error:
        # A callback's constructor refused its arguments: the parser wraps that in its report about types.
        if UNION in str(error):
            raise UserError(one_line(str(error))) from error
        raise
