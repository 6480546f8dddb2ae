"""ContinualTasks: where the boundaries are, what does not cross them, and what is logged under which name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, weights_hash
from only_q import only_q
from real_runs import fit_real
from run_state import Log, differences, replay_state, run_state

from callbacks import ContinualTasks, WarmStartReplay
from plasticity_rl import RLDataModule, UserError, make_trainer
from plasticity_rl.callback import RLCallback

TWO = {"tasks": ["tiny", "tiny_away"], "every_n_frames": 100}
GREY = 100
"""Ground of ``tiny_away``; that of ``tiny`` is black."""


def ground(pixels: torch.Tensor) -> torch.Tensor:
    """The corner of every frame, ``(batch, frames)``: it tells the task."""
    return pixels[:, ::3, -1, -1]


class Diary(RLCallback):
    """Notes of every env step its frame, task, ground, position in the episode, and last observation."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, str, int]] = []
        self.next_pixels: dict[int, torch.Tensor] = {}

    def on_env_step(self, agent, step) -> None:
        (shown,) = set(ground(step["pixels"]).flatten().tolist())
        self.steps.append((agent.env_frames, agent.data.current_task, shown))
        self.next_pixels[agent.env_frames] = step["next", "pixels"].clone()


def test_tasks_change_at_their_frames_and_in_a_cycle(tmp_path: Path):
    diary = Diary()
    fit_tiny(tmp_path, callbacks=[ContinualTasks(**{**TWO, "every_n_frames": 60}), diary], max_frames=200)
    for frames, task, shown in diary.steps:
        visit = (frames - 1) // 60  # the step that ends at frame 60 is the last of visit 0
        assert (task, shown) == (("tiny", 0), ("tiny_away", GREY))[visit % 2]
    assert [frames for frames, *_ in diary.steps] == list(range(2, 201, 2))


@pytest.mark.parametrize("num_envs", [1, 2])
def test_the_open_episode_is_cut_behind_its_last_transition(num_envs: int, tmp_path: Path):
    """Per environment: 100 frames are 50 steps of one env (20, 20, 10), or 25 of each of two (20, 5)."""
    diary, options = Diary(), {"num_envs": num_envs, "eval_every_n_frames": 100}
    agent = fit_tiny(tmp_path, callbacks=[ContinualTasks(**TWO), diary], max_frames=180, data_options=options)
    for lane, records in enumerate(replay_state_of(agent)):
        whole, cut, after = ([21, 21], 11, 40) if num_envs == 1 else ([21], 6, 20)
        first = [step for length in [*whole, cut] for step in range(length)]
        assert records["step"].tolist()[: len(first)] == first
        boundary = len(first)
        assert records["terminal"][:boundary].nonzero().flatten().tolist()[-1] == boundary - 1
        assert torch.equal(records["pixels"][boundary - 1], diary.next_pixels[100][lane, -3:])
        assert records["step"][boundary] == 0
        assert set(records["pixels"][:boundary, 0, -1, -1].tolist()) == {0}
        assert set(records["pixels"][boundary:, 0, -1, -1].tolist()) == {GREY}
        transitions = (~records["terminal"]).sum().item()
        assert transitions == 50 // num_envs + after


def replay_state_of(agent) -> list:
    return replay_state(agent)["records"]


