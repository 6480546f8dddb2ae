"""Refuses a study before its first run, for what the last of its arms would be refused for hours later."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_rl.cli.early import read
from plasticity_rl.cli.early_checks import refuse_early
from plasticity_rl.cli.own_files import find_own
from plasticity_rl.cli.study_configs import StudyConfigs, arm_of
from plasticity_rl.errors import UserError
from plasticity_rl.packaged import with_found_configs
from plasticity_rl.study.stale import named
from plasticity_rl.study.study_run import StudyRun


def refuse_wrong_arms(runs: Sequence[StudyRun], configs: StudyConfigs, *, simulated_here: bool) -> None:
    """Ask of one run of every arm and task what ``fit`` asks of it before anything is built.

    Args:
        runs: Those that are to be trained.
        configs: Knows what their options mean.
        simulated_here: Whether they run on this machine, which then must have the simulators.

    Raises:
        UserError: For the arms whose runs would be refused, with the reason of the first.
    """
    arms: dict[tuple[str, ...], StudyRun] = {}
    for run in runs:
        arms.setdefault(arm_of(run), run)
    refused: dict[str, str] = {}
    for run in arms.values():
        try:
            command = read(with_found_configs(["fit", *run.arguments]))
            find_own(command)
            refuse_early(command, simulated_here=simulated_here)
            configs.of(run)
        except UserError as error:
            refused[run.name] = str(error)
    if refused:
        first = "" if len(refused) == 1 else ", the first of them for"
        raise UserError(
            f"nothing is run: {named(list(refused))} would be refused{first}: {next(iter(refused.values()))}"
        )
