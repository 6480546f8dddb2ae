"""DQN: an update against loops over the batch, targets, exploration, resume, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import TINY_DISCRETE, fit_tiny, tiny_dqn, weights_hash
from tensordict import TensorDict

from plasticity_rl import DQN
from plasticity_rl.agents.dqn.networks import CONVOLUTIONS, count_parameters
from plasticity_rl.callback import RLCallback
from plasticity_rl.errors import UserError
from plasticity_rl.nn.noisy import NoisyLinear, noise_in

KINDS = [{"loss": "huber"}, {"loss": "mse"}, {"num_atoms": 5, "v_min": -2.0, "v_max": 2.0}]
RAINBOW = {"double": True, "dueling": True, "num_atoms": 5, "v_min": -2.0, "v_max": 2.0, "noisy_sigma": 0.3}


def small(**options):
    torch.manual_seed(0)
    given = {"encoder": "minatar", "num_channels": 4, "hidden_dim": 8, "lr": 1e-2, "target_every_n_updates": 3}
    return DQN((2, 8, 8), 3, **{**given, **options})


def batch_of(size=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randint(256, (size, 2, 8, 8), dtype=torch.uint8, generator=g)  # noqa: E731
    return TensorDict(
        {
            "pixels": draw(),
            "next": TensorDict({"pixels": draw()}, [size]),
            "action": torch.randint(3, (size, 1), generator=g),
            "reward": torch.randn(size, 1, generator=g),
            "discount": 0.9 * (torch.rand(size, 1, generator=g) > 0.3).float(),
        },
        [size],
    )


def slow_loss(agent, batch, generator):
    """One sample after the other, in Python floats; the draws of noise in the order of an update."""
    o, total = agent.hparams, 0.0
    atoms = torch.linspace(o.v_min, o.v_max, o.num_atoms).tolist()
    with torch.no_grad(), noise_in(agent.critic_target, generator):
        later = agent.critic_target(agent.encoder_target(batch["next", "pixels"]))
    with torch.no_grad(), noise_in(agent.critic if o.double else agent.encoder, generator):
        choosing = agent.critic(agent.encoder(batch["next", "pixels"])) if o.double else later
    with torch.no_grad(), noise_in(agent.critic, generator):
        now = agent.critic(agent.encoder(batch["pixels"]))
    mean = lambda row: sum(z * p for z, p in zip(atoms, row.softmax(0).tolist(), strict=True))  # noqa: E731
    for i in range(len(batch)):
        reward, discount, action = (float(batch[name][i]) for name in ("reward", "discount", "action"))
        value = (lambda row: row.item()) if o.num_atoms == 1 else mean
        best = max(range(3), key=lambda a: value(choosing[i, a]))
        if o.num_atoms == 1:
            error = now[i, int(action)].item() - (reward + discount * later[i, best].item())
            small_one = o.loss == "mse" or abs(error) <= 1
            total += error**2 / 2 if small_one else abs(error) - 0.5
            continue
        target, width = [0.0] * len(atoms), atoms[1] - atoms[0]
        for z, p in zip(atoms, later[i, best].softmax(0).tolist(), strict=True):
            moved = min(max(reward + discount * z, atoms[0]), atoms[-1])
            for k, other in enumerate(atoms):
                target[k] += p * max(0.0, 1 - abs(moved - other) / width)
        total -= sum(t * q for t, q in zip(target, now[i, int(action)].log_softmax(0).tolist(), strict=True))
    return total / len(batch)


@pytest.mark.parametrize(
    ("double", "dueling", "noisy_sigma"), list(itertools.product([False, True], [False, True], [0.0, 0.3]))
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_equals_loops_over_the_batch(double, dueling, noisy_sigma, kind):
    agent, batch = small(double=double, dueling=dueling, noisy_sigma=noisy_sigma, **kind), batch_of()
    agent.update(batch_of(seed=1))  # so that the target network is another
    own = agent.loss_on("critic", batch, torch.Generator().manual_seed(5))
    assert own.item() == pytest.approx(slow_loss(agent, batch, torch.Generator().manual_seed(5)), rel=1e-4)


def test_an_update_descends_on_that_loss_with_adam():
    agent, twin, batch = small(**RAINBOW), small(**RAINBOW), batch_of()
    metrics = agent.update(batch)
    loss = twin.loss_on("critic", batch, twin.rng.get_own("update_noise"))
    parameters = [*twin.encoder.parameters(), *twin.critic.parameters()]
    adam = torch.optim.Adam(parameters, lr=1e-2, eps=1.5e-4)
    loss.backward()
    adam.step()
    assert metrics["loss/critic"] == loss.detach()
    for mine, theirs in zip([*agent.encoder.parameters(), *agent.critic.parameters()], parameters, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_those_of_the_batch(kind):
    agent, batch = small(**kind), batch_of()
    with torch.no_grad():
        taken = agent.critic(agent.encoder(batch["pixels"]))[torch.arange(6), batch["action"].flatten()]
    atoms = agent.support.tolist()
    mean = lambda row: sum(z * p for z, p in zip(atoms, row.softmax(0).tolist(), strict=True))  # noqa: E731
    values = [mean(row) if "num_atoms" in kind else row.item() for row in taken]
    targets = agent.td_targets(batch, torch.Generator()).flatten().tolist()
    metrics = agent.update(batch)
    for tag, expected in (("taken", values), ("target", targets), ("reward", batch["reward"].flatten().tolist())):
        assert metrics[f"q/{tag}"].item() == pytest.approx(sum(expected) / 6, rel=1e-4), tag


def test_importance_weights_weigh_the_loss():
    agent, batch = small(), batch_of(4)
    each = [agent.loss_on("critic", batch[i : i + 1], torch.Generator()).item() for i in range(4)]
    batch["weight"] = torch.tensor([[1.0], [0.5], [0.0], [2.0]])
    expected = (each[0] + 0.5 * each[1] + 2.0 * each[3]) / 4
    assert agent.loss_on("critic", batch, torch.Generator()).item() == pytest.approx(expected, rel=1e-5)
    assert agent.update(batch)["loss/critic"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_priorities_are_td_errors_of_values_and_losses_of_distributions(kind):
    """The error is the root of 2 h, h half its square; above 1 it is h + 1/2, h Huber's loss."""
    agent, batch = small(**kind), batch_of()
    batch["reward"] *= 3  # so that errors of values lie on both sides of 1
    each = [slow_loss(agent, batch[i : i + 1], torch.Generator()) for i in range(6)]
    batch["weight"] = torch.full((6, 1), 0.25)  # for the loss alone
    expected = each
    if "loss" in kind:
        assert min(each) < 0.5 < max(each)
        expected = [h + 0.5 if kind["loss"] == "huber" and h > 0.5 else math.sqrt(2 * h) for h in each]
    assert agent.update_core(batch)["error"].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_run_sets_priorities(tmp_path):
    data = {**TINY_DISCRETE, "prioritized": True}
    agent = fit_tiny(tmp_path, max_frames=80, make_agent=tiny_dqn, data_options=data)
    assert len(np.unique(agent.data.replay._windows.tree.leaves)) > 10


