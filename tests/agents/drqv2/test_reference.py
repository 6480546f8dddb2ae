"""DrQ-v2's update, derived a second time from the paper's equations, slowly and in plain torch (arXiv 2107.09645).

Nothing here uses the package's networks, losses, augmentation or optimizers: parameters are lists of tensors in the
published order, Adam and the moving average are written out, and images are shifted by bilinear interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F

from plasticity_rl import DrQV2
from plasticity_rl.augment.transforms import random_shift, shift
from plasticity_rl.rng import NamedGenerators

BATCH, ACTION_DIM, IMAGE, PAD, SEED = 16, 3, 24, 4, 7
LR, TAU, STDDEV, CLIP = 1e-3, 0.01, 0.55, 0.3
CRITIC_TRUNK, HEAD = 4, 6  # tensors in the critic's trunk and in one Q head
# Both sides are float32 and differ in the order of sums and in the interpolation's rounding (about 1e-5 of 255): a few
# units in the last place. Adam's first steps are about LR * sign(gradient), so a weight whose gradient is all rounding
# could differ by LR; 1e-6 is a thousandth of one step and would show any wrong term.
WEIGHT_TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
GRADIENT_TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


# ---- the derivation -------------------------------------------------------------------------------------------------


def encode(p: list[Tensor], images: Tensor) -> Tensor:
    """Four 3x3 convolutions, the first with stride 2, on values in [-0.5, 0.5]."""
    h = images / 255.0 - 0.5
    for i in range(4):
        h = torch.relu(F.conv2d(h, p[2 * i], p[2 * i + 1], stride=2 if i == 0 else 1))
    return h.reshape(len(images), -1)


def trunk(p: list[Tensor], features: Tensor) -> Tensor:
    weight, bias, scale, offset = p
    return torch.tanh(F.layer_norm(F.linear(features, weight, bias), scale.shape, scale, offset, eps=1e-5))


def mlp(p: list[Tensor], x: Tensor) -> Tensor:
    h = torch.relu(F.linear(x, p[0], p[1]))
    h = torch.relu(F.linear(h, p[2], p[3]))
    return F.linear(h, p[4], p[5])


def policy(p: list[Tensor], features: Tensor) -> Tensor:
    return torch.tanh(mlp(p[4:], trunk(p[:4], features)))


def q_values(p: list[Tensor], features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.cat([trunk(p[:CRITIC_TRUNK], features), action], dim=1)
    return mlp(p[CRITIC_TRUNK : CRITIC_TRUNK + HEAD], h), mlp(p[CRITIC_TRUNK + HEAD :], h)


def explore(mean: Tensor, standard_normal: Tensor) -> Tensor:
    """``clip(mean + clip(eps, -c, c), -1, 1)`` whose derivative with respect to ``mean`` is taken to be 1."""
    noise = (STDDEV * standard_normal).clip(-CLIP, CLIP)
    value = (mean.detach() + noise).clip(-1 + 1e-6, 1 - 1e-6)
    return value + (mean - mean.detach())


def interpolated_shift(images: Tensor, row_offsets: Tensor, column_offsets: Tensor, pad: int) -> Tensor:
    """Pad by repeating the border, then read the window that starts at the offsets (0 to 2 pad), bilinearly."""
    side = images.shape[-1]
    padded = F.pad(images.float(), (pad, pad, pad, pad), mode="replicate")
    start = torch.arange(side)
    size = side + 2 * pad

    def coordinate(offsets: Tensor) -> Tensor:
        """Centre of pixel i on an axis from -1 to 1 that ``size`` pixels fill: (2 i + 1) / size - 1."""
        return (2 * (start + offsets.view(-1, 1)) + 1) / size - 1

    rows = coordinate(row_offsets)[:, :, None].expand(-1, side, side)
    columns = coordinate(column_offsets)[:, None, :].expand(-1, side, side)
    return F.grid_sample(padded, torch.stack([columns, rows], dim=-1), mode="bilinear", align_corners=False)


class HandAdam:
    """Kingma and Ba 2015, Algorithm 1."""

    def __init__(self, count: int) -> None:
        self.t = 0
        self.m: list[Tensor | float] = [0.0] * count
        self.v: list[Tensor | float] = [0.0] * count

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        self.t += 1
        moved = []
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            m_hat, v_hat = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            moved.append((p.detach() - LR * m_hat / (v_hat**0.5 + 1e-8)).requires_grad_())
        return moved


@dataclass
class Noise:
    """Every random number of one update."""

    rows: Tensor
    columns: Tensor
    next_rows: Tensor
    next_columns: Tensor
    next_action: Tensor
    action: Tensor


class Reference:
    """The agent's weights as lists, and one update on them."""

    def __init__(self, agent: DrQV2) -> None:
        def copies(module: torch.nn.Module) -> list[Tensor]:
            return [p.detach().clone().requires_grad_() for p in module.parameters()]

        self.encoder, self.actor, self.critic = copies(agent.encoder), copies(agent.actor), copies(agent.critic)
        self.target = [p.detach().clone() for p in agent.critic_target.parameters()]
        self.encoder_adam, self.actor_adam = HandAdam(len(self.encoder)), HandAdam(len(self.actor))
        self.critic_adam = HandAdam(len(self.critic))

    def update(self, batch: TensorDict, noise: Noise) -> dict[str, Tensor]:
        images = interpolated_shift(batch["pixels"], noise.rows, noise.columns, PAD)
        next_images = interpolated_shift(batch["next", "pixels"], noise.next_rows, noise.next_columns, PAD)

        next_features = encode(self.encoder, next_images).detach()
        next_action = explore(policy(self.actor, next_features), noise.next_action).detach()
        next_q1, next_q2 = q_values(self.target, next_features, next_action)
        y = batch["reward"] + batch["discount"] * torch.minimum(next_q1, next_q2)
        features = encode(self.encoder, images)
        q1, q2 = q_values(self.critic, features, batch["action"])
        critic_loss = ((q1 - y.detach()) ** 2).mean() + ((q2 - y.detach()) ** 2).mean()
        self.encoder_gradients = torch.autograd.grad(critic_loss, self.encoder, retain_graph=True)
        self.critic_gradients = torch.autograd.grad(critic_loss, self.critic)
        critic_before = self.critic
        self.encoder = self.encoder_adam.step(self.encoder, list(self.encoder_gradients))
        self.critic = self.critic_adam.step(self.critic, list(self.critic_gradients))

        # The features are those from before the encoder's step; the critic is the one after its step.
        fixed = features.detach()
        action = explore(policy(self.actor, fixed), noise.action)
        actor_loss = -torch.minimum(*q_values(self.critic, fixed, action)).mean()
        stale_loss = -torch.minimum(*q_values(critic_before, fixed, action)).mean()
        self.stale_actor_gradients = torch.autograd.grad(stale_loss, self.actor, retain_graph=True)
        self.actor_gradients = torch.autograd.grad(actor_loss, self.actor)
        self.actor = self.actor_adam.step(self.actor, list(self.actor_gradients))

        self.target = [(1 - TAU) * t + TAU * p.detach() for t, p in zip(self.target, self.critic, strict=True)]
        return {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "q/q1": q1.mean(),
            "q/q2": q2.mean(),
            "q/target": y.mean(),
            "q/reward": batch["reward"].mean(),
        }


