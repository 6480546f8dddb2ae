"""SAC as an agent: its update written out, what it draws, resume, surgery, refusals, and that it learns."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_SAC, fit_tiny, tiny_data, tiny_sac, weights_hash
from run_state import DieAt, Killed, Log, Watcher, differences, parameter_identities, run_state
from tensordict import TensorDict
from torch.nn import functional as F

import callbacks
from plasticity_rl import SAC, RLDataModule, UserError, make_env, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo

STATE: dict[str, Any] = {"make_agent": tiny_sac, "data_options": {"observation": "state"}}


def an_agent(seed: int = 0, **options: Any) -> SAC:
    torch.manual_seed(seed)
    return SAC((5,), 2, **{**TINY_SAC, **options})


def a_batch(size: int = 8, seed: int = 0) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(size, *shape, generator=g)  # noqa: E731
    return TensorDict(
        {
            "state": draw(5),
            "action": draw(2).tanh(),
            "reward": draw(1),
            "discount": torch.full((size, 1), 0.9),
            "next": {"state": draw(5)},
        },
        batch_size=[size],
    )


# ---- one update ------------------------------------------------------------------------------------------------------


def written_out(
    agent: SAC, optimizers: dict[str, torch.optim.Optimizer], batch: TensorDict, generator: torch.Generator
) -> dict[str, float]:
    """Haarnoja et al. 2018b, equations 5 to 9 and 18, without TorchRL and without the agent's code."""
    parts = {name: getattr(agent, name) for name in optimizers}
    log_alpha = agent.temperature.log_alpha

    def policy(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = agent.actor.policy(state)
        mean, log_std = out[:, :2], out[:, 2:].clamp(-20, 2)
        u = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)
        return torch.tanh(u), log_prob.sum(1, keepdim=True)

    def values(net: torch.nn.Module, state: torch.Tensor, action: torch.Tensor) -> list[torch.Tensor]:
        return [q(torch.cat([state, action], 1)) for q in (net.Q1, net.Q2)]

    def descend(name: str, loss: torch.Tensor) -> float:
        optimizers[name].zero_grad()
        loss.backward(inputs=list(parts[name].parameters()))
        optimizers[name].step()
        return float(loss.detach())

    with torch.no_grad():
        action, log_prob = policy(batch["next", "state"])
        soft_value = (
            torch.min(*values(agent.critic_target, batch["next", "state"], action)) - log_alpha.exp() * log_prob
        )
        target = batch["reward"] + batch["discount"] * soft_value
    q1, q2 = values(agent.critic, batch["state"], batch["action"])
    found = {"loss/critic": descend("critic", F.mse_loss(q1, target) + F.mse_loss(q2, target))}
    action, log_prob = policy(batch["state"])
    q = torch.min(*values(agent.critic, batch["state"], action))
    found["loss/actor"] = descend("actor", (log_alpha.exp().detach() * log_prob - q).mean())
    surplus = (log_prob.detach() + agent.target_entropy).mean()
    found["loss/temperature"] = descend("temperature", -log_alpha * surplus)
    with torch.no_grad():
        for slow, fast in zip(agent.critic_target.parameters(), agent.critic.parameters(), strict=True):
            slow += 0.005 * (fast - slow)
    return found


