"""Refuses what ``fit`` and ``validate`` would refuse in any case, before anything that takes seconds is imported.

Nothing here has rules of its own: names, types and checks are read from the source of the classes
(:mod:`plasticity_rl.cli.declared`). What cannot be told from there is left to the parser and to the constructors, which
judge all of it again.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plasticity_rl.agents.trainer_options import refuse_meaningless
from plasticity_rl.cli.checks import as_seed
from plasticity_rl.cli.config_files import read_config
from plasticity_rl.cli.declared.checks import check
from plasticity_rl.cli.declared.command import DATA, Group, agents, groups
from plasticity_rl.cli.declared.options import Option
from plasticity_rl.cli.declared.types import REFERENCE, UNKNOWN, made, misfit
from plasticity_rl.cli.early import CommandLine, option_values
from plasticity_rl.cli.early_callbacks import refuse_values, refuse_wrong_callbacks, tasks_of
from plasticity_rl.cli.given import Given, given
from plasticity_rl.cli.own_files import candidates
from plasticity_rl.cli.own_options import FROM_OTHERS
from plasticity_rl.cli.parser_errors import near_options, of_agent, one_line
from plasticity_rl.envs import backends
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.files.places import configs_in, run_folder_of
from plasticity_rl.run.number_checks import refuse_extreme_numbers

CHECKED = ("fit", "validate")
PACKAGED_ENV = "plasticity_rl.make_env"
OF_THE_PARSER = ("help", "print_config", "data", "model", "trainer")
"""Options that are no argument of anything; those of a whole section hold what is not looked into here."""


def refuse_early(command: CommandLine, *, simulated_here: bool = True) -> None:
    """Raise UserError for the first thing in a command that is wrong for certain.

    Args:
        command: With its files read.
        simulated_here: Whether this machine has the simulators, which are asked whether they have the tasks.
    """
    if command.args[0] not in CHECKED:
        return
    _refuse_stray_words(command.args[1:])
    values = list(given(command))
    if any(one.name == "config" for one in values):
        return  # a file that names further files: only the parser reads those
    agent, task = agent_name(command), str(command.setting("data.task", ""))
    known = groups(command.args[0], agent, task)
    refuse_unknown_options(values, known, agent)
    _refuse_half_of_a_run(command, known)
    for one in values:
        _refuse_misfit(one, known)
    last = refuse_wrong_callbacks(values, [Path(folder) for folder in candidates(command)])
    if command.args[0] == "fit" and command.alone is None and not _hides_values(values, known):
        final = {one.name: one.value for one in values}  # the last one wins
        _refuse_ranges(agent, task, known, final)
        refuse_values(last, agent)
        for name in [task, *tasks_of(last)] if simulated_here else ():
            _refuse_task(name, final)  # last, for some simulators are imported to be asked


def _refuse_half_of_a_run(command: CommandLine, known: Mapping[str, Group]) -> None:
    """Raise UserError for a command that goes on with a run of another task than the default, and does not name it.

    The config of a run is not added where callbacks are that it has too; then the command has to be all of the run.
    """
    checkpoint, option = option_values(command.args, "--ckpt_path"), (known["data"] or {}).get("task")
    run_dir = run_folder_of(checkpoint[-1]) if checkpoint and checkpoint[-1] != "last" else None
    if run_dir is None or command.contents or command.setting("data.task") is not None or option is None:
        return
    for config in configs_in(run_dir)[-1:]:
        task = (read_config(config).get("data") or {}).get("task")
        default = str(option.default.value) if isinstance(option.default, ast.Constant) else task
        if task not in (None, default):
            raise UserError(
                f"--ckpt_path {checkpoint[-1]} is of data.task={task}, but this command is of the default, {default}: "
                "it gives callbacks of a class that the run has already, so that it is taken for all of the run. To "
                f"add to what the run has, name its config too: --config {config}"
            )


def agent_name(command: CommandLine) -> str:
    """Return the name of the agent that a command asks for: which options there are depends on it.

    Raises:
        UserError: For a name that there is no agent of, or another one than a config file was written for.
    """
    known = agents()
    name = command.setting("agent", "drqv2")
    if known and name not in known:
        raise UserError(f"agent={name!r} is not an agent; there are {list(known)}.{suggestion(str(name), known)}")
    for place, other in command.settings("agent"):
        if other != name and not place.startswith("--"):
            raise UserError(f"{place} holds the options of agent={other}, but the command ends up with agent={name}")
    return str(name)


def option_names(known: Mapping[str, Group]) -> set[str]:
    """Return the options of a command as they are written: ``--data.batch_size``."""
    return {f"--{group}.{name}".replace("--.", "--") for group, found in known.items() for name in found or ()}


def refuse_unknown_options(values: Sequence[Given], known: Mapping[str, Group], agent: str) -> None:
    """Raise UserError for the first name that is no option, with what the parser would say."""
    names = option_names(known)
    for one in values:
        if _is_known(one, known):
            continue
        if one.option:
            near = near_options(one.option, {*names, "--config"})
            raise UserError(of_agent(f"unrecognized arguments: {one.option}.{near}", agent))
        raise UserError(of_agent(f"there is no option {one.name!r}.{near_options('--' + one.name, names)}", agent))


def _is_known(one: Given, known: Mapping[str, Group]) -> bool:
    if one.name in OF_THE_PARSER or _base(one.name, known) is not None:
        return True
    return known.get(one.name.partition(".")[0] if "." in one.name else "", {}) is None


def _base(name: str, known: Mapping[str, Group], *, exact: bool = False) -> Option | None:
    """Return the option of a name, or the one that it goes into: ``data.env`` of ``data.env.seed``."""
    group, dot, rest = name.partition(".")
    if group in known and dot:
        inside, below, _ = rest.partition(".")
    else:
        group, inside, below = "", group, dot
    return None if exact and below else (known.get(group) or {}).get(inside)


def _hides_values(values: Sequence[Given], known: Mapping[str, Group]) -> bool:
    """Return whether a command gives values in a form that is not looked into: then none is known for certain."""
    return any(one.name in ("data", "model", "trainer") or _base(one.name, known) is None for one in values)


def _refuse_stray_words(args: Sequence[str]) -> None:
    """Raise UserError for a word that no option takes."""
    takes = False
    for arg in args:
        if not arg.startswith("-") and not takes:
            raise UserError(one_line(f"unrecognized arguments: {arg}"))
        takes = arg.startswith("-") and "=" not in arg and not arg.startswith("--print_config")


def _refuse_misfit(one: Given, known: Mapping[str, Group]) -> None:
    option = _base(one.name, known, exact=True)
    if option is None or one.appends or one.name == "agent":
        return
    if (reason := misfit(option, one.value)) is not None:
        raise UserError(f"{one.name}: {reason}")


def _refuse_task(task: str, final: Mapping[str, Any]) -> None:
    """Refuse a task that the simulator does not have, unless the user's own environments have it."""
    own = final.get("data.env", PACKAGED_ENV)
    if task and own == PACKAGED_ENV and REFERENCE not in task:
        backends.options_class(task).check_task_early(task)