def test_the_gradient_of_all_parameters_together_is_clipped():
    agent = small(max_grad_norm=1e-3)
    agent.update(batch_of())
    gradients = [p.grad for p in (*agent.encoder.parameters(), *agent.critic.parameters())]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(1e-3, rel=1e-3)


def pairs(agent):
    nets = ((agent.encoder_target, agent.encoder), (agent.critic_target, agent.critic))
    return [(slow, fast) for s, f in nets for slow, fast in zip(s.parameters(), f.parameters(), strict=True)]


def test_the_target_is_copied_every_so_many_updates():
    agent, batch, equal = small(target_every_n_updates=3), batch_of(), []
    for _ in range(7):
        agent.update(batch)
        agent.num_updates += 1
        equal.append(all(torch.equal(slow, fast) for slow, fast in pairs(agent)))
    assert equal == [False, False, True, False, False, True, False]
    assert agent.copies_target


def test_a_run_copies_the_target_and_says_so(tmp_path):
    """Every 7 updates, of which 15 are done; a callback is told before the update is counted."""
    told = []

    class Told(RLCallback):
        def on_target_copy(self, agent) -> None:
            told.append((agent.num_updates, all(torch.equal(slow, fast) for slow, fast in pairs(agent))))

    agent = fit_tiny(tmp_path, callbacks=[Told()], make_agent=tiny_dqn, data_options=TINY_DISCRETE, max_frames=100)
    assert agent.num_updates == 15
    assert told == [(6, True), (13, True)]