# ---- the comparison -------------------------------------------------------------------------------------------------


def make_agent(seed: int = SEED, **options: object) -> DrQV2:
    torch.manual_seed(seed)
    agent = DrQV2(
        (9, IMAGE, IMAGE),
        ACTION_DIM,
        lr=LR,
        feature_dim=10,
        hidden_dim=32,
        num_channels=8,
        critic_target_tau=TAU,
        stddev_schedule="linear(1.0,0.1,500000)",
        stddev_clip=CLIP,
        random_shift_pad=PAD,
        seed=seed,
        **options,
    )
    agent.env_steps = 250_000  # halfway: stddev (1.0 + 0.1) / 2 = 0.55
    with torch.no_grad():  # biases and norms are zeros and ones at the start, and would hide a mix-up
        for p in agent.parameters():
            p.add_(0.05 * torch.randn_like(p))
        # Means near 0.9, 0 and -0.9: with noise up to 0.3, many actions are clamped and many are not.
        agent.actor.policy[4].bias.copy_(torch.tensor([1.5, 0.0, -1.5]))
    return agent


def make_batch(index: int, batch: int = BATCH) -> TensorDict:
    g = torch.Generator().manual_seed(1000 + index)
    shape = (batch, 9, IMAGE, IMAGE)
    discount = torch.full((batch, 1), 0.99**3)
    discount[:2] = 0.0  # terminal states
    discount[2] = 0.99
    return TensorDict(
        {
            "pixels": torch.randint(0, 256, shape, dtype=torch.uint8, generator=g),
            "action": torch.rand(batch, ACTION_DIM, generator=g) * 2 - 1,
            "reward": torch.rand(batch, 1, generator=g) * 3,
            "discount": discount,
            "next": {"pixels": torch.randint(0, 256, shape, dtype=torch.uint8, generator=g)},
        },
        batch_size=[batch],
    )


