"""Console script ``plasticity-rl``: a light front, so that help and typos answer at once.

Importing torch, TorchRL and Lightning takes seconds; it happens only when a subcommand really runs.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Sequence

from plasticity_rl.cli.commands.table import COMMANDS
from plasticity_rl.errors import UserError, command_line, suggestion

LIGHT = ("doctor", "list", "init", "completion")
"""Commands that import and check nothing before they run: something may be broken, or they only read files."""
OWN_MODULE = ("probe", "plot", "study")
"""Commands with a module of their own in ``plasticity_rl/cli/commands`` too; the others are LightningCLI's."""
FILES_BY_NAME = ("fit", "validate", "doctor")
"""Commands with options ``--config``."""
TRUSTING = ("fit", "validate", "probe", "doctor")
"""Commands that build what the files of a run name, so that they have an option ``--trust``."""
SLOW_TO_START = ("fit", "validate", "probe")
"""Commands that import for seconds before they have anything to say."""
DRAWS_NOTHING = ("plot", "study")
HELP = """usage: plasticity-rl COMMAND [options]

Plasticity in visual reinforcement learning: DrQ-v2 on DeepMind Control from pixels (or DrQ-v2 and SAC from states),
DQN and Rainbow on Atari and MinAtar.

commands:
{commands}

options:
  --version      print the version
  -h, --help     print this; `plasticity-rl COMMAND --help` lists its options with defaults and units

first run:       plasticity-rl fit --config quickstart   (in any folder; it writes to runs/ there)
without pixels:  plasticity-rl fit --config sac_state
a callback:      ... --trainer.callbacks+=callbacks.Reset --trainer.callbacks.every_n_frames=100000
what it can do:  plasticity-rl fit --help=Reset
print a config:  ... --print_config
a run of others: ... --trust builds classes of any package that the files of a run name; without, of a few only

--config takes a file, or the name of a packaged one (plasticity-rl list configs). To edit them:
                 plasticity-rl init my_study && cd my_study && plasticity-rl fit --config configs/quickstart.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, or with one line on stderr 2 (wrong input) or 1 (a run that failed).

    A run that was asked to stop raises SystemExit with 130 (Ctrl-C) or 143 (SIGTERM), its state saved. ``doctor``
    returns 1 when it finds problems.
    """
    with command_line():
        return _from_terminal() if argv is None else _main(list(argv))


def _from_terminal() -> int:
    from plasticity_rl.cli import streams  # what follows belongs to a process of our own

    streams.use_utf8()
    args = sys.argv[1:]
    run = args[:1] in (["fit"], ["study"])
    faulthandler.enable(2)  # a process that the system kills (SIGBUS, SIGSEGV) says where
    streams.guard_output("the run goes on, and writes into its folder" if run else "")
    try:
        streams.refuse_undecodable(args)
        code = _main(args)
        streams.refuse_lost_output()
    except UserError as error:
        return _fail(str(error))
    return code


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:14} {text}" for name, text in COMMANDS.items())))
        return 0
    if args[0] == "--version":
        from plasticity_rl import __version__

        print(f"plasticity-rl {__version__}")
        return 0
    if args[0] not in COMMANDS:
        return _fail(f"no command {args[0]!r}; there are {', '.join(COMMANDS)}.{suggestion(args[0], COMMANDS)}")
    os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")  # TorchRL reads it at import; its INFO lines break the bar
    from plasticity_rl.machine.cores import start_with_one

    start_with_one()
    asks = any(arg in ("-h", "--help") or arg.startswith("--print_config") for arg in args)
    threading.excepthook = _in_thread
    try:
        if args[0] in FILES_BY_NAME:
            from plasticity_rl.packaged import with_found_configs, without_pipes

            if (whole := without_pipes(args)) != args:
                if sys.argv[1:] == args:
                    sys.argv[1:] = whole  # other ranks are started by this command
                args = whole
            args = with_found_configs(args)  # here and nowhere else: from now on every --config is a file that exists
        if args[0] in ("fit", "validate"):
            from plasticity_rl.cli.help import with_help

            args, text = with_help(args)
            if text is not None:
                print(text)
                return 0
        if "--trust" in args and args[0] not in TRUSTING:
            raise UserError(f"--trust belongs to {', '.join(TRUSTING)}: {args[0]} builds nothing that a file names")
        if args[0] in LIGHT:
            return importlib.import_module(f"plasticity_rl.cli.commands.{args[0]}").run(args[1:]) or 0
        _start(args, asks)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from plasticity_rl.machine.failures import known_reason, what_failed

        if known_reason(error) is None:
            traceback.print_exc()  # nothing that a line could explain: whoever reports it needs this
        return _fail(what_failed(error), code=1)
    return 0


def _start(args: list[str], asks: bool) -> None:
    """Refuse what can be refused before the slow imports, and run a command that needs them.

    Args:
        args: The command and its options, every ``--config`` a file that exists.
        asks: Whether only help or a config is to be printed.
    """
    _check_machine(warn=args[0] == "fit" and not asks)
    # TorchRL imports MuJoCo, so the backend is chosen and tried first: a broken one is one line, not a traceback.
    from plasticity_rl.cli.drawing import draws
    from plasticity_rl.cli.early import read
    from plasticity_rl.cli.early_checks import refuse_early
    from plasticity_rl.cli.own_files import find_own, refuse_hidden, refuse_hidden_framework
    from plasticity_rl.cli.streams import say_what_loads
    from plasticity_rl.distributed.variables import refuse_bad_variables
    from plasticity_rl.machine.rendering import check_rendering, configure_backend

    refuse_bad_variables()
    refuse_hidden_framework()
    command = read(args)  # a slip in a file need not wait for the imports
    refuse_hidden(command)
    find_own(command)
    if not asks:
        refuse_early(command)  # nor one in the name or value of an option
        if args[0] == "probe":  # whose arguments are its own
            importlib.import_module("plasticity_rl.cli.commands.probe").parse(args[1:])
    if args[0] in SLOW_TO_START and not asks:
        say_what_loads(args[0], command.setting("data.task"))
    configure_backend()
    if args[0] not in DRAWS_NOTHING and not asks and draws(command):
        check_rendering()
    if args[0] in OWN_MODULE:
        importlib.import_module(f"plasticity_rl.cli.commands.{args[0]}").run(args[1:])
    else:
        from plasticity_rl.cli.app import run

        run(command)


def _check_machine(warn: bool) -> None:
    """Say in one line each what is wrong with this machine, as far as that is known within milliseconds.

    Args:
        warn: Whether to print it; on the first rank of a run only.

    Raises:
        UserError: When the command would import a release that steals credentials.
    """
    from plasticity_rl.machine.health import SECURITY, problems, quick_findings

    for finding in problems(quick_findings()):
        if finding.check == SECURITY:
            raise UserError(f"{finding.text}: {finding.fix}")
        if warn and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"warning: {finding.text}; fix: {finding.fix} (see plasticity-rl doctor)", file=sys.stderr)


def _in_thread(args: threading.ExceptHookArgs) -> None:
    """Say nothing where a logger's thread meets a full disk: the main thread is told, and says it."""
    from plasticity_rl.machine.failures import known_reason

    if known_reason(args.exc_value) is None:
        threading.__excepthook__(args)


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
