"""Interventions on how weights are used: spectral norm, projection, static sparsity."""

from __future__ import annotations

import pytest
import torch
from built import assert_target_is_a_twin, changed, drqv2, some_batch
from helpers import fit_tiny
from tensordict import TensorDict

from callbacks import NormalizeAndProject, RandomPruning, Reset, ShrinkAndPerturb, SpectralNorm, WeightDecay
from plasticity_rl import DQN, UserError
from plasticity_rl.callback import RLCallback

# ---- SpectralNorm ----------------------------------------------------------------------------------------------------


def test_spectral_norm_of_the_trunks():
    agent, plain = drqv2(SpectralNorm()), drqv2()
    assert changed(agent, plain) == set(), "the weights themselves stay, under their names"
    assert_target_is_a_twin(agent)
    for seed in range(30):
        agent.update(some_batch(agent, seed=seed))
    for net in (agent.actor, agent.critic, agent.critic_target):
        norm = torch.linalg.matrix_norm(net.trunk[0].effective_weight, 2)
        assert float(norm.detach()) == pytest.approx(1.0, abs=0.02)
    assert not hasattr(agent.critic.Q1[0], "transforms")


def test_spectral_norm_after_a_reset_is_one_at_once(tmp_path):
    class Look(Reset):
        def act(self, agent) -> str:
            with torch.no_grad():
                agent.critic.trunk[0].weight.mul_(50.0)
            text = super().act(agent)
            weights = [net.trunk[0].effective_weight.detach() for net in (agent.critic, agent.critic_target)]
            self.seen = [float(torch.linalg.matrix_norm(weight, 2)) for weight in weights]
            return text

    look = Look(modules=["critic"], at_frames=[150])
    fit_tiny(tmp_path, callbacks=[SpectralNorm(), look])
    assert look.seen == pytest.approx([1.0, 1.0], abs=0.02)


def test_a_copied_target_divides_by_the_norm_of_the_copied_weights():
    torch.manual_seed(0)
    agent = DQN((5,), 3, hidden_dim=16, lr=0.03, target_every_n_updates=20)
    agent.build([SpectralNorm(modules=["encoder", "critic"])])
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        now, later = torch.randn(2, 8, 5, generator=draw)
        values = {"reward": torch.rand(8, 1, generator=draw), "discount": torch.full((8, 1), 0.9)}
        actions = torch.randint(3, (8, 1), generator=draw)
        agent.update(TensorDict({"state": now, "action": actions, "next": {"state": later}, **values}, [8]))
        agent.num_updates += 1
    agent.eval()
    with torch.no_grad():
        expected = agent.critic(agent.encoder(now))
        assert torch.equal(agent.critic_target(agent.encoder_target(now)), expected)


# ---- NormalizeAndProject ---------------------------------------------------------------------------------------------


class Norms(RLCallback):
    """Outputs and norms before and after the projection."""

    family = "architecture"

    def __init__(self, projection: NormalizeAndProject) -> None:
        self.projection, self.before, self.after = projection, [], []
        self.project = projection.on_update_start
        projection.on_update_start = self.on_project

    def on_project(self, agent) -> None:
        batch = agent.probe_batch(8)
        outputs = agent.forward_all(batch)
        self.before.append(norms(agent))
        self.project(agent)
        self.after.append(norms(agent))
        for name, value in agent.forward_all(batch).items():
            torch.testing.assert_close(value, outputs[name], rtol=2e-3, atol=2e-4)


def norms(agent) -> dict[str, float]:
    return {name: float(p.detach().norm()) for name, p in agent.named_parameters()}


def test_projection_restores_the_first_norms_and_no_output_changes(tmp_path):
    projection = NormalizeAndProject()
    look = Norms(projection)
    fit_tiny(tmp_path, callbacks=[projection, look])
    hidden = [f"critic.{q}.{i}.weight" for q in ("Q1", "Q2") for i in (0, 2)]
    hidden += [f"encoder.convnet.{i}.weight" for i in (0, 2, 4, 6)] + ["actor.trunk.0.weight", "actor.policy.2.weight"]
    first = look.before[0]
    assert any(abs(look.before[-1][name] / first[name] - 1) > 1e-4 for name in hidden), "there was nothing to project"
    for name in hidden:
        assert look.after[-1][name] == pytest.approx(first[name], rel=1e-5)
    assert look.after[-1]["critic.Q1.4.weight"] == look.before[-1]["critic.Q1.4.weight"]
    assert look.after[-1]["critic.Q1.0_norm.weight"] == look.before[-1]["critic.Q1.0_norm.weight"]


