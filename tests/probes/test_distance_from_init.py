"""DistanceFromInit against weights kept aside, through resets and resumes."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny
from run_state import DieAt, Killed, Watcher

from callbacks import DistanceFromInit, Reset


def distances(agent) -> dict[str, float]:
    return {tag: float(value) for tag, value in agent.latest.items() if tag.startswith("distance_from_init/")}


def by_hand(agent, initial, prefix: str) -> float:
    squares = [
        (p.detach() - initial[n]).double().square().sum() for n, p in agent.named_parameters() if n.startswith(prefix)
    ]
    return float(torch.stack(squares).sum().sqrt())


def test_logged_values_are_those_to_the_first_weights(tmp_path):
    watcher = Watcher()
    agent = fit_tiny(tmp_path, callbacks=[watcher, DistanceFromInit(every_n_updates=1)], max_frames=120)
    logged = distances(agent)
    assert len(logged) == (1 + 4) + (1 + 5) + (1 + 8)
    for prefix in ("encoder.", "actor.", "critic.", "critic.Q2.0.", "actor.trunk.1."):
        top, _, layer = prefix.rstrip(".").partition(".")
        expected = by_hand(agent, watcher.initial, prefix)
        assert expected > 0
        assert logged[f"distance_from_init/{top}/{layer}".rstrip("/")] == pytest.approx(expected, rel=1e-6)


def test_a_resumed_run_measures_from_the_first_weights_and_a_new_run_from_its_own(tmp_path):
    watcher, probe = Watcher(), DistanceFromInit(every_n_updates=1)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "1", callbacks=[watcher, probe, DieAt(150)])
    agent = fit_tiny(tmp_path / "1", callbacks=[DistanceFromInit(every_n_updates=1)], ckpt_path="last")
    expected = by_hand(agent, watcher.initial, "critic.")
    assert distances(agent)["distance_from_init/critic"] == pytest.approx(expected, rel=1e-6)

    watcher = Watcher()
    agent = fit_tiny(tmp_path / "2", callbacks=[watcher, probe], seed=2, max_frames=60)
    expected = by_hand(agent, watcher.initial, "critic.")
    assert distances(agent)["distance_from_init/critic"] == pytest.approx(expected, rel=1e-6)


def test_a_reset_is_a_jump_and_no_new_origin(tmp_path):
    values = []
    for reset in ([], [Reset(modules=["critic"], at_frames=[60])]):
        agent = fit_tiny(
            tmp_path / str(len(reset)), callbacks=[DistanceFromInit(every_n_updates=1), *reset], max_frames=80
        )
        values.append(distances(agent))
    assert values[1]["distance_from_init/critic"] > 5 * values[0]["distance_from_init/critic"]


def test_the_origin_does_not_move_with_the_weights(tmp_path):
    probe = DistanceFromInit(every_n_updates=1, modules=["actor"])
    agent = fit_tiny(tmp_path, callbacks=[probe], max_frames=80)
    saved = probe.state_dict()["origin"]
    assert saved.keys() == {f"actor.{name}" for name, _ in agent.actor.named_parameters()}
    assert all(not torch.equal(saved[f"actor.{name}"], p) for name, p in agent.actor.named_parameters())
