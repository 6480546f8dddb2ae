"""``plasticity-rl init DIR``: copies of the packaged configs and examples, to edit."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from plasticity_rl.cli.commands.arguments import OneLineArguments
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import expanded
from plasticity_rl.packaged import CONFIGS, EXAMPLES, root

KINDS = ((CONFIGS, "*.yaml"), (EXAMPLES, "*.py"), (EXAMPLES, "*.ipynb"))


def parser() -> OneLineArguments:
    """Return the parser of the command."""
    parser = OneLineArguments(
        prog="plasticity-rl init",
        description="Copy the packaged configs, studies and examples into a folder, to edit. Nothing is overwritten. "
        "In that folder --config takes the copies, also by their short names.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder; made where there is none")
    return parser


def run(args: Sequence[str]) -> None:
    """Parse ``args`` (without the subcommand), and copy.

    Raises:
        UserError: When a file is there already, or the folder cannot be written.
    """
    folder: Path = expanded(parser().parse_args(args).folder, "DIR")
    sources = [path for kind, pattern in KINDS for path in sorted((root() / kind).rglob(pattern))]
    copies = {folder / source.relative_to(root()): source for source in sources}
    if there := [copy for copy in copies if copy.exists()]:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UserError(f"init {folder}: {there[0]} exists already{more}; nothing was written. Give another folder")
    try:
        for copy, source in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("xb") as file:
                file.write(source.read_bytes())
    except OSError as error:
        raise UserError(f"init {folder}: {error.filename} cannot be written ({error.strerror})") from error
    print(f"{len(copies)} files in {folder / CONFIGS} and {folder / EXAMPLES}")
    print(f"Begin with:  cd {shlex.quote(str(folder))} && plasticity-rl fit --config {CONFIGS}/quickstart.yaml")
