"""A loss that is not a number, a simulator that dies: one line, exit code 1, and the last checkpoint is good."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, call, checkpoint, tree
from fault_callbacks import PoisonLoss, PoisonWeights, make_dying_env
from helpers import fit_tiny, tiny_agent, tiny_data
from real_runs import fit_real
from run_state import differences, run_state
from tensordict import TensorDict

from plasticity_rl import DrQV2, make_trainer
from plasticity_rl.errors import RunFailure
from plasticity_rl.run.nan_guard import DetectNaN


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run_state(fit_tiny(tmp_path_factory.mktemp("straight")))


def frames(folder: Path) -> int:
    return checkpoint(folder)["rl"]["env_frames"]


@pytest.mark.parametrize("loss", ["critic", "actor"])
def test_a_loss_that_is_nan_is_named_with_its_frame_and_the_last_good_checkpoint(loss, straight, tmp_path):
    with pytest.raises(RunFailure) as failure:
        fit_tiny(tmp_path, callbacks=[PoisonLoss(loss, frame=130)])
    message = str(failure.value)
    last = tmp_path / "checkpoints" / "last.ckpt"
    # Update credit is earned at 0.5 per env step, so that the first update from frame 130 on is at frame 132.
    others, modules = {
        "critic": ("loss/actor, poison/loss", "critic, critic_target"),
        "actor": ("poison/loss", "actor"),
    }[loss]
    found = f"loss/{loss} became NaN or infinite at env frame 132 (and {others}), by now also weights of {modules}."
    assert message.startswith(found)
    assert f"at env frame 132; the last checkpoint is {last}: go on with fit(..., ckpt_path='last')" in message
    assert "\n" not in message
    assert frames(tmp_path) == 100
    assert "RunFailure: loss/" in (tmp_path / "error.txt").read_text()
    resumed = fit_tiny(tmp_path, ckpt_path="last")
    assert differences(straight, run_state(resumed)) == []


def test_weights_that_are_not_finite_do_not_replace_a_good_checkpoint(tmp_path):
    before = {}

    class Before(PoisonWeights):
        def on_validation_end(self, trainer, pl_module) -> None:
            super().on_validation_end(trainer, pl_module)
            before.update(tree(tmp_path / "checkpoints"))

    with pytest.raises(RunFailure, match=r"^NaN or infinity in actor\.trunk\.0\.weight\. The run was stopped at env f"):
        fit_tiny(tmp_path, callbacks=[Before(frame=200)])
    assert tree(tmp_path / "checkpoints") == before
    assert frames(tmp_path) == 100


def test_without_the_check_a_run_goes_on(tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[PoisonLoss()], trainer_options={"detect_nan": False})
    assert agent.env_frames == 200
    assert not all(torch.isfinite(p).all() for p in agent.actor.parameters())


def test_the_command_line_ends_with_one_line_and_code_1(tmp_path):
    poison = ["--trainer.callbacks+=fault_callbacks.PoisonLoss", f"--trainer.default_root_dir={tmp_path}"]
    result = call("fit", *TINY, *poison, "--max_frames=200")
    assert result.code == 1
    assert result.err.startswith("error: loss/actor became NaN")
    assert len(result.err.strip().splitlines()) == 1
    off = call("fit", *TINY, *poison, "--ckpt_path=last", "--max_frames=200", "--detect_nan=false")
    assert off.code == 0, off.err


def test_the_first_of_several_losses_is_named(tmp_path):
    """Losses are noted on the device and read later: what followed from the first NaN must not be blamed."""
    data = tiny_data()
    agent, guard = tiny_agent(data), DetectNaN()
    nan, one = torch.tensor(float("nan")), torch.tensor(1.0)
    for frame, critic, actor in [(10, one, one), (20, one, nan), (30, nan, nan), (40, one, one)]:
        agent.env_frames = frame
        guard.on_update_end(agent, TensorDict(), TensorDict({"loss/critic": critic, "loss/actor": actor, "q": nan}))
    agent.trainer = make_trainer(tmp_path, callbacks=[guard], logger=False, enable_progress_bar=False)
    agent.trainer.strategy.connect(agent)
    with pytest.raises(RunFailure, match=r"^loss/actor became NaN or infinite at env frame 20\. The run"):
        guard.look(agent)


@pytest.mark.gpu
def test_noting_a_loss_does_not_wait_for_the_gpu(tmp_path):
    agent, guard = tiny_agent(tiny_data()).cuda(), DetectNaN()
    losses = TensorDict({"loss/critic": torch.ones((), device="cuda")})
    guard.on_update_end(agent, TensorDict(), losses)
    torch.cuda.set_sync_debug_mode("error")
    try:
        guard.on_update_end(agent, TensorDict(), losses)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    guard.look(agent)


def test_a_simulator_that_dies_is_one_line_and_its_run_goes_on_exactly(straight, tmp_path):
    with pytest.raises(RunFailure) as failure:
        fit_tiny(tmp_path, data_options={"env": make_dying_env})
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert str(failure.value) == (
        "an environment of tiny failed (OSError: the simulator's process has died) at env frame 148; "
        f"the last checkpoint is {last}: go on with fit(..., ckpt_path='last')"
    )
    assert "and more lines about it" in (tmp_path / "error.txt").read_text()
    assert differences(straight, run_state(fit_tiny(tmp_path, ckpt_path="last"))) == []


def test_the_command_line_ends_with_one_line_when_a_simulator_dies(tmp_path):
    result = call(
        "fit",
        *TINY,
        "--data.env=fault_callbacks.make_dying_env",
        "--max_frames=200",
        f"--trainer.default_root_dir={tmp_path}",
    )
    assert result.code == 1
    assert result.err.startswith("error: an environment of tiny failed (OSError: the simulator's process has died)")
    assert len(result.err.strip().splitlines()) == 1
    assert frames(tmp_path) == 100


@pytest.mark.slow
def test_a_render_context_that_fails_is_one_line(tmp_path, monkeypatch):
    from dm_control.mujoco.engine import Camera

    render, calls = Camera.render, []

    def failing(self, *args, **options):
        calls.append(1)
        if len(calls) > 200:  # the evaluation at frame 0 draws 126 pictures
            raise RuntimeError("GL context lost")
        return render(self, *args, **options)

    monkeypatch.setattr(Camera, "render", failing)
    with pytest.raises(
        RunFailure, match=r"^an environment of cartpole_swingup failed \(RuntimeError: GL context lost\)"
    ):
        fit_real(tmp_path, callbacks=[])
    assert frames(tmp_path) == 0


def no_room(kind: str) -> None:
    if kind == "gpu":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    if kind == "python":
        raise MemoryError
    torch.empty(2**50, dtype=torch.uint8)  # torch's own words


@pytest.mark.parametrize("kind", ["cpu", "gpu", "python"])
def test_too_little_memory_is_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("plasticity_rl.agents.drqv2.agent.DrQV2.act", lambda *args, **options: no_room(kind))
    result = call("fit", *TINY, "--max_frames=200", f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 1
    assert result.err.startswith("error: out of memory (")
    assert "lower --data.batch_size" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_an_error_of_the_policy_is_not_blamed_on_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr("plasticity_rl.agents.drqv2.agent.DrQV2.act", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit_tiny(tmp_path)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("nothing"), r"KeyError: 'nothing' \(test_failures\.py:\d+, fail\)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), r"the quota of disk space is used up: .*exceeded: /x\)"),
        (OSError(errno.EMFILE, "Too many open files"), r"too many open files: raise the limit \(ulimit -n\).*"),
    ],
    ids=["program", "quota", "files"],
)
def test_whatever_ends_a_run_is_one_line_with_the_command_that_goes_on(error, says, tmp_path, monkeypatch):
    act = DrQV2.act

    def fail(agent, *args, **options):
        if agent.env_frames >= 130:
            raise error
        return act(agent, *args, **options)

    monkeypatch.setattr(DrQV2, "act", fail)
    result = call("fit", *TINY, "--max_frames=200", f"--trainer.default_root_dir={tmp_path}")
    last = tmp_path / "checkpoints" / "last.ckpt"
    line = rf"error: {says} at env frame 130; the last checkpoint is {last}: go on with --ckpt_path last; the command: "
    assert re.match(line + rf"plasticity-rl fit --ckpt_path={last}", result.err.splitlines()[-1]), result.err
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "in fail" in (tmp_path / "error.txt").read_text()
    monkeypatch.undo()
    went_on = call("fit", f"--ckpt_path={last}")
    assert went_on.code == 0, went_on.err
