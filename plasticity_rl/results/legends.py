"""What stands below the axes of a figure: the legend, wrapped to its width, the list of events, and the caption.

Their sizes are measured, and the figure grows by them: nothing is cut off, and nothing covers an axis.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from plasticity_rl.results.marks import BADGE, NEUTRAL, ink_on
from plasticity_rl.results.panels import DASHES, Chart, Events, Line, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

GAP = 0.06
"""Inches between the parts."""
MARGIN = 0.15
"""Inches at the left and right edge of a figure."""
MOST_COLUMNS = 4
OPTIONS: Any = {"frameon": False, "borderaxespad": 0.0, "borderpad": 0.2, "columnspacing": 1.4}


def below(figure: Figure, chart: Chart) -> None:
    """Put legend, events and caption of a chart below its axes."""
    parts = []
    if len(chart.arms) > 1 and not chart.apart:
        parts.append(
            legend(figure, [line_handle(entry.look, chart.words(arm)) for arm, entry in enumerate(chart.arms)])
        )
    if events := list({one.number: one for one in chart.events}.values()):
        parts.append(_list_of(figure, chart, events))
    if caption := _caption(chart):
        width = int((figure.get_figwidth() - 2 * MARGIN) * 18)
        parts.append(
            legend(figure, [Line2D([], [], linestyle="none", label=textwrap.fill(caption, width))], words=True)
        )
    stack(figure, parts)


def stack(figure: Figure, parts: Sequence[Legend]) -> None:
    """Make a figure higher by its parts, and put them below each other there."""
    heights = [part.get_window_extent().height / figure.dpi + GAP for part in parts]
    total = sum(heights)
    height = figure.get_figheight() + total
    figure.set_figheight(height)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.05, rect=(0.0, total / height, 1.0, 1.0 - total / height))
    left = MARGIN / figure.get_figwidth()
    for part, own in zip(parts, heights, strict=True):
        part.set_bbox_to_anchor((left, total / height), transform=figure.transFigure)
        total -= own


def legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str] | None = None, *, words: bool = False
) -> Legend:
    """Return a legend in as many columns as the width of the figure has room for; longer labels are wrapped.

    Args:
        figure: Of what.
        handles: One for each entry.
        labels: By default those of the handles.
        words: Whether there is nothing to show beside the labels.
    """
    labels = [str(handle.get_label()) for handle in handles] if labels is None else list(labels)
    room = figure.get_figwidth() - 2 * MARGIN
    options = (
        {**OPTIONS, "handlelength": 0, "handletextpad": 0, "fontsize": 7.5, "labelcolor": "0.3"} if words else OPTIONS
    )
    for columns in range(min(len(handles), MOST_COLUMNS), 0, -1):
        found = _made(figure, handles, labels, columns, options)
        width = found.get_window_extent().width / figure.dpi
        if width <= room:
            return found
        found.remove()
    share = room / width
    return _made(figure, handles, [_cut(label, share) for label in labels], 1, options)


def line_handle(look: Look, label: str) -> Line2D:
    """Return a line of a legend that looks as it is drawn."""
    words: Any = {"color": look.colour, "linestyle": line_style(look), "marker": "o" if look.points else "none"}
    return Line2D([], [], label=label, linewidth=1.6, markersize=3, **words)


def line_style(look: Look) -> Any:
    """Return the kind of line of a look in matplotlib's words."""
    lengths = DASHES[look.dash]
    return (0, lengths) if lengths else "solid"


def legend_of_panel(axis: Axes, lines: Sequence[Line]) -> None:
    """Name the lines of a panel below it."""
    if not lines:
        return
    down = offset_copy(axis.transAxes, axis.get_figure(root=True), y=-34, units="points")
    handles = [line_handle(line.look, line.label) for line in lines]
    axis.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=down,
        ncols=min(len(handles), 3),
        handlelength=1.6,
        **OPTIONS,
    )


def _made(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int, options: Any) -> Legend:
    return figure.legend(
        handles=handles,
        labels=labels,
        loc="upper left",
        ncols=columns,
        handler_map={tuple: HandlerTuple(ndivide=1)},
        alignment="left",
        **options,
    )


def _list_of(figure: Figure, chart: Chart, events: Sequence[Events]) -> Legend:
    """Return the list of events: the number as it stands above the panels, whose it is, what and when."""
    handles, labels = [], []
    neutral = any(panel.own_legend for panel in chart.panels)
    for one in events:
        entry = chart.arms[one.arm]
        colour = NEUTRAL if neutral else entry.look.colour
        disc = Line2D([], [], linestyle="none", marker="o", markersize=BADGE, color=colour)
        number = Line2D([], [], linestyle="none", marker=f"${one.number}$", markersize=4.5, color=ink_on(colour))
        number.set_markeredgewidth(0)
        handles.append((disc, number))
        labels.append(one.words if len(chart.arms) == 1 else f"{entry.label}: {one.words}")
    return legend(figure, handles, labels)


def _caption(chart: Chart) -> str:
    others = "the others" if chart.behind is None else f"the baseline ({chart.arms[chart.behind].label})"
    apart = f"Every panel shows one arm in colour, {others} in grey. " if chart.apart else ""
    return f"{apart}{chart.caption}".strip()


def _cut(label: str, share: float) -> str:
    return textwrap.fill(label, max(20, int(len(label) * share * 0.9)))