def test_an_update_equals_the_update_written_out():
    agent = an_agent(init_temperature=0.3)
    twin = copy.deepcopy(agent)
    generator = torch.Generator()
    generator.set_state(agent.rng.get("update_noise").get_state())
    parts = ("actor", "critic", "temperature")
    optimizers = {name: torch.optim.Adam(getattr(twin, name).parameters(), lr=1e-3) for name in parts}
    for seed in range(3):
        metrics = agent.update(a_batch(seed=seed))
        expected = written_out(twin, optimizers, a_batch(seed=seed), generator)
        for tag, value in expected.items():
            assert float(metrics[tag]) == pytest.approx(value, rel=1e-4, abs=1e-6), tag
    for (name, ours), theirs in zip(agent.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_metrics_are_those_of_the_batch():
    agent = an_agent(init_temperature=0.25)
    batch = a_batch()
    before = copy.deepcopy(agent)
    metrics = agent.update(batch)
    q1, q2 = before.critic(batch["state"], batch["action"])
    assert float(metrics["q/q1"]) == pytest.approx(float(q1.mean().detach()))
    assert float(metrics["q/q2"]) == pytest.approx(float(q2.mean().detach()))
    assert float(metrics["q/reward"]) == pytest.approx(float(batch["reward"].mean()))
    assert 0.2 < float(metrics["policy/temperature"]) < 0.3
    assert not any(value.requires_grad for value in metrics.values())


def test_flat_rewards_mean_the_same():
    one, two, batch = an_agent(), an_agent(), a_batch()
    flat = batch.clone()
    flat["reward"], flat["discount"] = batch["reward"].flatten(), batch["discount"].flatten()
    one.update(batch)
    two.update(flat)
    assert weights_hash(one) == weights_hash(two)


@pytest.mark.parametrize("name", ["critic", "actor", "temperature"])
def test_each_loss_trains_its_own_module_only(name):
    agent = an_agent()
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    minimize = agent.minimize
    agent.minimize = lambda loss, *names: minimize(loss, *names) if names == (name,) else None
    agent.update(a_batch())
    changed = {path.split(".")[0] for path, p in agent.named_parameters() if not torch.equal(p, before[path])}
    assert changed - {"critic_target"} == {name}


def test_the_temperature_rises_when_the_policy_is_too_certain_and_falls_when_not():
    # entropy of a 2-dimensional Gaussian with std e^-5 is 2 * (1.419 - 5) = -7.2 nats, below -2; std 1 lies above
    for log_std, rises in ((-5.0, True), (0.0, False)):
        agent = an_agent(target_entropy=-2.0, init_temperature=0.5)
        with torch.no_grad():
            agent.actor.policy[-1].weight.zero_()
            agent.actor.policy[-1].bias.copy_(torch.tensor([0.0, 0.0, log_std, log_std]))
        agent.update(a_batch())
        assert (float(agent.temperature.log_alpha.detach().exp()) > 0.5) is rises


def test_the_target_follows_slowly():
    agent = an_agent(critic_target_tau=0.25)
    old = [p.detach().clone() for p in agent.critic_target.parameters()]
    agent.update(a_batch())
    for before, slow, fast in zip(old, agent.critic_target.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(slow, before + 0.25 * (fast - before))
    assert not any(p.requires_grad for p in agent.critic_target.parameters())


# ---- acting ----------------------------------------------------------------------------------------------------------


def test_actions_are_uniform_in_the_seed_phase_then_of_the_policy():
    agent, states = an_agent(num_seed_frames=10), torch.randn(4000, 5)
    uniform = agent.act(states, explore=True)
    assert uniform.abs().max() <= 1
    assert abs(float(uniform.mean())) < 0.05
    assert float(uniform.var()) == pytest.approx(1 / 3, abs=0.03)
    agent.env_frames = 10
    mean, log_std = agent.actor(states)
    assert torch.equal(agent.act(states, explore=False), torch.tanh(mean))
    drawn = torch.atanh(agent.act(states, explore=True).double().clamp(-1 + 1e-7, 1 - 1e-7))
    noise = (drawn - mean) / log_std.exp()
    assert abs(float(noise.mean().detach())) < 0.05
    assert float(noise.std().detach()) == pytest.approx(1.0, abs=0.05)


def test_log_standard_deviations_stay_in_their_bounds():
    agent = an_agent()
    agent.actor.policy[-1].bias.data[2:] = torch.tensor([50.0, -50.0])
    assert agent.actor(torch.zeros(1, 5))[1].tolist() == [[2.0, -20.0]]


def test_evaluation_draws_nothing_and_everything_comes_from_named_generators():
    agent = an_agent()
    before = torch.get_rng_state()
    agent.act(torch.zeros(1, 5), explore=False)
    names = set(agent.rng.state_dict())
    agent.update(a_batch())
    agent.act(torch.zeros(1, 5), explore=True)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = set(agent.rng.state_dict()) - names
    assert drawn <= {"update_noise", "update_noise/cpu", "explore/rank0", "explore/rank0/cpu"}


# ---- protocol --------------------------------------------------------------------------------------------------------


def test_modules_and_their_targets():
    agent = an_agent()
    assert agent.target_of("critic") is agent.critic_target
    assert agent.target_of("critic.Q1") is agent.critic_target.Q1
    assert agent.target_of("actor") is None
    assert list(agent.activation_layers("critic")) == ["Q1.1", "Q1.3", "Q2.1", "Q2.3"]
    assert agent.activation_layers("temperature") == {}
    units = agent.units("critic.Q2")
    assert [layer.size for layer in units] == [16, 16]
    assert units[0].makers == (agent.critic.Q2[0],)
    assert units[0].twins == (agent.critic_target.Q2[0],)
    outputs = agent.forward_all(a_batch())
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "actor": (8, 2),
        "critic": (8, 2),
        "temperature": (8, 1),
    }
    assert set(outputs) == set(agent.module_names)
    with pytest.raises(UserError, match="no module 'encoder' in SAC; there are .*'critic.Q2'"):
        agent.module("encoder")


def test_no_parameter_is_registered_twice():
    """TorchRL's loss is built at the first update; it must leave no trace in the agent's parameters."""
    agent = an_agent()
    names = [name for name, _ in agent.named_parameters(remove_duplicate=False)]
    agent.update(a_batch())
    assert [name for name, _ in agent.named_parameters(remove_duplicate=False)] == names
    assert list(agent.state_dict()) == names
    assert names[-1] == "temperature.log_alpha"
    clone = copy.deepcopy(agent)
    clone.update(a_batch())
    assert weights_hash(clone) != weights_hash(agent), "a copy trains its own weights"


def test_surgery_in_place_is_seen_by_the_next_update():
    agent, edited = an_agent(), an_agent()
    for each in (agent, edited):
        each.update(a_batch())
    with torch.no_grad():
        edited.critic.Q2[0].weight.zero_()
    losses = [float(each.update(a_batch(seed=1))["loss/critic"]) for each in (agent, edited)]
    assert losses[0] != losses[1]
    assert edited.critic.Q2[0].weight.abs().sum() > 0, "the optimizer still trains it"


def test_resets_start_actor_critic_and_temperature_again(tmp_path):
    watcher = Watcher()
    reset = callbacks.Reset(modules=["actor", "critic", "temperature"], at_frames=[192])
    agent = fit_tiny(tmp_path, callbacks=[reset, watcher], agent_options={"lr": 1e-2}, max_frames=198, **STATE)
    assert watcher.identities == parameter_identities(agent)
    # one update after the reset: Adam moves log_alpha by lr = 0.01 from log 1 = 0
    assert abs(float(agent.temperature.log_alpha.detach())) == pytest.approx(0.01, rel=1e-3)
    slots = agent.optimizer_of(agent.temperature.log_alpha).state[agent.temperature.log_alpha]
    assert float(slots["step"]) == 1


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_resumes_exactly(tmp_path, monkeypatch):
    """Killed at 150, with a checkpoint at 120; surgery before and after."""
    data = {"observation": "state", "eval_every_n_frames": 60, "capacity": 70}
    options = {"make_agent": tiny_sac, "data_options": data, "max_frames": 230}
    make = lambda: [  # noqa: E731
        callbacks.Reset(modules=["critic"], at_frames=[100, 180]),
        callbacks.L2Init(modules=["actor"], loss="actor"),
        callbacks.FractionActiveUnits(modules=["actor", "critic"], every_n_updates=4),
    ]
    log = Log(monkeypatch)
    straight = fit_tiny(tmp_path / "straight", callbacks=make(), **options)
    expected = run_state(straight), log.take()
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*make(), DieAt(150)], **options)
    before = log.take(until=120)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=make(), ckpt_path="last", **options)
    after = log.take()
    assert differences(expected[0], run_state(resumed)) == []
    assert expected[1] == (before[0] + after[0], before[1] + after[1])
    assert {"fau/critic/Q2.3", "intervention/l2_init/actor/loss", "intervention/l2_init/loss", "policy/entropy"} <= {
        tag for _, tag, _ in expected[1][0]
    } | set(straight.metrics.keys())


