"""The same training in plain torch: what remains without Lightning, TorchRL, tensordict, callbacks and logging.

Networks, losses, augmentation, optimizers and noise are the agent's own, so that the arithmetic is the same; only the
loop around them is different.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contestants.blank_env import ACTION_DIM, noise_frames
from benchmarks.harness.child import serve

N_STEP, STACK, DISCOUNT, EPISODE_STEPS = 3, 3, 0.99, 500


class Ring:
    """Frames, actions and rewards in order, for batches of n-step transitions; one episode after the other."""

    def __init__(self, capacity: int, image_size: int) -> None:
        self.frames = torch.zeros(capacity, 3 * image_size * image_size, dtype=torch.uint8)
        self.actions, self.rewards = torch.zeros(capacity, ACTION_DIM), torch.ones(capacity)
        self.image_size, self.written = image_size, 0
        self._offsets = torch.arange(STACK)

    def write(self, frame: Tensor, action: Tensor, reward: float) -> None:
        """Append one transition."""
        slot = self.written % len(self.frames)
        self.frames[slot], self.actions[slot], self.rewards[slot] = frame.view(-1), action, reward
        self.written += 1

    def sample(self, batch_size: int, buffers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return observations, actions, n-step rewards and discounts, and observations n steps later."""
        last = min(self.written, len(self.frames)) - N_STEP - STACK
        first = torch.randint(last, (batch_size,))
        slots = first[:, None] + self._offsets
        shape = (batch_size, 3 * STACK, self.image_size, self.image_size)
        now, later = (
            torch.index_select(self.frames, 0, (slots + ahead).view(-1), out=out).view(shape)
            for ahead, out in zip((0, N_STEP), buffers, strict=True)
        )
        start = first + STACK - 1
        reward, discount = torch.zeros(batch_size, 1), torch.ones(batch_size, 1)
        for k in range(N_STEP):
            reward += discount * self.rewards[start + k, None]
            discount *= DISCOUNT
        return now, self.actions[start], reward, discount, later


def plain_update(agent: Any, optimizers: Sequence[torch.optim.Optimizer], batch: tuple[Tensor, ...]) -> None:
    """Do what ``DrQV2.update`` does, once, on observations, actions, rewards, discounts and next observations."""
    observation, action, reward, discount, next_observation = batch
    encoder_adam, actor_adam, critic_adam = optimizers
    observation, next_observation = (agent.augmentations(x, agent.rng) for x in (observation, next_observation))
    noise = agent.rng.get_own("update_noise", observation.device)
    features = agent.encoder(observation)
    with torch.no_grad():
        next_features = agent.encoder(next_observation)
        next_action = agent._noisy(agent.actor(next_features), noise)
        target = reward + discount * torch.minimum(*agent.critic_target(next_features, next_action))
    q1, q2 = agent.critic(features, action)
    loss = nn.functional.mse_loss(q1, target) + nn.functional.mse_loss(q2, target)
    critic_parameters = list(agent.critic.parameters())
    encoder_adam.zero_grad(set_to_none=True)
    critic_adam.zero_grad(set_to_none=True)
    loss.backward(inputs=[*agent.encoder.parameters(), *critic_parameters])
    encoder_adam.step()
    critic_adam.step()
    features = features.detach()
    q1, q2 = agent.critic(features, agent._noisy(agent.actor(features), noise))
    actor_adam.zero_grad(set_to_none=True)
    (-torch.minimum(q1, q2).mean()).backward(inputs=list(agent.actor.parameters()))
    actor_adam.step()
    with torch.no_grad():
        targets = list(agent.critic_target.parameters())
        torch._foreach_lerp_(targets, critic_parameters, agent.hparams.critic_target_tau)


def training(size: dict[str, int], replay_ratio: float, own_update: bool, threads: int, device: str = "cpu") -> None:
    """Contestant: act, step, write, and every so many steps sample and update.

    Args:
        size: ``image_size``, ``batch_size`` and the agent's ``hidden_dim`` and ``num_channels``.
        replay_ratio: 0.5 or 1.
        own_update: Whether updates are ``DrQV2.update``, without a Trainer, instead of :func:`plain_update`.
        threads: Threads of torch.
        device: Where the networks are.
    """
    from tensordict import TensorDict

    from plasticity_rl import DrQV2
    from plasticity_rl.machine.malloc import keep_freed_memory

    keep_freed_memory()  # like the number of threads it is a setting of the process, and no part of the loop
    torch.set_num_threads(threads)
    image_size, batch_size = size.pop("image_size"), size.pop("batch_size")
    agent = DrQV2((9, image_size, image_size), ACTION_DIM, **size).to(device)
    optimizers = agent.configure_optimizers()
    ring, frames = Ring(20_000, image_size), list(noise_frames(image_size))
    rows = batch_size * STACK
    pin = device != "cpu"
    buffers = [torch.empty(rows, ring.frames.shape[1], dtype=torch.uint8, pin_memory=pin) for _ in range(2)]
    agent.env_frames = agent.num_seed_frames  # acts by its policy
    stack = [frames[0]] * STACK
    position = 0

    def step() -> None:
        nonlocal position, stack
        action = agent.act(torch.cat(stack)[None], explore=True)[0]
        position = (position + 1) % EPISODE_STEPS
        frame = frames[position % len(frames)]
        ring.write(stack[-1], action, 1.0)
        stack = [*stack[1:], frame] if position else [frame] * STACK

    def update() -> None:
        batch = tuple(x.to(device) for x in ring.sample(batch_size, buffers))
        if not own_update:
            return plain_update(agent, optimizers, batch)
        names = ("pixels", "action", "reward", "discount")
        data = dict(zip(names, batch, strict=False)) | {"next": TensorDict({"pixels": batch[-1]}, [batch_size])}
        agent.update(TensorDict(data, [batch_size]))
        return None

    steps_per_update = round(1 / replay_ratio)

    def work(n: int) -> dict[str, int]:
        for index in range(n):
            step()
            if index % steps_per_update == steps_per_update - 1:
                update()
        return {"num_updates": n // steps_per_update}

    for _ in range(500):
        step()
    work(4)
    serve(work)
