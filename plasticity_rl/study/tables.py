"""The report of a study in Markdown and LaTeX, and as one page in HTML that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from plasticity_rl.study.comparisons import MOST_EXACT, Comparison, pairs_needed
from plasticity_rl.study.endpoints import FINAL_RETURN, RETURN, Endpoint
from plasticity_rl.study.notes import few_seeds, points_of
from plasticity_rl.study.report import Report, Section

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


POINTS = " ({} points of each run's curve)"
Rows = list[list[str]]
"""The head, and a line for each arm or comparison."""


def rows_of(section: Section) -> Rows:
    """Return the scores of the arms of a section."""
    head = ["arm", "seeds", *(column.name for column in section.columns)]
    lines = [
        [arm, _seeds(seeds), *(column.cell(arm, seeds) for column in section.columns)]
        for arm, seeds in section.seeds.items()
    ]
    return [head, *lines]


def _seeds(numbers: Sequence[int]) -> str:
    return " + ".join(map(str, numbers)) + " (unbalanced)" * (len(set(numbers)) > 1)


def differences_of(section: Section, baseline: str) -> Rows:
    """Return the differences of the other arms from the baseline in a section; nothing where there are none."""
    arms = dict.fromkeys(arm for column in section.differences for arm in column.values)
    head = [f"minus {baseline}", *(column.name for column in section.differences)]
    pairs = section.pairs
    lines = [[arm, *(column.cell(arm, pairs[arm]) for column in section.differences)] for arm in arms]
    return [head, *lines] if arms else []


def comparisons_of(family: Sequence[Comparison], endpoint: Endpoint, *, verdicts: bool) -> Rows:
    """Return the comparisons on an endpoint with their p values, and verdicts of the corrected ones."""
    head = ["comparison", "pairs", "correlation", "difference", "p", "p (Holm)", *(["verdict"] * verdicts)]
    lines = []
    for one in family:
        pairs = " + ".join(map(str, one.pairs)) + (f" (not on {', '.join(one.without)})" if one.without else "")
        together = "" if math.isnan(one.correlation) else f"{one.correlation:.2f}"
        numbers = [f"{one.difference:+.{endpoint.digits}f}", f"{one.p:.2g}", f"{one.p_holm:.2g}"]
        lines.append([one.name, pairs, together, *numbers, *([one.verdict] * verdicts)])
    return [head, *lines]


def size(report: Report) -> str:
    """Say how large the study is."""
    arms, tasks, found = len(report.study.arms), len(report.study.tasks), len(report.scores)
    return (
        f"{found} finished run{'s' * (found != 1)} of {report.study.max_frames:,} env frames: {arms} "
        f"arm{'s' * (arms != 1)}, {tasks} task{'s' * (tasks != 1)}, {len(report.study.seeds)} "
        f"seed{'s' * (len(report.study.seeds) != 1)} planned."
    )


def explanation(report: Report) -> list[str]:
    """Say what the numbers are, a line for each thing to know."""
    most = report.study.max_return
    gap = f" and optimality gap (by how much runs miss {most:g} on average)" if most is not None else ""
    last = _points(report, FINAL_RETURN, ", {} of each run")
    return [
        f"IQM (interquartile mean), median, mean{gap} are of the final return: {RETURN}, mean of the points in the "
        f"last tenth of the frames{last}.",
        "Area under curve: mean return over all frames. P(better): probability that a run beats one of the baseline on "
        "the same task. FAU (fraction of active units) and further curves: IQM over seeds of the last tenth of the "
        "frames.",
        "Every task weighs the same, however many of its seeds are finished.",
        "In brackets: 95 % intervals for other seeds, not for other tasks. They are t intervals, of P(better) a score "
        "interval; [none] where there is one seed, or all are equal. An interval that holds 0 does not show that arms "
        "are equal: its ends are how large a difference there could still be.",
        "Differences from the baseline, the second table of a task, are means over pairs of runs with the same seed. "
        "Their intervals are not corrected for their number.",
        "n=2: a cell of that many seeds, where others of its row have more.",
    ]


def _points(report: Report, endpoint: Endpoint, words: str) -> str:
    """Return ``words`` with the number of points that an endpoint averages, if it averages any."""
    points = points_of(report.scores, endpoint)
    return words.format(points) if points and endpoint.at is None else ""


def how_compared(report: Report) -> str:
    """Say what the p values are, and what they can say at most."""
    primary, number = report.study.primary, report.study.num_comparisons
    family = report.families[primary]
    most = max((sum(one.pairs) for one in family), default=0)
    text = (
        f"Differences from the baseline {report.baseline} in the primary endpoint, {primary.name}"
        f"{_points(report, primary, POINTS)}: runs "
        "with the same seed are pairs, correlation is theirs over seeds. p: two-sided permutation test by sign flips "
        f"of the pairs of all tasks, exact up to {MOST_EXACT} pairs; p (Holm): corrected for the "
        f"{number} comparison{'s' * (number != 1)} of the study. Verdicts are those of p (Holm) at 0.05."
    )
    if not family:
        return text
    smallest = min(one.smallest_p for one in family)
    needed = pairs_needed(number)
    return text + (
        f" The smallest p (Holm) possible is {smallest:.2g}; a verdict on {number} needs {needed} pairs over all "
        f"tasks, here are {most}." + (" So no verdict is possible." if most < needed else "")
    )


def warnings(report: Report) -> list[str]:
    """Return what a reader must know first: few seeds, runs and curves that are missing, arms that are not balanced."""
    few = few_seeds(report.fewest_seeds)
    lines = [few] if few else []
    if report.missing:
        lines.append(f"Not finished, left out: {', '.join(run.name for run in report.missing)}.")
    return lines + report.notes


def blocks(report: Report) -> list[tuple[str, list[tuple[str, Rows]], list[str]]]:
    """Return the parts of the report: title, tables each with a sentence before it, and sentences at the end."""
    primary, *secondary = report.families
    tables = [(how_compared(report), comparisons_of(report.families[primary], primary, verdicts=True))]
    if secondary:
        number = report.study.num_comparisons * len(secondary)
        tables += [
            (
                f"Secondary endpoint: {endpoint.name}{_points(report, endpoint, POINTS)}. p (Holm) is corrected for "
                f"all {number} secondary comparisons.",
                comparisons_of(report.families[endpoint], endpoint, verdicts=False),
            )
            for endpoint in secondary
        ]
    parts: list[tuple[str, list[tuple[str, Rows]], list[str]]] = []
    if len(report.study.arms) > 1:
        parts.append(("Comparisons", tables, []))
    for section in report.sections:
        differences = differences_of(section, report.baseline)
        shown = [("", rows_of(section))] + ([("", differences)] if differences else [])
        parts.append((section.title, shown, [str(one) for one in section.interactions]))
    return parts


def markdown(report: Report, figures: Sequence[str] = ()) -> str:
    """Return the report in Markdown.

    Args:
        report: The numbers.
        figures: Names of files beside it.
    """
    lines = [f"# {report.study.name}", "", size(report)]
    for warning in warnings(report):
        lines += ["", f"**{warning}**"]
    lines += ["", *(f"- {line}" for line in explanation(report))]
    for title, tables, sentences in blocks(report):
        lines += ["", f"## {title}"]
        for before, (head, *body) in tables:
            lines += ["", before] if before else []
            lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            lines += [f"| {' | '.join(row)} |" for row in body]
        for sentence in sentences:
            lines += ["", sentence]
    for name in figures:
        lines += ["", f"![{name.partition('.')[0]}]({name})"]
    return "\n".join(lines) + "\n"


def latex(report: Report) -> str:
    """Return one ``tabular`` for each table, with booktabs' rules; intervals are subscripts."""
    written = []
    for title, tables, _ in blocks(report):
        for _, (head, *body) in tables:
            lines = [
                f"% {report.study.name}, {title}",
                rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                r"\toprule",
            ]
            lines += [" & ".join(map(_escaped, head)) + r" \\", r"\midrule"]
            lines += [" & ".join([_escaped(row[0]), *map(_number, row[1:])]) + r" \\" for row in body]
            written.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(written) + "\n"


