"""Runs with ``cuda_graph``, beside the plain run that they must equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import fit_tiny
from pretend_graph import PretendGraphs
from run_state import differences, run_state

from plasticity_rl.agents import graphs
from plasticity_rl.callback import RLCallback


def fit_captured(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Return ``fit_tiny`` with ``cuda_graph`` and graphs that are pretended."""
    agent_options = {"cuda_graph": True, **options.pop("agent_options", {})}
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "recorder_for", lambda device: PretendGraphs())
        return fit_tiny(folder, agent_options=agent_options, **options)


def beside_plain(
    folder: Path, monkeypatch: pytest.MonkeyPatch, callbacks: Callable[[], Sequence[Any]] = tuple, **options: Any
) -> tuple[Any, list[str]]:
    """Return the agent of a captured run, and where its end differs from that of the plain run."""
    plain = fit_tiny(folder / "plain", callbacks=callbacks(), **options)
    captured = fit_captured(folder / "captured", monkeypatch, callbacks=callbacks(), **options)
    return captured, unlike(plain, captured)


def unlike(plain: Any, captured: Any) -> list[str]:
    """Return where the ends of two runs differ, but for the option itself."""
    found = differences(run_state(plain), run_state(captured))
    return [one for one in found if not one.startswith("/attributes/cuda_graph:")]


class Meddles(RLCallback):
    """Does something to the agent right before the updates of these numbers."""

    cuda_graph = "stays"

    def __init__(self, do: Callable[[Any], None], at: Sequence[int] = (15,)) -> None:
        self.do, self.at = do, list(at)

    def on_update_start(self, agent: Any) -> None:
        if agent.num_updates in self.at:
            self.do(agent)
