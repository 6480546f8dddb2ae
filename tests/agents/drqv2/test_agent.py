from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import fit_tiny, tiny_agent, tiny_data, weights_hash
from lightning.pytorch.loggers import Logger
from tensordict import TensorDict

from plasticity_rl import DrQV2, UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.rng import NamedGenerators

SEED_STEPS = 20  # of fit_tiny: 40 seed frames / action repeat 2


class AtEveryTick(pl.Callback):
    """Call a function after every env step."""

    def __init__(self, function: Callable[[DrQV2], None]) -> None:
        self.function = function

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.function(pl_module)


class MemoryLogger(Logger):
    """Keeps every scalar as ``(tag, value, step)``."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, float, int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows += [(tag, value, step) for tag, value in metrics.items()]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def curve(self, tag: str) -> list[tuple[int, float]]:
        return [(step, value) for name, value, step in self.rows if name == tag]


def make_batch(index: int, agent: DrQV2, batch: int = 8) -> TensorDict:
    g = torch.Generator().manual_seed(index)
    shape = (batch, 9, 16, 16)
    return TensorDict(
        {
            "pixels": torch.randint(0, 256, shape, dtype=torch.uint8, generator=g),
            "action": torch.rand(batch, agent.action_dim, generator=g) * 2 - 1,
            "reward": torch.rand(batch, 1, generator=g),
            "discount": torch.full((batch, 1), 0.97),
            "next": {"pixels": torch.randint(0, 256, shape, dtype=torch.uint8, generator=g)},
        },
        batch_size=[batch],
    )


def seeded_agent(seed: int = 1, **options: Any) -> DrQV2:
    torch.manual_seed(seed)
    return tiny_agent(tiny_data(), **{"seed": seed, **options})


# ---- replay ratio ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["1/3", "1/2", "1", "2", "4", "7/10"])
def test_replay_ratio_is_exact_after_every_env_step(tmp_path: Path, ratio: str):
    exact = Fraction(ratio)
    history: list[tuple[int, int]] = []
    agent = fit_tiny(
        tmp_path,
        max_frames=142,
        agent_options={"replay_ratio": float(exact)},
        callbacks=[AtEveryTick(lambda agent: history.append((agent.env_steps, agent.num_updates)))],
    )
    assert [steps for steps, _ in history] == list(range(1, 72))
    assert [updates for _, updates in history] == [math.floor(exact * max(n - SEED_STEPS, 0)) for n in range(1, 72)]
    assert agent.num_updates == math.floor(exact * 51)


def test_replay_ratio_may_change_in_the_middle_without_losing_credit(tmp_path: Path):
    def change(agent: DrQV2) -> None:
        agent.replay_ratio = {SEED_STEPS + 15: 1 / 3, SEED_STEPS + 40: 0.25}.get(agent.env_steps, agent.replay_ratio)

    agent = fit_tiny(tmp_path, max_frames=140, agent_options={"replay_ratio": 0.5}, callbacks=[AtEveryTick(change)])
    # 15 / 2 + 25 / 3 + 10 / 4 = 18 + 1/3; forgetting the fraction at each change would give 7 + 8 + 2.
    assert agent.env_steps == SEED_STEPS + 50
    assert agent.num_updates == 18
    assert agent.update_credit == Fraction(1, 3)
    assert agent.replay_ratio == 0.25


@pytest.mark.parametrize("ratio", [0, 0.0, -1])
def test_replay_ratio_that_is_not_positive_is_refused(ratio: float):
    with pytest.raises(UserError, match=f"replay_ratio={ratio} must be > 0"):
        seeded_agent(replay_ratio=ratio)
    agent = seeded_agent(replay_ratio=2)
    with pytest.raises(UserError, match=f"replay_ratio={ratio} must be > 0"):
        agent.replay_ratio = ratio
    assert agent.replay_ratio == 2


@pytest.mark.parametrize("tau", [0, -0.1, 1.5])
def test_tau_outside_its_range_is_refused(tau: float):
    with pytest.raises(UserError, match="critic_target_tau"):
        seeded_agent(critic_target_tau=tau)


# ---- clocks and stopping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_repeat", [1, 2, 4])
def test_frames_are_env_steps_times_action_repeat(tmp_path: Path, action_repeat: int):
    seen: list[tuple[int, int]] = []
    agent = fit_tiny(
        tmp_path,
        max_frames=120,
        data_options={"action_repeat": action_repeat, "eval_every_n_frames": 60},
        callbacks=[AtEveryTick(lambda agent: seen.append((agent.env_frames, agent.env_steps)))],
    )
    assert seen == [(action_repeat * n, n) for n in range(1, 120 // action_repeat + 1)]
    assert agent.num_updates == (120 - 40) // action_repeat // 2


@pytest.mark.parametrize(
    ("max_frames", "frames", "evaluated"),
    [
        (200, 200, [0, 100, 200]),
        (130, 130, [0, 100, 130]),  # not a multiple of the evaluation interval: evaluated at the end all the same
        (131, 132, [0, 100, 132]),  # whole env steps only
        (60, 60, [0, 60]),
    ],
)
def test_stops_at_max_frames_and_evaluates_there(tmp_path: Path, max_frames: int, frames: int, evaluated: list[int]):
    agent = fit_tiny(tmp_path, max_frames=max_frames)
    assert (agent.env_frames, agent.env_steps) == (frames, frames // 2)
    assert [at for at, _ in agent.eval_returns] == evaluated


def test_two_envs_count_env_steps_of_both(tmp_path: Path):
    seen: list[tuple[int, int, int]] = []
    agent = fit_tiny(
        tmp_path,
        max_frames=200,
        data_options={"num_envs": 2},
        agent_options={"replay_ratio": 0.75},
        callbacks=[AtEveryTick(lambda a: seen.append((a.env_frames, a.env_steps, a.num_updates)))],
    )
    assert [(frames, steps) for frames, steps, _ in seen] == [(4 * n, 2 * n) for n in range(1, 51)]
    assert [updates for *_, updates in seen] == [max(0, math.floor(0.75 * (2 * n - SEED_STEPS))) for n in range(1, 51)]
    assert agent.num_updates == 60


def test_counters_can_be_set_and_the_noise_follows_env_steps():
    agent = seeded_agent(stddev_schedule="linear(1.0,0.1,200)")
    agent.env_frames, agent.env_steps, agent.num_updates = 2000, 100, 7
    assert agent.stddev == pytest.approx(0.55)
    assert agent.settings()["schedule/stddev"] == pytest.approx(0.55)
    agent.env_steps = 200
    assert agent.stddev == pytest.approx(0.1)
    assert seeded_agent(stddev_schedule=0.2).stddev == 0.2


def test_noise_that_is_negative_in_the_middle_of_a_schedule_is_refused():
    with pytest.raises(UserError, match="gives a negative standard deviation"):
        seeded_agent(stddev_schedule="step_linear(1.0,-0.5,100,0.1,100)")


# ---- acting ---------------------------------------------------------------------------------------------------------


def test_seed_phase_actions_are_uniform():
    agent = seeded_agent()
    pixels = torch.zeros(1, *(9, 16, 16), dtype=torch.uint8).expand(20_000, -1, -1, -1)
    actions = agent.act(pixels, explore=True).flatten()
    assert actions.shape == (20_000,)
    # Largest distance between the empirical and the uniform distribution function (Kolmogorov-Smirnov); the 0.1 %
    # quantile of a true uniform sample of this size is 1.95 / sqrt(20000) = 0.0138.
    sorted_actions = actions.sort().values
    ranks = torch.arange(1, 20_001) / 20_000
    assert float(((sorted_actions + 1) / 2 - ranks).abs().max()) < 0.0138
    assert -1 <= float(actions.min()) < -0.999
    assert 0.999 < float(actions.max()) < 1


def test_seed_phase_actions_depend_on_neither_networks_nor_pixels():
    one, two = seeded_agent(), seeded_agent()
    with torch.no_grad():
        for p in two.parameters():
            p.fill_(float("nan"))
    dark = torch.zeros(4, 9, 16, 16, dtype=torch.uint8)
    assert torch.equal(one.act(dark, explore=True), two.act(dark + 200, explore=True))


def test_seed_phase_ends_at_its_frame_and_does_not_touch_evaluation():
    agent = seeded_agent()
    pixels = torch.randint(0, 256, (4, 9, 16, 16), dtype=torch.uint8)
    mean = agent.actor(agent.encoder(pixels)).detach()
    assert torch.equal(agent.act(pixels, explore=False), mean)
    agent.env_frames = agent.num_seed_frames - 1
    uniform = torch.rand(4, 1, generator=NamedGenerators(1).get("explore/rank0")) * 2 - 1
    assert torch.equal(agent.act(pixels, explore=True), uniform)
    agent.env_frames = agent.num_seed_frames
    agent.env_steps = 200  # stddev 0.1
    eps = torch.Generator()
    eps.set_state(agent.rng.get("explore/rank0").get_state())
    expected = (mean + 0.1 * torch.randn(4, 1, generator=eps)).clamp(-1 + 1e-6, 1 - 1e-6)
    torch.testing.assert_close(agent.act(pixels, explore=True), expected, rtol=0, atol=1e-7)


def test_acting_noise_is_not_clipped_by_stddev_clip():
    agent = seeded_agent(stddev_schedule=0.6, num_seed_frames=0)
    pixels = torch.zeros(5000, 9, 16, 16, dtype=torch.uint8)
    noise = agent.act(pixels, explore=True) - agent.act(pixels, explore=False)
    # |eps| > 0.5 for 61.7 % of a standard normal; with the clip of 0.3 it would be none.
    assert float((noise.abs() > 0.3).float().mean()) == pytest.approx(0.617, abs=0.03)


def test_a_run_explores_uniformly_until_the_seed_frames_are_over(tmp_path: Path):
    class Actions(RLCallback):
        def __init__(self) -> None:
            self.taken: list[float] = []

        def on_env_step(self, agent: DrQV2, step: TensorDict) -> None:
            self.taken.append(float(step["action"]))

    runs = [Actions(), Actions()]
    for i, actions in enumerate(runs):  # two networks, one seed of the agent's generators
        fit_tiny(tmp_path / str(i), max_frames=80, seed=1 + i, callbacks=[actions], agent_options={"seed": 5})
    expected = (torch.rand(SEED_STEPS, generator=NamedGenerators(5).get("explore/rank0")) * 2 - 1).tolist()
    for actions in runs:
        assert actions.taken[:SEED_STEPS] == expected
    assert runs[0].taken[SEED_STEPS:] != runs[1].taken[SEED_STEPS:]


# ---- update ---------------------------------------------------------------------------------------------------------


def test_update_gives_the_same_outside_and_inside_a_fit(tmp_path: Path):
    class ThreeUpdates(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.metrics = [pl_module.update(make_batch(i, pl_module)) for i in range(3)]
            self.weights = weights_hash(pl_module)

    inside = ThreeUpdates()
    fit_tiny(tmp_path, max_frames=20, callbacks=[inside])
    outside = seeded_agent()
    before = weights_hash(outside)
    metrics = [outside.update(make_batch(i, outside)) for i in range(3)]
    assert weights_hash(outside) == inside.weights != before
    for got, expected in zip(inside.metrics, metrics, strict=True):
        assert dict(got.items()) == dict(expected.items())


def test_update_outside_a_fit_keeps_the_optimizers_moments():
    agent = seeded_agent()
    agent.update(make_batch(0, agent))
    agent.update(make_batch(1, agent))
    for p in [*agent.encoder.parameters(), *agent.actor.parameters(), *agent.critic.parameters()]:
        assert agent.optimizer_of(p).state[p]["step"] == 2


def test_update_returns_detached_scalars_and_counts_nothing():
    agent = seeded_agent()
    metrics = agent.update(make_batch(0, agent))
    assert set(metrics.keys()) == {"loss/critic", "loss/actor", "q/q1", "q/q2", "q/target", "q/reward"}
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    assert (agent.num_updates, agent.env_steps, agent.env_frames) == (0, 0, 0)


def test_update_leaves_its_batch_alone():
    agent = seeded_agent()
    batch = make_batch(0, agent)
    copy = batch.clone()
    agent.update(batch)
    assert set(batch.keys(True, True)) == set(copy.keys(True, True))
    assert bool((batch == copy).all())


def test_without_augmentation_nothing_is_drawn_for_it_and_the_noise_is_the_same():
    on, off = seeded_agent(), seeded_agent(augment=False)
    on.update(make_batch(0, on)), off.update(make_batch(0, off))
    assert set(on.rng.state_dict()) == {"augment", "update_noise"}
    assert set(off.rng.state_dict()) == {"update_noise"}
    assert torch.equal(on.rng.state_dict()["update_noise"], off.rng.state_dict()["update_noise"])
    assert weights_hash(on) != weights_hash(off)

    state = on.rng.state_dict()["augment"].clone()
    on.augment = False
    on.update(make_batch(1, on))
    assert torch.equal(on.rng.state_dict()["augment"], state)
    on.augment = True
    on.update(make_batch(2, on))
    assert not torch.equal(on.rng.state_dict()["augment"], state)


def test_update_draws_from_named_generators_only():
    agent = seeded_agent()
    state = torch.get_rng_state()
    agent.update(make_batch(0, agent))
    agent.act(torch.zeros(1, 9, 16, 16, dtype=torch.uint8), explore=True)
    assert torch.equal(torch.get_rng_state(), state)


# ---- loss terms -----------------------------------------------------------------------------------------------------


def test_loss_terms_change_their_own_modules_only_and_are_logged():
    plain, with_term = seeded_agent(), seeded_agent()
    with_term.add_loss_term("actor", "push", lambda _: with_term.actor.policy[4].weight.square().sum())
    batch = make_batch(0, plain)
    expected = float(with_term.actor.policy[4].weight.detach().square().sum())
    a, b = plain.update(batch), with_term.update(batch)
    assert "push/loss" not in a.keys()  # noqa: SIM118 - a TensorDict iterates over its batch
    assert float(b["push/loss"]) == pytest.approx(expected)
    assert float(b["loss/actor"] - a["loss/actor"]) == pytest.approx(expected, rel=1e-5)
    assert weights_hash(plain.critic) == weights_hash(with_term.critic)
    assert weights_hash(plain.encoder) == weights_hash(with_term.encoder)
    assert weights_hash(plain.actor) != weights_hash(with_term.actor)
    with pytest.raises(UserError, match="already has a term called 'push'"):
        with_term.add_loss_term("actor", "push", lambda _: torch.zeros(()))


# ---- protocol -------------------------------------------------------------------------------------------------------


def test_modules_by_name_and_a_helpful_error():
    agent = seeded_agent()
    assert agent.module("critic.Q1") is agent.critic.Q1
    assert agent.target_of("critic") is agent.critic_target
    assert agent.target_of("critic.Q2.4") is agent.critic_target.Q2[4]
    assert agent.target_of("encoder") is None
    assert agent.target_of("actor.trunk") is None
    with pytest.raises(UserError, match=r"no module 'critic\.Q3'.*'critic\.Q1', 'critic\.Q2'"):
        agent.module("critic.Q3")
    with pytest.raises(UserError, match="no module 'critic_target'"):
        agent.module("critic_target")


def test_optimizer_of_a_parameter_is_the_one_by_name():
    agent = seeded_agent()
    for name in ("encoder", "actor", "critic"):
        assert all(agent.optimizer_of(p) is agent.optimizer_by_name(name) for p in agent.module(name).parameters())
    assert agent.optimizer_of(torch.zeros(1)) is None


# ---- logging --------------------------------------------------------------------------------------------------------


def test_settings_metrics_and_clocks_are_logged_against_env_frames(tmp_path: Path):
    def change(agent: DrQV2) -> None:
        if agent.env_frames == 120:
            agent.replay_ratio, agent.augment = 2.0, False

    logger = MemoryLogger()
    agent = fit_tiny(
        tmp_path,
        max_frames=200,
        callbacks=[AtEveryTick(change)],
        trainer_options={"logger": logger, "log_every_n_steps": 10},
    )
    frames = list(range(20, 201, 20))
    assert logger.curve("clock/env_steps") == [(f, f / 2) for f in frames]
    past = [(f, max(0, f - 40) / 2) for f in frames]
    updates = [0.5 * n if f <= 120 else 0.5 * 40 + 2 * (n - 40) for f, n in past]
    assert logger.curve("clock/num_updates") == list(zip(frames, updates, strict=True))
    assert logger.curve("schedule/replay_ratio") == [(f, 0.5 if f <= 120 else 2.0) for f in frames]
    assert logger.curve("schedule/augment") == [(f, 1.0 if f <= 120 else 0.0) for f in frames]
    stddevs = [1.0 - 0.9 * (f / 2) / 200 for f in frames]
    assert [f for f, _ in logger.curve("schedule/stddev")] == frames
    assert [value for _, value in logger.curve("schedule/stddev")] == pytest.approx(stddevs)
    for tag in ("loss/critic", "loss/actor", "q/q1", "q/q2", "q/target", "q/reward"):
        assert [f for f, _ in logger.curve(tag)] == frames[2:]  # no update before frame 42
    assert [f for f, _ in logger.curve("train/episode_steps")] == [40, 80, 120, 160, 200]
    assert {value for _, value in logger.curve("train/episode_steps")} == {20}
    assert logger.curve("eval/return") == agent.eval_returns
    assert [f for f, _ in agent.eval_returns] == [0, 100, 200]


# ---- determinism ----------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_run_bit_by_bit_and_another_seed_another(tmp_path: Path):
    one, again, other = (fit_tiny(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert one.num_updates == 40
    assert weights_hash(one) == weights_hash(again) != weights_hash(other)
    assert one.eval_returns == again.eval_returns != other.eval_returns
    states, same = one.rng.state_dict(), again.rng.state_dict()
    assert set(states) == set(same)
    assert all(torch.equal(states[name], same[name]) for name in states)


def test_flat_rewards_and_discounts_mean_the_same_as_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = TensorDict(
        {
            "pixels": torch.randint(0, 256, (4, 9, 16, 16), dtype=torch.uint8, generator=generator),
            "action": torch.rand(4, 2, generator=generator),
            "reward": torch.rand(4, 1, generator=generator),
            "discount": torch.rand(4, 1, generator=generator),
            ("next", "pixels"): torch.randint(0, 256, (4, 9, 16, 16), dtype=torch.uint8, generator=generator),
        },
        [4],
    )
    flat = batch.clone()
    flat["reward"], flat["discount"] = batch["reward"].flatten(), batch["discount"].flatten()

    def critic_loss(given: TensorDict) -> float:
        torch.manual_seed(0)
        agent = DrQV2((9, 16, 16), 2, hidden_dim=8, num_channels=2, feature_dim=4, random_shift_pad=1)
        return float(agent.update(given)["loss/critic"])

    assert critic_loss(flat) == critic_loss(batch)
