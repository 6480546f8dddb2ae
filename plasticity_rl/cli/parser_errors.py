"""Turn the parser's long error reports into the one line that says what is wrong and what would be right."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection

from plasticity_rl.cli.checks import refuse_nulls
from plasticity_rl.cli.declared import source
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.files.own_files import where_they_are_looked_for

UNION = "Does not validate against any of the Union subtypes"


def one_line(message: str, options: Collection[str] = ()) -> str:
    """Condense a report of jsonargparse.

    Args:
        message: The parser's message, many lines for a value that could have several types.
        options: Option strings the parser knows (``--model.lr``, or ``--modules`` inside a class), for suggestions.

    Returns:
        One line: the key, what was given, what was expected, and near names.
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    prefix = f"{key}: " if key else ""
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        given = match[1].split("=")[0]
        hint = (
            near_options(given, options)
            if given[0] == "-"
            else " Write options as --name=value: --data.task=walker_run"
        )
        return f"unrecognized arguments: {given}.{hint}"
    if match := re.search(r"does not accept option '([^']+)'", message):
        return f"there is no option {match[1]!r}.{near_options('--' + match[1], options)}"
    if match := re.search(r"Problem with given class_path '([^']+)':\s*\n?\s*(.+)", message):
        return f"{prefix}no class {match[1]!r} ({match[2].strip()}).{near_classes(key, match[1])}"
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{prefix}no class {match[1]!r}; write its path, package.Name.{near_classes(key, match[1])}"
    if match := re.search(r"^Option '([^']+)' is not accepted", message):
        names = sorted(
            name.lstrip("-") for name in options if not name.startswith(("-h", "--help")) and name[-1] != "+"
        )
        if not names:  # the base class: it has none
            if match[1] == "class_path":  # it was taken for an argument, since others stand beside it
                return "arguments of an entry go below init_args, beside class_path"
            return f"the entry with {match[1]!r} has no class_path, e.g. class_path: callbacks.Reset"
        return f"there is no option {match[1]!r}.{suggestion(match[1], names) or f' There are {names}.'}"
    if UNION in message:
        return prefix + _from_union(message)
    if match := re.search(r"expects a function or a callable class: (.+)", message):
        return prefix + _plain(match[1])
    text = re.sub(r'Parser key "[^"]+":|Call to compute_fn of link .* failed:', "", message)
    return prefix + _plain(" ".join(text.split()))


def near_options(given: str, options: Collection[str]) -> str:
    """Suggest options near ``given``: what it is the beginning of, else of its group, or list the group; else of all.

    Args:
        given: An option that does not exist, e.g. ``--model.learning_rate``.
        options: Option strings that the parser knows.
    """
    known = [name for name in options if not name.endswith(("+", ".help"))]
    begun = sorted(name for name in known if name.startswith(given))
    if 0 < len(begun) <= 3:  # as many as a suggestion has
        return f" Did you mean {', '.join(begun)}?"
    group, _, name = given.rpartition(".")
    in_group = sorted(option for option in known if group and option.rpartition(".")[0] == group)
    if not in_group:
        return suggestion(given, known)
    near = suggestion(name, [option.rpartition(".")[2] for option in in_group])
    return re.sub(r"(\w+)([,?])", rf"{group}.\1\2", near) or f" There are {', '.join(in_group)}."


def _from_union(message: str) -> str:
    """Pick the alternatives of the innermost union that say something: its expected types, or another's reason."""
    errors = message.rsplit("Errors:", 1)[-1].splitlines()
    reasons = [line.strip()[2:] for line in errors if line.strip().startswith("- ")]
    given = re.search(r"Given value: (.*)", "\n".join(errors))
    telling = [r for r in reasons if not r.startswith(("Expected a", "Not a valid subclass", "a class path", "a dict"))]
    if telling and "'NoneType'" in telling[0] and given and (nulls := _nulls_in(given[1])):
        return nulls
    if telling and given and (base := re.match(r"Import path does not correspond to a subclass of (\w+)", telling[0])):
        paths = re.findall(r"class_path'?[=:] ?'([\w.]+)'", given[1]) or [given[1]]
        return f"{' or '.join(paths)} is no {base[1]}; give a class that derives from it"
    if telling:
        classes = re.findall(r"class_path'?[=:] ?'[\w.]*?(\w+)'", given[1] if given else "")
        named = len(classes) != 1 or telling[0].startswith(f"{classes[0]}.")
        return ("" if named else f"{classes[0]}: ") + _plain(telling[0])
    expected = [_plain(r.removeprefix("Expected a ")) for r in reasons if r.startswith("Expected a ")]
    return f"expected {' or '.join(expected)}, got {given[1] if given else 'something else'}"


def _nulls_in(given: str) -> str:
    """Say which argument of the classes in a report is null and must not be; a constructor fails on it anyhow."""
    for entry in given.split("class_path")[1:]:
        if not (path := re.match(r"'?[=:] ?'([\w.]+)\.(\w+)'", entry)):
            continue
        cls = getattr(importlib.import_module(path[1]), path[2])
        try:
            refuse_nulls(dict.fromkeys(re.findall(r"(\w+)'?[=:] ?None", entry)), cls, f"{path[2]}.")
        except UserError as error:
            return str(error)
    return ""


def _plain(text: str) -> str:
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text).replace("Expected a one", "Expected one")
    text = re.sub(r"^Expected (?:a )?(.+)\. Got value: ", r"expected \1, got ", text)
    return re.sub(r"^(expected list, got )([^\s\[{]+)$", r"\1\2: write [\2]", text)


def near_classes(key: str, class_path: str) -> str:
    """Suggest classes of the module that was named, or callbacks where callbacks are expected.

    Of a module that is not there it says where it would be found; it may be the user's, so that a callback of ours is
    suggested only where its name is much alike, or that of the module is nearly ``callbacks``.

    Args:
        key: Option that the class is for.
        class_path: What was given.
    """
    module_name, _, name = class_path.rpartition(".")
    names = source.exported(module_name) if module_name else []
    if not module_name or source.module(module_name) is None:
        own = where_they_are_looked_for(class_path) if module_name else ""
        if "callbacks" not in key:
            return own
        names = source.exported("callbacks")
        if own and not suggestion(module_name.rpartition(".")[2], ["callbacks"], alike=0.8):
            return own + _in_module("callbacks", suggestion(name, names, alike=0.8))
        module_name = "callbacks"
    near = suggestion(name, names) or f" There are {', '.join(names)}."
    return _in_module(module_name, near)


def _in_module(module_name: str, hint: str) -> str:
    """Return a suggestion of names with the module in front of each."""
    return re.sub(r"(\w+)([,?.])", rf"{module_name}.\1\2", hint)


def of_agent(line: str, agent: str) -> str:
    """Return a line about an option, of one of the agent with whose it is."""
    of_model = re.match(r"(unrecognized arguments: --|there is no option ')model\.", line)
    return f"{line} (these are of --agent {agent})" if of_model else line
