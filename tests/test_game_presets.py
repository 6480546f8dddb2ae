"""Every preset of games trains on the real game, from the command line, with its own options."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import REPOSITORY, call, checkpoint, events, scalar_points

from plasticity_rl.cli.rebuild import build_only

PACKAGES = {"atari": "ale_py", "minatar": "minatar"}
NEEDS = {
    kind: pytest.mark.skipif(find_spec(name) is None, reason=f"needs the extra {kind}")
    for kind, name in PACKAGES.items()
}
FILES = [path for kind in PACKAGES for path in sorted((REPOSITORY / "configs" / kind).glob("*.yaml"))]
OF_ALL_KINDS = ("atari/rainbow", "atari/drq_eps", "minatar/mini")
"""Between them they have every part that there is."""


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def presets(chosen: Iterable[str]) -> pytest.MarkDecorator:
    found = [pytest.param(p, id=named(p), marks=NEEDS[p.parent.name]) for p in FILES if named(p) in chosen]
    return pytest.mark.parametrize("path", found)


def shortened(preset: Mapping[str, Any], env_steps: int, num_updates: int) -> list[str]:
    """Options that make a run of so many env steps and updates of a preset, and change nothing else of it.

    The first quarter is the seed phase, the target is copied once (or at every update), and games are short.
    """
    repeat = preset["data"]["action_repeat"]
    copies = min(preset["model"]["target_every_n_updates"], num_updates // 2 + 1)  # one, or at every update
    options = {
        "max_frames": env_steps * repeat,
        "data.capacity": env_steps,
        "data.eval_every_n_frames": env_steps * repeat,
        "data.num_eval_episodes": 1,
        "data.max_episode_frames": env_steps * repeat // 4,
        "model.num_seed_frames": env_steps // 4 * repeat,
        "model.replay_ratio": num_updates / (env_steps - env_steps // 4),
        "model.target_every_n_updates": copies,
        "trainer.log_every_n_steps": env_steps // 20,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks+": "plasticity_rl.EvalVideo",
        "trainer.callbacks.every_n_evals": 0,  # films take as long as the rest
    }
    if "final_eval_episodes" in preset["data"]:
        options["data.final_eval_episodes"] = 2
    return [f"--{name}={value}" for name, value in options.items()]


def train_and_look(path: Path, folder: Path, env_steps: int, num_updates: int, hidden_dim: int | None = None) -> None:
    """Train, with another width of the hidden layers if there is one, and look whether the preset got what it wants."""
    handlers = logging.root.handlers[:]  # minatar sets up logging when it is imported
    preset = yaml.safe_load(path.read_text())
    preset["model"]["hidden_dim"] = hidden_dim or preset["model"]["hidden_dim"]
    given = [f"--config={path}", *shortened(preset, env_steps, num_updates), f"--trainer.default_root_dir={folder}"]
    given += [f"--model.hidden_dim={preset['model']['hidden_dim']}"]
    before = {name: value.clone() for name, value in build_only(["fit", *given]).agent.state_dict().items()}
    result = call("fit", *given)
    logging.root.handlers[:] = handlers
    assert result.code == 0, result.err
    saved = checkpoint(folder)
    clocks = saved["rl"]
    assert (clocks["env_steps"], clocks["num_updates"]) == (env_steps, num_updates)
    _look_at_weights(before, saved["state_dict"], seldom=preset["model"]["target_every_n_updates"] > 1)
    _look_at_replay(saved["RLDataModule"]["replay"]["sampler"], by_priority="prioritized" in preset["data"])
    _look_at_parts(saved["state_dict"], saved["hyper_parameters"], preset["model"])
    _look_at_log(folder, preset["data"])


def _look_at_weights(before: Mapping[str, Any], after: Mapping[str, Any], *, seldom: bool) -> None:
    """All were trained, and the target is an older copy, unless it is copied at every update."""
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, before[name]), f"{name} is as it was"
    online = [name for name in after if "_target." not in name]
    same = [torch.equal(after[name], after[name.replace(".", "_target.", 1)]) for name in online]
    assert same == [not seldom] * len(online)


def _look_at_replay(sampler: Mapping[str, Any], *, by_priority: bool) -> None:
    assert ("weights" in sampler) == by_priority
    if by_priority:
        weights = sampler["weights"][sampler["weights"] > 0]
        assert len(weights.unique()) > 10, "losses became priorities"


def _look_at_parts(weights: Mapping[str, Any], options: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """The networks have the parts that the preset names, and the agent its values for them."""
    for name, value in model.items():
        if name not in ("num_seed_frames", "replay_ratio", "target_every_n_updates"):
            assert str(options[name]) == str(value) or float(options[name]) == float(value), name
    assert any(name.startswith("critic.value.") for name in weights) == model.get("dueling", False)
    assert ("critic.advantage.0.weight_sigma" in weights) == ("noisy_sigma" in model)
    outputs = len(weights["critic.advantage.2.bias"])
    assert outputs == options["num_actions"] * model.get("num_atoms", 1)
    assert weights["critic.advantage.0.weight"].shape[0] == model["hidden_dim"]


def _look_at_log(folder: Path, data: Mapping[str, Any]) -> None:
    log = events(folder)
    for tag in ("loss/critic", "q/taken", "q/target", "eval/return"):
        values = list(scalar_points(log, tag).values())
        assert values, tag
        assert all(map(math.isfinite, values)), tag
    assert ("final/return" in log.Tags()["scalars"]) == ("final_eval_episodes" in data)


@presets(OF_ALL_KINDS)
def test_a_preset_trains_with_narrow_layers(path, tmp_path):
    train_and_look(path, tmp_path, env_steps=200, num_updates=8, hidden_dim=16)


@pytest.mark.slow
@presets([named(path) for path in FILES])
def test_a_preset_trains_for_2000_env_steps(path, tmp_path):
    train_and_look(path, tmp_path, env_steps=2000, num_updates=120)