def _number(cell: str) -> str:
    rest, _, number = cell.partition(" n=")
    value, _, interval = rest.partition(" [")
    few = f" ($n={number}$)" if number else ""
    if interval == "none]":
        return f"${value}${few}"
    return f"${value}_{{[{interval}}}${few}" if interval else _escaped(rest) + few


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def page(report: Report, drawings: Mapping[str, tuple[str, str]]) -> str:
    """Return the report as a page.

    Args:
        report: The numbers.
        drawings: Name of a figure -> its SVG and what it shows.
    """
    parts = [f"<h1>{html.escape(report.study.name)}</h1>", f"<p>{size(report)}</p>"]
    parts += [f'<p class="warning"><strong>{html.escape(warning)}</strong></p>' for warning in warnings(report)]
    known = "".join(f"<li>{html.escape(line)}</li>" for line in explanation(report))
    parts.append(f"<details><summary>What the numbers are</summary><ul>{known}</ul></details>")
    for svg, caption in drawings.values():
        parts.append(
            f'<figure><div class="wide">{svg[svg.index("<svg") :]}</div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    for title, tables, sentences in blocks(report):
        parts.append(f"<h2>{html.escape(title)}</h2>")
        for before, rows in tables:
            parts += [f"<p>{html.escape(before)}</p>"] * bool(before) + [f'<div class="wide">{_html_table(rows)}</div>']
        parts += [f"<p>{html.escape(one)}</p>" for one in sentences]
    return PAGE.format(title=html.escape(report.study.name), body="\n".join(parts))


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    # An interval has a line of its own, so that a table fits the page.
    broken = [[cell.replace(" [", "<br>[") for cell in row] for row in body]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in broken]
    return "\n".join(["<table>", *lines, "</table>"])