def test_no_stack_and_no_return_reaches_across(tmp_path: Path):
    agent = fit_tiny(tmp_path, callbacks=[ContinualTasks(**TWO)], max_frames=300)
    batch = agent.data.replay.peek(4000, torch.Generator().manual_seed(0))
    now, then = ground(batch["pixels"]), ground(batch["next", "pixels"])
    assert torch.equal(now, now[:, :1].expand(-1, 3))
    assert torch.equal(then, now)
    assert set(now.unique().tolist()) == {0, GREY}, "the replay keeps both"
    # Row 0 of the blue channel shows ten times the step: the last window of the cut episode ends at step 10.
    black = now[:, 0] == 0
    ends = batch["next", "pixels"][black, -1, 0, 0].long() // 10
    assert int(ends[torch.isin(batch["pixels"][black, -1, 0, 0].long() // 10, torch.tensor([7]))].unique()) == 10


def test_an_episode_that_ends_at_the_boundary_is_not_cut(tmp_path: Path):
    options = {"tasks": ["tiny", "tiny_away"], "every_n_frames": 80}  # two whole episodes of 40 frames
    agent = fit_tiny(tmp_path, callbacks=[ContinualTasks(**options)], max_frames=160)
    (records,) = replay_state_of(agent)
    assert records["step"].tolist() == [*range(21)] * 4


def test_returns_are_logged_under_the_task_that_earned_them(tmp_path: Path, monkeypatch):
    log = Log(monkeypatch)
    fit_tiny(tmp_path, callbacks=[ContinualTasks(**TWO)], max_frames=300)
    scalars, events = log.take()
    at = lambda tag: [frames for frames, name, _ in scalars if name == tag]  # noqa: E731
    assert at("eval/tiny/return") == [0, 100, 300]
    assert at("eval/tiny_away/return") == [200]
    # Episodes of 40 frames; those open at 100 and 200 have no return.
    assert at("train/tiny/return") == [40, 80, 240, 280]
    assert at("train/tiny_away/return") == [140, 180]
    # A curve for each visit: 0 and 2 are to the first task; evaluations at a boundary are of the visit that ends.
    assert at("train/tiny/visit_0/return") == [40, 80]
    assert at("train/tiny/visit_2/return") == [240, 280]
    assert at("train/tiny_away/visit_1/return") == [140, 180]
    assert at("eval/tiny/visit_0/return") == [0, 100]
    assert at("eval/tiny_away/visit_1/return") == [200]
    assert at("eval/tiny/visit_2/return") == [300]
    assert [(f, v) for f, tag, v in scalars if tag.endswith("/visit")] == [(100, 1), (200, 2)]
    assert [(frame, text) for frame, _, text in events] == [
        (100, "tiny_away from frame 100 on, visit 1"),
        (200, "tiny from frame 200 on, visit 2"),
    ]
    values = {(f, tag): v for f, tag, v in scalars}
    assert values[200, "eval/tiny_away/return"] == values[200, "eval/return"]
    assert values[140, "train/tiny_away/visit_1/return"] == values[140, "train/return"]
    assert values[200, "eval/tiny_away/visit_1/return"] == values[200, "eval/return"]
    assert values[140, "train/tiny_away/return"] == values[140, "train/return"]


def test_all_tasks_are_evaluated_on_request(tmp_path: Path, monkeypatch):
    log = Log(monkeypatch)
    both = fit_tiny(tmp_path / "all", callbacks=[ContinualTasks(**TWO, evaluate="all")])
    scalars, _ = log.take()
    for task in TWO["tasks"]:
        assert [frames for frames, tag, _ in scalars if tag == f"eval/{task}/return"] == [0, 100, 200]
    current = fit_tiny(tmp_path / "current", callbacks=[ContinualTasks(**TWO)])
    states = run_state(both), run_state(current)
    for part in ("weights", "optimizers", "replay", "generators", "global generators"):
        assert differences(states[0][part], states[1][part]) == [], "evaluating more changes nothing"


def test_learning_goes_on(tmp_path: Path):
    """As many updates as without switches, and Adam counts them all."""
    agent = fit_tiny(tmp_path / "a", callbacks=[ContinualTasks(**TWO)], max_frames=300)
    assert agent.num_updates == fit_tiny(tmp_path / "b", max_frames=300).num_updates
    assert {float(state["step"]) for state in agent.trainer.optimizers[2].state.values()} == {agent.num_updates}


def test_a_second_visit_is_not_the_first_again(tmp_path: Path):
    agent = fit_tiny(tmp_path, callbacks=[ContinualTasks(**{**TWO, "every_n_frames": 40})], max_frames=120)
    (records,) = replay_state_of(agent)
    starts = records["pixels"][records["step"] == 0]
    assert len(starts) == 3
    assert not torch.equal(starts[0], starts[2])


def test_one_task_only_is_the_plain_run_until_its_first_boundary(tmp_path: Path):
    listed = fit_tiny(tmp_path / "a", callbacks=[ContinualTasks(tasks=["tiny"], every_n_frames=200)])
    assert weights_hash(listed) == weights_hash(fit_tiny(tmp_path / "b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["tiny", "tiny_2d"]}, "tiny_2d has 2 action dimensions, but tiny has 1; .* tasks of equal actions"),
        ({"tasks": ["tiny_away", "tiny"]}, r"must begin with task=tiny: use RLDataModule\(task='tiny_away'\)"),
        ({"every_n_frames": 101}, "every_n_frames=101 must be a multiple of .* = 2"),
    ],
)
def test_what_cannot_work_is_refused_before_training(arguments: dict, message: str, tmp_path: Path):
    diary = Diary()
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[ContinualTasks(**{**TWO, **arguments}), diary])
    assert diary.steps == []


def test_two_of_them_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="both choose the task"):
        fit_tiny(tmp_path, callbacks=[ContinualTasks(**TWO), ContinualTasks(**{**TWO, "evaluate": "all"})])


@pytest.mark.parametrize("arguments", [{"tasks": []}, {"every_n_frames": 0}, {"evaluate": "none"}])
def test_impossible_arguments_are_refused(arguments: dict):
    with pytest.raises(UserError, match=next(iter(arguments))):
        ContinualTasks(**{**TWO, **arguments})


WALKER = {"tasks": ["walker_stand", "walker_walk", "walker_run"], "every_n_frames": 400}


def test_200_updates_on_three_walkers(tmp_path: Path):
    options = {"task": "walker_stand", "max_frames": 1200, "eval_every_n_frames": 1200}
    agent = fit_real(tmp_path, callbacks=[ContinualTasks(**WALKER)], data_options=options)
    assert agent.num_updates == 200
    assert agent.data.current_task == "walker_run"
    (records,) = replay_state_of(agent)
    assert records["step"].tolist() == [*range(51)] * 2 + [*range(50)]  # 50 steps of 8 frames, and the last frame


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_task_it_was_in(tmp_path: Path):
    options = {"task": "walker_stand", "max_frames": 1200, "eval_every_n_frames": 600}
    straight = fit_real(tmp_path / "a", callbacks=[ContinualTasks(**WALKER)], data_options=options)
    fit_real(tmp_path / "b", callbacks=[ContinualTasks(**WALKER)], data_options={**options, "max_frames": 600})
    resumed = fit_real(tmp_path / "b", callbacks=[ContinualTasks(**WALKER)], data_options=options, ckpt_path="last")
    assert differences(run_state(straight), run_state(resumed)) == []


def test_walker_and_cartpole_are_refused(tmp_path: Path):
    message = "walker_walk has 6 action dimensions, but cartpole_swingup has 1"
    with pytest.raises(UserError, match=message):
        fit_real(tmp_path, callbacks=[ContinualTasks(tasks=["cartpole_swingup", "walker_walk"], every_n_frames=400)])


# ---- what a visit came to ------------------------------------------------------------------------------


def test_a_visit_is_summed_up_at_its_last_frame(tmp_path: Path, monkeypatch):
    """Visits of 100 frames hold two whole episodes of 40 frames each; the last of 300 frames ends with the run."""
    log = Log(monkeypatch)
    fit_tiny(tmp_path, callbacks=[ContinualTasks(**TWO)], max_frames=300)
    scalars, _ = log.take()
    values = {(frame, tag): value for frame, tag, value in scalars}
    for end, task, episodes in ((100, "tiny", (40, 80)), (200, "tiny_away", (140, 180)), (300, "tiny", (240, 280))):
        returns = [values[frame, f"train/{task}/return"] for frame in episodes]
        assert values[end, f"train/{task}/visit_return"] == pytest.approx(sum(returns) / 2)
        assert values[end, f"train/{task}/visit_episodes"] == 2
    assert sum(tag.endswith("/visit_return") for _, tag, _ in scalars) == 3


def test_only_the_last_episodes_of_a_visit_count(tmp_path: Path, monkeypatch):
    log = Log(monkeypatch)
    fit_tiny(tmp_path, callbacks=[ContinualTasks(**TWO, num_last_episodes=1)], max_frames=100)
    values = {(frame, tag): value for frame, tag, value in log.take()[0]}
    assert values[100, "train/tiny/visit_return"] == pytest.approx(values[80, "train/tiny/return"])
    assert values[100, "train/tiny/visit_episodes"] == 2


# ---- what carries over ------------------------------------------------------------------------------


class Learned(RLCallback):
    """Notes of every update its frame and the tasks that its batch is of."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, set[int]]] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        self.updates.append((agent.env_frames, set(ground(batch["pixels"]).flatten().tolist())))


def test_an_emptied_replay_gives_nothing_of_the_old_task_and_waits_for_a_seed_phase(tmp_path: Path):
    learned = Learned()
    run = [ContinualTasks(**TWO, empty_replay=True), learned]
    agent = fit_tiny(tmp_path, callbacks=run, max_frames=200)
    after = [(frame, tasks) for frame, tasks in learned.updates if frame > 100]
    assert {GREY} == set().union(*(tasks for _, tasks in after))
    assert after[0][0] == 144  # 40 frames, and then two env steps at half an update each
    (records,) = replay_state_of(agent)
    assert len(records["step"]) == 52  # 50 transitions, and the last frames of two episodes


def test_restarted_exploration_begins_with_uniform_actions_and_the_schedule(tmp_path: Path, monkeypatch):
    log = Log(monkeypatch)
    callbacks = [ContinualTasks(**TWO, restart_exploration=True)]
    options = {"trainer_options": {"log_every_n_steps": 1}}
    agent = fit_tiny(tmp_path, callbacks=callbacks, max_frames=200, **options)
    stddev = {frame: value for frame, tag, value in log.take()[0] if tag == "schedule/stddev"}
    # linear(1.0,0.1,200) in env steps, each of 2 frames: 1 - 0.9 * 50 / 200 at frame 100, and at 200 again.
    assert stddev[100] == pytest.approx(0.775)
    assert stddev[102] == pytest.approx(1 - 0.9 * 1 / 200)
    assert stddev[200] == pytest.approx(0.775)
    assert (agent.env_steps, agent.steps_of_exploration, agent.frames_of_exploration) == (100, 50, 100)
    assert agent.num_updates == 40  # none is left out: the replay is full


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_both_go_on_exactly(storage: str, tmp_path: Path):
    """Checkpoints before the first switch, in the second seed phase behind it, and while it learns again."""
    make = lambda: [ContinualTasks(**TWO, empty_replay=True, restart_exploration=True)]  # noqa: E731
    options = {"data_options": {"eval_every_n_frames": 30, "storage": storage, "capacity": 70}}
    straight = fit_tiny(tmp_path / "a", callbacks=make(), max_frames=250, **options)
    for stop in (90, 120, 180, 250):
        resumed = fit_tiny(
            tmp_path / "b", callbacks=make(), max_frames=stop, ckpt_path="last" if stop > 90 else None, **options
        )
    assert differences(run_state(straight), run_state(resumed)) == []
    assert resumed.steps_of_exploration == 25


@pytest.mark.parametrize("option", ["empty_replay", "restart_exploration"])
def test_a_visit_must_be_longer_than_its_seed_phase(option: str, tmp_path: Path):
    callback = ContinualTasks(tasks=TWO["tasks"], every_n_frames=40, **{option: True})
    with pytest.raises(UserError, match="every_n_frames=40 must be more than the .*num_seed_frames.*40"):
        fit_tiny(tmp_path, callbacks=[callback])


# ---- games ------------------------------------------------------------------------------


def test_discrete_tasks_take_turns(tmp_path: Path):
    tasks = ContinualTasks(tasks=["tiny_discrete", "tiny_discrete_away"], every_n_frames=100, empty_replay=True)
    agent = fit_tiny(tmp_path, callbacks=[tasks], make_agent=only_q, data_options={"task": "tiny_discrete"})
    assert agent.data.current_task == "tiny_discrete_away"
    (records,) = replay_state_of(agent)
    assert set(records["pixels"][:, :, -1, -1].flatten().tolist()) == {GREY}
    assert records["action"].dtype == torch.int64


def test_other_numbers_of_actions_are_refused(tmp_path: Path):
    tasks = ContinualTasks(tasks=["tiny_discrete", "tiny_discrete_2"], every_n_frames=100)
    with pytest.raises(UserError, match="tiny_discrete_2 has 2 discrete actions, but tiny_discrete has 3; .* games"):
        fit_tiny(tmp_path, callbacks=[tasks], make_agent=only_q, data_options={"task": "tiny_discrete"})
    mixed = ContinualTasks(tasks=["tiny_discrete", "tiny"], every_n_frames=100)
    with pytest.raises(UserError, match="tiny has 0 discrete actions, but tiny_discrete has 3"):
        fit_tiny(tmp_path, callbacks=[mixed], make_agent=only_q, data_options={"task": "tiny_discrete"})


def in_a_cycle(tasks: list[str], folder: Path, **data: Any) -> Any:
    """Train the smallest agent on games, in visits of 80 frames."""
    given = {
        "task": tasks[0],
        "max_frames": 240,
        "batch_size": 4,
        "capacity": 100,
        "eval_every_n_frames": 240,
        "seed": 1,
    }
    module = RLDataModule(**{**given, "num_eval_episodes": 1, **data})
    trainer = make_trainer(folder, callbacks=[ContinualTasks(tasks=tasks, every_n_frames=80)], **TINY_TRAINER)
    agent = only_q(module, 1)
    trainer.fit(agent, module)
    return agent


GAMES = {
    "atari": ("ale_py", ["atari:pong", "atari:breakout"], {"full_actions": True, "max_episode_frames": 160}),
    "minatar": (
        "minatar",
        ["minatar:space_invaders", "minatar:breakout"],
        {"full_actions": True, "channels": 10, "max_episode_frames": 100},
    ),
}


@pytest.mark.parametrize("kind", GAMES)
def test_games_take_turns_with_all_actions(kind: str, tmp_path: Path):
    module, tasks, options = GAMES[kind]
    pytest.importorskip(module)
    agent = in_a_cycle(tasks, tmp_path, **options)
    assert agent.data.current_task == tasks[0]
    assert agent.data.num_actions == {"atari": 18, "minatar": 6}[kind]


@pytest.mark.parametrize(
    ("module", "tasks", "options", "says"),
    [
        (
            "ale_py",
            ["atari:pong", "atari:breakout"],
            {},
            "has 4 discrete actions, but atari:pong has 6; .*full_actions",
        ),
        (
            "ale_py",
            ["atari:pong", "atari:qbert"],
            {},
            "the 6 actions of atari:qbert mean others than those of atari:pong",
        ),
        (
            "minatar",
            ["minatar:breakout", "minatar:freeway"],
            {"channels": 10},
            "the 3 actions .* mean others .*channels",
        ),
        (
            "minatar",
            ["minatar:space_invaders", "minatar:breakout"],
            {"full_actions": True},
            r"has \(4, 10, 10\) observations, but .* has \(6, 10, 10\); .*channels",
        ),
    ],
)
def test_games_that_do_not_fit_are_refused(module, tasks, options, says, tmp_path: Path):
    pytest.importorskip(module)
    with pytest.raises(UserError, match=says):
        in_a_cycle(tasks, tmp_path, **options)


def test_every_visit_needs_a_seed_phase_that_holds_a_batch(tmp_path):
    """Another run's replay fills that of the first visit alone."""
    fit_tiny(tmp_path / "donor", max_frames=100, seed=5)
    tasks = ContinualTasks(tasks=["tiny", "tiny_away"], every_n_frames=100, empty_replay=True)
    given = [tasks, WarmStartReplay(path=str(tmp_path / "donor"))]
    with pytest.raises(UserError, match=r"ContinualTasks.empty_replay=True: batch_size=8 is larger than the 0 tr"):
        fit_tiny(tmp_path / "run", callbacks=given, agent_options={"num_seed_frames": 0})
