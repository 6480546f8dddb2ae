"""State observations along the data path: replay by hand, DrQ-v2 without encoder, exact resume, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import TINY_AGENT, fit_tiny, tiny_agent, tiny_data, weights_hash
from run_state import DieAt, Killed, Log, differences, run_state
from tensordict import TensorDict
from torch import nn

import callbacks
from plasticity_rl import DrQV2, RLDataModule, UserError, make_env
from plasticity_rl.callback import RLCallback
from plasticity_rl.replay.buffer import FrameReplay, replay_bytes
from plasticity_rl.run.video import EvalVideo

STATE = {"data_options": {"observation": "state"}}


def step(t: int, *, done: bool = False, terminated: bool = False) -> TensorDict:
    """Step t of one env: state (t, -t / 2), action t, reward 2^t; float32 holds all of them exactly."""
    return TensorDict(
        {
            "state": torch.tensor([[float(t), -t / 2]]),
            "action": torch.tensor([[float(t)]]),
            "next": {
                "state": torch.tensor([[t + 1.0, -(t + 1) / 2]]),
                "reward": torch.tensor([[2.0**t]]),
                "discount": torch.tensor([[0.0 if terminated else 1.0]]),
                "done": torch.tensor([[done]]),
            },
        },
        batch_size=[1],
    )


def replay(folder: Any = None, **options: Any) -> FrameReplay:
    settings = {"obs_shape": (2,), "action_dim": 1, "capacity": 50, "frame_stack": 1, "n_step": 2, "discount": 0.5}
    return FrameReplay(**{**settings, "batch_size": 64, "observation": "state", "folder": folder, **options})


def by_action(batch: TensorDict) -> dict[int, TensorDict]:
    return {int(row["action"]): row for row in batch.unbind(0)}


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_n_step_transitions_of_states_by_hand(storage, tmp_path):
    buffer = replay(tmp_path / "replay", storage=storage, slack=5)
    for t in range(5):
        buffer.write(step(t, done=t == 4, terminated=t == 4))
    batch = buffer.sample()
    assert set(batch.keys(True, True)) == {"state", "action", "reward", "discount", ("next", "state")}
    assert batch["state"].dtype == batch["next", "state"].dtype == torch.float32
    rows = by_action(batch)
    assert rows.keys() == {0, 1, 2, 3, 4}, "windows of two steps that start at 0 to 3, and of the last step alone"
    for t, row in rows.items():
        last = min(t + 2, 5)
        assert row["state"].tolist() == [t, -t / 2]
        assert row["next", "state"].tolist() == [last, -last / 2]
        assert row["reward"].tolist() == [2.0**t + (0.5 * 2.0 ** (t + 1) if t < 4 else 0.0)]  # r_t + gamma r_(t+1)
    # gamma^2 = 0.25, and 0 where step 4, the termination, is among them
    assert [rows[t]["discount"].item() for t in range(5)] == [0.25, 0.25, 0.25, 0.0, 0.0]


def test_windows_of_states_do_not_cross_episodes():
    buffer = replay(n_step=1)
    for t in range(3):
        buffer.write(step(t, done=t == 2))
    for t in range(10, 12):
        buffer.write(step(t))
    rows = by_action(buffer.sample())
    assert rows.keys() == {0, 1, 2, 10}
    assert rows[2]["next", "state"].tolist() == [3, -1.5], "the last state of the episode has a record of its own"


def test_batches_of_states_survive_one_further_sample():
    buffer = replay()
    for t in range(20):
        buffer.write(step(t))
    first = buffer.sample()
    kept = first.clone()
    buffer.sample()
    assert torch.equal(first["state"], kept["state"])
    assert torch.equal(first["next", "state"], kept["next", "state"])


@pytest.mark.parametrize("storage", ["ram", "memmap"])
def test_a_replay_of_states_goes_back_to_its_checkpoint(storage, tmp_path):
    options = {"storage": storage, "slack": 20, "capacity": 12}
    one = replay(tmp_path / "replay", **options)
    for t in range(18):  # the ring has wrapped
        one.write(step(t))
    state = one.state_dict()
    expected = [one.sample().clone() for _ in range(3)]
    for t in range(18, 25):
        one.write(step(t))
    two = replay(tmp_path / "replay", **options, seed=99)
    two.load_state_dict(state)
    for batch in expected:
        found = two.sample()
        assert all(torch.equal(found[key], batch[key]) for key in batch.keys(True, True))


def test_states_of_another_kind_are_refused():
    buffer = replay()
    wrong = step(0)
    wrong["state"] = wrong["state"].double()
    with pytest.raises(ValueError, match=r"needs float32 state of 1 lanes with shape \(2,\), got torch.float64"):
        buffer.write(wrong)
    with pytest.raises(UserError, match=r"obs_shape of state must be \(numbers x 1 stacked frames\), got \(3, 4, 4\)"):
        replay(obs_shape=(3, 4, 4))
    with pytest.raises(UserError, match="observation='touch' must be one of .'pixels', 'state'"):
        replay(observation="touch")


def test_a_state_costs_its_bytes():
    # 5 floats + 1 action + reward + discount, 4 bytes each; an 8-byte position; a 1-byte flag: 41 bytes
    assert replay_bytes((5,), 1, 1, 100, observation="state") == 100 * 41


def test_several_envs_act_on_rows_of_states():
    """The policy is given one row per env, and each env gets its own action."""
    seen = []
    data = tiny_data(observation="state", num_envs=3, eval_every_n_frames=60)
    env = data._make_env("tiny", seed=0, num_envs=3)
    from plasticity_rl.data.collector import StepCollector

    def policy(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.clone())
        return -states[:, :1].sign()

    collector = StepCollector(lambda: env, policy, "state")
    first = collector.step()
    assert seen[0].shape == (3, 2)
    assert torch.equal(first["state"], seen[0])
    # position + 2 repeats * 0.1 * action, towards the middle
    assert torch.allclose(first["next", "state"][:, 0], seen[0][:, 0] - 0.2 * seen[0][:, 0].sign())
    collector.close()


# ---- the agent -------------------------------------------------------------------------------------------------------


def test_drqv2_from_states_is_the_agent_without_encoder():
    agent = DrQV2((5,), 2, **TINY_AGENT)
    assert list(agent.encoder.parameters()) == []
    assert agent.encoder.repr_dim == 5
    assert agent.observation_key == "state"
    assert [type(layer) for layer in agent.actor.trunk] == [nn.Linear, nn.LayerNorm, nn.Tanh]
    assert agent.actor.trunk[0].weight.shape == (8, 5)
    assert len(agent.configure_optimizers()) == len(agent.optimizer_names) == 2
    assert agent.augment is False
    pixels = DrQV2((9, 16, 16), 2, **TINY_AGENT)
    heads = {name: p.shape for name, p in agent.named_parameters() if "trunk.0" not in name}
    assert heads.items() <= {name: p.shape for name, p in pixels.named_parameters()}.items()


def batch_of_states(size: int = 6) -> TensorDict:
    g = torch.Generator().manual_seed(0)
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


def test_an_update_from_states_equals_the_update_written_out():
    torch.manual_seed(0)
    agent = DrQV2((5,), 2, **{**TINY_AGENT, "stddev_schedule": 0.0})
    torch.manual_seed(0)
    twin = DrQV2((5,), 2, **{**TINY_AGENT, "stddev_schedule": 0.0})
    batch = batch_of_states()
    metrics = agent.update(batch)

    optimizer = {name: torch.optim.Adam(getattr(twin, name).parameters(), lr=1e-3) for name in ("actor", "critic")}
    with torch.no_grad():
        next_values = twin.critic_target(batch["next", "state"], twin.actor(batch["next", "state"]).clamp(-1, 1))
        target = batch["reward"] + 0.9 * torch.min(*next_values)
    loss = sum((q - target).square().mean() for q in twin.critic(batch["state"], batch["action"]))
    loss.backward()
    optimizer["critic"].step()
    assert float(metrics["loss/critic"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    twin.zero_grad()
    (-torch.min(*twin.critic(batch["state"], twin.actor(batch["state"]))).mean()).backward()
    optimizer["actor"].step()
    for name in ("actor", "critic"):
        for ours, theirs in zip(getattr(agent, name).parameters(), getattr(twin, name).parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_states_are_never_augmented():
    with pytest.raises(UserError, match="augment=True: states are not augmented.*the agent's augment=False"):
        DrQV2((5,), 2, augment=True)
    agent = DrQV2((5,), 2, augment=False)
    with pytest.raises(UserError, match="augment=True"):
        agent.augment = True
    assert DrQV2((9, 16, 16), 2, **TINY_AGENT).augment is True
    assert "augment" not in agent.rng.state_dict()


def test_naming_the_encoder_teaches():
    agent = DrQV2((5,), 2, **TINY_AGENT)
    with pytest.raises(UserError, match=r"^no module 'encoder': states need no encoder; name modules of \['actor', "):
        agent.module("encoder")
    assert set(agent.forward_all(batch_of_states())) == {"actor", "critic"}


@pytest.mark.parametrize("shape", [(5, 5), (), (2, 3, 4, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(UserError, match="obs_shape=.* must be"):
        DrQV2(shape, 2)


class Terms(RLCallback):
    """Remembers what loss terms are given."""

    def __init__(self) -> None:
        self.keys: set[Any] = set()
        self.same = True

    def on_fit_start(self, trainer, pl_module) -> None:
        pl_module.add_loss_term("critic", "spy", self.term)

    def term(self, batch) -> torch.Tensor:
        self.keys = set(batch.keys(True, True))
        self.same &= torch.equal(batch["augmented", "state"], batch["state"]) and torch.equal(
            batch["features"], batch["state"]
        )
        return torch.zeros(())


def test_a_run_from_states_sees_states_everywhere(tmp_path):
    terms = Terms()
    agent = fit_tiny(tmp_path, callbacks=[terms, EvalVideo(every_n_evals=1)], **STATE)
    assert agent.num_updates == 40
    assert agent.data.obs_shape == (2,)
    assert {("augmented", "state"), ("augmented", "next", "state"), "features", "state"} <= terms.keys
    assert terms.same
    assert set(agent.probe_batch(4).keys(True, True)) == {"state", "action", "reward", "discount", ("next", "state")}
    assert not (tmp_path / "videos").exists(), "nothing is drawn"


def test_a_run_from_states_resumes_exactly_and_repeats(tmp_path, monkeypatch):
    options = {"data_options": {"observation": "state", "eval_every_n_frames": 60, "capacity": 70}, "max_frames": 230}
    log = Log(monkeypatch)
    straight = fit_tiny(tmp_path / "straight", callbacks=[callbacks.Reset(at_frames=[100])], **options)
    expected = run_state(straight), log.take()
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[callbacks.Reset(at_frames=[100]), DieAt(150)], **options)
    before = log.take(until=120)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=[callbacks.Reset(at_frames=[100])], ckpt_path="last", **options)
    after = log.take()
    assert differences(expected[0], run_state(resumed)) == []
    assert expected[1] == (before[0] + after[0], before[1] + after[1])


def test_a_checkpoint_of_pixels_is_not_continued_from_states(tmp_path):
    fit_tiny(tmp_path, max_frames=100)
    with pytest.raises(UserError, match="observation=pixels, but this run has state"):
        fit_tiny(tmp_path, ckpt_path="last", **STATE)


def test_an_agent_of_pixels_is_refused_on_states(tmp_path):
    make = lambda data, **options: tiny_agent(tiny_data(), **options)  # noqa: E731
    with pytest.raises(UserError, match="observation=state, but the agent was made for pixels"):
        fit_tiny(tmp_path, make_agent=make, **STATE)


def test_an_unknown_observation_is_refused():
    with pytest.raises(UserError, match="observation='touch' must be one of .'pixels', 'state'"):
        RLDataModule("walker_run", observation="touch")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="^observation='touch' must be one of .'pixels', 'state'.$"):
        make_env("walker_run", seed=0, observation="touch")  # type: ignore[arg-type]


def test_real_states_train_without_rendering(tmp_path, monkeypatch):
    """Cartpole from states, 60 updates; that anything is drawn would raise."""
    monkeypatch.setattr(
        "plasticity_rl.envs.dmc.DMCEnv._prepare_drawing", lambda self: pytest.fail("something was drawn")
    )
    data = {"env": make_env, "task": "cartpole_swingup", "observation": "state", "action_repeat": 8}
    agent = fit_tiny(
        tmp_path,
        max_frames=1600,
        data_options={**data, "eval_every_n_frames": 800},
        agent_options={"num_seed_frames": 640},
        callbacks=[EvalVideo(every_n_evals=1)],
    )
    assert agent.data.obs_shape == (5,)
    assert agent.num_updates == 60
    assert all(torch.isfinite(p).all() for p in agent.parameters())


def test_the_encoder_of_states_draws_no_random_number():
    torch.manual_seed(0)
    with_one = DrQV2((5,), 2, **TINY_AGENT)
    torch.manual_seed(0)
    with_eight = DrQV2((5,), 2, **{**TINY_AGENT, "num_channels": 8})
    assert weights_hash(with_one) == weights_hash(with_eight)
