"""Whether a command needs a renderer, before anything that imports MuJoCo. Light."""

from __future__ import annotations

from plasticity_rl.cli.commands.probe import parse
from plasticity_rl.cli.early import CommandLine, read
from plasticity_rl.cli.trust import OPTION


def observes_pixels(command: CommandLine) -> bool:
    """Return whether a command trains, evaluates or measures an agent that needs a renderer, as far as is known here.

    Raises:
        UserError: When the arguments of ``probe``, which names its checkpoints without an option, are wrong.
    """
    commands = [command]
    if command.args[0] == "probe":
        trusted = [OPTION] if command.trusts else []
        paths = parse(command.args[1:]).checkpoints
        commands = [read(["validate", f"--ckpt_path={path}", *trusted]) for path in paths]
    return any(one.setting("data.observation") != "state" for one in commands)