def draw(generators: NamedGenerators) -> Noise:
    """Draw one update's numbers as the agent does: both offsets of now, of next; noise of next, then of now."""
    offsets, noise = generators.get("augment"), generators.get("update_noise")
    rows, columns = torch.randint(0, 2 * PAD + 1, (2, BATCH, 1), generator=offsets)
    next_rows, next_columns = torch.randint(0, 2 * PAD + 1, (2, BATCH, 1), generator=offsets)
    next_action = torch.randn(BATCH, ACTION_DIM, generator=noise)
    return Noise(rows, columns, next_rows, next_columns, next_action, torch.randn(next_action.shape, generator=noise))


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters()]


def test_five_updates_agree_with_the_derivation_in_every_loss_gradient_and_weight():
    agent = make_agent()
    with torch.no_grad():  # a target that is not the critic, as in the middle of a run
        for p in agent.critic_target.parameters():
            p.add_(0.05 * torch.randn_like(p))
    reference = Reference(agent)
    start = [p.detach().clone() for p in agent.parameters()]
    generators = NamedGenerators(SEED)
    for index in range(5):
        batch = make_batch(index)
        metrics = agent.update(batch)
        expected = reference.update(batch, draw(generators))
        assert set(metrics.keys()) == set(expected)
        for tag, value in expected.items():
            torch.testing.assert_close(metrics[tag], value.detach(), rtol=1e-5, atol=1e-6, msg=f"{tag}, update {index}")
        for name in ("encoder", "critic", "actor"):
            want = getattr(reference, f"{name}_gradients")
            for (key, p), g in zip(agent.module(name).named_parameters(), want, strict=True):
                assert g.abs().max() > 0, f"{name}.{key} has no gradient: nothing is compared"
                torch.testing.assert_close(
                    p.grad, g, **GRADIENT_TOLERANCE, msg=lambda m, k=f"{name}.{key}", i=index: f"d{k}, update {i}: {m}"
                )
        lists = {"encoder": reference.encoder, "critic": reference.critic, "actor": reference.actor}
        for name, module in agent.named_children():
            want = reference.target if name == "critic_target" else lists[name]
            for (key, p), w in zip(module.named_parameters(), want, strict=True):
                torch.testing.assert_close(
                    p, w, **WEIGHT_TOLERANCE, check_device=False,
                    msg=lambda m, k=f"{name}.{key}", i=index: f"{k}, update {i}: {m}",
                )  # fmt: skip
    # The comparison means something: every tensor moved by far more than the tolerance.
    for (name, p), before in zip(agent.named_parameters(), start, strict=True):
        assert (p - before).abs().max() > 1e-4, name


def test_the_actor_is_updated_with_the_critic_after_its_step():
    agent = make_agent()
    reference = Reference(agent)
    batch = make_batch(0)
    agent.update(batch)
    reference.update(batch, draw(NamedGenerators(SEED)))
    for got, after, before in zip(
        gradients(agent.actor), reference.actor_gradients, reference.stale_actor_gradients, strict=True
    ):
        wrong_by, right_by = (got - before).abs().max(), (got - after).abs().max()
        assert right_by < 1e-3 * wrong_by


