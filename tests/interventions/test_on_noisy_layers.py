"""Edits of weights on noisy layers: the scale of the noise goes with the weights that it belongs to."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY_DISCRETE, fit_tiny, tiny_dqn
from tensordict import TensorDict
from torch import Tensor

import callbacks
from plasticity_rl import DQN
from plasticity_rl.agents.dqn.networks import init_weights
from plasticity_rl.callback.recycling import redraw
from plasticity_rl.callback.unit_interventions import FreshUnits, detach_readers, put_units
from plasticity_rl.nn.noisy import NoisyLinear, noise_in
from plasticity_rl.surgery import clip_weights, redraw_units

SIGMA = 0.5
HIDDEN, FEATURES = 16, 16
"""Of the agent below: an initial scale of 0.5 / 4."""
FIRST = SIGMA / 4


def noisy(**options) -> DQN:
    torch.manual_seed(0)
    given = {"hidden_dim": HIDDEN, "noisy_sigma": SIGMA, "lr": 1e-2, "target_every_n_updates": 1000}
    agent = DQN((5,), 3, **{**given, **options})
    for layer in agent.critic.modules():
        if isinstance(layer, NoisyLinear):
            for scale in (layer.weight_sigma, layer.bias_sigma):
                scale.data.uniform_(1.0, 2.0, generator=torch.Generator().manual_seed(3))
    return agent


def batch_of(size: int = 8) -> TensorDict:
    g = torch.Generator().manual_seed(1)
    state, later = torch.randn(2, size, 5, generator=g)
    batch = {"state": state, "next": TensorDict({"state": later}, [size]), "reward": torch.randn(size, 1, generator=g)}
    batch |= {"action": torch.randint(3, (size, 1), generator=g), "discount": torch.full((size, 1), 0.9)}
    return TensorDict(batch, [size])


def with_noise(agent: DQN, seed: int = 5) -> Tensor:
    with torch.no_grad(), noise_in(agent.critic, torch.Generator().manual_seed(seed)):
        return agent.critic(agent.encoder(batch_of()["state"]))


def silence(layer: NoisyLinear, unit: int) -> None:
    """Nothing comes out of a unit behind a ReLU, whatever the noise."""
    with torch.no_grad():
        layer.weight[unit] = layer.weight_sigma[unit] = 0.0
        layer.bias[unit], layer.bias_sigma[unit] = -1.0, 0.0


def test_a_redrawn_unit_has_the_noise_of_the_start_by_hand():
    layer = NoisyLinear(4, 3, 0.5)
    layer.weight_sigma.data.fill_(9.0)
    layer.bias_sigma.data.fill_(7.0)
    layer.bias.data.fill_(5.0)
    redraw_units(layer, torch.tensor([False, True, False]), init_weights, torch.Generator().manual_seed(0))
    assert layer.weight_sigma.tolist() == [[9.0] * 4, [0.25] * 4, [9.0] * 4]  # 0.5 over the root of 4
    assert layer.bias_sigma.tolist() == [7.0, 0.25, 7.0]
    assert layer.bias.tolist() == [5.0, 0.0, 5.0]
    assert layer.weight[1].abs().max() <= 0.5


UNITS = torch.arange(HIDDEN) == 2


def redrawn(agent: DQN) -> None:
    (layer,) = agent.units("critic")
    redraw(agent, layer, UNITS, torch.Generator().manual_seed(0))
    detach_readers(agent, layer, UNITS)


def put(agent: DQN) -> None:
    (layer,) = agent.units("critic")
    put_units(agent, layer, torch.tensor([2]), FreshUnits(layer, "test").take(agent, 1))
    detach_readers(agent, layer, UNITS)


@pytest.mark.parametrize("renew", [redrawn, put])
def test_the_noise_of_a_new_unit_is_the_first_in_what_it_reads_and_none_in_what_reads_it(renew):
    agent = noisy()
    first, last = agent.critic.advantage[0], agent.critic.advantage[2]
    agent.update(batch_of())  # so that there are moments to clear
    before = {name: p.detach().clone() for name, p in agent.critic.advantage.named_parameters()}
    renew(agent)
    for net in (agent.critic, agent.critic_target):
        assert torch.equal(net.advantage[0].weight_sigma[2], torch.full((FEATURES,), FIRST))
        assert net.advantage[0].bias_sigma[2] == FIRST
        assert not net.advantage[2].weight_sigma[:, 2].any()
        assert not net.advantage[2].weight[:, 2].any()
    assert torch.equal(first.weight_sigma[~UNITS], before["0.weight_sigma"][~UNITS])
    assert torch.equal(last.weight_sigma[:, ~UNITS], before["2.weight_sigma"][:, ~UNITS])
    assert torch.equal(last.bias_sigma, before["2.bias_sigma"])
    state = agent.optimizer_of(first.weight_sigma).state
    assert not state[first.weight_sigma]["exp_avg"][2].any()
    assert not state[last.weight_sigma]["exp_avg_sq"][:, 2].any()
    assert state[last.weight_sigma]["exp_avg_sq"][:, ~UNITS].any()


@pytest.mark.parametrize("renew", [redrawn, put])
def test_renewing_a_silent_unit_changes_no_output_whatever_the_noise_and_it_learns_again(renew):
    agent = noisy()
    silence(agent.critic.advantage[0], 2)
    before = [with_noise(agent, seed) for seed in (5, 6)]
    assert not torch.equal(*before)
    renew(agent)
    for seed, expected in zip((5, 6), before, strict=True):
        torch.testing.assert_close(with_noise(agent, seed), expected, rtol=1e-5, atol=1e-6)
    agent.update(batch_of())
    for parameter in (agent.critic.advantage[2].weight, agent.critic.advantage[2].weight_sigma):
        assert parameter[:, 2].any(), "it has a gradient"


def test_a_pruned_unit_is_silent_whatever_the_noise(tmp_path):
    prune = callbacks.PruneDormant(modules=["critic"], tau=0.6, every_n_updates=3, batch_size=8)
    options = {"max_frames": 80, "data_options": {**TINY_DISCRETE, "eval_every_n_frames": 40}}
    agent = fit_tiny(tmp_path, callbacks=[prune], make_agent=tiny_dqn, agent_options={"noisy_sigma": SIGMA}, **options)
    (pruned,) = prune._pruned.values()
    assert 0 < pruned.sum() < len(pruned)
    for net in (agent.critic, agent.critic_target):
        maker, reader = net.advantage[0], net.advantage[2]
        assert not any(p[pruned].any() for p in maker.parameters())
        assert not any(p[:, pruned].any() for p in (reader.weight, reader.weight_sigma))
        assert maker.weight_sigma[~pruned].all()


@pytest.mark.parametrize(
    ("callback", "hidden", "read"),
    [
        (callbacks.CReLU(modules=["critic"]), HIDDEN, 2 * HIDDEN),
        (callbacks.WiderNetwork(modules=["critic"], factor=2.0), 2 * HIDDEN, 2 * HIDDEN),
    ],
    ids=["crelu", "wider"],
)
def test_layers_of_another_size_are_noisy_too(callback, hidden, read):
    torch.manual_seed(0)
    agent = DQN((5,), 3, hidden_dim=HIDDEN, noisy_sigma=SIGMA, dueling=True)
    state = torch.get_rng_state()
    agent.build([callback])
    assert torch.equal(torch.get_rng_state(), state)
    for net in (agent.critic, agent.critic_target):
        for stream, outputs in ((net.advantage, 3), (net.value, 1)):
            for layer, shape in ((stream[0], (hidden, FEATURES)), (stream[2], (outputs, read))):
                assert isinstance(layer, NoisyLinear)
                assert layer.weight.shape == layer.weight_sigma.shape == shape
                assert torch.equal(layer.weight_sigma, torch.full(shape, SIGMA / shape[1] ** 0.5))
                assert torch.equal(layer.bias_sigma, torch.full(shape[:1], SIGMA / shape[1] ** 0.5))
    assert not torch.equal(with_noise(agent, 5), with_noise(agent, 6))


def test_an_injection_leaves_the_output_as_it_is_whatever_the_noise():
    agent = noisy()
    agent.build([callbacks.PlasticityInjection(modules=["critic"], at_frames=[50])])
    head = agent.critic.advantage
    before = [with_noise(agent, seed) for seed in (5, 6)]
    head.inject()
    for seed, expected in zip((5, 6), before, strict=True):
        torch.testing.assert_close(with_noise(agent, seed), expected)
    head.injected[0]["added"][2].weight_sigma.data.zero_()
    assert not torch.allclose(with_noise(agent, 5), before[0]), "the noise of the added part is learned by itself"
    assert all(layer.noise is None for layer in agent.critic.modules() if isinstance(layer, NoisyLinear))


def test_before_an_injection_the_noise_and_so_the_run_is_that_without_it():
    def trained(*given) -> dict[str, Tensor]:
        agent = noisy(dueling=True)  # the noise of the second stream is drawn behind the pairs of the first
        agent.build(given)
        for _ in range(3):
            agent.update(batch_of())
            agent.num_updates += 1
        return {name: p.detach() for name, p in agent.named_parameters()}

    plain, beside = trained(), trained(callbacks.PlasticityInjection(at_frames=[10**12]))
    assert len(beside) > len(plain)
    assert all(torch.equal(beside[name], value) for name, value in plain.items())


def test_a_soft_reset_moves_the_noise_towards_that_of_the_start(tmp_path):
    """By hand: 0.8 of what it was and 0.2 of the first."""
    seen = {}

    class Watch(callbacks.ShrinkAndPerturb):
        def act(self, agent):
            own = dict(agent.critic.named_parameters())
            seen["before"] = {name: p.detach().clone() for name, p in own.items()}
            text = super().act(agent)
            seen["after"] = {name: p.detach().clone() for name, p in own.items()}
            return text

    options = {"max_frames": 60, "data_options": {**TINY_DISCRETE, "eval_every_n_frames": 60}}
    fit_tiny(
        tmp_path,
        callbacks=[Watch(shrink=0.8, at_frames=[50])],
        make_agent=tiny_dqn,
        agent_options={"noisy_sigma": SIGMA},
        **options,
    )
    for name, inputs in (("advantage.0.weight_sigma", None), ("advantage.2.bias_sigma", 16)):
        fan_in = inputs or seen["before"][name].shape[1]
        expected = 0.8 * seen["before"][name] + 0.2 * SIGMA / fan_in**0.5
        torch.testing.assert_close(seen["after"][name], expected)
        assert not torch.equal(seen["after"][name], seen["before"][name])


def test_clipping_bounds_the_noise_too_by_hand():
    layer = NoisyLinear(4, 2, 0.5)
    with torch.no_grad():
        for p, value in zip(
            (layer.weight, layer.bias, layer.weight_sigma, layer.bias_sigma), (0, 0, 3, -3), strict=True
        ):
            p.fill_(value)
    share = clip_weights([layer], 2.0)  # a bound of 2 over the root of 4
    assert share == pytest.approx(10 / 20)
    assert layer.weight_sigma.tolist() == [[1.0] * 4] * 2
    assert layer.bias_sigma.tolist() == [-1.0] * 2
