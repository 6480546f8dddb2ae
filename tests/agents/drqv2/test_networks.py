from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from plasticity_rl.agents.drqv2.networks import MIN_IMAGE_SIZE, Actor, Critic, Encoder, noisy_action
from plasticity_rl.errors import UserError


@pytest.mark.parametrize(
    ("height", "width", "channels", "expected"),
    [
        (84, 84, 32, 32 * 35 * 35),  # 84 -> 41 -> 39 -> 37 -> 35
        (15, 15, 4, 4),  # 15 -> 7 -> 5 -> 3 -> 1
        (16, 16, 4, 4),  # the stride drops the last row
        (17, 21, 5, 5 * 2 * 4),  # 17 -> 8 -> 2 and 21 -> 10 -> 4
    ],
)
def test_encoder_repr_dim_is_what_it_returns(height: int, width: int, channels: int, expected: int):
    encoder = Encoder((9, height, width), channels)
    pixels = torch.randint(0, 256, (2, 9, height, width), dtype=torch.uint8)
    assert encoder.repr_dim == expected
    assert encoder(pixels).shape == (2, expected)


def test_encoder_refuses_images_that_leave_no_pixel():
    with pytest.raises(UserError, match="image_size=14 is too small"):
        Encoder((9, MIN_IMAGE_SIZE - 1, 84))


def test_encoder_maps_pixels_to_minus_half_to_half():
    """Every convolution copies the middle of its window from channel 0, so one number can be followed."""
    encoder = Encoder((3, 15, 15), 1)
    with torch.no_grad():
        for conv in encoder.convnet:
            if isinstance(conv, nn.Conv2d):
                conv.weight.zero_()
                conv.weight[0, 0, 1, 1] = 1.0
    pixels = torch.zeros(3, 3, 15, 15, dtype=torch.uint8)
    pixels[0, 0], pixels[1, 0], pixels[2, 0] = 255, 204, 51
    # 255/255 - 0.5; 204/255 - 0.5; 51/255 - 0.5 is negative and cut by the ReLU.
    torch.testing.assert_close(encoder(pixels).flatten(), torch.tensor([0.5, 0.3, 0.0]))
    with torch.no_grad():
        encoder.convnet[0].bias.fill_(0.5)
    torch.testing.assert_close(encoder(pixels).flatten(), torch.tensor([1.0, 0.8, 0.2]))


def test_encoder_gives_floats_the_values_of_the_same_bytes():
    encoder = Encoder((3, 16, 16), 4)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(encoder(pixels), encoder(pixels.float()))


def test_actor_mean_is_the_tanh_of_the_last_layer():
    actor = Actor(repr_dim=5, action_dim=2, feature_dim=3, hidden_dim=4)
    with torch.no_grad():
        actor.policy[4].weight.zero_()
        actor.policy[4].bias.copy_(torch.tensor([0.5, -2.0]))
    expected = torch.tensor([math.tanh(0.5), math.tanh(-2.0)]).expand(7, 2)
    torch.testing.assert_close(actor(torch.randn(7, 5)), expected)


def test_critic_heads_share_the_trunk_and_see_the_action_after_it():
    critic = Critic(repr_dim=5, action_dim=2, feature_dim=3, hidden_dim=2)
    with torch.no_grad():
        critic.trunk[0].weight.zero_()  # LayerNorm of equal numbers is 0, so the trunk's output is tanh(0) = 0
        for head, sign in ((critic.Q1, 1.0), (critic.Q2, -1.0)):
            for layer in (head[0], head[2], head[4]):
                layer.weight.zero_()
            head[0].weight[0, 3] = 2.0  # first action, after three features
            head[0].weight[1, 4] = 3.0  # second action
            head[2].weight.copy_(torch.eye(2))
            head[4].weight.copy_(sign * torch.tensor([[1.0, 10.0]]))
    q1, q2 = critic(torch.randn(2, 5), torch.tensor([[0.5, 0.25], [-1.0, 0.5]]))
    # relu(2 * 0.5) + 10 relu(3 * 0.25) = 8.5; relu(-2) + 10 relu(1.5) = 15
    torch.testing.assert_close(q1, torch.tensor([[8.5], [15.0]]))
    torch.testing.assert_close(q2, torch.tensor([[-8.5], [-15.0]]))


def test_networks_have_no_buffers_and_no_module_shared_between_heads():
    critic = Critic(repr_dim=5, action_dim=2, feature_dim=3, hidden_dim=4)
    assert not list(critic.buffers())
    assert len(list(critic.parameters())) == 16
    assert not {id(m) for m in critic.Q1.modules()} & {id(m) for m in critic.Q2.modules()}


# ---- exploration noise ----------------------------------------------------------------------------------------------


def test_noise_is_standard_normal_times_stddev_clipped_then_the_result_clamped():
    mean = torch.tensor([[0.0, 0.5, 0.9], [-0.9, -0.2, 1.0]])
    eps = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    noisy = noisy_action(mean, 0.5, 0.3, torch.Generator().manual_seed(0))
    for i in range(2):
        for j in range(3):
            noise = max(-0.3, min(0.3, 0.5 * float(eps[i, j])))
            expected = max(-1 + 1e-6, min(1 - 1e-6, float(mean[i, j]) + noise))
            assert float(noisy[i, j]) == pytest.approx(expected, abs=1e-7)


def test_noise_clip_bounds_the_noise_and_none_does_not():
    mean = torch.zeros(10_000, 1)
    clipped = noisy_action(mean, 0.5, 0.3, torch.Generator().manual_seed(0))
    # Two sides of |eps| > 0.6 in a standard normal: 2 * (1 - 0.72575) = 0.5485 of the noise lies on the bound.
    assert float(clipped.abs().max()) == pytest.approx(0.3)
    assert float((clipped.abs() > 0.2999).float().mean()) == pytest.approx(0.5485, abs=0.02)
    free = noisy_action(mean, 0.5, None, torch.Generator().manual_seed(0))
    assert float((free.abs() > 0.3).float().mean()) == pytest.approx(0.5485, abs=0.02)
    # |eps| > 2 is clamped into the action's range: 0.0455.
    assert float((free.abs() > 0.9999).float().mean()) == pytest.approx(0.0455, abs=0.008)
    assert float(free.abs().max()) == pytest.approx(1 - 1e-6, abs=1e-7)


def test_zero_stddev_gives_the_mean_inside_the_open_interval():
    noisy = noisy_action(torch.tensor([[-1.0, 0.25, 1.0]]), 0.0, 0.3)
    torch.testing.assert_close(noisy, torch.tensor([[-1 + 1e-6, 0.25, 1 - 1e-6]]), rtol=0, atol=1e-7)


def test_gradient_passes_straight_through_clamp_and_clip():
    mean = torch.tensor([[0.0, 0.999, -1.0, 1.0]], requires_grad=True)
    noisy = noisy_action(mean, 2.0, 0.3, torch.Generator().manual_seed(0))
    (noisy * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert mean.grad.tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_noise_draws_from_the_given_generator_only():
    state = torch.get_rng_state()
    noisy_action(torch.zeros(3, 1), 1.0, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
