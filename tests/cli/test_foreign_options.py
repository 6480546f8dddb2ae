"""Studies with classes of other packages are compared with their runs, and nothing that they name is imported."""

from __future__ import annotations

import sys

import pytest
import yaml
from cli_runs import call
from tiny_studies import tiny_study

from plasticity_rl.cli.foreign_options import without_foreign
from plasticity_rl.errors import UserError
from plasticity_rl.study.spec import read_study

OWN = """
from plasticity_rl.callback import Probe


class Pulse(Probe):
    def __init__(self, modules: list[str], on: bool = True, name_of_it: str = "a", size: float | None = 0.5) -> None:
        super().__init__(every_n_updates=10)
        self.modules, self.on, self.name_of_it, self.size = modules, on, name_of_it, size

    def measure(self, agent, batch, metrics):
        return {}
"""
PULSE = ["trainer.callbacks+=own_pulse.Pulse", "trainer.callbacks.modules=[actor,critic]", "trainer.callbacks.on=false"]
PULSE += ["trainer.callbacks.name_of_it=off", "trainer.callbacks.size=null"]


def test_a_run_with_a_callback_of_its_own_is_one_of_its_study(tmp_path, monkeypatch):
    """Texts mean what the parser of the run made of them; a file's callback takes the options that follow."""
    (tmp_path / "own_pulse.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "pulse.yaml"
    file.write_text(
        yaml.safe_dump({"trainer": {"callbacks+": {"class_path": "own_pulse.Pulse", "init_args": {"modules": []}}}})
    )
    arms = {"options": PULSE, "file": [str(file), *PULSE[1:]]}
    path = tiny_study(tmp_path, {"arm": arms})
    for run in read_study(path).runs():
        result = call("fit", *run.arguments)
        assert result.code == 0, result.err
    sys.modules.pop("own_pulse")
    assert [line.split()[-1] for line in call("study", "status", path).out.splitlines()[1:3]] == ["finished"] * 2
    path.write_text(path.read_text().replace("size=null", "size=0.1"))
    out = call("study", "status", path).out
    assert "stale: tiny/options/seed1: Pulse.size is nothing in the run, 0.1 in the study" in out
    assert "stale: tiny/file/seed1: Pulse.size is nothing in the run, 0.1 in the study" in out
    assert "own_pulse" not in sys.modules


def test_callbacks_of_a_later_file_replace_those_before(tmp_path):
    for name, key in {"first": "callbacks", "second": "callbacks+", "third": "callbacks"}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {key: [f"own.{name}.Callback"]}}))
    given = [one for name in ("first", "second", "third") for one in ("--config", str(tmp_path / f"{name}.yaml"))]
    assert [one["class_path"] for one in without_foreign(given[:4])[1].callbacks] == [
        "own.first.Callback",
        "own.second.Callback",
    ]
    assert [one["class_path"] for one in without_foreign(given)[1].callbacks] == ["own.third.Callback"]


def test_options_after_a_callback_of_ours_stay():
    given = ["--trainer.callbacks+=own.Callback", "--trainer.callbacks.a=1", "--trainer.callbacks+=callbacks.ReDo"]
    kept, foreign = without_foreign([*given, "--trainer.callbacks.tau=0.1"])
    assert kept == ["--trainer.callbacks+=callbacks.ReDo", "--trainer.callbacks.tau=0.1"]
    assert foreign.callbacks[0]["init_args"] == {"a": "1"}


def test_a_list_with_a_class_of_another_package_is_taken_out_whole(tmp_path):
    """Else the parser would import it."""
    file = tmp_path / "blur.yaml"
    file.write_text(
        yaml.safe_dump({"model": {"lr": 1, "augmentations": ["own.Blur", {"class_path": "torch.nn.Identity"}]}})
    )
    (kept,), foreign = without_foreign(["--config", str(file)])
    assert kept == '--config={"model": {"lr": 1}}'
    assert [one["class_path"] for one in foreign.values["model.augmentations"]] == ["own.Blur", "torch.nn.Identity"]


@pytest.mark.parametrize(
    "options",
    [
        ["--model.augmentations+=own.Blur"],
        ["--trainer.callbacks+=own.Callback", "--trainer.callbacks.net.width=3"],
    ],
)
def test_what_cannot_be_told_without_an_import_is_said(options):
    with pytest.raises(UserError, match="class of another package"):
        without_foreign(options)
