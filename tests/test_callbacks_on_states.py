"""Every exported callback that does not need pixels works on DrQ-v2 from states; the others are refused.

For SAC, whose observations are states by nature, see ``test_laws_agents.py``.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from helpers import fit_tiny, tiny_agent, tiny_data, tiny_sac

import callbacks
from plasticity_rl import Probe, RLModule, UserError
from plasticity_rl.callback import Intervention, RLCallback

EXPORTED: list[type[RLCallback]] = [getattr(callbacks, name) for name in sorted(callbacks.__all__)]
SHORT: dict[str, Any] = {
    "max_frames": 64,  # six updates behind the seed phase
    "data_options": {"observation": "state", "eval_every_n_frames": 64},
    "trainer_options": {"enable_checkpointing": False},
}
LONG: dict[str, Any] = {
    **SHORT,
    "max_frames": 132,
    "data_options": {**SHORT["data_options"], "eval_every_n_frames": 132},
}
"""Two episodes more, and 23 updates: every example has acted."""


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> set[str]:
    """Tags that a run without callbacks logs."""
    return set(fit_tiny(tmp_path_factory.mktemp("silent"), **SHORT).latest)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> RLModule:
    """The long run without callbacks."""
    return fit_tiny(tmp_path_factory.mktemp("plain"), **LONG)


def without_encoder(cls: type[RLCallback], agent: RLModule) -> dict[str, Any]:
    """The example's arguments, without modules that the agent lacks (encoder, trunk) or with the critic instead."""
    parameters = inspect.signature(cls).parameters.values()
    arguments = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    arguments |= dict(cls.example_arguments)
    if issubclass(cls, Probe) and "every_n_updates" in arguments:
        arguments["every_n_updates"] = min(arguments["every_n_updates"], 3)
    return {name: _known(value, agent) for name, value in arguments.items()}


def _known(value: Any, agent: RLModule) -> Any:
    if isinstance(value, str) and value.split(".")[0] in ("encoder", "actor", "critic"):
        return value if _exists(value, agent) else value.split(".")[0].replace("encoder", "critic")
    if isinstance(value, (list, tuple)):
        kept = [item for item in value if not isinstance(item, str) or _known(item, agent) == item]
        return kept or [_known(item, agent) for item in value]
    return value


def _exists(name: str, agent: RLModule) -> bool:
    try:
        agent.module(name)
    except UserError:
        return name in agent.loss_optimizers
    return True


ON_STATES = [cls for cls in EXPORTED if not cls.needs_pixels]


@pytest.mark.parametrize("cls", [c for c in ON_STATES if issubclass(c, Probe)], ids=lambda cls: cls.__name__)
def test_a_probe_measures_on_states(cls, silent, tmp_path):
    arguments = without_encoder(cls, tiny_agent(tiny_data(observation="state")))
    agent = fit_tiny(tmp_path, callbacks=[cls(**arguments)], **SHORT)
    assert agent.latest.keys() - silent, "it measured nothing"


@pytest.mark.parametrize("cls", [c for c in ON_STATES if not issubclass(c, Probe)], ids=lambda cls: cls.__name__)
def test_an_intervention_acts_on_states(cls, plain, tmp_path):
    """Weights that both networks have end elsewhere than without it, and are finite."""
    arguments = without_encoder(cls, tiny_agent(tiny_data(observation="state")))
    if cls is callbacks.WarmStartReplay:
        fit_tiny(tmp_path / "donor", **{**LONG, "trainer_options": {}})
        arguments = {"path": str(tmp_path / "donor")}
    callback = cls(**arguments)
    agent = fit_tiny(tmp_path, callbacks=[callback], **LONG)
    assert isinstance(callback, Intervention)
    assert callback.mutates(agent).parameters <= {path for path, _ in agent.named_parameters()}
    assert all(torch.isfinite(p).all() for p in agent.parameters())
    without = {path: p for path, p in plain.named_parameters() if not path.startswith("critic_target")}
    shared = {path: p for path, p in agent.named_parameters() if path in without}
    assert shared
    assert not all(torch.equal(p, without[path]) for path, p in shared.items()), "it did nothing"


@pytest.mark.parametrize("cls", [c for c in EXPORTED if c.needs_pixels], ids=lambda cls: cls.__name__)
def test_a_callback_of_images_is_refused_on_states(cls, tmp_path):
    with pytest.raises(UserError, match=f"^{cls.__name__} works on images, .* RLDataModule\\(observation='pixels'\\)$"):
        fit_tiny(tmp_path, callbacks=[cls(**cls.example_arguments)], **SHORT)


def test_some_need_pixels_and_most_do_not():
    assert callbacks.ToggleAugmentation.needs_pixels
    assert sum(cls.needs_pixels for cls in EXPORTED) < len(EXPORTED) / 2


@pytest.mark.parametrize("make", [tiny_agent, tiny_sac])
def test_naming_the_encoder_is_refused_before_training(make, tmp_path):
    with pytest.raises(UserError, match="no module 'encoder'.*'?actor"):
        fit_tiny(tmp_path, callbacks=[callbacks.Reset(modules=["encoder"], at_frames=[50])], make_agent=make, **SHORT)