def test_same_seed_same_run(tmp_path):
    runs = [fit_tiny(tmp_path / name, seed=seed, **STATE) for seed, name in ((3, "a"), (3, "b"), (4, "c"))]
    assert differences(run_state(runs[0]), run_state(runs[1])) == []
    assert weights_hash(runs[0]) != weights_hash(runs[2])


class Order(RLCallback):
    """Remembers the order of hooks."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_env_step(self, agent, step) -> None:
        self.seen.append("step")

    def on_update_start(self, agent) -> None:
        self.seen.append("start")

    def on_update_end(self, agent, batch, metrics) -> None:
        self.seen.append("end")
        assert set(batch.keys()) == {"state", "action", "reward", "discount", "next"}


def test_the_loop_dispatches_every_hook_and_spends_its_credit(tmp_path):
    order = Order()
    agent = fit_tiny(tmp_path, callbacks=[order], agent_options={"replay_ratio": 2}, max_frames=60, **STATE)
    assert agent.num_updates == 20  # 10 env steps behind the seed phase
    assert order.seen[-5:] == ["step", "start", "end", "start", "end"]
    assert agent.latest["train/episode_steps"] == 20


def test_two_envs_side_by_side(tmp_path):
    data = {"observation": "state", "num_envs": 2, "eval_every_n_frames": 60}
    agent = fit_tiny(tmp_path, make_agent=tiny_sac, data_options=data, max_frames=120)
    assert (agent.env_steps, agent.num_updates) == (60, 20)


def test_pixels_are_refused(tmp_path):
    with pytest.raises(
        UserError,
        match=r"SAC reads states, not images of shape \(9, 16, 16\): use RLDataModule\(observation=\'state\'\)",
    ):
        fit_tiny(tmp_path, make_agent=tiny_sac)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("lr", math.nan),
        ("init_temperature", 0.0),
        ("init_temperature", -1.0),
        ("hidden_dim", 0),
        ("num_seed_frames", -1),
        ("critic_target_tau", 0.0),
        ("critic_target_tau", 1.5),
        ("replay_ratio", 0.0),
    ],
)
def test_values_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(UserError, match=option) as error:
        an_agent(**{option: value})
    assert "\n" not in str(error.value)


# ---- real tasks ------------------------------------------------------------------------------------------------------


def fit_real(folder, task: str, *, max_frames: int, eval_every: int, callbacks=(), data=None, **options: Any) -> SAC:
    pl.seed_everything(1, verbose=False)
    settings = {"batch_size": 64, "n_step": 1, "num_eval_episodes": 2, "seed": 1, **(data or {})}
    module = RLDataModule(
        task, observation="state", max_frames=max_frames, eval_every_n_frames=eval_every, capacity=100_000, **settings
    )
    agent = SAC(module.obs_shape, module.action_dim, **{"seed": 1, "lr": 1e-3, **options})
    film = EvalVideo(every_n_evals=0)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    make_trainer(folder, callbacks=[*callbacks, film], **quiet).fit(agent, module)
    return agent


def test_walker_from_states_for_200_updates(tmp_path):
    agent = fit_real(
        tmp_path,
        "walker_walk",
        max_frames=1120,
        eval_every=1120,
        data={"action_repeat": 4, "num_eval_episodes": 1},
        hidden_dim=32,
        num_seed_frames=320,
    )
    assert agent.data.obs_shape == (24,)
    assert agent.num_updates == 200
    assert all(torch.isfinite(p).all() for p in agent.parameters())
    assert all(math.isfinite(float(value)) for value in agent.metrics.values())


@pytest.mark.slow
@pytest.mark.timeout(1200)  # about a minute on a free core
def test_it_learns_to_swing_up(tmp_path):
    """Cartpole swing-up, 4000 updates: a random policy earns below 100 of 1000, one that swings up several hundred."""
    agent = fit_real(
        tmp_path,
        "cartpole_swingup",
        max_frames=20_000,
        eval_every=10_000,
        data={"action_repeat": 4, "batch_size": 128},
        init_temperature=0.1,
    )
    returns = [value for _, value in agent.eval_returns]
    assert returns[0] < 100
    assert returns[-1] > 300


def test_the_state_env_is_made_by_make_env():
    data = RLDataModule("reacher_easy", observation="state")
    env = make_env("reacher_easy", seed=0, observation="state")
    assert data.obs_shape == tuple(env.observation_spec["state"].shape)
    assert tiny_data(observation="state").obs_shape == (2,)
