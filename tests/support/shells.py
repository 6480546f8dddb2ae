"""What real shells complete: each function gives a script and lines to its shell, and returns what it makes of them."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

ASK_BASH = """
ask() {
    COMP_LINE=$1 COMP_POINT=${#1}
    read -ra COMP_WORDS <<< "${1//=/ = }"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _plasticity_rl
    echo "${COMPREPLY[*]}"
}
complete -p plasticity-rl
"""
ASK_ZSH = """
ask() {
    local line
    for line in "${(@f)$(<lines)}"; do
        BUFFER=$line CURSOR=$#line
        zle complete-word
        print -r -- "$BUFFER" >> completed
    done
    BUFFER=exit
    zle accept-line
}
zle -N zle-line-init ask
"""
SECONDS = 120


def needs(shell: str) -> None:
    """Skip the test where the shell is not installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")


def of_bash(script: str, lines: Sequence[str], folder: Path) -> list[str]:
    """Return what is known of the command, then the words that fit each line, in a line of their own."""
    asked = "\n".join([script, ASK_BASH, *(f"ask '{line}'" for line in lines)])
    return _printed(["bash", "--norc"], asked, folder)


def of_fish(script: str, lines: Sequence[str], folder: Path) -> list[str]:
    """Return the words that fit each line, in a line of their own, without what is said of them."""
    needs("fish")
    asked = [f"set found (complete -C '{line}' | string replace -r '\\t.*' ''); echo \"$found\"" for line in lines]
    return _printed(["fish", "--no-config"], "\n".join([script, *asked]), folder)


def _printed(command: list[str], text: str, folder: Path) -> list[str]:
    process = subprocess.run(
        command, input=text, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS, env=_env(folder)
    )
    assert not process.stderr, process.stderr
    return process.stdout.splitlines()


def of_zsh(script: str, lines: Sequence[str], folder: Path) -> list[str]:
    """Return what becomes of each line when the key for completion is pressed; zsh does that in a terminal only."""
    needs("zsh")
    (folder / "script").write_text(script + ASK_ZSH)
    (folder / "lines").write_text("\n".join(lines))
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=inside, stdout=inside, stderr=inside, cwd=folder, env=_env(folder)
    )
    os.close(inside)
    shown: list[bytes] = []
    reader = threading.Thread(target=_read, args=(terminal, shown))
    reader.start()
    os.write(terminal, b"source ./script\n")
    try:
        process.wait(SECONDS)
    finally:
        process.kill()
        reader.join()
        os.close(terminal)
    completed = folder / "completed"
    assert completed.is_file(), b"".join(shown).decode()
    return completed.read_text().splitlines()


def _read(terminal: int, shown: list[bytes]) -> None:
    try:
        while data := os.read(terminal, 4096):
            shown.append(data)
    except OSError:  # the shell has ended
        return


def _env(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder), "TERM": "dumb"}
