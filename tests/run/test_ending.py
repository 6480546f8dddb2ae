"""What a run says when it is over, was stopped, is evaluated, or has nothing left to do."""

from __future__ import annotations

import re
import shlex

import pytest
from cli_runs import call, fit_tiny_cli
from helpers import fit_tiny
from lightning.pytorch import Callback

from callbacks import FractionActiveUnits, Reset
from plasticity_rl.errors import UserError
from plasticity_rl.results.events import read_events
from plasticity_rl.results.runs import read_run
from plasticity_rl.run import ending
from plasticity_rl.run.stop_signals import StopRun

RESET = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[110]"]


def untouched(folder) -> dict:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, fit_tiny_cli(folder, *RESET, "--trainer.callbacks.modules=[critic]").out


def test_the_last_block_of_a_run(finished):
    folder, out = finished
    block = dict(re.findall(r"^([A-Z][\w ]+): +(.*)$", out[out.index("\n\n") :], re.MULTILINE))
    assert list(block) == [
        *("Return before training", "Best return", "Return after training", "Events", "Trained", "Run folder"),
        *("Checkpoints", "Video", "Plot", "TensorBoard"),
    ]
    assert block["Events"] == "reset 1"
    assert block["Trained"].startswith("200 frames, 40 updates, in ")
    assert block["Checkpoints"].startswith("checkpoints/last.ckpt, checkpoints/best_")
    assert block["Video"] == "videos/eval_000000200.mp4  (and 1 before it)"
    assert block["Plot"] == f"plasticity-rl plot {folder}"


def test_a_finished_run_that_is_resumed_says_so_and_is_left_alone(finished, capsys):
    folder, _ = finished
    before = untouched(folder)
    result = call("fit", f"--ckpt_path={folder}/checkpoints/last.ckpt")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"This run is finished: it has 200 of 200 frames. Nothing was changed in {folder}.")
    go_on = shlex.split(result.out.splitlines()[-1].partition("Go on:")[2])
    assert go_on == ["plasticity-rl", "fit", f"--ckpt_path={folder}/checkpoints/last.ckpt", "--max_frames=400"]
    assert untouched(folder) == before


def test_so_does_one_in_python(tmp_path, capsys):
    fit_tiny(tmp_path, max_frames=100)
    before = untouched(tmp_path)
    capsys.readouterr()
    fit_tiny(tmp_path, max_frames=100, ckpt_path="last")
    assert "raise the frames, for example RLDataModule(max_frames=200)" in capsys.readouterr().out
    assert untouched(tmp_path) == before


def test_the_plot_command_is_that_of_a_run_that_can_be_plotted(tmp_path, capsys):
    fit_tiny(tmp_path, max_frames=100, trainer_options={"logger": True})
    out = capsys.readouterr().out
    assert "TensorBoard:" in out
    assert "Plot:" not in out
    with pytest.raises(UserError, match=r"read_events\(folder\).scalars"):
        read_run(tmp_path)
    assert len(read_events(tmp_path).scalars["eval/return"]) > 1


def test_the_command_that_goes_on_with_files_of_the_users_own_trusts_them(tmp_path):
    (tmp_path / "own_quiet.py").write_text("from lightning.pytorch import Callback\n\n\nclass Quiet(Callback): ...\n")
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {callbacks+: own_quiet.Quiet}")
    folder = tmp_path / "run"
    fit_tiny_cli(folder, f"--config={own}")
    out = call("fit", f"--ckpt_path={folder}/checkpoints/last.ckpt", "--trust").out
    assert "This run is finished" in out
    assert shlex.split(out.splitlines()[-1])[-1] == "--trust"


class StopAt(Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        if pl_module.env_frames >= 150:
            raise StopRun(2)


def test_a_stopped_run_says_what_is_known(tmp_path, capsys):
    given = [FractionActiveUnits(every_n_updates=10), Reset(modules=["critic"], at_frames=[110]), StopAt()]
    with pytest.raises(StopRun):
        fit_tiny(tmp_path, callbacks=given)
    out = capsys.readouterr().out
    assert re.search(r"^Return so far: +\S+  \(frame 100\)$", out, re.MULTILINE)
    assert re.search(r"^FAU: +encoder 0\.\d\d, .*  \(fraction of active units\)$", out, re.MULTILINE)
    assert "Events:      reset 1" in out
    fit_tiny(tmp_path, callbacks=[given[1]], ckpt_path="last")
    assert "Events:      reset 1" in capsys.readouterr().out, "those of all starts"


def test_durations_in_words():
    assert ending.in_words(59.4) == "59 s"
    assert ending.in_words(312) == "5 min 12 s"
    assert ending.in_words(11220) == "3 h 07 min"


def test_validate_prints_one_table_and_lightnings_box_on_demand(finished):
    folder, _ = finished
    checkpoint = f"{folder}/checkpoints/last.ckpt"
    result = call("validate", f"--ckpt_path={checkpoint}")
    title, head, row, empty, head_of_episodes, episode = result.out.strip().splitlines()
    assert title == f"Evaluation at frame 200 of {checkpoint}"
    assert head.split() == ["task", "episodes", "return", "std", "lowest", "highest"]
    assert row.split()[:2] == ["tiny", "1"]
    assert row.split()[3] == "0.000"
    assert (empty, head_of_episodes.split()) == ("", ["task", "episode", "return", "env", "steps"])
    assert episode.split() == ["tiny", "0", row.split()[2], "20"], "episodes of the tiny env have 20 steps"
    assert "Validate metric" in call("validate", f"--ckpt_path={checkpoint}", "--verbose=true").out


def test_tables_of_several_tasks():
    played = {"walker_walk": [(1.0, 500), (3.0, 12)], "run": [(5.0, 7)]}
    # mean of 1 and 3: 2; each is 1 away from it
    assert ending.table_of_returns(played)[1:] == [
        "walker_walk         2      2.000      1.000      1.000      3.000",
        "run                 1      5.000      0.000      5.000      5.000",
    ]
    assert ending.table_of_episodes(played) == [
        "task          episode     return  env steps",
        "walker_walk         0      1.000        500",
        "walker_walk         1      3.000         12",
        "run                 0      5.000          7",
    ]


@pytest.mark.parametrize(("evaluate", "tasks"), [("current", ["tiny_away"]), ("all", ["tiny_away", "tiny"])])
def test_validate_plays_the_task_of_the_checkpoint(evaluate, tasks, tmp_path):
    """And with ``all`` the others, a row each; a visit is 100 frames, so that frame 150 lies in the second."""
    cycle = ["--trainer.callbacks+=callbacks.ContinualTasks", "--trainer.callbacks.tasks=[tiny,tiny_away]"]
    cycle += ["--trainer.callbacks.every_n_frames=100", f"--trainer.callbacks.evaluate={evaluate}"]
    fit_tiny_cli(tmp_path, *cycle, "--data.eval_every_n_frames=50", max_frames=150)
    _, _, *rows = call("validate", f"--ckpt_path={tmp_path}/checkpoints/last.ckpt").out.strip().splitlines()
    split = rows.index("")
    assert [row.split()[0] for row in rows[:split]] == tasks
    assert [row.split()[0] for row in rows[split + 2 :]] == tasks
