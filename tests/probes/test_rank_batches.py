"""Ranks of wide layers: 700 dead units of 1024 must show, with the default batch or in words."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny

from callbacks import EffectiveRank, FeatureRank, SRank
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.feature_batches import automatic_batch_size, feature_shape
from plasticity_rl.measures import spectrum, srank
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.run.callback_checks import idle_schedules

WIDE = {"max_frames": 44, "agent_options": {"hidden_dim": 1024}, "data_options": {"capacity": 5000}}


class Kill(RLCallback):
    """Makes 700 of the 1024 units of a last hidden layer silent."""

    def on_train_start(self, trainer, pl_module) -> None:
        with torch.no_grad():
            pl_module.critic.Q1[2].weight.normal_(generator=torch.Generator().manual_seed(0))
            pl_module.critic.Q1[2].bias[:700] = -1e6


class Noise(RLCallback):
    """Gives the last hidden layer inputs as rich as can be: a tiny environment has too few states to fill a rank.

    And as many as are asked for, though the replay holds a few dozen.
    """

    def on_train_start(self, trainer, pl_module) -> None:
        generator = torch.Generator().manual_seed(1)
        draw = lambda _, inputs: (torch.randn(inputs[0].shape, generator=generator),)  # noqa: E731
        self.handle = pl_module.critic.Q1[2].register_forward_pre_hook(draw)
        replay = pl_module.data.replay
        replay.peek_distinct = lambda most, generator, part: (replay.peek(part, generator) for _ in range(most // part))


def test_700_dead_units_of_1024_show_in_the_default_rank(tmp_path):
    ranks = {}
    for name, given in {"alive": [Noise()], "worn": [Noise(), Kill()]}.items():
        probe = SRank(every_n_updates=1, modules=["critic.Q1"])
        latest = fit_tiny(tmp_path / name, callbacks=[*given, probe], **WIDE).latest
        ranks[name] = float(latest["rank/srank/critic.Q1"])
    assert ranks["alive"] > 900
    assert ranks["worn"] <= 324


@pytest.mark.parametrize(
    ("shape", "capacity", "expected"),
    [
        ((8, 16), 10**6, 256),  # as it always was
        ((8, 64), 10**6, 256),
        ((8, 128), 10**6, 512),
        ((8, 1024), 10**6, 4096),
        ((8, 1024), 3000, 3000),  # a full replay holds no more
        ((8, 1024), 100, 256),
        ((8, 9000), 10**6, 16_384),
        ((8, 32, 35, 35), 10**6, 256),  # 39200 entries: no batch is as wide
    ],
)
def test_transitions_by_width(shape, capacity, expected):
    assert automatic_batch_size(torch.Size(shape), capacity) == expected


def test_a_batch_narrower_than_the_layer_is_named_with_the_number(tmp_path, capsys):
    seen = []

    class Ask(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            narrow = EffectiveRank(modules=["critic.Q1", "encoder"], batch_size=256)
            wide, small = EffectiveRank(modules=["critic.Q1"], batch_size=2000), EffectiveRank(modules=["critic.Q1"])
            seen.append([probe.notes(pl_module) for probe in (narrow, wide, small)])
            seen.append((feature_shape(pl_module, "critic.Q1"), len(feature_shape(pl_module, "encoder"))))
            assert idle_schedules([], pl_module) == []

    fit_tiny(tmp_path, callbacks=[Ask(), SRank(modules=["actor"], batch_size=100)], **WIDE)
    (narrow, wide, automatic), (shape, maps) = seen
    assert (shape, maps) == ((1, 1024), 4)
    assert narrow == [
        "EffectiveRank.batch_size=256: no rank of critic.Q1, whose last hidden layer has 1024 units, can come out "
        "above 256, so that a collapse to there stays hidden; leave it open (null) for 4096 transitions"
    ]
    assert wide == automatic == []
    assert (
        "warning: SRank.batch_size=100: no rank of actor, whose last hidden layer has 1024 units"
        in capsys.readouterr().err
    )


class AllWindows(RLCallback):
    """Takes the rank of the features of every window of the replay, each once."""

    def on_update_end(self, agent, batch, metrics) -> None:
        replay = agent.data.replay
        anchors = replay._windows.complete_anchors(replay._records)
        every = replay.transform(replay._records.read(replay._windows._windows(replay._records, anchors), reuse=False))
        seen: list[torch.Tensor] = []
        handle = agent.critic.Q1[3].register_forward_hook(lambda _, __, output: seen.append(output))
        with evaluation_mode(agent), torch.no_grad():
            agent.forward_all(every)
        handle.remove()
        self.found = len(anchors.lanes), srank(spectrum(seen[0]))


def test_a_replay_of_fewer_transitions_gives_each_once_and_one_warning(tmp_path):
    """Drawn with replacement, 4096 of a few dozen weigh some of them thousands of times."""
    probes = [SRank(every_n_updates=1, modules=["critic.Q1"]), FeatureRank(every_n_updates=1, modules=["critic.Q1"])]
    by_hand = AllWindows()
    with pytest.warns(UserWarning, match="ranks of wide layers") as warned:
        latest = fit_tiny(tmp_path, callbacks=[*probes, by_hand], **{**WIDE, "max_frames": 60}).latest
    held, expected = by_hand.found
    assert held < 30
    assert float(latest["rank/srank/critic.Q1"]) == expected
    texts = [str(one.message) for one in warned if "ranks of wide layers" in str(one.message)]
    assert len(texts) == 1
    assert "transitions that the replay holds, where 4096 are asked for (four for every unit)" in texts[0]


def test_distinct_windows_are_all_there_are_and_none_twice(tmp_path):
    agent = fit_tiny(tmp_path, max_frames=200)
    replay = agent.data.replay
    lanes, numbers, _ = replay._windows.complete_anchors(replay._records)
    draw = lambda most: replay._windows.draw_distinct(  # noqa: E731
        replay._records, most, torch.Generator().manual_seed(0), 32
    )
    parts = list(draw(10**6))
    assert [len(part.steps) for part in parts[:-1]] == [32] * (len(parts) - 1)
    firsts = torch.cat([part.steps[:, 0] for part in parts])
    assert sorted(firsts.tolist()) == sorted(replay._records.slot(lanes, numbers).tolist())
    some = torch.cat([part.steps[:, 0] for part in draw(40)])
    assert len(some.unique()) == 40
    assert torch.equal(some, firsts[:40])
