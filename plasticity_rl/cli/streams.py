"""What the console script does about the terminal's side: locales of ASCII only, and readers that go away. Light."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Sequence

from plasticity_rl.errors import UserError


def use_utf8() -> None:
    """Start Python anew in UTF-8 when the locale knows ASCII only: a folder called ``ünï`` would have no name there.

    ``LC_ALL=C`` alone has Python do so by itself, unless ``PYTHONUTF8=0`` or ``PYTHONCOERCECLOCALE=0`` forbid it.
    """
    only_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if only_ascii and os.environ.get("PYTHONUTF8") != "1":  # once: it may be told to ignore its environment
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})


def refuse_undecodable(args: Sequence[str]) -> None:
    """Raise UserError for an argument, or a current folder, that is no UTF-8: it could not be written into a file."""
    for place, text in (*(("the argument", arg) for arg in args), ("the current folder", os.getcwd())):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode("ascii", "backslashreplace").decode()
            raise UserError(f"{place} {shown} is not UTF-8, in which configs are written: rename it") from error


def say_what_loads(command: str, task: str | None) -> None:
    """Say on stderr what the next seconds are for, where they are still to come; in a run of several ranks, once.

    Args:
        command: The subcommand.
        task: Name of the task, where the command says it.
    """
    alone = all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if "torch" not in sys.modules and alone and sys.stderr is not None:  # print(file=None) would write on stdout
        of_task = f" for {task}" if task else ""
        print(f"{command}{of_task}: loading torch, Lightning, TorchRL and MuJoCo ...", file=sys.stderr, flush=True)


class _Output(io.FileIO):
    """A file descriptor that swallows what it is given once nobody reads it any more, or there is no room.

    Args:
        descriptor: 1 or 2.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None
        self.goes_on = ""

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            self.error = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for C libraries and child processes too
            os.close(nowhere)
            if self.goes_on and self.fileno() == 1:
                reason = "nobody reads it any more" if error.errno == errno.EPIPE else error.strerror
                print(f"warning: the output cannot be written ({reason}); {self.goes_on}", file=sys.stderr)
            return len(data)


_RAW: list[_Output] = []


def guard_output(goes_on: str) -> None:
    """Let what is printed from now on fail neither for a reader that went away nor for a letter there is no code for.

    Args:
        goes_on: What is said when nobody reads the output any more; nothing for a command that only prints.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or stream is not getattr(sys, f"__{name}__"):
            continue  # closed, or somebody else's
        stream.flush()
        raw = _Output(descriptor)
        raw.goes_on = goes_on
        _RAW.append(raw)
        lines = descriptor == 2 or stream.line_buffering
        buffered = io.BufferedWriter(raw)  # type: ignore[type-var]
        guarded = io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=lines)
        setattr(sys, name, guarded)


def refuse_lost_output() -> None:
    """Raise UserError when a command's output could not be written, though somebody wanted it."""
    for raw in _RAW:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
        if raw.error is not None and raw.error.errno != errno.EPIPE and not raw.goes_on:
            raise UserError(f"the output cannot be written ({raw.error.strerror}): make room, or send it elsewhere")
