"""Runs that were made with other options than their study has now: named, not reported, run anew when asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_runs import call
from tiny_studies import tiny_study

from plasticity_rl.study.spec import read_study
from plasticity_rl.study.stale import differences

ARMS = {"low": ["model.lr=0.001"], "high": ["model.lr=0.01"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A study of two runs, trained in this process."""
    folder = tmp_path_factory.mktemp("trained")
    for run in read_study(tiny_study(folder, {"arm": ARMS})).runs():
        result = call("fit", *run.arguments)
        assert result.code == 0, result.err
    return folder


@pytest.fixture
def here(trained, tmp_path) -> Path:
    """A copy of it elsewhere, where nothing starts a process: the study says what it would do."""
    subprocess.run(["cp", "-r", f"{trained}/.", tmp_path], check=True)
    return tmp_path


@pytest.fixture
def started(monkeypatch) -> list[str]:
    names: list[str] = []

    def note(runner, runs) -> None:
        names.extend(run.name for run in runs if not (run.folder / "finished.yaml").exists())

    monkeypatch.setattr("plasticity_rl.cli.commands.study.Runner.run_all", note)
    return names


def edited(folder: Path, arms: dict, **changes) -> Path:
    return tiny_study(folder, {"arm": arms}, **changes)


LR = "stale: tiny/high/seed1: model.lr is 0.01 in the run, 0.5 in the study"


def test_an_edited_arm_is_stale(here, started):
    study = edited(here, {**ARMS, "high": ["model.lr=0.5"]})
    result = call("study", "run", study)
    assert result.code == 0, result.err
    assert "1 finished, 0 stopped, 0 new, 1 stale" in result.out
    assert LR in result.out.splitlines()
    assert started == []
    status = call("study", "status", study).out
    assert LR in status
    assert "tiny  high  stale" in status
    report = call("study", "report", study, "--out", here / "out")
    assert report.code == 0, report.err
    assert "Left out, s" + LR[1:] in (here / "out" / "report.md").read_text()
    assert "Only 1 seed" in report.out
    dry = call("study", "run", study, "--dry-run")
    assert dry.out == ""
    assert LR in dry.err

    result = call("study", "run", study, "--rerun_stale")
    assert result.code == 0, result.err
    assert started == ["tiny/high/seed1"]
    (kept,) = here.glob("runs_stale/*/tiny/high/seed1/checkpoints/last.ckpt")
    assert f"moved aside: {here}/runs/tiny/high/seed1 to {kept.parents[1]}" in result.out
    assert not (here / "runs" / "tiny" / "high" / "seed1").exists()


def test_both_copies_of_a_shared_run_are_moved_aside(here, started):
    """One in the folder of the other study, and one that was taken from a file."""
    other = here / "other"
    other.mkdir()
    subprocess.run(["cp", "-r", here / "runs", other], check=True)
    options = {"high": ["model.lr=0.5"]}
    tiny_study(
        other,
        {"arm": options},
        shares=[str(edited(here, options))],
        base=yaml.safe_load((here / "study.yaml").read_text())["base"],
    )
    result = call("study", "run", other / "study.yaml", "--rerun_stale")
    assert result.code == 0, result.err
    assert result.out.count("moved aside: ") == 2
    assert started == ["tiny/high/seed1"]


def test_a_report_of_stale_runs_alone_is_refused(here):
    study = edited(here, {"low": ["model.lr=0.2"], "high": ["model.lr=0.5"]})
    result = call("study", "report", study, "--out", here / "out")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "2 are stale (tiny/low/seed1: model.lr is 0.001 in the run, 0.2 in the study)" in result.err
    assert not (here / "out").exists()


def test_what_changes_no_number_is_not_compared_and_a_run_that_starts_from_a_stale_one_is_stale(here, started):
    base = yaml.safe_load((here / "study.yaml").read_text())["base"]
    base = [item for item in base if "progress_bar" not in item and "log_every" not in item]
    fresh = [*base, "trainer.logger=false", "detect_nan=false", "trainer.callbacks+=callbacks.FractionActiveUnits"]
    study = edited(here, ARMS, base=[*fresh, "trainer.enable_progress_bar=true"])
    result = call("study", "run", study)
    assert "2 finished, 0 stopped, 0 new\n" in result.out, result.out + result.err

    heir = ["trainer.callbacks+=callbacks.WarmStartReplay", "trainer.callbacks.path={folder}/{task}/high/seed{seed}"]
    study = edited(here, {"low": ["model.lr=0.001"], "high": [], "heir": heir})
    result = call("study", "run", study)
    assert "1 finished, 0 stopped, 0 new, 2 stale" in result.out, result.out + result.err
    assert "stale: tiny/high/seed1: model.lr is 0.01 in the run, 0.0001 in the study" in result.out, "the default"
    assert "stale: tiny/heir/seed1: it starts from tiny/high/seed1, which is stale" in result.out

    (here / "other.yaml").write_text("data: {discount: 0.9}")
    study = edited(here, ARMS, base=[str(here / "other.yaml"), *base])
    assert "high/seed1: data.discount is 0.99 in the run, 0.9 in the study" in call("study", "status", study).out
    named = [option for option in base if "data.env" not in option]
    study = edited(here, ARMS, base=[*named, "data.env=stranger.make_env"])
    assert (
        "data.env is tiny_env.make_tiny_env in the run, stranger.make_env in the" in call("study", "status", study).out
    )
    assert "stranger" not in sys.modules


