"""Whether a command needs a renderer, before anything that imports MuJoCo. Light."""

from __future__ import annotations

from plasticity_rl.cli.commands.probe import parse
from plasticity_rl.cli.early import CommandLine, read
from plasticity_rl.cli.trust import OPTION
from plasticity_rl.envs.backends import options_class


def draws(command: CommandLine) -> bool:
    """Return whether a command makes an environment that draws with OpenGL, as far as is known here.

    Raises:
        UserError: When the arguments of ``probe``, which names its checkpoints without an option, are wrong.
    """
    commands = [command]
    if command.args[0] == "probe":
        trusted = [OPTION] if command.trusts else []
        paths = parse(command.args[1:]).checkpoints
        commands = [read(["validate", f"--ckpt_path={path}", *trusted]) for path in paths]
    return any(
        options_class(str(one.setting("data.task", ""))).draws_to_show(one.setting("data.observation", "pixels"))
        for one in commands
    )
