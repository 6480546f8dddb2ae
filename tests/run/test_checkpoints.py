from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from cli_runs import TINY_SAC, append_callbacks, call, checkpoint
from helpers import fit_tiny, tiny_agent, tiny_data, weights_hash

from plasticity_rl import UserError, make_trainer
from plasticity_rl.agents.base import RLModule


class StopAt(pl.Callback):
    """Ends the run like a crash, once ``env_frames`` are reached."""

    def __init__(self, env_frames: int) -> None:
        self.env_frames = env_frames

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        assert isinstance(pl_module, RLModule)
        if pl_module.env_frames >= self.env_frames:
            raise RuntimeError("stopped")


def saved_frames(path) -> int:
    return torch.load(path, weights_only=True)["rl"]["env_frames"]


@pytest.mark.parametrize("crash_at", [2, 30, 98])
def test_a_run_that_crashes_before_its_first_evaluation_goes_on_from_frame_0(tmp_path, crash_at) -> None:
    straight = fit_tiny(tmp_path / "straight", max_frames=160)
    with pytest.raises(RuntimeError, match="stopped"):
        fit_tiny(tmp_path / "crashed", max_frames=160, callbacks=[StopAt(crash_at)])
    assert saved_frames(tmp_path / "crashed" / "checkpoints" / "last.ckpt") == 0

    resumed = fit_tiny(tmp_path / "crashed", max_frames=160, ckpt_path="last")

    assert weights_hash(resumed) == weights_hash(straight)
    assert resumed.num_updates == straight.num_updates
    assert resumed.eval_returns == straight.eval_returns


def test_every_start_has_its_own_time_and_ends_with_a_checkpoint(tmp_path, capsys) -> None:
    """A millisecond is one env step of two frames; the runs together equal the one that was not stopped."""
    straight = fit_tiny(tmp_path / "straight", max_frames=110)
    short = {"trainer_options": {"max_time": {"milliseconds": 1}}, "max_frames": 110}
    last = tmp_path / "timed" / "checkpoints" / "last.ckpt"
    for start, frames in enumerate((2, 4)):
        capsys.readouterr()
        fit_tiny(tmp_path / "timed", ckpt_path="last" if start else None, **short)
        assert saved_frames(last) == frames
        out = capsys.readouterr().out
        assert f"Stopped after max_time (0.001 seconds of this start) at env frame {frames}; the last " in out
        assert "go on with fit(..., ckpt_path='last')" in out
        assert "Changed" not in out
    assert not (tmp_path / "timed" / "finished.yaml").exists()
    done = fit_tiny(tmp_path / "timed", ckpt_path="last", max_frames=110, trainer_options={"max_time": "01:00:00:00"})
    assert (done.num_updates, weights_hash(done)) == (straight.num_updates, weights_hash(straight))
    assert done.eval_returns == straight.eval_returns


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_time": "soon"}, r"^max_time='soon' must be days:hours:minutes:seconds, 00:07:30:00"),
        ({"max_time": {"decades": 1}}, r"^max_time=.* must be days:hours"),
        ({"max_time": "00:00:00:00"}, "must be longer than 0 seconds"),
        ({"max_time": "00:01:00:00", "enable_checkpointing": False}, "ends a start with a checkpoint"),
    ],
)
def test_what_is_no_time_is_refused(options, expected, tmp_path) -> None:
    with pytest.raises(UserError, match=expected):
        make_trainer(tmp_path, **options)


def test_last_follows_every_evaluation_and_best_the_highest_return(tmp_path) -> None:
    agent = fit_tiny(tmp_path, max_frames=400)

    folder = tmp_path / "checkpoints"
    assert saved_frames(folder / "last.ckpt") == 400
    (best,) = folder.glob("best_*_frames.ckpt")
    evaluated = [pair for pair in agent.eval_returns if pair[0] > 0]
    best_frame = max(evaluated, key=lambda pair: pair[1])[0]
    assert best.name == f"best_{best_frame}_frames.ckpt"
    assert saved_frames(best) == best_frame


@pytest.mark.filterwarnings("ignore:You called `self.log:UserWarning")
def test_trainer_validate_returns_what_the_run_logged_at_that_checkpoint(tmp_path) -> None:
    trained = fit_tiny(tmp_path, max_frames=200)
    data = tiny_data(max_frames=200, seed=1)
    agent = tiny_agent(data)
    trainer = make_trainer(tmp_path, logger=False, enable_progress_bar=False)

    (metrics,) = trainer.validate(agent, data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")

    assert trained.eval_returns[-1] == (200, pytest.approx(metrics["eval/return"]))
    assert metrics["env_frames"] == agent.env_frames == 200


def kept(run_dir: Path) -> tuple[set[str], dict[str, object]]:
    """Return the files in ``checkpoints/``, and what every callback knows of them, by names instead of paths."""
    known = {}
    for key, state in checkpoint(run_dir)["callbacks"].items():
        if "best_k_models" in state:
            assert {Path(path).parent for path in state["best_k_models"]} <= {Path(state["dirpath"])}
            best = {Path(path).name: float(value) for path, value in state["best_k_models"].items()}
            names = [Path(state[name]).name for name in ("best_model_path", "kth_best_model_path")]
            known[key] = best, *names, state["best_model_score"], state["kth_value"]
    return {path.name for path in (run_dir / "checkpoints").iterdir()}, known


@pytest.mark.parametrize("way", ["config", "checkpoint", "moved"])
def test_a_run_in_a_relative_folder_remembers_its_best_checkpoints_when_it_goes_on(way, tmp_path, monkeypatch) -> None:
    """The ways of docs/howto/resume.md, with its callback: as if it had never been stopped."""
    monkeypatch.chdir(tmp_path)
    cls, common = "lightning.pytorch.callbacks.ModelCheckpoint", {"mode": "max", "save_on_train_epoch_end": True}
    newest = {**common, "filename": "{env_frames:.0f}", "monitor": "env_frames", "save_top_k": 3}
    highest = {**common, "filename": "best_{env_frames:.0f}", "monitor": "eval/return"}
    both = [(cls, {**arguments, "auto_insert_metric_name": False}) for arguments in (newest, highest)]
    command = ["fit", *TINY_SAC, "--config", append_callbacks(Path("both.yaml"), both)]
    for run, frames in (("straight", 600), ("run", 400)):
        assert call(*command, f"--trainer.default_root_dir={run}", f"--max_frames={frames}").code == 0
    if way == "moved":
        Path("run").rename("moved")
    options = {
        "config": ["--config=run/config.yaml", "--ckpt_path=last"],
        "checkpoint": ["--ckpt_path=run/checkpoints/last.ckpt"],
        "moved": ["--ckpt_path=moved/checkpoints/last.ckpt"],
    }[way]
    assert call("fit", *options, "--max_frames=600").code == 0
    files, known = kept(Path("moved" if way == "moved" else "run"))
    assert (files, known) == kept(Path("straight"))
    assert {"400.ckpt", "500.ckpt", "600.ckpt", "last.ckpt"} < files
    assert len(files) == 5
