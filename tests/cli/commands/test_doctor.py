"""``plasticity-rl doctor`` as a user calls it, and what ``fit`` says at its start."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cli_runs import REPOSITORY, TINY, call, fit_tiny_cli, printed_config, write_yaml

from plasticity_rl.cli.commands import doctor
from plasticity_rl.cli.parser import OneLineParser
from plasticity_rl.errors import UserError
from plasticity_rl.machine import health
from plasticity_rl.machine.health import Package

STATE = REPOSITORY / "configs" / "sac_state.yaml"


@pytest.fixture
def one_backend(monkeypatch) -> None:
    """Try rendering with the backend of this process alone; every other costs seconds."""
    from plasticity_rl.machine.rendering import configure_backend

    configure_backend()
    monkeypatch.setattr(doctor, "BACKENDS", ())


def test_the_help_is_light():
    result = call("doctor", "--help")
    assert result.code == 0
    assert "--json FILE" in result.out


@pytest.mark.slow
def test_this_machine_is_in_order(tmp_path):
    """Everything, with a configuration; no check may fail on a machine on which the tests pass."""
    file = tmp_path / "doctor.json"
    result = call("doctor", "--config", STATE, f"--trainer.default_root_dir={tmp_path / 'run'}", "--json", file)
    found = json.loads(file.read_text())["findings"]
    assert [one for one in found if one["level"] == "problem"] == []
    assert result.code == 0, result.out
    assert result.out.endswith("\nno problems\n")
    checks = ["python", "packages", "threads", "disk", "imports", "gpu", "rendering", "triton", "config"]
    assert [one for one in checks if one not in {entry["check"] for entry in found}] == []
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]


def test_a_broken_import_is_reported_and_the_rest_is_checked(tmp_path, monkeypatch, one_backend):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('half a torch')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    file = tmp_path / "doctor.json"
    result = call("doctor", "--config", STATE, "--json", file)
    assert result.code == 1
    assert result.err == ""
    assert "problem  imports    import torch fails: ImportError: half a torch\n" in result.out
    assert "fix: pip install --force-reinstall torch" in result.out
    assert "config     not checked: imports fail" in result.out
    assert result.out.endswith("\n1 problem\n")
    levels = {one["check"]: one["level"] for one in json.loads(file.read_text())["findings"]}
    assert (levels["imports"], levels["gpu"], levels["rendering"]) == ("problem", "note", "ok")


def test_a_compromised_release_is_never_imported(monkeypatch, capsys):
    """Neither by the doctor, whose trial would import it, nor by any other command."""
    monkeypatch.setattr(health, "installed", lambda name: Package("2.6.3") if name == "lightning" else None)
    monkeypatch.setattr(doctor, "run_trial", lambda *_, **__: pytest.fail("nothing may be imported"))
    result = call("doctor")
    assert result.code == 1
    assert "lightning 2.6.3 is a compromised release that steals credentials" in result.out
    result = call("fit", *TINY)
    assert result.code == 2
    assert result.err.startswith("error: lightning 2.6.3 is a compromised release")
    assert "pip uninstall lightning" in result.err


def test_fit_says_in_one_line_what_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    result = call("fit", *TINY, f"--trainer.default_root_dir={tmp_path}", "--data.n_step=0")
    warning, error = result.err.splitlines()
    assert warning.startswith("warning: 4096 threads of torch for ")
    assert "fix: export OMP_NUM_THREADS=" in warning
    assert error.startswith("error: data.n_step=0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert len(call("fit", *TINY, "--data.n_step=0").err.splitlines()) == 1


def test_a_check_that_fails_itself_is_a_finding():
    (found,) = health.guarded("disk", lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert (found.check, found.level) == ("disk", "problem")
    assert "ZeroDivisionError" in found.text


# ---- a configuration -------------------------------------------------------------------------------------------------


def folder(path: Path) -> str:
    return f"--trainer.default_root_dir={path / 'run'}"


def test_memory_and_disk_of_a_configuration(tmp_path):
    """500 records of 3 x 16 x 16 bytes, one float32 action, reward, discount, an int64 and a bool: 789 bytes each."""
    (found,) = doctor.check_run([*TINY, "--max_frames=1000", folder(tmp_path)])
    assert found.level == "ok", found
    assert found.text.startswith("tiny: a full replay takes 0.4 MB of disk (")
    assert " and 0.4 MB of memory (" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_replay_that_does_not_fit_is_a_problem(tmp_path):
    (found,) = doctor.check_run([*TINY, "--data.capacity=100000000000", "--max_frames=1000000000000", folder(tmp_path)])
    assert found.level == "problem"
    assert "Lower --data.capacity" in found.text


def test_a_wrong_configuration_is_a_problem(tmp_path):
    (found,) = doctor.check_run([*TINY, "--data.n_step=0"])
    assert (found.level, found.text) == ("problem", "data.n_step=0 must be a whole number >= 1")


def test_a_run_that_is_going_on_can_be_looked_at(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "starts.yaml").write_text("- started: before\n")
    assert [found.level for found in doctor.check_run([*TINY, folder(tmp_path)])] == ["ok"]


def test_a_run_that_is_finished_can_be_looked_at(tmp_path):
    fit_tiny_cli(tmp_path / "run", max_frames=100)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert [found.level for found in doctor.check_run([f"--ckpt_path={last}", "--trust"])] == ["ok"]


def test_states_need_no_rendering():
    assert not doctor.needs_rendering(["--config", str(STATE)])
    assert doctor.needs_rendering(["--config", str(REPOSITORY / "configs" / "quickstart.yaml")])
    assert doctor.as_note(health.Finding("rendering", "problem", "no")).level == "note"


def test_a_checkpoint_stands_for_the_configuration_of_its_run(tmp_path):
    """As ``fit`` takes it, also one that is relative."""
    write_yaml(tmp_path / "config.yaml", {"data": {"observation": "state"}})
    assert not doctor.needs_rendering([f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"])
    assert doctor.run_folder([f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"]) == tmp_path
    assert not doctor.needs_rendering(["--ckpt_path=last", f"--trainer.default_root_dir={tmp_path}"])
    assert doctor.needs_rendering(["--ckpt_path=last", f"--trainer.default_root_dir={tmp_path / 'other'}"])


def test_it_takes_every_option_of_fit_and_says_where_another_belongs():
    printed_config("--max_frames=5000")  # so that the options of fit are known
    for name in OneLineParser.known_options - {"-h", "--help", "--print_config"}:
        doctor.refuse_unknown([f"{name}=1"])
    with pytest.raises(UserError, match="^--print_config belongs to fit: plasticity-rl fit ... --print_config"):
        doctor.refuse_unknown(["--config=x.yaml", "--print_config"])
    with pytest.raises(UserError, match="^unrecognized arguments: --detect_nans. Did you mean --detect_nan?"):
        doctor.refuse_unknown(["--detect_nans=false"])
    with pytest.raises(UserError, match="^unrecognized arguments: --databank"):
        doctor.refuse_unknown(["--databank.x=1"])


def test_without_any_option_it_asks_for_what_fit_does_by_default():
    assert doctor.needs_rendering([])
    assert doctor.run_folder([]) == Path("runs")
