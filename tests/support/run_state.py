"""Everything a run's future depends on, as comparable data, and small callbacks that watch a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_rl import RLModule
from plasticity_rl.callback import RLCallback
from plasticity_rl.rng import global_rng_state

HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def fingerprint(value: Any) -> Any:
    """Return ``value`` with every tensor replaced by shape, dtype and a digest of its bytes."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().numpy().tobytes()
        return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(data).hexdigest()[:16]}"
    if isinstance(value, Mapping):
        return {str(key): fingerprint(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    return value


def hooks_of(agent: nn.Module) -> dict[str, int]:
    """Count the hooks on every module and parameter, by name; those without any are left out."""
    counts = {name: sum(len(getattr(m, table)) for table in HOOK_TABLES) for name, m in agent.named_modules()}
    counts |= {name: len(p._backward_hooks or ()) for name, p in agent.named_parameters()}
    return {name: count for name, count in counts.items() if count}


def optimizer_state(agent: RLModule) -> dict[str, dict[str, Any]]:
    """Return the optimizer state of every parameter, by the parameter's name."""
    names = {id(p): name for name, p in agent.named_parameters()}
    state: dict[str, dict[str, Any]] = {}
    for index in range(len(agent.optimizer_names)):
        optimizer = agent.trainer.optimizers[index]
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert names[id(parameter)] not in state, "a parameter is in two optimizers"
                state[names[id(parameter)]] = dict(optimizer.state.get(parameter, {}))
    return state


def optimizer_settings(agent: RLModule) -> list[dict[str, Any]]:
    """Return the options of every parameter group: learning rate and so on."""
    groups = [group for optimizer in agent.trainer.optimizers for group in optimizer.param_groups]
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


def replay_state(agent: RLModule) -> dict[str, Any]:
    """Return all live records of the replay, oldest first, with its cursors and generator."""
    replay = agent.data.replay
    storage, state = replay.storage, replay.state_dict()
    lanes = []
    for lane, (first, end) in enumerate(zip(storage.oldest.tolist(), storage.written.tolist(), strict=True)):
        records = storage.get(storage.slot(torch.tensor(lane), torch.arange(first, end)))
        lanes.append({name: records[name] for name in sorted(records.keys())})
    cursors = {name: state["storage"][name] for name in ("written", "start")}
    return {"records": lanes, "cursors": cursors, "writer": state["writer"], "sampler": state["sampler"]}


def last_checkpoint(agent: RLModule) -> dict[str, Any]:
    """Return what the run's last checkpoint holds beside weights: simulator, open episode, Lightning's own counters."""
    path = Path(agent.trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    parts = ("epoch", "global_step", "loops", "optimizer_states", "rl")
    checkpoint["rl"].pop("callbacks", None)  # says which callbacks there were: no part of the run's future
    return {"collector": checkpoint["RLDataModule"]["collector"], **{part: checkpoint[part] for part in parts}}


def simple_attributes(agent: RLModule) -> dict[str, Any]:
    """Return the agent's own flags and numbers, without the underscore of private ones behind a property."""
    kinds = (bool, int, float, str)
    values = {k.removeprefix("_"): v for k, v in vars(agent).items() if isinstance(v, kinds)}
    return values | {"replay_ratio": agent.replay_ratio, "update_credit": str(agent.update_credit)}


def run_state(agent: RLModule) -> dict[str, Any]:
    """Return everything that decides how the run goes on, and what it has found so far."""
    return fingerprint(
        {
            "weights": dict(agent.named_parameters()),
            "buffers": dict(agent.named_buffers()),
            "optimizers": optimizer_state(agent),
            "optimizer settings": optimizer_settings(agent),
            "replay": replay_state(agent),
            "checkpoint": last_checkpoint(agent),
            "attributes": simple_attributes(agent),
            "modes": {name: module.training for name, module in agent.named_modules()},
            "trainable": {name: p.requires_grad for name, p in agent.named_parameters()},
            "generators": agent.rng.state_dict(),
            "global generators": global_rng_state(),
            "evaluations": agent.eval_returns,
            "metrics": dict(agent.metrics.items()),
            "epoch": agent.trainer.current_epoch,
        }
    )


def callback_states(callbacks: Sequence[RLCallback]) -> dict[str, Any]:
    """Return the state of every callback by its key."""
    return fingerprint({callback.state_key: callback.state_dict() for callback in callbacks})


def differences(one: Any, two: Any, path: str = "") -> list[str]:
    """Return the paths at which two fingerprints differ: an assertion on ``== []`` names them."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return [d for key in {**one, **two} for d in differences(one.get(key), two.get(key), f"{path}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [d for i, pair in enumerate(zip(one, two, strict=True)) for d in differences(*pair, f"{path}/{i}")]
    return [] if one == two and type(one) is type(two) else [f"{path}: {str(one)[:60]} != {str(two)[:60]}"]


def parameter_identities(agent: RLModule) -> dict[str, list[int]]:
    """Return which tensor objects the agent and its optimizers hold, in order."""
    groups = [group for optimizer in agent.trainer.optimizers for group in optimizer.param_groups]
    return {"agent": [id(p) for p in agent.parameters()], "optimizers": [id(p) for g in groups for p in g["params"]]}


class Watcher(RLCallback):
    """Looks at the agent from outside while it trains, and remembers what no callback may do."""

    def __init__(self) -> None:
        self.hooks_between_updates: dict[str, int] = {}
        self.modes_in_training: list[dict[str, bool]] = []

    def on_env_step(self, agent, step) -> None:
        self.hooks_between_updates |= hooks_of(agent)
        modes = {name: module.training for name, module in agent.named_modules()}
        if modes not in self.modes_in_training:
            self.modes_in_training.append(modes)

    def on_train_start(self, trainer, pl_module) -> None:
        self.identities = parameter_identities(pl_module)
        self.initial = {name: p.detach().clone() for name, p in pl_module.named_parameters()}


class Killed(Exception):
    """The run dies here."""


class DieAt(RLCallback):
    """Ends a run without any warning or saving, after an env step."""

    def __init__(self, frame: int) -> None:
        self.frame = frame

    def on_env_step(self, agent, step) -> None:
        if agent.env_frames >= self.frame:
            raise Killed


class Log:
    """Every scalar and event that runs write, in order, without the speeds.

    Args:
        monkeypatch: Of the test; the recording ends with it.
    """

    def __init__(self, monkeypatch) -> None:
        self.scalars: list[tuple[int, str, float]] = []
        self.events: list[tuple[int, str, str]] = []
        original_scalars, original_event = RLModule.log_scalars, RLModule.log_event

        def log_scalars(agent, scalars):
            for tag, value in scalars.items():
                if not tag.startswith("speed/"):
                    self.scalars.append((agent.env_frames, tag, float(value)))
            original_scalars(agent, scalars)

        def log_event(agent, name, text):
            self.events.append((agent.env_frames, name, text))
            original_event(agent, name, text)

        monkeypatch.setattr(RLModule, "log_scalars", log_scalars)
        monkeypatch.setattr(RLModule, "log_event", log_event)

    def take(self, until: float = float("inf")) -> tuple[list, list]:
        """Return the scalars and events up to env frame ``until``, and forget all."""
        result = tuple([entry for entry in entries if entry[0] <= until] for entries in (self.scalars, self.events))
        self.scalars.clear()
        self.events.clear()
        return result