def test_or_it_follows_at_every_update():
    agent = small(target_every_n_updates=0, target_tau=0.25)
    before = [slow.clone() for slow, _ in pairs(agent)]
    agent.update(batch_of())
    for start, (slow, fast) in zip(before, pairs(agent), strict=True):
        assert torch.allclose(slow, 0.75 * start + 0.25 * fast, atol=1e-6)
    assert not agent.copies_target


def test_epsilon_falls_after_the_seed_phase_and_is_the_share_of_random_actions():
    agent = small(num_seed_frames=100, epsilon_schedule="linear(1.0,0.2,100)")
    assert agent.epsilon == 1.0
    agent.env_steps = 150
    assert agent.epsilon == pytest.approx(0.6)
    agent.env_steps = 1000
    pixels = batch_of(1)["pixels"].expand(6000, -1, -1, -1)
    best = agent.critic(agent.encoder(pixels[:1])).squeeze(-1).argmax().item()
    actions = agent.choose(pixels, torch.Generator().manual_seed(0))
    assert actions.dtype == torch.int64
    other = (actions != best).float().mean().item()
    assert other == pytest.approx(0.2 * 2 / 3, abs=0.02)  # a random action is the best one in a third


def test_the_seed_phase_of_epsilon_is_in_frames(tmp_path):
    """50 env steps, of which the first 20, or 40 frames, are random: 1 - 0.8 * 30 / 100."""
    options = {"max_frames": 100, "agent_options": {"epsilon_schedule": "linear(1.0,0.2,100)"}}
    agent = fit_tiny(tmp_path, make_agent=tiny_dqn, data_options=TINY_DISCRETE, **options)
    assert agent.epsilon == pytest.approx(0.76)


def test_evaluation_is_nearly_greedy_from_a_generator_of_the_episode():
    agent = small(eval_epsilon=0.5, noisy_sigma=0.5)
    pixels = batch_of(64)["pixels"]
    state = {name: value.clone() for name, value in agent.rng.state_dict().items()}

    def play(episode):
        agent.begin_evaluation_episode(episode)
        return agent.choose(pixels, None)

    first, second = play(0), play(1)
    assert not torch.equal(first, second)
    assert torch.equal(play(0), first)
    assert agent.rng.state_dict().keys() == state.keys()


@pytest.mark.parametrize("options", [RAINBOW, {"augment": True, "random_shift_pad": 1, "intensity_scale": 0.05}])
def test_resumed_equals_uninterrupted(options, tmp_path):
    def make(data, seed):
        return tiny_dqn(data, seed=seed, **options)

    given = {"make_agent": make, "data_options": {**TINY_DISCRETE, "n_step": 3}}
    whole = fit_tiny(tmp_path / "whole", max_frames=200, **given)
    assert whole.num_updates > 30
    fit_tiny(tmp_path / "cut", max_frames=100, **given)
    resumed = fit_tiny(tmp_path / "cut", max_frames=200, ckpt_path="last", **given)
    assert weights_hash(resumed) == weights_hash(whole)


