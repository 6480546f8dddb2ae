"""Turn the parser's long error reports into the one line that says what is wrong and what would be right."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection

from plasticity_rl.errors import suggestion

UNION = "Does not validate against any of the Union subtypes"


def one_line(message: str, options: Collection[str] = ()) -> str:
    """Condense a report of jsonargparse.

    Args:
        message: The parser's message, many lines for a value that could have several types.
        options: Option strings the parser knows (``--model.lr``), for suggestions.

    Returns:
        One line: the key, what was given, what was expected, and near names.
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    prefix = f"{key}: " if key else ""
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        given = match[1].split("=")[0]
        return f"unrecognized arguments: {given}.{suggestion(given, options)}"
    if match := re.search(r"does not accept option '([^']+)'", message):
        return f"there is no option {match[1]!r}.{suggestion('--' + match[1], options)}"
    if match := re.search(r"Problem with given class_path '([^']+)':\s*\n?\s*(.+)", message):
        return f"{prefix}no class {match[1]!r} ({match[2].strip()}).{_near_classes(match[1])}"
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        if UNION not in message.split("Errors:", 1)[-1]:
            return f"{prefix}there is no option {match[1]!r}.{_near_arguments(match[1], message)}"
    if UNION in message:
        return prefix + _from_union(message)
    text = re.sub(r'Parser key "[^"]+":', "", message)
    return prefix + _plain(" ".join(text.split()))


def _from_union(message: str) -> str:
    """Pick the alternatives of the innermost union that say something: its expected types, or another's reason."""
    errors = message.rsplit("Errors:", 1)[-1].splitlines()
    reasons = [line.strip()[2:] for line in errors if line.strip().startswith("- ")]
    given = re.search(r"Given value: (.*)", "\n".join(errors))
    telling = [r for r in reasons if not r.startswith(("Expected a", "Not a valid subclass", "a class path", "a dict"))]
    if telling:
        return _plain(telling[0])
    expected = [_plain(r.removeprefix("Expected a ")) for r in reasons if r.startswith("Expected a ")]
    return f"expected {' or '.join(expected)}, got {given[1] if given else 'something else'}"


def _plain(text: str) -> str:
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null")
    return re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text).replace("Expected a one", "Expected one")


def _near_classes(class_path: str) -> str:
    module_name, _, name = class_path.rpartition(".")
    try:
        names = importlib.import_module(module_name or "callbacks").__all__
    except (ImportError, AttributeError):
        return ""
    return suggestion(name, names) or f" There are {', '.join(names)}."


def _near_arguments(name: str, message: str) -> str:
    match = re.search(r"class_path'?\s*[:=]\s*'([\w.]+)'", message)
    if match is None:
        return ""
    module_name, _, class_name = match[1].rpartition(".")
    try:
        signature = inspect.signature(getattr(importlib.import_module(module_name), class_name))
    except (ImportError, AttributeError, ValueError):
        return ""
    names = [parameter for parameter in signature.parameters if parameter != "self"]
    return suggestion(name, names) or f" {class_name} takes {', '.join(names)}."
