"""Write the generated part of ``docs/results.md`` from the kept runs in ``docs/evidence``: ``make evidence``.

A file ``docs/evidence/mini/minatar_cycle.tar.xz``, made by ``plasticity-rl study keep``, belongs to the study
``configs/studies/mini/minatar_cycle.yaml``. Its verdicts become rows of the table, and it gets a section with the
numbers of its arms and a figure. The part stands between two comments and is replaced as a whole; nothing is trained.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from plasticity_rl.cli.study_reports import make_report_of
from plasticity_rl.errors import UserError
from plasticity_rl.files.packing import ENDING
from plasticity_rl.results.digits import digits_of
from plasticity_rl.results.runs import Curve
from plasticity_rl.results.statistics import mean_of
from plasticity_rl.study.claims import WORDS
from plasticity_rl.study.endpoints import RETURN
from plasticity_rl.study.kept import opened
from plasticity_rl.study.origins import origins_of
from plasticity_rl.study.panels import MOST_TOGETHER
from plasticity_rl.study.report import Report, Section
from plasticity_rl.study.rows import Rows, rows_of, seeds_in_words
from plasticity_rl.study.scores import Score
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.statistics import estimate
from plasticity_rl.study.words import verdict_in_words, warnings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
PART = re.compile(r"(<!-- table: evidence -->\n).*?(<!-- end of table -->)", re.DOTALL)
CLIP = re.compile(r"\bp[0-9a-f]{10}\b")
GROUP, INDENT = re.compile(r'<g id="[^"]*">'), re.compile(r"\n +")
LINES = re.compile(r' d="((?:[ML] \S+ \S+ ?\n|z\n)+)"')
POINT = re.compile(r"([MLz])(?: (\S+) (\S+))?")
PLAIN_GROUP = re.compile(r"<g>\n((?:(?!</?g[ >]).*\n)*?)</g>\n")
"""Without a group in it."""
LETTER = re.compile(r'(?<=[#"])DejaVuSans-(Bold-)?([0-9a-f]+)"')
MOST_AXES = 40
"""More cannot be read in one figure."""
PLACES, COORDINATE = re.compile(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)'), re.compile(r"-?\d+\.\d{2,}")
HEAD = ["study", "claim", "comparison", "seeds", "difference [95 % interval]", "p", "p (Holm)", "verdict"]
HEAD += ["seeds to decide"]
NONE_YET = "No runs are kept yet.\n"


def kept_files(root: Path = ROOT) -> list[Path]:
    """Return the files of kept runs, by name."""
    return sorted((root / "docs" / "evidence").rglob(f"*{ENDING}"))


def name_of(file: Path, root: Path = ROOT) -> str:
    """Return the study of a file as ``study run`` takes it: ``mini/minatar_cycle``."""
    return file.relative_to(root / "docs" / "evidence").as_posix().removesuffix(ENDING)


def report_of(file: Path, root: Path = ROOT) -> Report:
    """Return the report of a kept file; ``root`` is the current folder."""
    study = read_study(Path("configs", "studies", f"{name_of(file, root)}.yaml"))
    with opened(file.relative_to(root), study) as kept:
        return make_report_of(study, kept)


def evidence_of(file: Path, root: Path = ROOT, figure: Path | None = None) -> tuple[list[list[str]], str]:
    """Return what a kept file says: its rows of the table of verdicts, and its section.

    Args:
        file: The file.
        root: The repository, which is the current folder.
        figure: Where the curves are drawn, as SVG; None for nowhere.
    """
    name = name_of(file, root)
    study = read_study(Path("configs", "studies", f"{name}.yaml"))
    try:
        with opened(file.relative_to(root), study) as kept:
            report = make_report_of(study, kept)
            if figure is not None:
                draw(report, figure)
            return verdict_rows(name, report), "".join(_section(name, file.relative_to(root), report))
    except UserError as error:
        return [
            [f"`{name}`", study.claim.claim, "", "", "", "", "", f"none: {error}", ""]
        ], f"### {name}\n\nNo report: {error}\n"


def verdict_rows(name: str, report: Report) -> list[list[str]]:
    """Return a row for each comparison in the primary endpoint, the first with the claim."""
    digits = report.digits(report.study.primary)
    return [
        [
            f"`{name}`",
            "" if index else dict(report.study.claim.named).get(WORDS["claim"], ""),
            f"{one.name} - {report.baseline}",
            " + ".join(map(str, one.pairs)),
            f"{one.difference:+.{digits}f}",
            f"{one.p:.2g}",
            f"{one.p_holm:.2g}",
            one.verdict,
            seeds_in_words(one, report.study.effect),
        ]
        for index, one in enumerate(report.families[report.study.primary])
    ]


def _section(name: str, file: Path, report: Report) -> Iterator[str]:
    study = report.study
    yield f"### {name}\n\n"
    for words, text in study.claim.named:
        yield f"- {words}: {text}\n"
    yield f"- Primary endpoint: {study.primary.name}\n- Verdict: {verdict_in_words(report)}\n"
    for words, text in origins_of([score.run.folder for score in report.scores]):
        yield f"- {words}: {text}\n"
    for line in warnings(report):
        yield f"\n**{line}**\n"
    yield f"\n```bash\nplasticity-rl study report {name} --from {file.as_posix()} --out report/\n```\n"
    yield f"\n![Curves of {name}]({figure_of(name)})\n"
    for section in report.sections:
        yield f"\n{section.title}, 95 % intervals in brackets:\n\n{table(rows_of(section))}"
        if len(section.tasks) == 1:
            yield f"\nOver the run, means in its first and in its last eighth:\n\n{table(course(report, section))}"


def course(report: Report, section: Section) -> Rows:
    """Return what the curves of a task's arms were at first and at last: a row for each arm, a column for each tag."""
    eighth = report.study.max_frames / 8
    spans = [(-1.0, eighth), (7 * eighth, math.inf)]
    rows: Rows = [["arm", *report.tags]]
    scores = [score for score in report.scores if score.run.task in section.tasks]
    digits = {tag: digits_of(_values(scores, tag)) for tag in report.tags}
    for arm in report.arms:
        own = [score for score in scores if score.arm == arm]
        cells = []
        for tag in report.tags:
            curves = [curve for score in own if (curve := score.curve(tag)) is not None]
            means = [[mean for curve in curves if (mean := _mean(curve, *span)) is not None] for span in spans]
            cells.append(
                " to ".join(f"{estimate(mean_of, [np.array(v)]):.{digits[tag]}f}" if v else "-" for v in means)
            )
        rows.append([arm, *cells])
    return rows