def test_it_learns_from_states(tmp_path):
    def make(data, seed):
        given = {"encoder": "mlp", "num_channels": None, "num_seed_frames": 80, "target_every_n_updates": 50}
        return tiny_dqn(data, seed=seed, lr=3e-3, replay_ratio=1.0, **given)

    data = {"observation": "state", "discount": 0.9, "n_step": 1, "batch_size": 32, "num_eval_episodes": 3}
    data |= {**TINY_DISCRETE, "eval_every_n_frames": 600}
    agent = fit_tiny(tmp_path, max_frames=600, make_agent=make, data_options=data)
    (_, before), (_, after) = agent.eval_returns
    assert after > before + 10  # of at most 40


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("options", [{}, {"dueling": True, "num_atoms": 3, "noisy_sigma": 0.1}, {"num_channels": 5}])
def test_parameters_are_counted_before_they_exist(kind, options):
    side = {"minatar": 10, "mini": 42}.get(kind, 84)
    agent = DQN((4, side, side), 6, encoder=kind, hidden_dim=16, **options)
    own = sum(p.numel() for p in (*agent.encoder.parameters(), *agent.critic.parameters()))
    count = count_parameters(
        (4, side, side),
        6,
        kind,
        options.get("num_channels"),
        16,
        options.get("num_atoms", 1),
        streams=1 + bool(options.get("dueling")),
        per_weight=1 + bool(options.get("noisy_sigma")),
    )
    assert own == count


def test_published_sizes():
    """Nature net: convolutions 77 984, then 3137 * 512 + 513 * 6; dueling C51: twice the former, 513 * (6 + 1) * 51."""
    count = lambda net: sum(p.numel() for p in (*net.encoder.parameters(), *net.critic.parameters()))  # noqa: E731
    assert count(DQN((4, 84, 84), 6)) == 77_984 + 3137 * 512 + 513 * 6
    assert count(DQN((4, 84, 84), 6, dueling=True, num_atoms=51)) == 77_984 + 2 * 3137 * 512 + 513 * 7 * 51


def test_a_reset_layer_has_the_noise_of_the_start_again():
    agent = small(noisy_sigma=0.3)
    layer = agent.critic.advantage[0]
    assert isinstance(layer, NoisyLinear)
    agent.update(batch_of())
    agent.init_layer(layer, torch.Generator())
    assert torch.allclose(layer.weight_sigma, torch.full_like(layer.weight_sigma, 0.3 / layer.in_features**0.5))
    assert layer.weight.abs().max() <= 1 / layer.in_features**0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "natur"}, "encoder=natur must be one of .* Did you mean nature"),
        ({"encoder": "mlp"}, "observations are images"),
        ({"encoder": "nature"}, "images of 8 x 8 pixels are too small"),
        ({"num_actions": 0}, "this task has continuous ones: use drqv2 or sac"),
        ({"target_every_n_updates": 0}, "exactly one must be > 0"),
        ({"target_tau": 0.1}, "exactly one must be > 0"),
        ({"loss": "l1"}, r"loss=l1 must be one of \['huber', 'mse'\]"),
        ({"loss": "mse", "num_atoms": 51}, "distributions have a loss of their own"),
        ({"v_max": 5.0}, "set num_atoms=51 as well"),
        ({"num_atoms": 51, "v_max": -20.0}, "must be less than v_max"),
        ({"random_shift_pad": 2}, "augment was not given"),
        ({"epsilon_schedule": "1.5"}, r"must stay in \[0, 1\]"),
        ({"epsilon_schedule": "step_linear(1.0,-0.5,100,0.1,100)"}, r"must stay in \[0, 1\]"),
        ({"epsilon_schedule": "step_linear(0.0,1.5,100,0.1,100)"}, r"must stay in \[0, 1\]"),
        ({"eval_epsilon": 2}, r"eval_epsilon=2 must be in \[0, 1\]"),
        ({"max_grad_norm": 0}, "max_grad_norm=0 must be > 0"),
        ({"hidden_dim": 10**9}, "lower them"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        DQN((2, 8, 8), **{"num_actions": 3, "encoder": "minatar", **options})
