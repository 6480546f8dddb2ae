"""A replay whose n and discount change while it is in use is the one that was made with them."""

from __future__ import annotations

import pytest
import torch
from naive_replay import Episodes, assert_same_batch, make

from plasticity_rl.replay.prioritized import Priorities


def grown(horizons, steps: int = 60, **options):
    """A replay with some episodes in it, and nothing drawn yet, that had these horizons one after the other."""
    replay = make(n_step=horizons[0][0], discount=horizons[0][1], **options)
    episodes = Episodes(options.get("num_lanes", 1), 3)
    for _ in range(steps):
        replay.write(episodes.step())
    for n_step, discount in horizons[1:]:
        replay.set_horizon(n_step, discount)
    return replay


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("by_priority", [False, True])
@pytest.mark.parametrize("detour", [[], [(5, 0.5)], [(1, 0.1), (4, 0.2)]])
def test_batches_are_those_of_a_replay_made_so(lanes, by_priority, detour):
    options = {"num_lanes": lanes, "capacity": 200}
    if by_priority:
        options["priorities"] = Priorities(0.5, lambda: 0.4)
    made = grown([(2, 0.9)], **options)
    changed = grown([(3, 0.99), *detour, (2, 0.9)], **options)
    assert changed.num_windows == made.num_windows
    for _ in range(5):
        assert_same_batch(changed.sample(), made.sample())
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    assert_same_batch(changed.peek(7, generators[0]), made.peek(7, generators[1]))


def test_priorities_stay_where_a_window_stays_complete():
    replay = grown([(3, 0.9)], priorities=Priorities(1.0, lambda: 0.4), capacity=200)
    batch = replay.sample()
    replay.update_priorities(batch, torch.full((len(batch),), 0.25))
    known = replay._windows.tree.leaves
    replay.set_horizon(5, 0.9)
    longer = replay._windows.tree.leaves
    assert bool(((longer == known) | (longer == 0)).all())
    assert 0 < (longer > 0).sum() < (known > 0).sum(), "ends of episodes have no five steps left"
    replay.set_horizon(3, 0.9)
    again = replay._windows.tree.leaves
    assert bool((again[longer > 0] == known[longer > 0]).all())
    assert bool((again[(known > 0) & (longer == 0)] == 1.0).all()), "the largest there was"
    assert bool(((again > 0) == (known > 0)).all())
