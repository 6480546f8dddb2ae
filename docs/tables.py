"""Write the tables of the pages from docstrings, and from the comments of YAML files: ``make tables``.

Each stands between two comments, ``<!-- table: NAME -->`` and ``<!-- end of table -->``, and is replaced as a whole.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import costs

import callbacks
from plasticity_rl import Intervention, scalars
from plasticity_rl.agents.graph_rules import GRAPH_RULES, STAYS
from plasticity_rl.callback.declarations import FAMILIES
from plasticity_rl.callback.documented import documented_tags, sections, tag_pattern
from plasticity_rl.cli import catalogue
from plasticity_rl.cli.catalogue import SENTENCE

ROOT = Path(__file__).parents[1]
PAGES = (
    "docs/catalogue/callbacks.md",
    "docs/catalogue/configs.md",
    "docs/catalogue/studies.md",
    "docs/catalogue/tags.md",
    "docs/choosing.md",
    "docs/differences.md",
    "docs/performance.md",
    "docs/reference/callbacks.md",
)
TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SOURCE = re.compile(
    r"((?:van )?[A-Z][\w'-]+(?: & [A-Z][\w'-]+| et al\.)? (?:19|20)\d\d)\b"
    r"(?:[^();]*\([^()]*?(arXiv|openreview) ([\w./-]+\w)[^()]*\))?"
)
"""A paper as docstrings cite it: authors and year, then in parentheses where it is, if it can be linked."""
SITES = {"arXiv": "https://arxiv.org/abs/", "openreview": "https://openreview.net/forum?id="}
LOOP_TAG = re.compile(r"``([^`\s]+)``")


def interventions() -> list[type]:
    """Return all interventions in the order of their families."""
    found = [callback for callback in _exported() if issubclass(callback, Intervention)]
    return sorted(found, key=lambda callback: (FAMILIES.index(callback.family), callback.__name__))


def probes() -> list[type]:
    """Return all probes by name."""
    return sorted((c for c in _exported() if not issubclass(c, Intervention)), key=lambda callback: callback.__name__)


def table_of_callbacks() -> str:
    """Return all callbacks: what each does, its paper, its YAML."""
    rows = [(link(c.__name__, "../"), _does(c), _papers(c), _code(_fragment(c))) for c in (*interventions(), *probes())]
    return table(("callback", "what it does", "paper", "YAML"), rows)


def table_of_interventions() -> str:
    """Return what each intervention mutates and logs."""
    rows = [
        (_code(c.__name__), c.family, _text(sections(c.__doc__ or "")["Mutates"]), _tags(documented_tags(c)))
        for c in interventions()
    ]
    return table(("class", "family", "mutates", "tags"), rows)


def table_of_probes() -> str:
    """Return what each probe logs, with its ranges."""
    return table(("class", "logs"), [(_code(c.__name__), _text(sections(c.__doc__ or "")["Logs"])) for c in probes()])


def list_of_differences() -> str:
    """Return how each callback departs from what was published."""
    name = "Differences from the original"
    found = {c: sections(c.__doc__ or "").get(name) for c in (*interventions(), *probes())}
    return "".join(f"- `{c.__name__}`: {_text(text)}\n" for c, text in found.items() if text)


def reference_of_callbacks() -> str:
    """Return a line for each callback, at which mkdocstrings puts its docstring."""
    lines = {
        title: "".join(f"::: {c.__module__}.{c.__name__}\n\n" for c in found)
        for title, found in (("Interventions", interventions()), ("Probes", probes()))
    }
    return "\n".join(f"## {title}\n\n{text}" for title, text in lines.items())


def table_of_configs() -> str:
    """Return what ``--config NAME`` finds, but for the tasks."""
    return _named("config", {name: text for name, text in catalogue.configs().items() if not name.startswith("task/")})


def table_of_tasks() -> str:
    """Return what ``--data.task`` may be."""
    return _named("task", catalogue.tasks())


def table_of_studies() -> str:
    """Return what ``study run NAME`` finds, with what each claims."""
    return _named("study", catalogue.studies())


def table_of_tags() -> str:
    """Return every tag that a run writes, those of the loop first."""
    rows = [(_tags(LOOP_TAG.findall(tags)), _text(text)) for tags, text in loop_tags()]
    rows += [(_tags(tags), f"`{c.__name__}`: {_does(c)}") for c in (*probes(), *interventions()) if (tags := _own(c))]
    return table(("tag", "what"), rows)


def loop_tags() -> list[tuple[str, str]]:
    """Return the tags of the loop, as the docstring of ``plasticity_rl.scalars`` lists them, with what they are."""
    listed = inspect.cleandoc(scalars.__doc__ or "").partition("Tags:\n")[2]
    entries = re.split(r"^    (?=``)", listed, flags=re.MULTILINE)[1:]
    return [(entry.partition(": ")[0], entry.partition(": ")[2]) for entry in entries]


def table_of_captured_updates() -> str:
    """Return what callbacks declare about captured updates."""
    classes = [*interventions(), *probes()]
    rows = []
    for rule, text in GRAPH_RULES.items():
        found = [c for c in classes if c.cuda_graph == rule]
        some = [_code(c.__name__) for c in found if rule != STAYS]
        rows.append((_code(rule), text, ", ".join(some) or f"all others: {len(found)} of {len(classes)}"))
    return table(("`cuda_graph`", "what it does", "callbacks"), rows)


def table_of_costs() -> str:
    """Return what every callback adds to an update, as it was measured, and what was measured how."""
    found = costs.measured()
    rows = [(link(cost.name), *cost.row()) for cost in costs.costs(found)]
    return f"{costs.caption(found)}\n\n{table(costs.HEAD, rows)}\n{costs.left_out(found)}\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def page(text: str) -> str:
    """Return a page with its tables made anew.

    Raises:
        KeyError: When it names a table that there is not.
    """
    return TABLE.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


TABLES: dict[str, Callable[[], str]] = {
    "callbacks": table_of_callbacks,
    "reference of callbacks": reference_of_callbacks,
    "configs": table_of_configs,
    "tasks": table_of_tasks,
    "studies": table_of_studies,
    "tags": table_of_tags,
    "interventions": table_of_interventions,
    "probes": table_of_probes,
    "differences": list_of_differences,
    "captured updates": table_of_captured_updates,
    "costs": table_of_costs,
}


def _named(head: str, found: Mapping[str, str]) -> str:
    return table((head, "what it is"), [(_code(name), text) for name, text in found.items()])


def link(name: str, up: str = "") -> str:
    """Return the name of a callback, as a link to its docstring; ``up`` leads from the page to the folder of pages."""
    return f"[{_code(name)}]({up}reference/callbacks.md#{getattr(callbacks, name).__module__}.{name})"


def _exported() -> list[type]:
    return [getattr(callbacks, name) for name in callbacks.__all__]


def _does(callback: type) -> str:
    return _text(SENTENCE.match(sections(callback.__doc__ or "")[""])[1])


def _own(callback: type) -> list[str]:
    known = [tag_pattern(tag) for tags, _ in loop_tags() for tag in LOOP_TAG.findall(tags)]
    return [tag for tag in documented_tags(callback) if not any(pattern.fullmatch(tag) for pattern in known)]


def _fragment(callback: type) -> str:
    package, name = callback.__module__.split(".")[1:]
    return f"configs/{package}/{name}.yaml"


def _papers(callback: type) -> str:
    found = SOURCE.findall(_text(sections(callback.__doc__ or "")["Reference"]))
    links = (f"[{authors}]({SITES[site]}{number})" if site else authors for authors, site, number in found)
    return ", ".join(dict.fromkeys(links))


def _text(text: str) -> str:
    """Return a docstring's text in one line, as Markdown."""
    return " ".join(text.split()).replace("``", "`")


def _tags(tags: Iterable[str]) -> str:
    return ", ".join(_code(tag) for tag in tags) or "none"


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    for name in PAGES:
        file = ROOT / name
        file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")
