"""The report of a study in Markdown and LaTeX, and as one page in HTML that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from plasticity_rl.study_report import FEW_SEEDS, RETURN, Report, Section

SPECIAL = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 92em; padding: 0 1em; color: #222; line-height: 1.4; }}
figure {{ margin: 1.5em 0; }}
figcaption {{ color: #555; font-size: 0.9em; }}
svg {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
.warning {{ border-left: 4px solid #d55e00; padding-left: 0.8em; }}
table {{ border-collapse: collapse; margin: 1em 0; font-size: 0.85em; }}
td {{ white-space: nowrap; }}
th, td {{ padding: 0.3em 0.6em; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def rows_of(section: Section) -> list[list[str]]:
    """Return the head and a line for each arm."""
    head = ["arm", "seeds", *(column.name for column in section.columns)]
    lines = [
        [arm, " + ".join(map(str, seeds)), *(column.cell(arm) for column in section.columns)]
        for arm, seeds in section.seeds.items()
    ]
    return [head, *lines]


def explanation(report: Report) -> str:
    """Say what the numbers are."""
    most = report.study.max_return
    gap = f", and optimality gap (by how much runs miss {most:g} on average)" if most is not None else ""
    return (
        f"{len(report.scores)} runs of {report.study.max_frames:,} env frames. Columns up to the gap are of the final "
        f"return ({RETURN}, mean of the evaluations in the last tenth of the frames): interquartile mean (IQM), "
        f"median, mean{gap}. Area under curve: mean return over all frames. P(better): probability that a run beats "
        "one of the first arm on the same task. FAU (fraction of active units) and further curves: IQM over seeds of "
        "the last tenth of the frames. In brackets the 95 % interval of a bootstrap that resamples seeds within arm "
        "and task."
    )


def warnings(report: Report) -> list[str]:
    """Return what a reader must know first: few seeds, runs that are missing."""
    lines = []
    if report.fewest_seeds < FEW_SEEDS:
        lines.append(
            f"Only {report.fewest_seeds} seeds in some arms: below {FEW_SEEDS} an interval is rough and too narrow."
        )
    if report.missing:
        lines.append(f"Not finished, left out: {', '.join(run.name for run in report.missing)}.")
    return lines


def markdown(report: Report, figures: Sequence[str] = ()) -> str:
    """Return the report in Markdown.

    Args:
        report: The numbers.
        figures: Names of files beside it.
    """
    lines = [f"# {report.study.name}", "", explanation(report)]
    for warning in warnings(report):
        lines += ["", f"**{warning}**"]
    for section in report.sections:
        head, *body = rows_of(section)
        lines += ["", f"## {section.title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in body]
        for interaction in section.interactions:
            lines += ["", str(interaction)]
    for name in figures:
        lines += ["", f"![{name.partition('.')[0]}]({name})"]
    return "\n".join(lines) + "\n"


def latex(report: Report) -> str:
    """Return one ``tabular`` for each section, with booktabs' rules; intervals are subscripts."""
    blocks = []
    for section in report.sections:
        head, *body = rows_of(section)
        lines = [
            f"% {report.study.name}, {section.title}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
        ]
        lines += [" & ".join(map(_escaped, head)) + r" \\", r"\midrule"]
        lines += [" & ".join([_escaped(row[0]), *map(_number, row[1:])]) + r" \\" for row in body]
        blocks.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(blocks) + "\n"


def _number(cell: str) -> str:
    value, _, interval = cell.partition(" [")
    return f"${value}_{{[{interval}}}$" if interval else cell


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def page(report: Report, drawings: Mapping[str, tuple[str, str]]) -> str:
    """Return the report as a page.

    Args:
        report: The numbers.
        drawings: Name of a figure -> its SVG and what it shows.
    """
    parts = [f"<h1>{html.escape(report.study.name)}</h1>"]
    parts += [f'<p class="warning"><strong>{html.escape(warning)}</strong></p>' for warning in warnings(report)]
    parts.append(f"<p>{html.escape(explanation(report))}</p>")
    for svg, caption in drawings.values():
        parts.append(
            f'<figure><div class="wide">{svg[svg.index("<svg") :]}</div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    for section in report.sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", f'<div class="wide">{_html_table(rows_of(section))}</div>']
        parts += [f"<p>{html.escape(str(one))}</p>" for one in section.interactions]
    return PAGE.format(title=html.escape(report.study.name), body="\n".join(parts))


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    # An interval has a line of its own, so that a table fits the page.
    broken = [[cell.replace(" [", "<br>[") for cell in row] for row in body]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in broken]
    return "\n".join(["<table>", *lines, "</table>"])
