"""``plasticity-rl completion``: a script for the shell, with commands, options, configs, tasks and callbacks."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_rl.cli.commands.arguments import OneLineArguments
from plasticity_rl.cli.commands.table import COMMANDS

HOW = """Load it where the shell starts:
  bash:  echo 'source <(plasticity-rl completion bash)' >> ~/.bashrc
  zsh:   echo 'source <(plasticity-rl completion zsh)' >> ~/.zshrc
  fish:  plasticity-rl completion fish > ~/.config/fish/completions/plasticity-rl.fish
The script is static: make it again after an update."""


def parser() -> OneLineArguments:
    """Return the parser of the command."""
    from argparse import RawDescriptionHelpFormatter

    parser = OneLineArguments(
        prog="plasticity-rl completion",
        description="Print a script that completes commands, options and their values.",
        epilog=HOW,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell that it is for")
    return parser


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (without the subcommand), and print.

    Raises:
        UserError: When the input is wrong.
    """
    shell = parser().parse_args(args).shell
    from plasticity_rl.cli.completion_scripts import script

    print(script(shell, COMMANDS), end="")
