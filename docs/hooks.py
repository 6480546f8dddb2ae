"""What the pages of the site take from elsewhere, at build time (``mkdocs.yml``): the rest is in the pages themselves.

- The home page is README.md.
- ``<!-- help: COMMAND -->`` becomes what ``plasticity-rl COMMAND --help`` prints: the package has to be installed.
- Links to files that are not pages (``../CONTRIBUTING.md``) lead to the repository; on GitHub they work as they are.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HELP = re.compile(r"^<!-- help: ?([\w ]*) -->$", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)#\s]+)([^)\s]*\))")
COLUMNS = "96"
"""Width of the help, in characters: what fits on a page beside the menus."""


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Complete a page, as the module says."""
    path = ROOT / "docs" / page.file.src_uri
    if page.file.src_uri == "index.md":
        path = ROOT / "README.md"
        markdown = path.read_text(encoding="utf-8")
    markdown = HELP.sub(lambda match: f"```text\n{help_of(match[1].split())}\n```", markdown)
    return LINK.sub(lambda match: match[1] + _target(path.parent, match[2], page, config) + match[3], markdown)


def help_of(command: list[str]) -> str:
    """Return what a command prints as help.

    Raises:
        RuntimeError: When there is no such command.
    """
    from plasticity_rl.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*command, "--help"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    if code:
        raise RuntimeError(f"plasticity-rl {' '.join(command)} --help: {err.getvalue()}")
    return out.getvalue().strip()


def _target(folder: Path, link: str, page: Any, config: Any) -> str:
    """Return where a link of a file in ``folder`` leads on the site; what does not exist is left for mkdocs to find."""
    file = Path(os.path.normpath(folder / link))
    if ":" in link or not file.exists():
        return link
    docs = ROOT / "docs"
    if file.is_relative_to(docs) and file.is_file() and file.suffix != ".py" and "versions" not in file.parts:
        return os.path.relpath(file, (docs / page.file.src_uri).parent).replace(os.sep, "/")
    return (
        f"{config.extra['repository']}/{'tree' if file.is_dir() else 'blob'}/main/{file.relative_to(ROOT).as_posix()}"
    )