def test_more_frames_go_on(here, started):
    result = call("study", "run", edited(here, ARMS, max_frames=200))
    assert "0 finished, 2 stopped, 0 new" in result.out, result.err
    assert "max_frames is 200 now: 2 runs that ended at frame 100 go on from the last checkpoint" in result.out


def test_a_run_that_went_on_with_other_options_is_stale(here):
    run = here / "runs" / "tiny" / "low" / "seed1"
    text = (run / "config.yaml").read_text().replace("lr: 0.001", "lr: 0.7")
    (run / "config_resumed_20260101-000000.yaml").write_text(text)
    (here / "runs" / "tiny" / "high" / "seed1" / "config.yaml").unlink()
    status = call("study", "status", edited(here, ARMS)).out
    assert "low/seed1: model.lr is 0.7 in the run (config_resumed_20260101-000000.yaml), 0.001 in the study" in status
    assert "note: not compared with the study: tiny/high/seed1: there is no config.yaml" in status


class Known:
    """Defaults of classes, without a parser."""

    def default_of(self, class_path, argument):
        return {"tau": 0.1}.get(argument)

    def only_watches(self, class_path):
        return class_path.endswith("Norm")


def redo(**arguments):
    return {"class_path": "callbacks.ReDo", "init_args": arguments}


TWO = [redo(tau=0.2), redo(tau=0.3)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"model": {"lr": 1e-4}}, []),  # older than the option: the default
        ({}, {"model": {"lr": 1e-3}}, [("model.lr", 1e-4, 1e-3)]),
        ({}, {"model": {"lr": None}}, []),  # before nulls were written, one was left out
        ({"model": {"lr": None}}, {"model": {"lr": 1e-4}}, [("model.lr", None, 1e-4)]),
        ({"model": {"lr": 1e-4, "gone": None}}, {"model": {"lr": None}}, [("model.lr", 1e-4, None)]),
        ({"model": {"lr": "1e-4", "n": 1}}, {"model": {"lr": 0.0001, "n": 1.0}}, []),
        ({"model": {"gone": 3}}, {}, [("model.gone", 3, None)]),
        ({"agent": "sac", "model": {"x": 1}}, {"agent": "drqv2"}, [("agent", "sac", "drqv2")]),
        ({"trainer": {"callbacks": [redo()]}}, {"trainer": {"callbacks": [redo(tau=0.1)]}}, []),
        ({"trainer": {"callbacks": [redo()]}}, {"trainer": {"callbacks": [redo(tau=0.2)]}}, [("ReDo.tau", 0.1, 0.2)]),
        ({"trainer": {"callbacks": [redo()]}}, {"trainer": {"callbacks": [redo(tau=None)]}}, []),
        (
            {"trainer": {"callbacks": [redo(tau=None)]}},
            {"trainer": {"callbacks": [redo(tau=0.1)]}},
            [("ReDo.tau", None, 0.1)],
        ),
        ({"trainer": {"callbacks": TWO}}, {"trainer": {"callbacks": TWO[::-1]}}, []),
        (
            {"trainer": {"callbacks": [*TWO, redo(tau=0.5)]}},
            {"trainer": {"callbacks": [redo(tau=0.6), *TWO]}},
            [("ReDo.tau", 0.5, 0.6)],
        ),
        ({"trainer": {"callbacks": [redo()]}}, {}, [("trainer.callbacks", "with ReDo", "without ReDo")]),
        ({"trainer": {"callbacks": [{"class_path": "callbacks.WeightNorm"}]}}, {}, []),
        (
            {"trainer": {"callbacks": [redo(), {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}]}},
            {"trainer": {"callbacks": [redo()], "max_time": 5}, "max_frames": 3},
            [],
        ),
    ],
)
def test_what_differs(old, new, expected):
    assert list(differences(old, new, {"model": {"lr": 1e-4}}, Known())) == expected