def test_the_actor_step_reaches_neither_encoder_nor_critic():
    agent = make_agent()
    minimize, seen = agent.minimize, []

    def spy(loss: Tensor, *names: str) -> None:
        seen.append(names)
        if names == ("actor",):
            unused = torch.autograd.grad(loss, list(agent.encoder.parameters()), retain_graph=True, allow_unused=True)
            assert all(g is None for g in unused)
            others = [*agent.encoder.parameters(), *agent.critic.parameters(), *agent.critic_target.parameters()]
            before = [p.detach().clone() for p in others]
            actor_before = [p.detach().clone() for p in agent.actor.parameters()]
            grads_before = [None if p.grad is None else p.grad.clone() for p in others]
            minimize(loss, *names)
            assert all(torch.equal(p, b) for p, b in zip(others, before, strict=True))
            for p, b in zip(others, grads_before, strict=True):
                assert (p.grad is None and b is None) or torch.equal(p.grad, b)
            assert not any(torch.equal(p, b) for p, b in zip(agent.actor.parameters(), actor_before, strict=True))
        else:
            actor_before = [p.detach().clone() for p in agent.actor.parameters()]
            minimize(loss, *names)
            assert all(torch.equal(p, b) for p, b in zip(agent.actor.parameters(), actor_before, strict=True))

    agent.minimize = spy
    agent.update(make_batch(0))
    assert [set(names) for names in seen] == [{"encoder", "critic"}, {"actor"}]


def test_target_has_no_gradient_no_optimizer_and_moves_by_tau_towards_the_stepped_critic():
    agent = make_agent()
    before = [p.detach().clone() for p in agent.critic_target.parameters()]
    agent.update(make_batch(0))
    for p, old, online in zip(agent.critic_target.parameters(), before, agent.critic.parameters(), strict=True):
        assert not p.requires_grad
        assert p.grad is None
        assert agent.optimizer_of(p) is None
        torch.testing.assert_close(p, 0.99 * old + 0.01 * online.detach(), rtol=0, atol=1e-7)
    assert not any(torch.equal(p, old) for p, old in zip(agent.critic_target.parameters(), before, strict=True))


def test_target_starts_as_the_critic():
    torch.manual_seed(0)
    agent = DrQV2((9, IMAGE, IMAGE), ACTION_DIM, hidden_dim=8, num_channels=4)
    pairs = list(zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True))
    assert len(pairs) == 16
    assert all(torch.equal(online, target) and online is not target for online, target in pairs)


def test_without_augmentation_updates_agree_with_zero_shifts():
    agent = make_agent(augment=False)
    reference = Reference(agent)
    batch = make_batch(0)
    agent.update(batch)
    noise = draw(NamedGenerators(SEED))
    noise.rows = noise.columns = noise.next_rows = noise.next_columns = torch.full((BATCH, 1), PAD)
    reference.update(batch, noise)
    for name in ("encoder", "actor", "critic"):
        for p, w in zip(agent.module(name).parameters(), getattr(reference, name), strict=True):
            torch.testing.assert_close(p, w, **WEIGHT_TOLERANCE)


# ---- augmentation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [24, 84])
def test_integer_shift_gives_the_interpolated_images(side: int):
    g = torch.Generator().manual_seed(0)
    every = torch.cartesian_prod(torch.arange(2 * PAD + 1), torch.arange(2 * PAD + 1))  # all 81 offsets
    images = torch.randint(0, 256, (len(every), 3, side, side), dtype=torch.uint8, generator=g)
    rows, columns = every[:, :1], every[:, 1:]
    ours = shift(images, rows - PAD, columns - PAD)
    theirs = interpolated_shift(images, rows, columns, PAD)
    # Bilinear weights at whole pixels are 0 and 1 up to float32 rounding of coordinates: 84 * 2^-23 of 255 levels.
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=255 * side * 2**-23 * 4)


