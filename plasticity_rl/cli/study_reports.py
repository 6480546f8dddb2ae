"""What comes out of a study, for its commands and for the documentation: its report, and the file of kept runs."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plasticity_rl.cli.study_configs import StudyConfigs
from plasticity_rl.errors import UserError
from plasticity_rl.files.writing import drafted, replace_file
from plasticity_rl.study.spec import Study
from plasticity_rl.study.stale import Provenance, named, provenance_of
from plasticity_rl.study.study_run import folders_of

if TYPE_CHECKING:
    from plasticity_rl.study.kept import Kept
    from plasticity_rl.study.report import Report


def keep_runs(study: Study, path: Path, tags: Sequence[str]) -> None:
    """Write what a report on the finished runs reads into one new file.

    Raises:
        UserError: When no run is finished, a run or a tag is not there, or the file is, or cannot be written.
    """
    from plasticity_rl.study.keep import keep, refuse_to_overwrite

    refuse_to_overwrite(path)
    provenance = provenance_of(study, StudyConfigs(imports=False))
    content, names = keep(study, provenance, tags)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror})") from error
    for line in [*provenance.stale_lines(), *(f"note: {line}" for line in provenance.unchecked)]:
        print(line)
    left_out = [run.name for run in study.runs() if run.name not in names]
    if left_out:
        print(f"note: left out, not finished, stale or unreadable: {named(left_out)}")
    print(f"Kept: {len(names)} of {len(study.runs())} runs, {len(content):,} bytes in {path}")


def take_runs(study: Study, path: Path, *, write: bool) -> set[str]:
    """Put the runs in a file that ``study keep`` made where they have no folder yet, and print how many.

    Args:
        study: The study.
        path: The file.
        write: Do it; otherwise only say which runs these are.

    Returns:
        Their names.

    Raises:
        UserError: When the file is not of this study or cannot be read, or a folder cannot be written.
    """
    from plasticity_rl.study.kept import opened
    from plasticity_rl.study.take import take, usable_runs, without_donors

    with opened(path, study) as kept:
        provenance = _provenance(study, kept)
        usable = usable_runs(study, kept, provenance)
        here = {run.name for run in study.own_runs() if run.folder.exists()}
        free = [run for run in without_donors(study, usable) if not run.folder.exists() and run.name not in here]
        for line in take(study, kept, provenance, usable, free) if write else []:
            print(line)
    return {run.name for run in free}


def _provenance(study: Study, kept: Kept | None) -> Provenance:
    """Return what is known of the options of a study's runs: those in their folders, or those that were kept."""
    if kept is None:
        return provenance_of(study, StudyConfigs(imports=False))
    return kept.with_what_was_known(provenance_of(kept.study, StudyConfigs(imports=False)))


def report_on(study: Study, out: Path | None, source: Path | None = None) -> None:
    """Print the report, and write it into ``out`` if that is given.

    Args:
        study: The study.
        out: Folder of ``report.md``, ``report.tex`` and, where matplotlib is installed, ``index.html`` and figures.
        source: File that ``study keep`` made, in place of the run folders.

    Raises:
        UserError: When no run is finished, ``source`` is not of this study, or ``out`` cannot be written.
    """
    with contextlib.ExitStack() as stack:
        kept = None
        if source is not None:
            from plasticity_rl.study.kept import opened

            kept = stack.enter_context(opened(source, study))
        write_report(make_report_of(study, kept), out)


def make_report_of(study: Study, kept: Kept | None = None) -> Report:
    """Return the report on the runs of a study: those in their folders, or those that were kept.

    Raises:
        UserError: When no run is finished and can be read.
    """
    from plasticity_rl.study.report import make_report
    from plasticity_rl.study.scores import read_if_finished, read_scores, refuse_unreadable

    provenance = _provenance(study, kept)
    study = study if kept is None else kept.study
    scores, missing = read_scores(study, provenance.stale)
    if not scores:
        refuse_unreadable(study, {run.name: read_if_finished(run, study, provenance.stale)[0] for run in missing})
        raise UserError(_why_nothing(study, provenance, kept))
    return make_report(study, scores, missing, provenance, None if kept is None else kept.states)


def _why_nothing(study: Study, provenance: Provenance, kept: Kept | None) -> str:
    """Say why there is no run to report on, and what to do."""
    where = folders_of(study.runs()) if kept is None else f"{kept.file}"
    if provenance.stale:
        name, why = next(iter(provenance.stale.items()))
        again = "plasticity-rl study run --rerun_stale first" if kept is None else "report on the study that was kept"
        return (
            f"no run of {study.name} is finished with the options that the study has now, {len(provenance.stale)} are "
            f"stale ({name}: {why}): {again}"
        )
    if kept is None:
        return f"no run of {study.name} is finished in {where}: plasticity-rl study run first"
    changed = f", which has changed since ({'; '.join(kept.changes)})" if kept.changes else ""
    return f"{where} holds no finished run of {study.name} as the study is now{changed}"


def write_report(report: Report, out: Path | None) -> None:
    """Print a report, and write it into a folder where there is one.

    Raises:
        UserError: When ``out`` cannot be written.
    """
    from plasticity_rl.study.tables import latex, markdown

    if out is None:
        print(markdown(report), end="")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        if importlib.util.find_spec("matplotlib") is None:
            print("note: no figures and no page without matplotlib: pip install 'plasticity-rl[plot]'")
            names = []
        else:
            names = write_figures(report, out)
        text = markdown(report, names)
        replace_file(out / "report.md", text)
        replace_file(out / "report.tex", latex(report))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    print(text)
    print(f"Report: {out / ('index.html' if names else 'report.md')}")


def write_figures(report: Report, out: Path) -> list[str]:
    """Write every figure as PNG and SVG, and the page that holds them; return the names of the PNG files."""
    from plasticity_rl.results.plots import write
    from plasticity_rl.study.figures import figures
    from plasticity_rl.study.page import page_of

    drawings = {}
    for name, (figure, caption) in figures(report).items():
        for file_format in ("png", "svg"):
            with drafted(out / f"{name}.{file_format}") as draft:
                write(figure, draft, file_format)
        drawings[name] = ((out / f"{name}.svg").read_text(encoding="utf-8"), caption)
    replace_file(out / "index.html", page_of(report, drawings))
    return [f"{name}.png" for name in drawings]