def _values(scores: Sequence[Score], tag: str) -> Iterator[float]:
    """Yield all points of the curves of a tag."""
    for score in scores:
        if (curve := score.curve(tag)) is not None:
            yield from map(float, curve.values)


def _mean(curve: Curve, after: float, until: float) -> float | None:
    """Return the mean of the points of a curve in a span of frames, or None where there are none."""
    inside = (curve.frames > after) & (curve.frames <= until)
    return float(curve.values[inside].mean()) if inside.any() else None


def figure_of(name: str) -> str:
    """Return the figure of a study, relative to the page."""
    return f"evidence/{name}.svg"


def draw(report: Report, path: Path) -> None:
    """Draw the curves of a report."""
    import matplotlib as mpl

    from plasticity_rl.results.plots import STYLE, write
    from plasticity_rl.study.figures import draw_curves

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        write(draw_curves(report, drawn_tags(report)), path, "svg")
    path.write_text(tidied(path.read_text(encoding="utf-8")), encoding="utf-8")


def drawn_tags(report: Report) -> list[str]:
    """Return what is drawn: every curve, or where each arm has axes of its own as many as fit, the return first."""
    if len(report.arms) <= MOST_TOGETHER:
        return report.tags
    room = max(1, MOST_AXES // len(report.arms))
    endpoints = (report.study.primary, *report.study.secondary)
    by_weight = dict.fromkeys([RETURN, *(one.tag for one in endpoints), *report.tags])
    kept = [tag for tag in by_weight if tag in report.tags][:room]
    return [tag for tag in report.tags if tag in kept]


def tidied(svg: str) -> str:
    """Return a drawing that is smaller, and the same file of the same curves.

    Matplotlib calls clip paths by a hash of where a panel lies, which differs in the last bit from process to process:
    they are numbered. It writes millionths of a point, of which tenths are kept, every point of a line from the corner
    of the page, where its step from the point before is shorter, long names of letters, groups and names of groups
    that nobody uses, and blanks.
    """
    names: dict[str, str] = {}
    svg = CLIP.sub(lambda match: names.setdefault(match[0], f"clip{len(names)}"), svg)
    svg = PLACES.sub(lambda place: COORDINATE.sub(lambda number: f"{float(number[0]):.1f}", place[0]), svg)
    svg = GROUP.sub("<g>", LINES.sub(_in_steps, svg))
    svg = LETTER.sub(lambda letter: f'{"bold" if letter[1] else "g"}{letter[2]}"', svg)
    svg = INDENT.sub("\n", svg.replace(" \n", "\n"))
    while (fewer := PLAIN_GROUP.sub(r"\1", svg)) != svg:
        svg = fewer
    return svg


def _in_steps(match: re.Match[str]) -> str:
    """Return a path of straight lines with steps in place of points; steps of rounded points add up to them."""
    words: list[str] = []
    at = (0, 0)
    for command, *place in POINT.findall(match[1]):
        if command == "z":
            words.append("z")
            continue
        x, y = (round(10 * float(number)) for number in place)
        step = (x, y) if command == "M" else (x - at[0], y - at[1])
        words.append(("M" if command == "M" else "l") + ",".join(f"{number / 10:g}" for number in step))
        at = (x, y)
    return f' d="{"".join(words)}"'


def table(rows: Rows) -> str:
    """Return a table in Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def part(found: Sequence[tuple[list[list[str]], str]]) -> str:
    """Return the generated part of the page, of what :func:`evidence_of` says of every file."""
    if not found:
        return NONE_YET
    rows = [row for own, _ in found for row in own]
    return "\n".join([table([HEAD, *rows]), *(section for _, section in found)])


def page(text: str, found: Sequence[tuple[list[list[str]], str]]) -> str:
    """Return a page with the part made anew."""
    assert PART.search(text), "the comments of the generated part are gone"
    return PART.sub(lambda match: match[1] + part(found) + match[2], text)


if __name__ == "__main__":
    os.chdir(ROOT)
    known = [(file, PAGE.parent / figure_of(name_of(file))) for file in kept_files()]
    PAGE.write_text(
        page(PAGE.read_text(encoding="utf-8"), [evidence_of(file, figure=figure) for file, figure in known]),
        encoding="utf-8",
    )