def test_shifts_are_uniform_over_the_published_offsets():
    """Rows and columns move independently by every whole number from -pad to pad, all equally often."""
    pad, side, count = 2, 8, 25_000
    ramp = torch.arange(side, dtype=torch.uint8) * 10
    image = torch.stack([ramp[:, None].expand(side, side), ramp[None, :].expand(side, side)])  # row and column number
    shifted = random_shift(image.expand(count, -1, -1, -1), pad, torch.Generator().manual_seed(3))
    # The middle pixel shows where it came from: 10 * (4 + shift).
    down, right = (shifted[:, channel, 4, 4].long() // 10 - 4 for channel in (0, 1))
    counts = torch.bincount((down + pad) * 5 + (right + pad), minlength=25)
    assert counts.sum() == count
    assert len(counts) == 25
    # 1000 expected in each of 25 cells, standard deviation 31.
    assert counts.min() > 1000 - 5 * 31
    assert counts.max() < 1000 + 5 * 31


# ---- published architecture -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> DrQV2:
    torch.manual_seed(0)
    return DrQV2((9, 84, 84), 6)


def _mlp_shapes(inputs: int, outputs: int) -> list[tuple[int, ...]]:
    return [(1024, inputs), (1024,), (1024, 1024), (1024,), (outputs, 1024), (outputs,)]


_TRUNK = [(50, 39200), (50,), (50,), (50,)]
PUBLISHED_SHAPES = {
    "encoder": [(32, 9, 3, 3), (32,)] + 3 * [(32, 32, 3, 3), (32,)],
    "actor": _TRUNK + _mlp_shapes(50, 6),
    "critic": _TRUNK + 2 * _mlp_shapes(56, 1),
}
PUBLISHED_SIZES = {"encoder": 30_368, "actor": 3_068_124, "critic": 4_178_136}
_TRUNK_NAMES = ["trunk.0.weight", "trunk.0.bias", "trunk.1.weight", "trunk.1.bias"]


def _layer_names(prefix: str, indices: list[int]) -> list[str]:
    return [f"{prefix}.{i}.{kind}" for i in indices for kind in ("weight", "bias")]


PUBLISHED_NAMES = {
    "encoder": _layer_names("convnet", [0, 2, 4, 6]),
    "actor": _TRUNK_NAMES + _layer_names("policy", [0, 2, 4]),
    "critic": _TRUNK_NAMES + _layer_names("Q1", [0, 2, 4]) + _layer_names("Q2", [0, 2, 4]),
}


@pytest.mark.parametrize("name", ["encoder", "actor", "critic"])
def test_parameters_have_the_published_names_shapes_and_order(published: DrQV2, name: str):
    named = list(published.module(name).named_parameters())
    assert [key for key, _ in named] == PUBLISHED_NAMES[name]
    assert [tuple(p.shape) for _, p in named] == PUBLISHED_SHAPES[name]
    assert sum(p.numel() for _, p in named) == PUBLISHED_SIZES[name]


def test_module_order_and_default_hyperparameters_are_the_published_ones(published: DrQV2):
    assert [name for name, _ in published.named_children()] == ["encoder", "actor", "critic", "critic_target"]
    for optimizer, name in zip(published.configure_optimizers(), ["encoder", "actor", "critic"], strict=True):
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-8, 0)
        assert [id(p) for p in group["params"]] == [id(p) for p in published.module(name).parameters()]
    assert (published.stddev_clip, published.random_shift_pad, published.augment) == (0.3, 4, True)
    assert (published.replay_ratio, published.num_seed_frames) == (0.5, 4000)
    assert [published.stddev_schedule(t) for t in (0, 250_000, 500_000)] == pytest.approx([1.0, 0.55, 0.1])


def test_initialisation_is_orthogonal_with_the_published_gains_and_zero_biases(published: DrQV2):
    checked = 0
    for name, p in published.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif p.dim() == 1:
            assert (p == 1).all(), name  # LayerNorm
        else:
            gain_squared = 2.0 if p.dim() == 4 else 1.0
            matrix = p.detach().flatten(1)
            if matrix.shape[0] > matrix.shape[1]:
                matrix = matrix.T
            gram = matrix @ matrix.T
            torch.testing.assert_close(gram, gain_squared * torch.eye(len(gram)), rtol=0, atol=2e-5, msg=name)
            checked += 1
    assert checked == 4 + 4 + 7 + 7  # convolutions; actor; critic; target
