"""``plasticity-rl list``: configs, callbacks, tasks and studies, one line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plasticity_rl.cli import catalogue
from plasticity_rl.cli.commands.arguments import OneLineArguments

KINDS: dict[str, tuple[Callable[[], dict[str, str]], str]] = {
    "configs": (catalogue.configs, "plasticity-rl fit --config NAME [--config NAME ...]"),
    "callbacks": (catalogue.callbacks, "... --trainer.callbacks+=NAME; options: --trainer.callbacks.help=NAME"),
    "tasks": (catalogue.tasks, "... --data.task=NAME, or gym:ID of Gymnasium, or torchrl:MODULE.CLASS"),
    "studies": (catalogue.studies, "plasticity-rl study run NAME (mini/...: for 2 CPU cores)"),
}
"""What can be listed: how it is found, and how a name is used."""


def parser() -> OneLineArguments:
    """Return the parser of the command."""
    parser = OneLineArguments(
        prog="plasticity-rl list",
        description="List what there is, a line each: packaged configs and studies, callbacks, and tasks.",
    )
    parser.add_argument("kind", nargs="?", choices=list(KINDS), metavar="KIND", help=f"one of {', '.join(KINDS)}")
    return parser


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (without the subcommand), and print.

    Raises:
        UserError: When the input is wrong.
    """
    kind = parser().parse_args(args).kind
    print("\n\n".join(text(name) for name in ([kind] if kind else KINDS)))


def text(kind: str) -> str:
    """Return all of one kind in aligned columns, under a line that says how a name is used."""
    find, use = KINDS[kind]
    found = find()
    width = max(map(len, found))
    return "\n".join([f"{kind}: {use}", *(f"  {name:{width}}  {sentence}" for name, sentence in found.items())])
