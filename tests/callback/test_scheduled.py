"""When what acts at events of a schedule acts in a run that it joins."""

from __future__ import annotations

import pytest
from helpers import fit_tiny

from callbacks import ReDo, Reset


@pytest.mark.parametrize(
    ("build", "frames"),
    [
        (lambda: Reset(modules=["critic"], every_n_frames=60), [124, 184]),
        (lambda: Reset(modules=["critic"], at_frames=[40, 150]), [104, 152]),
        (lambda: ReDo(every_n_updates=10), [124, 164]),
    ],
    ids=["period", "moments", "updates"],
)
def test_periods_that_were_over_before_it_joined_are_not_due_and_single_moments_are(
    build, frames, tmp_path, monkeypatch
):
    """100 frames and 15 updates lie behind; an update is made every fourth frame."""
    fit_tiny(tmp_path, max_frames=100)
    one, acted = build(), list[int]()
    act = type(one).act

    def noted(self, agent):
        acted.append(agent.env_frames)
        return act(self, agent)

    monkeypatch.setattr(type(one), "act", noted)
    fit_tiny(tmp_path, callbacks=[one], max_frames=200, ckpt_path="last")
    assert acted == frames
