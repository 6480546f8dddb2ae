"""An update waits for nothing that a GPU computes: neither the agent's own work nor a probe that counts in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import fit_tiny, tiny_sac
from no_sync import Waits, no_waiting

import callbacks
from callbacks import FractionActiveUnits
from plasticity_rl import SAC, DrQV2, Probe
from plasticity_rl import scalars as rl_logging

PROBES = [cls for name in callbacks.__all__ if issubclass(cls := getattr(callbacks, name), Probe)]
SHORT: dict[str, Any] = {"max_frames": 70, "trainer_options": {"enable_checkpointing": False, "log_every_n_steps": 99}}


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.any()),
        lambda x: 1 if x.sum() > 0 else 0,
        lambda x: int(x.sum()),
        lambda x: f"{x.sum():.2f}",
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: range(x.sum().int()),
    ],
)
def test_the_guard_sees_every_kind_of_reading(read):
    x = torch.ones(3)
    with pytest.raises(Waits), no_waiting():
        read(x)
    with no_waiting():
        torch.where(x > 0, x, 0.0).sum()


def guarded(monkeypatch, cls: type) -> list[int]:
    """Forbid reading inside ``update`` of an agent; return the list that grows with every update."""
    update, updates = cls.update, []

    def watched(agent, batch):
        with no_waiting():
            metrics = update(agent, batch)
        updates.append(agent.num_updates)
        return metrics

    monkeypatch.setattr(cls, "update", watched)
    return updates


ALL_PROBES = [cls(**dict(cls.example_arguments, every_n_updates=1)) for cls in PROBES]
"""Due at every update, so that whatever counts inside an update does."""
OF_STATES = [FractionActiveUnits(every_n_updates=1, modules=["actor", "critic"])]


@pytest.mark.parametrize(
    ("observation", "given"),
    [("pixels", []), ("pixels", ALL_PROBES), ("state", OF_STATES)],
    ids=["bare", "all probes", "states"],
)
def test_drqv2_updates_without_waiting(observation, given, monkeypatch, tmp_path):
    updates = guarded(monkeypatch, DrQV2)
    fit_tiny(tmp_path, callbacks=given, data_options={"observation": observation}, **SHORT)
    assert len(updates) >= 5


def test_sac_updates_without_waiting(monkeypatch, tmp_path):
    updates = guarded(monkeypatch, SAC)
    fit_tiny(tmp_path, make_agent=tiny_sac, data_options={"observation": "state"}, **SHORT)
    assert len(updates) >= 5


def test_hooks_around_an_update_do_not_wait_when_no_probe_is_due(monkeypatch, tmp_path):
    """Every probe is there, and none is due; what else belongs to every run (the watch for NaN) is there too."""
    dispatch, seen = DrQV2.dispatch, []

    def watched(agent, hook, *args):
        if hook not in ("on_update_start", "on_update_end"):
            return dispatch(agent, hook, *args)
        seen.append(hook)
        with no_waiting():
            return dispatch(agent, hook, *args)

    monkeypatch.setattr(DrQV2, "dispatch", watched)
    fit_tiny(tmp_path, callbacks=[cls(every_n_updates=10_000) for cls in PROBES], **SHORT)
    assert len(seen) >= 10


@pytest.mark.parametrize("definition", ["element_rate", "any_input", "mean_rate"])
def test_active_units_are_counted_without_waiting(definition, monkeypatch, tmp_path):
    """Hooking, counting and pooling; what waits is the log alone."""
    measure, measured = FractionActiveUnits.measure, []

    def watched(probe, agent, batch, metrics):
        with no_waiting():
            measured.append(measure(probe, agent, batch, metrics))
        return measured[-1]

    guarded(monkeypatch, DrQV2)
    monkeypatch.setattr(FractionActiveUnits, "measure", watched)
    fit_tiny(tmp_path, callbacks=[FractionActiveUnits(every_n_updates=2, definition=definition)], **SHORT)
    assert len(measured) >= 3
    assert all(isinstance(value, torch.Tensor) for scalars in measured for value in scalars.values())


def test_all_values_of_a_device_are_read_at_once(monkeypatch):
    reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.numel()) or tolist(tensor))
    monkeypatch.setattr(torch.Tensor, "item", lambda _: pytest.fail("one value at a time"))
    values = {"a": torch.tensor(0.5), "b": 0.5, "c": torch.tensor([7]), "d": torch.tensor(True), "e": 2}
    assert rl_logging.read(values) == {"a": 0.5, "b": 0.5, "c": 7.0, "d": 1.0, "e": 2.0}
    assert list(rl_logging.read(values)) == list("abcde")
    assert reads == [3, 3]


def test_values_are_read_exactly():
    values = {"a": torch.tensor(0.1), "b": torch.tensor(0.1, dtype=torch.float64), "c": torch.tensor(2**40 + 1)}
    assert rl_logging.read(values) == {"a": torch.tensor(0.1).item(), "b": 0.1, "c": 2.0**40 + 1}
    assert rl_logging.read({}) == {}
    nan = rl_logging.read({"nan": torch.tensor(float("nan")), "inf": float("inf")})
    assert nan["nan"] != nan["nan"]
    assert nan["inf"] == float("inf")
