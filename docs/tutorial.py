"""Run docs/tutorial.md: its commands in a fresh folder, one after the other, as a reader would type them.

    python docs/tutorial.py                  # writes the pictures to docs/tutorial/, and the outputs into the page
    python docs/tutorial.py --folder FOLDER  # the same in a folder that is kept; no finished run is run again there
    python docs/tutorial.py --small          # fewer frames, to see that all works; page and pictures stay as they are
    python docs/tutorial.py --list           # the commands

The page is the only source. Of its blocks

- ```` ```yaml title="NAME" ```` is a file that the reader writes,
- ```` ```bash ```` is run, and
- ```` ```text ```` behind one of them is what the last of its commands printed,

and every picture ``tutorial/NAME.png`` is the file that a command wrote as ``NAME.png``.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).with_name("tutorial.md")
BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
PICTURE = re.compile(r"!\[[^\]]*\]\(tutorial/([\w/]+\.png)\)")
THREADS = {"OMP_NUM_THREADS": "1"}
"""As many everywhere: sums of another number of threads are rounded otherwise, and the page tells numbers."""
SMALL = (
    (r"max_frames: \d+", "max_frames: 3000"),
    (r"(plasticity-rl fit [^\n\\]*)", r"\1 --max_frames 3000"),
    (r" --max_frames (?!3000)\d+", ""),
    (r"at_frames: ?\[\d+\]", "at_frames: [1500]"),
    (r"at_frames=\[\d+\]", "at_frames=[1500]"),
    (r"num_updates(=|: )\d+", r"num_updates\g<1>20"),
    (r"seeds: \[.*\]", "seeds: [1, 2]"),
)
"""What ``--small`` replaces in the page."""


@dataclass(frozen=True)
class Step:
    """One thing that the reader does.

    Attributes:
        file: Name of the file to write, or None.
        body: What it holds; else a command.
        output: Where in the page the text stands that it prints, or None.
    """

    file: str | None
    body: str
    output: tuple[int, int] | None = None


def steps(text: str) -> list[Step]:
    """Return what a page asks its reader to do, in order."""
    found: list[Step] = []
    end_of_commands = -1
    for block in BLOCK.finditer(text):
        body = block["body"]
        if block["language"] == "yaml" and block["title"]:
            found.append(Step(block["title"], body))
        elif block["language"] == "bash":
            found += [Step(None, command) for command in commands(body)]
            end_of_commands = block.end()
        elif block["language"] == "text" and not text[end_of_commands : block.start()].strip():
            found[-1] = Step(None, found[-1].body, block.span("body"))
    return found


def commands(body: str) -> Iterator[str]:
    """Yield the commands of a block, continued lines joined, without comments."""
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield " ".join(shlex.quote(word) if not re.fullmatch(r"[\w./=+\[\],*-]+", word) else word for word in words)


def made_small(text: str) -> str:
    """Return a page with fewer frames and updates."""
    for pattern, replacement in SMALL:
        text = re.sub(pattern, replacement, text)
    return text


def pictures(text: str) -> list[str]:
    """Return the names of the pictures of a page."""
    return PICTURE.findall(text)


def finished(command: str, folder: Path) -> bool:
    """Whether a command is a training run that has come to its end in this folder before."""
    name, _, run = command.partition("--trainer.default_root_dir ")
    return name.startswith("plasticity-rl fit") and bool(run) and (folder / run.split()[0] / "finished.yaml").is_file()


def run(command: str, folder: Path) -> str:
    """Run a command in ``folder`` and return what it printed on stdout; what it prints on stderr is shown.

    Raises:
        SystemExit: When it fails.
    """
    print(f"$ {command}", file=sys.stderr, flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**THREADS, **os.environ, "PATH": path, "COLUMNS": "100"}
    process = subprocess.run(command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise SystemExit(f"{command}\nended with exit code {process.returncode} in {folder}")
    return process.stdout


def do(text: str, folder: Path) -> str:
    """Do all that a page asks for in ``folder``; return the page with the outputs that came."""
    outputs = []
    for step in steps(text):
        if step.file is not None:
            (folder / step.file).write_text(step.body, encoding="utf-8")
        elif not finished(step.body, folder):
            printed = run(step.body, folder)
            if step.output is not None:
                outputs.append((step.output, printed.strip("\n") + "\n"))
    for (start, end), printed in reversed(outputs):
        text = text[:start] + printed + text[end:]
    return text


def keep_pictures(text: str, folder: Path, target: Path) -> None:
    """Copy the pictures of a page, as few colours as they need, to ``target``."""
    from PIL import Image

    for name in pictures(text):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(folder / name) as picture:
            picture.convert("RGB").quantize(colors=128).save(target / name, optimize=True)


def main() -> None:
    """Run the page, and write its pictures and outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to run; kept (default: a temporary one)")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--small", action="store_true", help="with fewer frames, changing neither page nor pictures")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    text = made_small(text) if options.small else text
    if options.list:
        print("\n".join(step.body for step in steps(text) if step.file is None))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tutorial_"))
    folder.mkdir(parents=True, exist_ok=True)
    told = do(text, folder)
    keep_pictures(text, folder, folder / "pictures" if options.small else PAGE.with_suffix(""))
    if not options.small:
        PAGE.write_text(told, encoding="utf-8")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