def _refuse_ranges(agent: str, task: str, known: Mapping[str, Group], final: Mapping[str, Any]) -> None:
    """Let the constructors' own checks judge the values that are known."""
    values = {group: _made(group, known, final) for group in known}
    refuse_extreme_numbers({name: value for name, value in values.items() if name})
    seed = values[""].get("seed_everything", 0)
    if seed is not UNKNOWN:
        as_seed(seed)
    if known["data"] is not None:
        _check_environment(task, values["data"])
        check(DATA, values["data"] | _from_others("data", values[""], final), "__post_init__")
    if known["model"] is not None:
        check(agents()[agent], values["model"] | _from_others("model", values[""], final))
    refuse_meaningless({name: value for name, value in values["trainer"].items() if value is not UNKNOWN})


def _check_environment(task: str, values: Mapping[str, Any]) -> None:
    cls = backends.options_class(task)
    given = {name: values[name] for name in cls.names() if name in values and name != "task"}
    try:
        if task and REFERENCE not in task and not any(value is UNKNOWN for value in given.values()):
            cls(task, **given)
        else:
            check(f"{cls.__module__}.{cls.__qualname__}", given | {"task": UNKNOWN}, "__post_init__")
    except UserError as error:
        raise UserError(f"data.{error}") from error


def _made(group: str, known: Mapping[str, Group], final: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given to the options of a group, by name, UNKNOWN where the parser makes something else of it."""
    found = {}
    for name, option in (known[group] or {}).items():
        full = f"{group}.{name}".lstrip(".")
        if full in final:
            found[name] = made(option, final[full])
        if any(other.startswith(f"{full}.") for other in final):
            found[name] = UNKNOWN
    return found


def _from_others(group: str, own: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from other options, where these are given or no option at all."""
    linked = [(origin, target) for origin, target in FROM_OTHERS if target.startswith(f"{group}.")]
    return {
        target.partition(".")[2]: own.get(origin, UNKNOWN) if origin == "max_frames" else UNKNOWN
        for origin, target in linked
        if origin in final or origin.startswith("data.")
    }