def test_a_layer_of_zeros_stays_zero(tmp_path):
    """All its units may have been pruned; 0 / 0 would end the run."""
    callback = NormalizeAndProject(modules=["critic"])
    agent = fit_tiny(tmp_path, callbacks=[callback], max_frames=50)
    with torch.no_grad():
        agent.critic.Q1[0].weight.zero_()
        agent.critic.Q2[0].weight.mul_(2)
    kept = agent.critic.Q2[0].weight.detach().clone()
    callback.on_update_start(agent)
    assert not agent.critic.Q1[0].weight.any()
    assert bool(torch.isfinite(agent.critic.Q1[0].bias).all())
    assert float(agent.critic.Q2[0].weight.detach().norm()) < 0.6 * float(kept.norm()), "the others are projected"


def test_fresh_weights_bring_their_own_norm(tmp_path):
    projection = NormalizeAndProject(modules=["critic"])
    before = {}

    class Shrunk(Reset):
        def act(self, agent) -> str:
            before.update(projection.state_dict()["norms"])
            text = super().act(agent)
            fresh = agent.critic.Q1[0].weight
            assert torch.equal(projection.state_dict()["norms"]["critic.Q1.0"], fresh.detach().norm())
            return text

    fit_tiny(tmp_path, callbacks=[projection, Shrunk(modules=["critic"], at_frames=[150])])
    assert before


# ---- RandomPruning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["erdos_renyi", "uniform"])
def test_the_stated_share_is_pruned_in_online_network_and_target(distribution):
    agent = drqv2(RandomPruning(sparsity=0.75, distribution=distribution))
    weights = {n: p for n, p in agent.named_parameters() if p.dim() > 1 and "target" not in n}
    zeros, total = sum(int((p == 0).sum()) for p in weights.values()), sum(p.numel() for p in weights.values())
    assert zeros / total == pytest.approx(0.75, abs=0.01)
    if distribution == "uniform":
        assert all(int((p == 0).sum()) == p.numel() - round(p.numel() / 4) for p in weights.values())
    assert all(bool((p != 0).any()) for p in weights.values())
    assert_target_is_a_twin(agent)


def test_pruned_weights_have_no_effect_and_no_gradient_for_good(tmp_path):
    """Not even after weight decay, and a perturbation that writes into all of the weight."""
    given = [RandomPruning(sparsity=0.5), WeightDecay(coefficient=0.1), ShrinkAndPerturb(at_frames=[150])]
    agent = fit_tiny(tmp_path, callbacks=given)
    layer = agent.critic.Q1[0]
    (mask,) = (transform.mask for transform in layer.transforms)
    assert int(mask.sum()) < mask.numel()
    assert bool((layer.effective_weight[~mask] == 0).all())
    x = torch.randn(4, layer.in_features)
    (gradient,) = torch.autograd.grad(layer(x).sum(), layer.weight)
    assert bool((gradient[~mask] == 0).all())
    assert bool((gradient[mask] != 0).all())


def test_without_other_interventions_pruned_weights_stay_zero(tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[RandomPruning(sparsity=0.5)])
    for network in (agent.critic, agent.critic_target):
        (mask,) = (transform.mask for transform in network.Q1[0].transforms)
        assert bool((network.Q1[0].weight[~mask] == 0).all())
        assert bool((network.Q1[0].weight[mask] != 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"RandomPruning.sparsity=1.0 must be in \[0, 1\)"),
        ({"sparsity": -0.1}, r"RandomPruning.sparsity=-0.1 must be in \[0, 1\)"),
        ({"distribution": "normal"}, "RandomPruning.distribution='normal' must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        RandomPruning(**arguments)
