"""The report of a study as one page that can be sent: it opens from a disk, on a phone too, and needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace

from plasticity_rl.results.page import Html, curves, drawing, element, page, table
from plasticity_rl.study.arms import NOTHING, added_by, differing, full_configs
from plasticity_rl.study.panels import chart_of
from plasticity_rl.study.report import Column, Report, Section
from plasticity_rl.study.rows import Rows, comparisons_of, differences_of, rows_of
from plasticity_rl.study.words import (
    POINTS,
    explanation,
    facts,
    how_compared,
    how_to_run,
    missing_rows,
    points_in_words,
    verdict_in_words,
    warnings,
)

FAU = (
    "Fraction of active units (FAU): the share of a module's hidden units that are above zero for an input, as a mean "
    "over a batch; mean of the last tenth of the frames."
)


def page_of(report: Report, drawings: Mapping[str, tuple[str, str]]) -> str:
    """Return the report as a page.

    Args:
        report: The numbers.
        drawings: Name of a figure -> its SVG and what it shows.
    """
    parts = [element("h1", report.study.name), *_claim(report), *_verdict(report), *_facts(report)]
    parts += _figures(drawings) + _tables(report) + _secondary(report) + _arms(report) + _missing(report)
    known = [element("li", line) for line in explanation(report)]
    parts += [element("h2", "What the numbers are"), element("ul", *known)]
    today = datetime.datetime.now().astimezone().date().isoformat()
    parts.append(element("p", f"Written on {today} by plasticity-rl study report.", class_="quiet"))
    return page(report.study.name, parts, chart_of(report) if "curves" in drawings else None)


def _claim(report: Report) -> list[Html]:
    said = report.study.claim.named
    return [element("section", _described(said), class_="box")] if said else []


def _described(pairs: Sequence[tuple[str, str]]) -> Html:
    items = [part for words, text in pairs for part in (element("dt", words), element("dd", *_with_code(text)))]
    return element("dl", *items)


def _with_code(text: str) -> list[str]:
    """Return a text whose words between backticks are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return [text]
    return [element("code", part) if place % 2 else part for place, part in enumerate(parts)]


def _verdict(report: Report) -> list[Html]:
    parts = [element("h2", "Verdict"), element("p", verdict_in_words(report))]
    parts += [element("p", element("strong", line), class_="warning") for line in warnings(report)]
    if len(report.study.arms) > 1:
        primary = report.study.primary
        parts.append(
            table(
                comparisons_of(
                    report.families[primary], report.digits(primary), verdicts=True, effect=report.study.effect
                )
            )
        )
        parts.append(element("p", how_compared(report), class_="quiet"))
    return parts


def _facts(report: Report) -> list[Html]:
    return [element("h2", "Runs"), _described(facts(report))]


def _figures(drawings: Mapping[str, tuple[str, str]]) -> list[Html]:
    parts = []
    for name, (svg, caption) in drawings.items():
        static = drawing(svg, name)
        if name == "curves":
            parts += [element("h2", "Curves"), curves(static, caption)]
        else:
            shown = element("div", static, class_="static", tabindex="0")
            parts.append(element("figure", shown, element("figcaption", caption)))
    return parts


def _tables(report: Report) -> list[Html]:
    parts = []
    for section in report.sections:
        parts.append(element("h2", f"Scores: {section.title}"))
        returns, fau, others = _split(section.columns)
        for title, note, columns in (
            ("Return", "", returns),
            ("Fraction of active units of every module", FAU, fau),
            ("Further curves", "Interquartile mean over seeds.", others),
        ):
            if columns:
                parts.append(element("h3", title))
                parts += [element("p", note, class_="quiet")] if note else []
                parts.append(table(rows_of(replace(section, columns=columns)), broken=True))
        parts += _differences(report, section)
        parts += [element("p", str(one)) for one in section.interactions]
    return parts


def _split(columns: Sequence[Column]) -> tuple[list[Column], list[Column], list[Column]]:
    """Return the columns of the return, of the FAU, and the others."""
    fau = [column for column in columns if column.name.startswith("FAU ")]
    returns = [column for column in columns if column.of_return]
    return returns, fau, [column for column in columns if column not in (*fau, *returns)]


def _differences(report: Report, section: Section) -> list[Html]:
    rows = differences_of(section, report.baseline)
    if not rows:
        return []
    return [element("h3", f"Difference from the baseline {report.baseline}"), table(rows, broken=True)]


def _secondary(report: Report) -> list[Html]:
    _, *secondary = report.families
    if not secondary or len(report.study.arms) < 2:
        return []
    number = report.study.num_comparisons * len(secondary)
    parts = [
        element("h2", "Secondary endpoints"),
        element("p", f"p (Holm) is corrected for all {number} secondary comparisons.", class_="quiet"),
    ]
    for endpoint in secondary:
        parts.append(element("h3", f"{endpoint.name}{points_in_words(report, endpoint, POINTS)}"))
        parts.append(table(comparisons_of(report.families[endpoint], report.digits(endpoint), verdicts=False)))
    return parts


def _arms(report: Report) -> list[Html]:
    parts = [element("h2", "Arms")]
    parts.append(element("p", "What each arm adds to the command line that all share:"))
    parts.append(table(_as_code(added_by(report)), words=True))
    rows = differing(report)
    if rows:
        parts.append(element("p", "Options in which finished arms differ:"))
        parts.append(table(_as_code(rows, head=1)))
    for arm, text in full_configs(report).items():
        parts.append(element("details", element("summary", f"All options of {arm}"), element("pre", text)))
    return parts


def _as_code(rows: Rows, head: int = 0) -> Rows:
    """Return rows whose options are set as code: the first column where ``head`` says so, else the last."""
    place = 0 if head else -1
    top, *body = rows
    marked = [list(row) for row in body]
    for row in marked:
        if row[place] != NOTHING:
            row[place] = element("code", row[place])
    return [top, *marked]


def _missing(report: Report) -> list[Html]:
    if not report.missing:
        return []
    parts = [element("h2", "Missing runs")]
    if report.to_run:
        what, command = how_to_run(report)
        parts += [element("p", what), element("pre", command)]
    return [*parts, table(missing_rows(report), words=True)]
