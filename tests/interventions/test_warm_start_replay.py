"""WarmStartReplay: what is copied from another run, what is left out, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit_tiny
from real_runs import fit_real
from run_state import replay_state

from callbacks import AnnealHorizon, HeavyPriming, WarmStartReplay
from plasticity_rl import DrQV2, UserError
from plasticity_rl.callback import RLCallback

NO_SEED_PHASE = {"agent_options": {"num_seed_frames": 0}}


def donor(folder: Path, *, max_frames: int = 100, **data_options: Any) -> DrQV2:
    """A run of 50 env steps: two episodes of 20 (21 records each) and an open one of 10."""
    options = {"eval_every_n_frames": max_frames, **data_options}
    return fit_tiny(folder, max_frames=max_frames, seed=5, data_options=options)


class Start(RLCallback):
    """Notes the replay before the first env step."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.replay = replay_state(pl_module)
        self.num_transitions = pl_module.data.replay.num_transitions
        self.frames = pl_module.env_frames


def started(tmp_path: Path, path: Path | str | None, **options: Any) -> Start:
    start = Start()
    fit_tiny(tmp_path / "fresh", callbacks=[WarmStartReplay(path=str(path)), start], max_frames=60, **options)
    return start


def test_every_record_is_there_before_the_first_env_step(tmp_path: Path):
    agent = donor(tmp_path / "donor")
    (theirs,) = replay_state(agent)["records"]
    start = started(tmp_path, tmp_path / "donor")
    (records,) = start.replay["records"]
    assert start.frames == 0
    assert start.num_transitions == 20 + 20 + 9  # the open episode's last record has no next frame: it only ends it
    assert len(records["step"]) == 21 + 21 + 10
    assert records["step"].tolist() == [*range(21), *range(21), *range(10)]
    assert records["terminal"].nonzero().flatten().tolist() == [20, 41, 51]
    assert torch.equal(records["pixels"], theirs["pixels"])
    for name in ("action", "reward", "discount"):
        assert torch.equal(records[name][:-1], theirs[name][:-1]), name
        assert not records[name][-1].any(), name
    assert start.replay["writer"]["position"].tolist() == [0], "the next record starts an episode"


def test_the_donor_is_not_changed(tmp_path: Path):
    donor(tmp_path / "donor")
    files = {p: p.read_bytes() for p in (tmp_path / "donor").rglob("*") if p.is_file()}
    started(tmp_path, tmp_path / "donor")
    assert {p: p.read_bytes() for p in (tmp_path / "donor").rglob("*") if p.is_file()} == files


def test_an_episode_whose_beginning_was_overwritten_is_left_out(tmp_path: Path):
    donor(tmp_path / "donor", capacity=40)  # the newest 40 of 52 records: 9 of the first episode, 21, 10
    (records,) = started(tmp_path, tmp_path / "donor").replay["records"]
    assert records["step"].tolist() == [*range(21), *range(10)]


@pytest.mark.parametrize(("theirs", "mine"), [(2, 1), (1, 2), (2, 2)])
def test_episodes_are_shared_out_over_environments(theirs: int, mine: int, tmp_path: Path):
    """Two environments of 25 steps each (21 + 5 records), or one of 50."""
    donor(tmp_path / "donor", num_envs=theirs)
    start = started(tmp_path, tmp_path / "donor", data_options={"num_envs": mine, "eval_every_n_frames": 60})
    lanes = [records["step"].tolist() for records in start.replay["records"]]
    first, second, cut = list(range(21)), list(range(21)), list(range(5))
    expected = {
        (2, 1): [[*first, *cut, *second, *cut]],
        (1, 2): [[*first, *range(10)], second],
        (2, 2): [[*first, *cut], [*cut, *second]],  # each to the environment that has the fewest records
    }
    assert lanes == expected[theirs, mine]


def test_windows_never_reach_from_one_episode_into_another(tmp_path: Path):
    """Reward and next frame of every window come from the donor's own episode; the tiny env draws its step number."""
    donor(tmp_path / "donor")
    agent = fit_tiny(tmp_path / "fresh", callbacks=[WarmStartReplay(path=str(tmp_path / "donor"))], max_frames=60)
    batch = agent.data.replay.peek(2000, torch.Generator().manual_seed(0))
    step_of = lambda pixels: pixels[:, 2::3, 0, 0].long() // 10  # noqa: E731 - (B, 3 frames)
    now, then = step_of(batch["pixels"]), step_of(batch["next", "pixels"])
    assert torch.equal(now[:, 2] + 3, then[:, 2])
    assert torch.equal(now[:, 1], (now[:, 2] - 1).clamp(min=0))
    assert torch.equal(now[:, 0], (now[:, 2] - 2).clamp(min=0))


def test_a_checkpoint_can_be_named_and_updates_may_start_at_once(tmp_path: Path):
    donor(tmp_path / "donor")
    warm = WarmStartReplay(path=str(tmp_path / "donor" / "checkpoints" / "last.ckpt"))
    agent = fit_tiny(tmp_path / "fresh", callbacks=[warm], max_frames=20, **NO_SEED_PHASE)
    assert agent.num_updates == 5  # 10 env steps at replay ratio 0.5
    with pytest.raises(UserError, match="batch_size=8 is larger than the 0 transitions of the seed phase"):
        fit_tiny(tmp_path / "cold", callbacks=[WarmStartReplay(path=None)], max_frames=20, **NO_SEED_PHASE)


