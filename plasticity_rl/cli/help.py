"""``fit --help`` and ``validate --help``: pages of options by group, from docstrings and signatures. Light.

The whole report of the parser, with every nested option of the Trainer, is ``--help=all``.
"""

from __future__ import annotations

import ast
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from plasticity_rl.cli.catalogue import SENTENCE
from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.command import Group, groups
from plasticity_rl.cli.declared.options import Option, constructor
from plasticity_rl.cli.early import CommandLine, read
from plasticity_rl.cli.early_callbacks import refuse_unknown_class
from plasticity_rl.cli.early_checks import agent_name
from plasticity_rl.cli.own_options import CONFIG_HELP
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.files.docstrings import sections

WIDTHS = (60, 120)
"""Narrowest and widest page, in columns."""
LEFT = 32
"""Columns of names and defaults."""
ALL = "all"
HEADS = {
    "": "the run",
    "data": "environment, replay, evaluation",
    "model": "the agent",
    "trainer": "Trainer of Lightning",
}
TOPICS = ("run", "data", "model", "trainer", "callbacks", ALL)
OF_A_TRAINER = "plasticity_rl.run.trainer"
MOST_USED = ("default_root_dir", "accelerator", "devices", "precision", "max_time", "logger", "enable_progress_bar")
"""Options of the Trainer on the first page; the others are on a page of their own."""
USES = {
    "fit": "Train an agent, or continue a run: plasticity-rl fit --ckpt_path last",
    "validate": "Evaluate a checkpoint: plasticity-rl validate --ckpt_path RUN/checkpoints/last.ckpt",
}


