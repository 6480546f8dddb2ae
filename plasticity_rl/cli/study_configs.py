"""What the options of a study mean today, by the parser of ``fit``; nothing is built and nothing trained."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plasticity_rl.cli.foreign_options import is_foreign, without_foreign
from plasticity_rl.errors import UserError, describe_error
from plasticity_rl.packaged import with_found_configs
from plasticity_rl.study.stale import OURS
from plasticity_rl.study.study_run import StudyRun

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

    from plasticity_rl.cli.early import CommandLine

OWN_OF_A_RUN = ("--seed_everything=", "--trainer.default_root_dir=")
"""Arguments in which the seeds of an arm differ."""


class StudyConfigs:
    """Resolves the options of runs; those of one arm are parsed once. Imports torch when it is first asked.

    Args:
        imports: Whether classes of any package may be imported, as the runs do. A report imports none: it may be of a
            folder that a stranger made.
    """

    def __init__(self, *, imports: bool) -> None:
        self.imports = imports
        self._parsers: dict[tuple[Any, ...], Any] = {}
        self._defaults: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self._configs: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._keys: dict[tuple[str, ...], tuple[Any, ...]] = {}

    def of(self, run: StudyRun) -> Mapping[str, Any]:
        """Return the resolved config of a run, as ``fit`` would write it.

        Raises:
            UserError: When its options are wrong.
        """
        arm = arm_of(run)
        if arm not in self._configs:
            self._configs[arm] = self._parsed(run)
        config = self._configs[arm]
        trainer = {**config.get("trainer", {}), "default_root_dir": str(run.folder)}
        return {**config, "seed_everything": run.seed, "trainer": trainer}

    def defaults(self, run: StudyRun) -> Mapping[str, Any]:
        """Return the config of a run without any options, after :meth:`of` was asked."""
        return self._defaults[self._keys[arm_of(run)]]

    def default_of(self, class_path: str, argument: str) -> Any:
        """Return the default of an argument of a class that a study names; None when there is none."""
        from plasticity_rl.agents.hooks import constructor_parameters

        if is_foreign(class_path) and not self.imports:
            return None
        try:
            default = constructor_parameters(_class(class_path))[argument].default
        except (AttributeError, ImportError, KeyError, TypeError, ValueError):
            return None
        return None if default is inspect.Parameter.empty else default

    def only_watches(self, class_path: str) -> bool:
        """Return whether a class of ours is a probe, whose presence changes no number of a run."""
        from plasticity_rl.callback import Probe

        try:
            return class_path.startswith(OURS) and issubclass(_class(class_path), Probe)
        except (AttributeError, ImportError, TypeError, ValueError):
            return False

    def _parsed(self, run: StudyRun) -> Mapping[str, Any]:
        from plasticity_rl.cli.app import AGENTS, data_module_of
        from plasticity_rl.cli.early import read
        from plasticity_rl.cli.early_checks import agent_name
        from plasticity_rl.cli.own_files import find_own
        from plasticity_rl.cli.parser import dumped
        from plasticity_rl.files.strict_yaml import load

        given, foreign = (list(run.arguments), None) if self.imports else without_foreign(run.arguments)
        args = with_found_configs(["fit", *given])
        command = read(args)
        if self.imports:
            find_own(command)  # as in the process of a run
        data = data_module_of(str(command.setting("data.task", "")))
        key = self._keys[arm_of(run)] = (AGENTS[agent_name(command)], data)
        try:
            if key not in self._parsers:
                self._parsers[key] = _parsers(command)
                fit = self._parsers[key][1]
                self._defaults[key] = load(dumped(fit, fit.get_defaults(), skip_validation=True)) or {}
            parser, fit = self._parsers[key]
            content = load(dumped(fit, parser.parse_args(args).fit))
        except UserError:
            raise
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(describe_error(error)) from error
        assert isinstance(content, dict)
        return content if foreign is None else foreign.put_back(content)


def _parsers(command: CommandLine) -> tuple[LightningArgumentParser, LightningArgumentParser]:
    """Return the parser of a command, and that of its subcommand ``fit``."""
    from plasticity_rl.cli.app import RLCLI, build

    class ParsesOnly(RLCLI):
        """Parses, and neither builds nor runs."""

        def before_instantiate_classes(self) -> None:
            """Choose no folder."""

        def instantiate_classes(self) -> None:
            """Build nothing."""

        def _run_subcommand(self, subcommand: str) -> None:
            """Run nothing."""

    cli = build(ParsesOnly, command)
    return cli.parser, cli._parser("fit")


def arm_of(run: StudyRun) -> tuple[str, ...]:
    """Return the arguments of a run that those of other seeds have too."""
    return tuple(argument for argument in run.arguments if not argument.startswith(OWN_OF_A_RUN))


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
