"""An option that changes when a run goes on is applied and said, or refused by name: the table, over all options."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_DISCRETE, fit_tiny, tiny_agent, tiny_dqn, tiny_sac
from lightning.pytorch.callbacks import EarlyStopping
from tiny_env import make_tiny_env

import callbacks as ours
from plasticity_rl.agents.resume_rules import RULES
from plasticity_rl.agents.spelling import same
from plasticity_rl.augment import RandomShift
from plasticity_rl.cli.app import AGENTS
from plasticity_rl.data.options import DataOptions
from plasticity_rl.envs.atari_options import AtariOptions
from plasticity_rl.envs.backends import all_options_classes
from plasticity_rl.envs.minatar_options import MinAtarOptions
from plasticity_rl.errors import UserError
from plasticity_rl.nn.compiled import Compiled


def other_env(*args: Any, **options: Any) -> Any:
    return make_tiny_env(*args, **options)


def option_names() -> set[str]:
    names = {f"model.{name}" for agent in AGENTS.values() for name in inspect.signature(agent).parameters}
    names |= {f"data.{field.name}" for cls in (DataOptions, *all_options_classes()) for field in fields(cls)}
    return names | {f"trainer.{name}" for name in inspect.signature(pl.Trainer).parameters if name != "callbacks"}


def test_the_table_decides_about_every_option_of_every_agent_environment_and_trainer() -> None:
    known = {name for name in RULES if "." in name}
    assert known == option_names()
    assert set(RULES) - known == {"agent", "detect_nan", "init_weights"} | {
        f"{kind} {what}"
        for kind in ("probe", "intervention", "other callback")
        for what in ("added", "removed", "changed")
    } | {"intervention of the start added"}


# ---- applied ---------------------------------------------------------------------------------------------------------


def taken(agent: Any) -> float:
    """Return by how much the target moves to a distance of 1."""
    return agent.critic_target_tau


def largest_discount(agent: Any) -> float:
    return pytest.approx(float(agent.data.replay.sample()["discount"].max()))


def learning_rates(agent: Any) -> set[float]:
    saved = torch.load(Path(agent.trainer.default_root_dir) / "checkpoints" / "last.ckpt", weights_only=True)
    groups = [g for state in saved["optimizer_states"] for g in state["param_groups"]]
    groups += [g for optimizer in agent.trainer.optimizers for g in optimizer.param_groups]
    return {group["lr"] for group in groups}


OF_ALL = {  # option -> what it is now, and how it is seen to be in effect
    "model.lr": (0.5e-3, learning_rates, {0.5e-3}),
    "model.replay_ratio": (
        2.0,
        lambda agent: agent.num_updates,
        15 + 100,
    ),  # of 30 env steps, and of 50
    "model.critic_target_tau": (0.25, taken, 0.25),
    "model.cuda_graph": (True, lambda agent: agent.static_updates is not None, True),
    "data.n_step": (2, lambda agent: agent.data.replay._windows.n_step, 2),
    "data.discount": (0.5, largest_discount, 0.25),
    "data.batch_size": (4, lambda agent: len(agent.data.replay.sample()), 4),
    "data.reward_clip": (0.5, lambda agent: float(agent.data.replay.sample()["reward"].max()) <= 0.5 * 1.5, True),
    "data.env_steps_per_tick": (5, lambda agent: agent.trainer.num_training_batches, 10),  # of 50 env steps
    "data.overlap": (True, lambda agent: "clock/policy_lag_updates" in agent.latest, True),
    "data.max_frames": (200, lambda agent: agent.env_frames, 200),
    "data.num_eval_episodes": (2, lambda agent: len(agent.played[-1]), 2),
    "data.final_eval_episodes": (2, lambda agent: "final/return" in agent.latest, True),
    "trainer.log_every_n_steps": (7, lambda agent: agent.trainer.log_every_n_steps, 7),
    "detect_nan": (False, lambda agent: [c for c in agent.trainer.callbacks if type(c).__name__ == "DetectNaN"], []),
}
OF_DRQV2 = {
    "model.stddev_schedule": ("0.4", lambda agent: agent.stddev, 0.4),
    "model.stddev_clip": (0.2, lambda agent: agent.stddev_clip, 0.2),
    "model.augment": (False, lambda agent: agent.augment, False),
    "model.random_shift_pad": (2, lambda agent: agent.augmentations.stages[0].pad, 2),
}
OF_SAC = {"model.target_entropy": (-3.0, lambda agent: agent._sac_loss(torch.Generator()).target_entropy, -3.0)}
OF_DQN = {
    "model.double": (False, lambda agent: agent._double, False),
    "model.loss": ("mse", lambda agent: agent.loss, "mse"),
    "model.max_grad_norm": (0.5, lambda agent: agent.max_grad_norm, 0.5),
    "model.target_every_n_updates": (0, lambda agent: agent.copies_target, False),
    "model.target_tau": (0.2, lambda agent: agent.target_tau, 0.2),
    "model.epsilon_schedule": ("0.3", lambda agent: agent.epsilon, 0.3),
    "model.eval_epsilon": (0.5, lambda agent: agent.eval_epsilon, 0.5),
    "model.augment": (True, lambda agent: agent.augment, True),
    "model.random_shift_pad": (2, lambda agent: agent.augmentations.stages[0].pad, 2),
    "model.intensity_scale": (0.1, lambda agent: agent.augmentations.stages[1].scale, 0.1),
}
OWN = {"drqv2": OF_DRQV2, "sac": OF_SAC, "dqn": OF_DQN}
AT_ONCE = {  # seen without another env step
    "model.augmentations": ([RandomShift(2)], lambda agent: agent.augmentations.stages[0].pad, 2),
    "model.compile": ("inductor", lambda agent: isinstance(agent._run, Compiled), True),
    "data.storage": ("memmap", lambda agent: agent.data.replay._records.in_ram, False),
    "data.env": (other_env, lambda agent: agent.data.env, other_env),
    "data.replay_dir": ("elsewhere", lambda agent: agent.data.replay_folder.parent.name, "elsewhere"),
    "trainer.precision": ("bf16-mixed", lambda agent: agent.trainer.precision, "bf16-mixed"),
}
OF_A_MACHINE = {  # another machine, or process, than this one: the checkpoint is made to say so
    "trainer.accelerator": ("cuda", "cpu"),
    "trainer.strategy": ("GradientAveraging", "SingleDeviceStrategy"),
    "trainer.deterministic": (True, False),
    "trainer.benchmark": (True, False),
    "trainer.sync_batchnorm": (True, False),
}

OF_PRIORITIES = {"data.prioritized", "data.priority_beta"}
"""Of agents that set priorities: tests/agents/test_priorities.py."""
OF_RINGS = {"data.draw_on_device"}
"""Of one kind of storage: tests/replay/test_rings.py."""


@pytest.fixture(scope="module", params=["drqv2", "sac", "dqn"])
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, train(request.param, tmp_path_factory.mktemp("trained"))


def agent_of(name: str) -> dict[str, Any]:
    data = {"sac": {"observation": "state"}, "dqn": TINY_DISCRETE}.get(name, {})
    return {"make_agent": {"sac": tiny_sac, "dqn": tiny_dqn}.get(name, tiny_agent), "data_options": data}


def train(name: str, folder: Path) -> Path:
    fit_tiny(folder, max_frames=100, **agent_of(name))
    return folder


def go_on(name: str, folder: Path, options: dict[str, Any], **more: Any) -> Any:
    """Resume with options by their full name, on at most one more evaluation."""
    given = {**agent_of(name), "agent_options": {}, "trainer_options": {}}
    for option, value in options.items():
        section, _, own = option.rpartition(".")
        key = {"model": "agent_options", "data": "data_options"}.get(section, "trainer_options")
        given[key] = {**given[key], own: value}
    return fit_tiny(folder, max_frames=100, ckpt_path="last", **given, **more)


class Played(ours.WeightNorm):
    """Notes the evaluations."""

    def on_evaluation(self, agent, episodes) -> None:
        agent.played = [*getattr(agent, "played", []), episodes]


def said(agent: Any) -> set[str]:
    return {change["option"].split()[0] for change in agent.changes_of_this_start}


@pytest.mark.filterwarnings("ignore:trainer.precision=bf16")
def test_what_is_applied_is_said_and_in_effect(trained, tmp_path, capsys) -> None:
    name, folder = trained
    run = shutil.copytree(folder, tmp_path / "run")
    rows = OF_ALL | OWN[name]
    if name == "dqn":
        del rows["model.critic_target_tau"]
    applied = {option for option, rule in RULES.items() if rule.verdict == "applied" and "." in option} | {"detect_nan"}
    assert applied == {*OF_ALL, *OF_SAC, *OF_DRQV2, *OF_DQN, *AT_ONCE, *OF_A_MACHINE, *OF_PRIORITIES, *OF_RINGS}
    agent = go_on(name, run, {option: value for option, (value, *_) in rows.items()}, callbacks=[Played()])
    assert {option: see(agent) for option, (_, see, _) in rows.items()} == {o: e for o, (_, _, e) in rows.items()}
    assert said(agent) - {"WeightNorm"} >= {option.replace("data.max_frames", "max_frames") for option in rows}
    assert "Changed: model.lr 0.001 -> 0.0005 from env frame 100 on: in all parameter groups" in capsys.readouterr().out

    again = go_on(name, run, {option: value for option, (value, *_) in rows.items()}, callbacks=[Played()])
    assert said(again) == set(), "the new checkpoint knows the new options"
    assert learning_rates(again) == {0.5e-3}
    assert {change["at_env_frames"] for change in again.option_changes} == {100}

    if name == "drqv2":
        run = shutil.copytree(folder, tmp_path / "at once")
        shutil.copytree(run / "replay", tmp_path / "elsewhere")
        values = {option: value for option, (value, *_) in AT_ONCE.items()}
        agent = go_on(name, run, {**values, "data.replay_dir": str(tmp_path / "elsewhere")})
        assert {option: see(agent) for option, (_, see, _) in AT_ONCE.items()} == {
            option: expected for option, (*_, expected) in AT_ONCE.items()
        }
        assert said(agent) == set(AT_ONCE)


def edited(folder: Path, edit: Any) -> Path:
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, path)
    return folder


def test_another_machine_is_said(trained, tmp_path) -> None:
    name, folder = trained
    run = shutil.copytree(folder, tmp_path / "run")
    there = {option: before for option, (before, _) in OF_A_MACHINE.items()}
    agent = go_on(name, edited(run, lambda checkpoint: checkpoint["run_options"]["options"].update(there)), {})
    changes = {change["option"] for change in agent.changes_of_this_start}
    assert changes == {f"{option} {before} -> {now}" for option, (before, now) in OF_A_MACHINE.items()}


# ---- refused ---------------------------------------------------------------------------------------------------------

REFUSED: dict[str, Any] = {
    "model.feature_dim": 16,
    "model.hidden_dim": 8,
    "model.num_channels": 8,
    "model.num_seed_frames": 60,
    "model.init_temperature": 0.5,
    "model.dueling": True,
    "model.num_atoms": 5,
    "model.noisy_sigma": 0.3,
    "model.adam_eps": 1e-3,
    "model.seed": 2,
    "data.seed": 2,
    "data.task": "tiny_away",
    "data.observation": "state",
    "data.action_repeat": 1,
    "data.num_envs": 2,
    "data.frame_stack": 2,
    "data.image_size": 20,
    "data.render": "fast",
    "data.camera_id": 0,
    "data.capacity": 400,
    "data.resumable_epochs": 3,
    "data.eval_every_n_frames": 50,
}
ELSEWHERE = {"model.obs_shape", "model.action_dim", "trainer.devices", "trainer.num_nodes", "init_weights", "agent"}
ELSEWHERE |= {"data.priority_exponent", "model.num_actions", "model.encoder", "model.v_min", "model.v_max"}
ELSEWHERE |= {f"data.{name}" for cls in (AtariOptions, MinAtarOptions) for name in cls.names()} - set(REFUSED)
"""They follow from others of the table, or have tests beside what they are about."""


def test_what_is_refused_is_named_and_nothing_is_touched(trained) -> None:
    name, folder = trained
    of_every_run = {option for option, rule in RULES.items() if rule.why.startswith("no run")}
    assert (
        set(REFUSED)
        == {
            option
            for option, rule in RULES.items()
            if rule.verdict == "refused" and not option.startswith("intervention")
        }
        - ELSEWHERE
        - of_every_run
    )
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    for option, value in REFUSED.items():
        section, _, own = option.partition(".")
        if section == "model" and own not in inspect.signature(AGENTS[name]).parameters:
            continue
        if option in {"sac": ["data.observation"], "dqn": ["data.observation", "data.task"]}.get(name, []):
            continue  # the agent refuses it earlier
        with pytest.raises(UserError, match=rf"checkpoint was written with {own}=.*, but this run has {value}: .*;"):
            go_on(name, folder, {option: value})
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before


# ---- callbacks -------------------------------------------------------------------------------------------------------


def with_callbacks(before: list[pl.Callback], after: list[pl.Callback], folder: Path) -> Any:
    fit_tiny(folder, max_frames=100, callbacks=before)
    return fit_tiny(folder, max_frames=200, callbacks=after, ckpt_path="last")


def test_callbacks_that_watch_come_and_go_and_change(tmp_path) -> None:
    stopper = {"monitor": "eval/return", "mode": "max", "verbose": True}
    before = [ours.SRank(every_n_updates=5), ours.WeightNorm(every_n_updates=7), EarlyStopping(patience=5, **stopper)]
    after = [ours.WeightNorm(every_n_updates=6), ours.Reset(at_frames=[150]), EarlyStopping(patience=9, **stopper)]
    agent = with_callbacks(before, after, tmp_path)
    assert {change["option"].split("(")[0] for change in agent.changes_of_this_start} == {
        "max_frames 100 -> 200",
        "SRank",
        "WeightNorm.every_n_updates 7 -> 6",
        "Reset",
        "EarlyStopping.patience 5 -> 9",
    }
    assert after[2].patience == 9
    assert 150 < agent.last_events["reset"] <= 154
    assert {tag.split("/")[0] for tag in agent.latest} >= {"weight_norm"}
    assert [change["option"].split("(")[0] for change in agent.option_changes] == ["max_frames 100 -> 200", "Reset"]
    # as tests/callback/test_scheduled.py has it
    assert agent.option_changes[1]["effect"].startswith(
        "its next period counts; moments of at_frames that are over come"
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], ours.LayerNorm(), r"^LayerNorm\(.*\) added since the checkpoint was written: it can only be there from"),
        ([], ours.WarmStartReplay(path="x"), r"^WarmStartReplay\(path=x\) added since .* from the first frame on; "),
        ([], ours.AdaptiveReplayRatio(), r"^AdaptiveReplayRatio\(low=0.5, .*\) added since"),
        (
            [ours.Reset(every_n_frames=60)],
            None,
            r"^Reset\(.*every_n_frames=60.*\) removed since .*: what it did",
        ),
        (
            [ours.L2Init(coefficient=0.1)],
            ours.L2Init(coefficient=0.2),
            r"checkpoint was written with L2Init.coefficient=0.1, but this run has 0.2: its state",
        ),
    ],
)
def test_interventions_that_cannot_change_are_refused(before, after, expected, tmp_path) -> None:
    with pytest.raises(UserError, match=expected):
        with_callbacks(before, [after] if after else [], tmp_path)


def test_what_a_callback_sets_is_refused(tmp_path) -> None:
    schedule = ours.ReplayRatioSchedule(at_frames=[50], replay_ratios=[1.0])
    fit_tiny(tmp_path, max_frames=100, callbacks=[schedule])
    with pytest.raises(UserError, match="replay_ratio=0.5, but this run has 0.25: ReplayRatioSchedule sets it"):
        fit_tiny(tmp_path, callbacks=[schedule], ckpt_path="last", agent_options={"replay_ratio": 0.25})


# ---- what is no change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "equal"),
    [
        ("1e-4", 0.0001, True),
        (3, 3.0, True),
        ("linear(1.0,0.1,500000)", "linear(1, .1, 5e5)", True),
        ("linear(1.0,0.1,500000)", "linear(1,0.1,5)", False),
        ("runs/donor", "/before/runs/./donor", True),
        ("runs/donor", "/now/runs/donor", False),
        ("/home/me/x", "~/x", True),
        ("$DATA/x", "/data/x", True),
        ([1, "a"], (1.0, "./a"), False),
        (["/a"], ("/b/../a",), True),
        (None, 0, False),
        (True, "True", False),
        ("exact", "fast", False),
    ],
)
def test_another_spelling_is_no_change(old, new, equal, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    assert same(old, new, "/before") is equal


def test_equal_options_say_nothing_and_a_callback_spelled_otherwise_keeps_its_state(tmp_path, capsys) -> None:
    before, after = (ours.ShrinkAndPerturb(every_n_frames=60, shrink=shrink) for shrink in (1, 1.0))
    fit_tiny(tmp_path, max_frames=100, callbacks=[before])
    capsys.readouterr()
    agent = fit_tiny(tmp_path, max_frames=100, callbacks=[after], ckpt_path="last", agent_options={"lr": 1e-3})
    assert before.state_key != after.state_key
    assert after.events.seen == before.events.seen == 1
    assert [key for key in agent.rng.state_dict() if "intervention/" in key] == [f"intervention/{after.state_key}"]
    assert "Changed" not in capsys.readouterr().out


def test_an_option_that_is_newer_than_a_checkpoint_had_its_default(trained, tmp_path) -> None:
    name, folder = trained

    def forget(checkpoint: dict[str, Any]) -> None:
        for option in ("data.n_step", "data.render"):
            del checkpoint["run_options"]["options"][option]

    run = edited(shutil.copytree(folder, tmp_path / "run"), forget)
    assert said(go_on(name, run, {"data.n_step": 3})) == set()
    assert said(go_on(name, run, {"data.n_step": 2})) == {"data.n_step"}
    with pytest.raises(UserError, match=r"written with render=exact, but this run has fast"):
        go_on(name, run, {"data.render": "fast"})


def test_a_checkpoint_of_before_options_were_recorded_goes_on(trained, tmp_path) -> None:
    name, folder = trained
    run = edited(shutil.copytree(folder, tmp_path / "run"), lambda checkpoint: checkpoint.pop("run_options"))
    agent = go_on(name, run, {"data.n_step": 2, "model.lr": 0.5e-3, "data.max_frames": 100})
    assert said(agent) == {"model.lr"}
    with pytest.raises(UserError, match=r"written with seed=1, but this run has 2"):
        go_on(name, run, {"data.seed": 2})
