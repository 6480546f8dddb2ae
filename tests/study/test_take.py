"""``study run --from``: a study goes on with the runs that were kept elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_runs import call
from made_studies import finish, flat, study_of
from tiny_studies import tiny_env_can_be_imported, tiny_study  # noqa: F401

from plasticity_rl.cli.study_reports import take_runs
from plasticity_rl.study.spec import read_study


def kept(study: Path, file: Path) -> Path:
    result = call("study", "keep", study, "--out", file)
    assert result.code == 0, result.err
    return file


def seeds(study: Path, numbers: list[int]) -> Path:
    study.write_text(yaml.safe_dump({**yaml.safe_load(study.read_text()), "seeds": numbers}, sort_keys=False))
    return study


def names(study: Path) -> set[str]:
    return {run.name for run in read_study(study).runs() if (run.folder / "finished.yaml").is_file()}


def of_scores(report: str) -> list[str]:
    return [line for line in report.splitlines() if line.startswith("|")]


def test_a_study_goes_on_elsewhere_as_if_it_had_stayed(tmp_path):
    """Seed 1 here, seed 2 in a folder that knows of seed 1 by the file alone: the report is that of one grid."""
    (tmp_path / "whole").mkdir()
    factors = {"lr": {"low": ["model.lr=1e-4"]}}
    study = tiny_study(tmp_path, factors)
    assert call("study", "run", study).code == 0
    first = kept(study, tmp_path / "first.tar.xz")
    read_study(study).folder.rename(tmp_path / "gone")

    seeds(study, [1, 2])
    printed = call("study", "run", study, "--from", first, "--dry-run")
    assert [line.count("seed_everything=2") for line in printed.out.splitlines()] == [1]
    assert not read_study(study).folder.exists()

    result = call("study", "run", study, "--from", first)
    assert result.code == 0, result.err
    assert f"Taken from {first}: 1 of 2 runs" in result.out
    assert "1 finished, 0 stopped, 1 new" in result.out
    assert not (read_study(study).runs()[0].folder / "checkpoints").exists()
    both = kept(study, tmp_path / "both.tar.xz")

    whole = seeds(tiny_study(tmp_path / "whole", factors), [1, 2])
    assert call("study", "run", whole).code == 0
    expected = call("study", "report", whole).out
    assert of_scores(expected)
    assert of_scores(call("study", "report", study).out) == of_scores(expected)
    assert of_scores(call("study", "report", study, "--from", both).out) == of_scores(expected)


@pytest.fixture
def evidence(tmp_path) -> tuple[Path, Path]:
    """Return a study of two arms and two seeds whose folders are gone, and the file of its runs."""
    study = study_of(tmp_path, lambda run: {"eval/return": flat(float(run.seed))}, seeds=2)
    file = kept(study, tmp_path / "kept.tar.xz")
    read_study(study).folder.rename(tmp_path / "gone")
    return study, file


def test_a_folder_that_is_there_is_left_as_it_is(evidence):
    study, file = evidence
    mine = read_study(study).runs()[1].folder
    mine.mkdir(parents=True)
    (mine / "finished.yaml").write_text("env_frames: 100\n")
    result = call("study", "run", study, "--from", file, "--from", file)
    assert result.code == 0, result.err
    assert f"Taken from {file}: 3 of 4 runs\nnote: 1 more have a folder in" in result.out
    assert f"Taken from {file}: 0 of 4 runs\nnote: 4 more have a folder in" in result.out
    assert [path.name for path in mine.iterdir()] == ["finished.yaml"]
    assert len(names(study)) == 4
    assert not list(read_study(study).folder.rglob(".taken*"))


def test_what_the_study_would_not_make_now_is_not_taken(evidence):
    study, file = evidence
    study.write_text(study.read_text().replace("model.lr=0.2", "model.lr=0.5"))
    result = call("study", "run", study, "--from", file, "--dry-run")
    assert [line.count("model.lr=0.5") for line in result.out.splitlines()] == [1, 1]
    longer = study.read_text().replace("max_frames: 100", "max_frames: 200")
    study.write_text(longer)
    assert len(call("study", "run", study, "--from", file, "--dry-run").out.splitlines()) == 4


def test_a_run_that_others_are_still_to_start_from_is_not_taken(tmp_path):
    """It has no checkpoint any more. Once they are finished, or in the file too, it is."""
    path = "init_weights={folder}/{task}/base/seed{seed}/checkpoints/last.ckpt"
    study = study_of(tmp_path, lambda run: {"eval/return": flat(1.0)}, arms=("base", "other"), seeds=1)
    content = yaml.safe_load(study.read_text())
    (factor,) = content["factors"]
    file = kept(study, tmp_path / "kept.tar.xz")
    read_study(study).folder.rename(tmp_path / "gone")
    content["factors"][factor]["heir"] = [path]
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    printed = call("study", "run", study, "--from", file, "--dry-run")
    assert [Path(line.rpartition("=")[2]).parent.name for line in printed.out.splitlines()] == ["base", "heir"]
    taken = take_runs(read_study(study), file, write=True)
    assert {name.split("/")[1] for name in taken} == {"other"}
    heir = next(run for run in read_study(study).runs() if run.arm == "heir")
    heir.folder.mkdir(parents=True)
    (heir.folder / "finished.yaml").write_text("env_frames: 1000000\n")
    assert {name.split("/")[1] for name in take_runs(read_study(study), file, write=True)} == {"base"}


def heir_of(first: Path) -> Path:
    """Return a study that shares the arms ``base`` and ``grown`` of another one, by other names."""
    content = yaml.safe_load(first.read_text())
    levels = content["factors"]["arm"]
    grown = [item.replace("/base/", "/old/") for item in levels["grown"]]
    arms = {"old": levels["base"], "older": grown, "more": ["model.discount=0.5", *grown]}
    content |= {"shares": [str(first)], "folder": str(first.parent / "more"), "factors": {"arm": arms}}
    path = first.parent / "second.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_run_shared_with_another_study_is_not_put_into_that_one(tmp_path):
    """It has the curves of the heir alone, so the other study still has to train it; which the heir then takes."""
    first = study_of(tmp_path, lambda run: None, arms=("base", "other"), seeds=1)
    content = yaml.safe_load(first.read_text())
    content["factors"]["arm"]["grown"] = ["init_weights={folder}/{task}/base/seed{seed}/checkpoints/last.ckpt"]
    first.write_text(yaml.safe_dump(content, sort_keys=False))
    second = heir_of(first)
    for study in (first, second):
        for run in read_study(study).runs():
            finish(run, {"eval/return": flat(float(run.seed))})
    report = call("study", "report", second)
    file = kept(second, tmp_path / "kept.tar.xz")
    for folder in ("runs", "more"):
        (tmp_path / folder).rename(tmp_path / f"{folder}_gone")
    assert call("study", "report", second, "--from", file).out == report.out, "of other options, as it lies elsewhere"

    assert call("study", "run", second, "--from", file).code == 0
    assert not (tmp_path / "runs").exists()
    assert names(second) == {f"walk/{arm}/seed1" for arm in ("old", "older", "more")}
    assert call("study", "report", second).out == report.out
    assert kept(second, tmp_path / "again.tar.xz").read_bytes() == file.read_bytes()
    missing = f"no run of made is finished in {tmp_path / 'runs'}: plasticity-rl study run first"
    assert missing in call("study", "report", first).err

    begun = read_study(first).runs()
    begun[0].folder.mkdir(parents=True)  # it has begun there, and is still finished here
    assert call("study", "report", second).out == report.out
    for run in begun:
        finish(run, {"eval/return": flat(float(run.seed))})
    runs = read_study(second).runs()
    assert [run.folder.relative_to(tmp_path).parts[0] for run in runs] == ["runs", "runs", "more"]
    assert call("study", "report", second).out == report.out


def test_it_is_said_why_a_run_is_not_taken(evidence, monkeypatch):
    monkeypatch.setattr("plasticity_rl.study.runner.Runner.run_all", lambda self, runs: None)
    study, file = evidence
    study.write_text(study.read_text().replace("model.lr=0.2", "model.lr=0.5"))
    text = call("study", "run", study, "--from", file).out
    assert f"Taken from {file}: 2 of 4 runs\n" in text
    why = "walk/new/seed1 (model.lr is 0.2 in the run, 0.5 in the study)"
    assert f"note: not taken, of other options than the study has now: {why}, walk/new/seed2 (" in text


def test_a_run_without_a_checkpoint_is_not_made_longer(evidence):
    """It would begin anew in the folder that holds its end; nothing is started."""
    study, file = evidence
    assert call("study", "run", study, "--from", file).code == 0
    study.write_text(study.read_text().replace("max_frames: 100", "max_frames: 200"))
    result = call("study", "run", study)
    assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
    assert "max_frames is 200 now, and runs that ended before have no checkpoint to go on from" in result.err
    assert "walk/plain/seed1, walk/new/seed1, walk/plain/seed2 and 1 more; move their folders away" in result.err


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry_run"])
def test_no_such_file_and_another_study_are_refused(evidence, tmp_path, dry_run):
    study, file = evidence
    other = tmp_path / "other.yaml"
    other.write_text(study.read_text().replace(str(tmp_path / "runs"), str(tmp_path / "other_runs")))
    for path, source, why in (
        (study, tmp_path / "none.tar.xz", "there is no such file"),
        (other, file, "holds runs of the study made, not of other: give it to that one; where"),
    ):
        result = call("study", "run", path, "--from", source, *dry_run)
        assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
        assert f"--from {source}" in result.err
        assert why in result.err


def test_a_place_that_cannot_be_written_is_named(evidence, tmp_path):
    study, file = evidence
    arm = read_study(study).runs()[0].folder.parent
    arm.parent.mkdir(parents=True)
    arm.write_text("a file where a folder should be")
    result = call("study", "run", study, "--from", file)
    assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
    assert "cannot be written" in result.err
