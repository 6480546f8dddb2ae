"""Which runs of a study are read, and what is said of those that cannot be."""

from __future__ import annotations

import pytest
import yaml
from cli_runs import call
from made_studies import flat, study_of

from plasticity_rl.cli.study_reports import make_report_of
from plasticity_rl.files.packing import unpacked
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.words import missing_rows


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ("config.yaml", "is not a run folder: it holds no config.yaml"),
        ("events.out.tfevents.*", "holds no TensorBoard events"),
    ],
)
def test_a_finished_run_that_cannot_be_read_is_left_out_and_named(tmp_path, lost, why):
    """Also of the report from the file; where no other run is left there is nothing to report on or to keep."""
    study = study_of(tmp_path, lambda run: {"eval/return": flat(float(run.seed))}, arms=("plain",), seeds=2)
    one, two = read_study(study).runs()
    kept_well, own = tmp_path / "well.tar.xz", next(two.folder.glob(lost))
    own.rename(tmp_path / "own")
    result = call("study", "keep", study, "--out", kept_well)
    assert result.code == 0, result.err
    assert "note: left out, not finished, stale or unreadable: walk/plain/seed2\n" in result.out
    assert "Kept: 1 of 2 runs" in result.out
    missing = yaml.safe_load(dict(unpacked(kept_well))["kept.yaml"])["missing"]
    for report in (call("study", "report", study), call("study", "report", study, "--from", kept_well)):
        assert report.code == 0, report.err
        assert f"**Left out, finished but cannot be read: {two.name}: {two.folder} {why}" in report.out
        assert "1 finished run of 100 env frames" in report.out
        assert "Not finished" not in report.out
        assert "To run them" not in report.out, "it would be skipped"
    rows = missing_rows(make_report_of(read_study(study)))[1:]
    assert [row[0] for row in rows] == list(missing) == [two.name]
    for state in (rows[0][1], missing[two.name]):
        assert state.startswith(f"unreadable: {two.folder} {why}")
    next(one.folder.glob(lost)).unlink()
    for command in (["report", study], ["keep", study, "--out", tmp_path / "none.tar.xz"]):
        result = call("study", *command)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert f"2 finished runs of made cannot be read ({one.name}: {one.folder} {why}" in result.err
