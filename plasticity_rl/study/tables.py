"""The report of a study in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_rl.study.arms import NOTHING, added_by
from plasticity_rl.study.report import Report
from plasticity_rl.study.rows import Rows, comparisons_of, differences_of, rows_of
from plasticity_rl.study.words import (
    POINTS,
    explanation,
    facts,
    how_compared,
    how_to_run,
    points_in_words,
    size,
    verdict_in_words,
    warnings,
)

SPECIAL = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}


def blocks(report: Report) -> list[tuple[str, list[tuple[str, Rows]], list[str]]]:
    """Return the parts of the report: title, tables each with a sentence before it, and sentences at the end."""
    primary, *secondary = report.families
    tables = [
        (
            how_compared(report),
            comparisons_of(report.families[primary], report.digits(primary), verdicts=True, effect=report.study.effect),
        )
    ]
    if secondary:
        number = report.study.num_comparisons * len(secondary)
        tables += [
            (
                f"Secondary endpoint: {endpoint.name}{points_in_words(report, endpoint, POINTS)}. "
                f"p (Holm) is corrected for all {number} secondary comparisons.",
                comparisons_of(report.families[endpoint], report.digits(endpoint), verdicts=False),
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
    lines += _listed(report.study.claim.named)
    if len(report.study.arms) > 1:
        lines += _listed([("Verdict", verdict_in_words(report))])
    for warning in warnings(report):
        lines += ["", f"**{warning}**"]
    if report.to_run:
        what, command = how_to_run(report)
        lines += ["", f"{what} `{command}`"]
    lines += _listed(facts(report)[1:])  # their number is said above
    lines += ["", "What each arm adds to the command line that all share:", ""]
    lines += [f"- {arm}: {_as_code(added)}" for arm, added in added_by(report)[1:]]
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


def _listed(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return a list of names and sentences, with an empty line before it; nothing of nothing."""
    return ["", *(f"- {words}: {text}" for words, text in pairs)] if pairs else []


def _as_code(text: str) -> str:
    return text if text == NOTHING else f"`{text}`"


def latex(report: Report) -> str:
    """Return one ``tabular`` for each table, with booktabs' rules; intervals are subscripts."""
    written = []
    for title, tables, _ in blocks(report):
        for text, (head, *body) in tables:
            lines = [
                f"% {report.study.name}, {title}",
                *([f"% {text}"] if text else []),
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