def asked_for(args: Sequence[str]) -> str | None:
    """Return the topic that a command asks help about: "" for the first page, None where it asks for none."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, _, value = arg.partition("=")
        if name in ("-h", "--help"):
            return value
        if name == "--trainer.callbacks.help" and (value or following):
            return value or following
    return None


def with_help(args: Sequence[str]) -> tuple[list[str], str | None]:
    """Return a command as the parser takes it, and the page that it asks for, or None where it has to run.

    Raises:
        UserError: For a topic, or class, of which there is surely no help.
    """
    topic = asked_for(args)
    if topic is None:
        return list(args), None
    refuse_unknown(topic)
    if topic in ("", *TOPICS[:-1]) or is_packaged_callback(topic):
        return list(args), page(topic, read(args))
    bare = "--help" if topic == ALL else f"--trainer.callbacks.help={topic}"
    return [bare if arg.partition("=")[0] == "--help" else arg for arg in args], None


def page(topic: str, command: CommandLine) -> str:
    """Return a page of help.

    Args:
        topic: A group of options, a callback by name, or "" for the first page.
        command: The command; its agent and its task decide which options there are.

    Raises:
        UserError: For a topic that there is not.
    """
    width = min(max(shutil.get_terminal_size().columns, WIDTHS[0]), WIDTHS[1])
    known = groups(command.args[0], agent_name(command), str(command.setting("data.task", "")))
    if not topic:
        return "\n".join(_first(command, known, width))
    if topic == "run" or topic in known:
        group = topic.replace("run", "")
        return "\n".join([f"{HEADS[group]}:", *_long(group, known[group] or {}, width)])
    if topic == "callbacks":
        names = ", ".join(f"callbacks.{name}" for name in source.exported("callbacks"))
        head = "callbacks (--help=NAME explains one; plasticity-rl list callbacks):"
        return "\n".join([head, *_wrapped(names, width)])
    return "\n".join(_of_callback(topic, width))


def is_packaged_callback(topic: str) -> bool:
    """Return whether a name, with or without the package, is one of our callbacks."""
    return topic.removeprefix("callbacks.") in source.exported("callbacks")


def refuse_unknown(topic: str) -> None:
    """Raise UserError for a topic, or class, of which there is surely no help."""
    if topic in TOPICS or not topic or is_packaged_callback(topic):
        return
    if topic.isidentifier() and topic.islower():
        raise UserError(f"--help={topic}: no such topic; there are {', '.join(TOPICS)}.{suggestion(topic, TOPICS)}")
    refuse_unknown_class(topic, [Path()])


def _first(command: CommandLine, known: Mapping[str, Group], width: int) -> Iterator[str]:
    name, agent = command.args[0], agent_name(command)
    yield f"usage: plasticity-rl {name} [--config NAME ...] [--OPTION=VALUE ...]"
    yield ""
    yield from _wrapped(USES[name], width, "")
    for group, options in known.items():
        shown = dict(options or {})
        if group == "trainer":
            shown = {one: shown[one] for one in MOST_USED if one in shown}
        elif not group:
            shown.pop("weights_only", None)  # of Lightning, for files of other programs
        head = f"{HEADS[group]} ({agent})" if group == "model" else HEADS[group]
        yield f"\n{head} (--help={group or 'run'} says more):"
        if not group:
            yield from _columns("-c, --config=NAME", CONFIG_HELP, width)
            yield from _columns("--print_config", "Print all options with their values, and end.", width)
        for one, option in shown.items():
            yield from _columns(_with_default(group, one, option), _short(option.text), width)
        if group == "trainer":
            yield from _columns("--trainer.callbacks+=NAME", "Add a callback; its options: --help=NAME.", width)
    yield ""
    topics = f"--help={'|'.join(TOPICS)}, or of a callback, --help=Reset: with types and whole texts."
    yield from _wrapped(topics, width, "")


def _short(text: str) -> str:
    """Return the first sentence up to a semicolon: what an option is, without its exceptions."""
    found = SENTENCE.match(text)
    return (found[1] if found else text).partition("; ")[0].rstrip(".").replace("``", "")


def _columns(left: str, text: str, width: int) -> Iterator[str]:
    """Yield a name and its text beside it, in at most two lines of text."""
    lines = textwrap.wrap(text, width - LEFT - 3, max_lines=2, placeholder=" ...") or [""]
    if len(left) > LEFT - 1:
        yield f"  {left}"
    else:
        yield f"  {left:{LEFT}}{lines.pop(0)}".rstrip()
    yield from (f"  {'':{LEFT}}{line}" for line in lines)


def _long(group: str, options: Mapping[str, Option], width: int) -> Iterator[str]:
    for name, option in options.items():
        kind = "" if option.annotation is None else f"  ({ast.unparse(option.annotation)})"
        yield f"  {_with_default(group, name, option)}{kind}"
        yield from _wrapped(option.text, width, " " * 6)


def _with_default(group: str, name: str, option: Option) -> str:
    full = f"--{group}.{name}".replace("--.", "--")
    default = _default(group, name, option)
    return f"{full}=..." if default is None else f"{full}={default}"


def _default(group: str, name: str, option: Option) -> str | None:
    """Return a default as it is written on a command line."""
    node = option.default
    if group == "trainer":
        node = _defaults_of_ours().get(name, node)
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if _is_word(value) else str(value)


def _is_word(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _defaults_of_ours() -> dict[str, ast.expr]:
    """Return ``TRAINER_DEFAULTS``, which stand for those of Lightning."""
    module = source.module(OF_A_TRAINER)
    table = None if module is None else module.value("TRAINER_DEFAULTS")
    pairs = zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ()
    return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}


def _of_callback(topic: str, width: int) -> Iterator[str]:
    path = f"callbacks.{topic.removeprefix('callbacks.')}"
    cls, options = source.find_class(path), constructor(path)
    assert cls is not None
    yield f"{path}: --trainer.callbacks+={path} --trainer.callbacks.NAME=VALUE ..."
    for head, text in sections(ast.get_docstring(cls.node) or "").items():
        if head in ("Args", "Raises", "Attributes"):
            continue
        yield ""
        if head:
            yield from textwrap.wrap(f"{head}: {' '.join(text.split())}", width)
            continue
        for i, paragraph in enumerate(text.split("\n\n")):
            yield from [""] * bool(i)
            yield from textwrap.wrap(" ".join(paragraph.split()), width)
    yield "\noptions:"
    yield from _long("trainer.callbacks", options or {}, width)


def _wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
