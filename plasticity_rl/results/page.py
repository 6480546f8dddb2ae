"""Pages that open from a disk, without a network: style, scripts and data inside, and every name escaped.

:func:`element` escapes whatever is not :class:`Html` already, so that a name becomes no tag, wherever it stands. The
page also names the scripts that may run by their hashes: what got in on any other way would not be run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import io
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from plasticity_rl.results.interactive import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plasticity_rl.results.panels import Chart

EMPTY = ("meta", "br")
"""Elements without an end."""
DATA = "curves-data"
HELP = (
    "Point at a curve for its values, drag to zoom, double-click for the whole range; click a name to hide it. Dashed "
    "lines are events of interventions; point at one to read what it was."
)


class Html(str):
    """Text that is HTML already; any other is escaped."""

    __slots__ = ()


def element(tag: str, *content: str, **attributes: str) -> Html:
    """Return an element of HTML.

    Args:
        tag: Its name.
        content: Elements, and texts, which are escaped.
        attributes: Values by name; ``class_`` is ``class``, and ``data_x`` is ``data-x``.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{given}>" + ("" if tag in EMPTY else f"{joined(content)}</{tag}>"))


def joined(content: Sequence[str], between: str = "") -> Html:
    """Return elements and texts behind each other."""
    return Html(between.join(one if isinstance(one, Html) else html.escape(one) for one in content))


def table(rows: Sequence[Sequence[str]], *, words: bool = False, broken: bool = False, left: int = 1) -> Html:
    """Return a table that scrolls by itself where it is too wide for the page.

    Args:
        rows: The head, then lines.
        words: Whether the cells are texts, which may have several lines, and not numbers.
        broken: Whether an interval has a line of its own.
        left: Columns of names, one or two, that begin on the left.
    """
    head, *body = rows
    lines = [element("tr", *(element("th", cell) for cell in head))]
    lines += [element("tr", *(_cell(cell, broken=broken) for cell in row)) for row in body]
    inside = element("table", joined(["", *lines, ""], "\n"))
    # With a tab index the arrow keys scroll it.
    classes = "wide" + " words" * words + " two-names" * (left == 2)
    return element("div", inside, class_=classes, tabindex="0")


def _cell(cell: str, *, broken: bool) -> Html:
    value, bracket, rest = cell.partition(" [")
    if broken and bracket and not isinstance(cell, Html):
        return element("td", value, element("br"), f"[{rest}")
    side = {"above 0": "above", "below 0": "below"}.get(cell)
    return element("td", cell, class_=side) if side else element("td", cell)


def drawing(svg: str, name: str) -> Html:
    """Return an SVG file as a part of a page.

    Args:
        svg: Content of the file, of our own.
        name: Tells it from the other drawings of the page, in which the same ids stand for other things.
    """
    inside = svg[svg.index("<svg") :]
    return Html(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", inside))


def drawing_of(figure: Figure, name: str = "figure") -> Html:
    """Return a figure as a part of a page."""
    from plasticity_rl.results.plots import write

    file = io.StringIO()
    write(figure, file, "svg")
    return drawing(file.getvalue(), name)


def curves(static: Html, caption: str = "") -> Html:
    """Return a figure whose curves a script makes interactive, once for a page; without one the static figure shows."""
    return element(
        "figure",
        element("p", HELP, class_="help quiet"),
        element("div", class_="charts", data_charts=DATA),
        element("div", static, class_="static curves"),
        *([element("figcaption", caption)] if caption else []),
    )


def page(title: str, body: Sequence[Html], chart: Chart | None = None) -> str:
    """Return a page.

    Args:
        title: Its title.
        body: Its elements.
        chart: What its interactive curves are drawn from, where it has a place for them: see :func:`curves`.
    """
    scripts = [_kept("uplot/uPlot.iife.min.js"), _kept("curves.js")] if chart else []
    styles = [*([_kept("uplot/uPlot.min.css")] if chart else []), _kept("page.css")]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    head = [
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html("\n" + "\n".join(styles))),
    ]
    data = [element("script", Html(as_json(chart)), type="application/json", id=DATA)] if chart else []
    parts = [*body, *data, *(element("script", Html(script)) for script in scripts)]
    inside = element("head", joined(head, "\n")), Html("\n"), element("body", joined(parts, "\n"))
    return f"<!DOCTYPE html>\n{element('html', *inside, lang='en')}\n"


@cache
def _kept(name: str) -> str:
    """Return a file of ``web/`` beside this one."""
    folder = importlib.resources.files("plasticity_rl.results") / "web"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
