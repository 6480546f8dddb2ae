"""Captured updates end with the bits of plain ones, whatever changes meanwhile; a stale replay is seen.

On a CPU, with graphs that are pretended (``pretend_graph.py``), and on static tensors without one.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from graph_runs import Meddles, beside_plain, fit_captured, unlike
from helpers import TINY_DISCRETE, fit_tiny, tiny_agent, tiny_dqn, tiny_sac
from pretend_graph import PretendGraphs
from run_state import Log
from torch import nn

import callbacks as ours
from benchmarks.contestants.inside import random_batch
from plasticity_rl import UserError
from plasticity_rl.agents import graphs
from plasticity_rl.agents.graph_rules import always_eager, refuse_uncapturable, rule_of
from plasticity_rl.callback import RLCallback
from plasticity_rl.nn.graphed import WARM_UP, EagerRecorder, GraphRecorder
from plasticity_rl.run.checkpoints import LastCheckpoint

AGENTS = {
    "drqv2": (tiny_agent, {}, {}),
    "drqv2 from states": (tiny_agent, {"observation": "state"}, {}),
    "sac": (tiny_sac, {"observation": "state"}, {}),
    "dqn": (tiny_dqn, TINY_DISCRETE, {"max_grad_norm": 1.0}),
    "rainbow": (
        tiny_dqn,
        {**TINY_DISCRETE, "prioritized": True},
        {"num_atoms": 5, "noisy_sigma": 0.5, "dueling": True},
    ),
    "drq eps": (
        tiny_dqn,
        TINY_DISCRETE,
        {"augment": True, "intensity_scale": 0.1, "target_tau": 0.1, "target_every_n_updates": 0},
    ),
}
FIRST = WARM_UP + 1
"""Updates before the first graph: the key is another one once the optimizers have their state."""


@pytest.mark.parametrize("name", AGENTS)
def test_replays_end_with_the_bits_of_plain_updates(name, tmp_path, monkeypatch):
    make, data, own = AGENTS[name]
    agent, found = beside_plain(
        tmp_path, monkeypatch, make_agent=make, data_options=data, agent_options=own, max_frames=160
    )
    assert found == []  # Lightning's counters, generators and metrics included
    counts, recorder = agent.static_updates.counts, agent.static_updates.recorder
    assert counts == {"warm_up": FIRST, "captured": 1, "replayed": agent.num_updates - FIRST - 1}
    assert (recorder.captures, recorder.replays) == (1, agent.num_updates - FIRST)


@pytest.mark.parametrize("make", [tiny_agent, tiny_sac])
def test_without_a_gpu_the_same_function_runs_on_static_tensors(make, tmp_path, capsys):
    options = {"make_agent": make, "data_options": {"observation": "state"}, "max_frames": 120}
    plain = fit_tiny(tmp_path / "plain", **options)
    static = fit_tiny(tmp_path / "static", agent_options={"cuda_graph": True}, **options)
    assert isinstance(static.static_updates.recorder, EagerRecorder)
    assert unlike(plain, static) == []
    assert plain.static_updates is None
    assert "model.cuda_graph: there is no GPU here, so updates run on static tensors" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")
def test_in_bfloat16_too(tmp_path, monkeypatch):
    agent, found = beside_plain(tmp_path, monkeypatch, trainer_options={"precision": "bf16-mixed"}, max_frames=120)
    assert found == []
    assert agent.static_updates.recorder.replays > 0


# ---------------------------------------------------------------------------------- what changes between two updates


def toggle(agent) -> None:
    agent.augment = not agent.augment


def faster_target(agent) -> None:
    agent.critic_target_tau = 0.5


def lower_rates(agent) -> None:
    for optimizer in agent.trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= 0.1


def explore_again(agent) -> None:
    agent.restart_exploration()


def other_betas(agent) -> None:
    for optimizer in agent.trainer.optimizers:
        optimizer.param_groups[0]["betas"] = (0.5, 0.9)


def freeze(agent) -> None:
    agent.encoder.requires_grad_(False)


def move_storage(agent) -> None:
    for parameter in agent.critic.parameters():
        parameter.data = parameter.data.clone()


def new_states(agent) -> None:
    """What loading a checkpoint does."""
    for optimizer in agent.trainer.optimizers:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def new_generators(agent) -> None:
    agent.rng.load_state_dict({name: state.clone() for name, state in agent.rng.state_dict().items()})


def in_place(agent) -> None:
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.mul_(0.5)
    for state in agent.trainer.optimizers[2].state.values():
        for value in state.values():
            value.zero_()


def no_dropout(agent) -> None:
    for module in agent.critic.modules():
        module.training = False


SAME_GRAPH = (lower_rates, explore_again, in_place)
OTHER_GRAPH = (toggle, faster_target, other_betas, freeze, move_storage, new_states, new_generators, no_dropout)


@pytest.mark.parametrize("change", [*SAME_GRAPH, *OTHER_GRAPH])
def test_a_change_between_updates_is_followed(change, tmp_path, monkeypatch):
    agent, found = beside_plain(tmp_path, monkeypatch, lambda: [Meddles(change)], max_frames=160)
    assert found == []
    assert agent.static_updates.recorder.captures == (1 if change in SAME_GRAPH else 2)


def test_graphs_take_turns(tmp_path, monkeypatch):
    """What Python reads after an update (gradients, losses without terms) is that of the graph that was replayed."""
    log, losses, written = Log(monkeypatch), [], []

    def callbacks():
        losses.append(OwnLosses())
        probes = [ours.GradientNorm(every_n_updates=1), ours.L2Init(coefficient=0.1), losses[-1]]
        return [*probes, Meddles(toggle, at=range(6, 60, 6))]

    plain = fit_tiny(tmp_path / "plain", callbacks=callbacks())
    written.append(log.take())
    captured = fit_captured(tmp_path / "captured", monkeypatch, callbacks=callbacks())
    written.append(log.take())
    assert unlike(plain, captured) == []
    assert captured.static_updates.recorder.captures == 2
    assert captured.static_updates.counts["replayed"] > 20
    assert losses[0].seen == losses[1].seen
    assert written[0] == written[1]


class OwnLosses(RLCallback):
    """Keeps what the agent says of its losses after every update."""

    cuda_graph = "stays"

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        total = metrics["loss/critic"]
        self.seen.append((float(agent.own_loss("critic", total)), float(total)))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("attributes of the agent", toggle),
        ("attributes of the agent", faster_target),
        ("parameters and buffers, and which of them learn", freeze),
        ("parameters and buffers, and which of them learn", move_storage),
        ("optimizers, their options and states", new_states),
        ("optimizers, their options and states", other_betas),
        ("generators", new_generators),
    ],
)
def test_without_a_part_of_the_key_a_stale_replay_is_seen(part, change, tmp_path, monkeypatch):
    whole = graphs.key_of

    def without(*given):
        named = whole(*given)
        also = {"optimizers, their options and states"} if change is move_storage else set()
        return named._replace(key=tuple(one for one in named.key if one[0] not in {part, *also}))

    monkeypatch.setattr(graphs, "key_of", without)
    _, found = beside_plain(tmp_path, monkeypatch, lambda: [Meddles(change)], max_frames=120)
    assert found


@pytest.mark.parametrize("change", [lower_rates, explore_again])
def test_a_number_that_does_not_move_is_seen(change, tmp_path, monkeypatch):
    take = graphs.StaticUpdates._take_scalars

    def once(self, optimizers) -> None:
        if not self._scalars:
            take(self, optimizers)

    monkeypatch.setattr(graphs.StaticUpdates, "_take_scalars", once)
    _, found = beside_plain(tmp_path, monkeypatch, lambda: [Meddles(change)], max_frames=120)
    assert found


@pytest.mark.parametrize("make", [tiny_agent, tiny_dqn])
def test_a_resumed_run_equals_the_one_that_was_not_stopped(make, tmp_path, monkeypatch):
    options = {"make_agent": make, "data_options": TINY_DISCRETE if make is tiny_dqn else {}}
    straight = fit_tiny(tmp_path / "straight", **options)
    fit_captured(tmp_path / "both", monkeypatch, max_frames=100, **options)
    assert unlike(straight, fit_captured(tmp_path / "both", monkeypatch, ckpt_path="last", **options)) == []
    fit_tiny(tmp_path / "later", max_frames=100, **options)
    assert unlike(straight, fit_captured(tmp_path / "later", monkeypatch, ckpt_path="last", **options)) == []


# ------------------------------------------------------------------------------------------------- who stands beside it


class Undeclared(RLCallback):
    """Nothing is known of it."""


class BelowReset(ours.Reset):
    """Inherits, and declares nothing."""


class HearsBatches(pl.Callback):
    def on_train_batch_start(self, *args) -> None:
        pass


class HearsBackwards(pl.Callback):
    cuda_graph = "stays"

    def on_after_backward(self, *args) -> None:
        pass


class HearsEvaluations(pl.Callback):
    def on_validation_end(self, *args) -> None:
        pass


class Misspelt(RLCallback):
    cuda_graph = "stay"


def test_what_declares_nothing_is_taken_to_be_in_every_update():
    assert rule_of(ours.Reset(modules=["actor"], every_n_frames=10)) == "stays"
    assert rule_of(BelowReset(modules=["actor"], every_n_frames=10)) == "eager"
    assert rule_of(Undeclared()) == rule_of(HearsBatches()) == "eager"
    assert rule_of(HearsEvaluations()) == rule_of(pl.callbacks.Timer()) == rule_of(LastCheckpoint()) == "stays"
    assert rule_of(pl.callbacks.LambdaCallback(on_train_batch_end=lambda *_: None)) == "eager"
    assert always_eager([HearsBackwards(), HearsEvaluations(), Undeclared()]) == ["HearsBackwards", "Undeclared"]
    with pytest.raises(UserError, match="^Misspelt.cuda_graph='stay' must be one of .*'stays'"):
        rule_of(Misspelt())


@pytest.mark.parametrize("callback", [Undeclared, HearsBatches, HearsBackwards])
def test_beside_it_no_update_is_captured_and_the_run_says_so(callback, tmp_path, monkeypatch, capsys):
    agent, found = beside_plain(tmp_path, monkeypatch, lambda: [callback()], max_frames=80)
    assert found == []
    assert agent.static_updates.counts == {"eager": agent.num_updates}
    assert f"model.cuda_graph: no update is captured beside {callback.__name__}" in capsys.readouterr().out


def test_an_update_with_hooks_is_done_without_a_graph(tmp_path, monkeypatch):
    seen = []

    def look(agent) -> None:
        handle = agent.critic.register_forward_hook(lambda *_: seen.append(agent.num_updates))
        agent.trainer.optimizers[0].register_step_post_hook(lambda *_: handle.remove())

    def blind(agent) -> None:
        agent.trainer.optimizers[0]._optimizer_step_post_hooks.clear()

    agent = fit_captured(tmp_path, monkeypatch, callbacks=[Meddles(look, [12]), Meddles(blind, [13])], max_frames=120)
    assert agent.static_updates.counts["eager"] == 1
    assert set(seen) == {12}


class Waits(RLCallback):
    """Says that it adds by tensors alone, and reads one."""

    cuda_graph = "inside"

    def on_fit_start(self, trainer, agent) -> None:
        agent.add_loss_term("critic", "waits", lambda batch: batch["features"].mean() * batch["reward"].mean().item())


def test_what_waits_for_the_gpu_ends_the_run_with_a_line_that_says_how_to_go_on(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^cuda_graph=true: an update of DrQV2 cannot be captured .*local_scalar"):
        fit_captured(tmp_path, monkeypatch, callbacks=[Waits()], max_frames=80)


def test_what_made_a_capture_fail_is_said_and_not_that_its_end_failed_too(tmp_path, monkeypatch):
    def record(self, work, generators):
        try:
            raise RuntimeError("operation not permitted: item()")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(PretendGraphs, "record", record)
    with pytest.raises(UserError, match=r"cannot be captured as it is now \(operation not permitted: item\(\)\)"):
        fit_captured(tmp_path, monkeypatch, max_frames=80)


def test_a_key_that_never_settles_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "UNSETTLED", 10)

    def restless(agent) -> None:
        agent.stddev_clip += 1e-6

    with pytest.warns(UserWarning, match=r"in 10 updates none was replayed, .*\(attributes of the agent\)"):
        fit_captured(tmp_path, monkeypatch, callbacks=[Meddles(restless, range(50))], max_frames=100)


# ------------------------------------------------------------------------------------------------------------ refusals


class Foreign(nn.Module):
    def forward(self, frames):
        return frames


@pytest.mark.parametrize(
    ("agent_options", "trainer_options", "reason"),
    [
        ({"compile": "eager"}, {}, "beside model.compile"),
        ({"augmentations": [Foreign()]}, {}, "model.augmentations has Foreign, which draws its numbers on the CPU"),
        ({}, {"profiler": "simple"}, "SimpleProfiler times what a replay does not call"),
    ],
)
def test_what_cannot_be_captured_is_refused_before_training(agent_options, trainer_options, reason, tmp_path):
    with pytest.raises(UserError, match=f"^cuda_graph=true: {reason}.*leave it out"):
        fit_tiny(tmp_path, agent_options={"cuda_graph": True, **agent_options}, trainer_options=trainer_options)


@pytest.mark.parametrize(
    ("world_size", "device", "reason"),
    [(2, "cuda", "with 2 processes averages gradients"), (1, "mps", "this run is on mps")],
)
def test_ranks_and_other_devices_are_refused(world_size, device, reason):
    strategy = pl.strategies.SingleDeviceStrategy(torch.device("cpu"))
    strategy._root_device = torch.device(device)
    trainer = SimpleNamespace(strategy=strategy, world_size=world_size)
    with pytest.raises(UserError, match=reason):
        refuse_uncapturable(SimpleNamespace(trainer=trainer))


# --------------------------------------------------------------------------------------------------- outside a Trainer


def test_outside_a_trainer(monkeypatch):
    recorder = PretendGraphs()
    monkeypatch.setattr(graphs, "recorder_for", lambda device: recorder)
    agents = []
    for on in (False, True):
        torch.manual_seed(0)
        agents.append(tiny_agent(SimpleNamespace(obs_shape=(9, 16, 16), action_dim=1), cuda_graph=on))
    batch = random_batch(4, (9, 16, 16), 1)
    for _ in range(8):
        plain, captured = (agent.learn(batch) for agent in agents)
        assert all(torch.equal(plain[tag], captured[tag]) for tag, _ in plain.items())
    assert recorder.replays == 8 - FIRST
    assert copy.deepcopy(agents[1]).static_updates is None


# ------------------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", AGENTS)
def test_graphs_of_a_gpu_give_the_bits_of_the_same_updates_by_hand(name, precision, tmp_path, monkeypatch):
    make, data, own = AGENTS[name]
    if make is not tiny_agent and precision != "32-true":
        return
    options = {
        "make_agent": make,
        "data_options": data,
        "agent_options": {**own, "cuda_graph": True},
        "trainer_options": {"accelerator": "gpu", "devices": 1, "precision": precision, "deterministic": True},
        "max_frames": 160,
    }

    def callbacks():
        return [Meddles(move_storage, [15]), Meddles(faster_target if make is tiny_agent else new_states, [20])]

    replayed = fit_tiny(tmp_path / "replayed", callbacks=callbacks(), **options)
    monkeypatch.setattr(graphs, "recorder_for", lambda device: EagerRecorder())
    by_hand = fit_tiny(tmp_path / "by hand", callbacks=callbacks(), **options)
    assert isinstance(replayed.static_updates.recorder, GraphRecorder)
    assert replayed.static_updates.counts == by_hand.static_updates.counts
    assert unlike(by_hand, replayed) == []