def test_the_seed_phase_stays(tmp_path: Path):
    donor(tmp_path / "donor")
    agent = fit_tiny(tmp_path / "fresh", callbacks=[WarmStartReplay(path=str(tmp_path / "donor"))], max_frames=60)
    assert agent.num_updates == 5  # 40 of 60 frames


def test_priming_takes_the_first_of_the_copied_transitions(tmp_path: Path):
    donor(tmp_path / "donor")
    given = [WarmStartReplay(path=str(tmp_path / "donor")), HeavyPriming(num_transitions=45, num_updates=9)]
    agent = fit_tiny(tmp_path / "fresh", callbacks=given, max_frames=20, **NO_SEED_PHASE)
    assert agent.num_updates == 9 + 5


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_a_resumed_run_needs_the_other_run_no_more(storage: str, tmp_path: Path):
    donor(tmp_path / "donor")
    options = {"data_options": {"storage": storage, "eval_every_n_frames": 60}}
    callback = WarmStartReplay(path=str(tmp_path / "donor"))
    first = fit_tiny(tmp_path / "run", callbacks=[callback], max_frames=60, **options)
    written = int(first.data.replay.written.sum())
    shutil.rmtree(tmp_path / "donor")
    resumed = fit_tiny(tmp_path / "run", callbacks=[callback], max_frames=80, ckpt_path="last", **options)
    assert int(resumed.data.replay.written.sum()) - written in (10, 11), "10 transitions more; a first record, maybe"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "other"}, "has task=tiny, but this run has other"),
        ({"action_repeat": 4}, "has action_repeat=2, but this run has 4"),
        ({"frame_stack": 2}, "has frame_stack=3, but this run has 2"),
        ({"image_size": 20}, "has image_size=16, but this run has 20"),
        ({"render": "fast"}, "has render=exact, but this run has fast"),
        ({"capacity": 40}, r"does not fit: raise data.capacity \(now 40\)"),
    ],
)
def test_other_data_is_refused_by_name(options: dict, message: str, tmp_path: Path):
    donor(tmp_path / "donor")
    start = Start()
    given = [WarmStartReplay(path=str(tmp_path / "donor")), start]
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path / "fresh", callbacks=given, data_options=options, agent_options={"num_seed_frames": 80})
    assert not hasattr(start, "frames")


def test_other_action_dimensions_are_refused(tmp_path: Path, monkeypatch):
    donor(tmp_path / "donor")
    from plasticity_rl.data.module import RLDataModule

    build = RLDataModule.__init__

    def with_two_actions(self, *args, **options) -> None:
        build(self, *args, **options)
        self.action_dim = 2

    monkeypatch.setattr(RLDataModule, "__init__", with_two_actions)
    with pytest.raises(UserError, match="has action_dim=1, but this run has 2"):
        fit_tiny(tmp_path / "fresh", callbacks=[WarmStartReplay(path=str(tmp_path / "donor"))])


def test_states_can_be_copied_and_are_not_mistaken_for_pixels(tmp_path: Path):
    agent = donor(tmp_path / "donor", observation="state")
    (theirs,) = replay_state(agent)["records"]
    start = started(tmp_path, tmp_path / "donor", data_options={"observation": "state"})
    (records,) = start.replay["records"]
    assert torch.equal(records["state"], theirs["state"])
    assert records["step"].tolist() == [*range(21), *range(21), *range(10)]
    with pytest.raises(UserError, match="has observation=state, but this run has pixels"):
        fit_tiny(tmp_path / "pixels", callbacks=[WarmStartReplay(path=str(tmp_path / "donor"))])


def test_two_donors_are_refused(tmp_path):
    both = [WarmStartReplay(path=str(tmp_path / name)) for name in ("one", "two")]
    with pytest.raises(UserError, match="both fill the replay of a new run"):
        fit_tiny(tmp_path / "run", callbacks=both)


def test_a_path_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nothing is no run: there is no file"):
        fit_tiny(tmp_path / "a", callbacks=[WarmStartReplay(path=str(tmp_path / "nothing"))])
    agent = donor(tmp_path / "donor")
    (tmp_path / "donor" / "replay").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="has no replay in"):
        fit_tiny(tmp_path / "b", callbacks=[WarmStartReplay(path=agent.trainer.default_root_dir)])


def test_200_updates_on_the_pixels_of_another_run(tmp_path: Path):
    short = {"data_options": {"max_frames": 800, "eval_every_n_frames": 800}}
    fit_real(tmp_path / "donor", callbacks=[], **short)
    given = [WarmStartReplay(path=str(tmp_path / "donor"))]
    agent = fit_real(tmp_path / "fresh", callbacks=given, **short, agent_options={"num_seed_frames": 0})
    assert agent.num_updates == 200  # 100 env steps at replay ratio 2
    assert agent.data.replay.num_transitions == 99 + 100  # the donor's open episode lost its last


@pytest.mark.parametrize("turn", [1, -1])
def test_a_replay_shorter_than_the_first_windows_is_refused_in_any_order(turn, tmp_path):
    """AnnealHorizon sets them when a fit starts, and WarmStartReplay fills then."""
    short = {"eval_every_n_frames": 8, "n_step": 1, "batch_size": 2}
    fit_tiny(tmp_path / "donor", max_frames=8, seed=5, data_options=short, agent_options={"num_seed_frames": 4})
    given = [WarmStartReplay(path=str(tmp_path / "donor")), AnnealHorizon(first_n_step=6, num_updates=50)][::turn]
    with pytest.raises(UserError, match="holds no transition that can be learned from"):
        fit_tiny(tmp_path / "run", callbacks=given, data_options={"n_step": 1}, agent_options={"num_seed_frames": 0})
