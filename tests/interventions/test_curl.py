"""CURL: its loss against a slow version, its moving average, what it trains, and what it is refused with."""

from __future__ import annotations

import copy
import math

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from run_state import DieAt, Killed, callback_states, differences, run_state
from tiny_agent import TinyAgent

from callbacks import CURL, Reset
from plasticity_rl import UserError, make_trainer
from plasticity_rl.augment.transforms import random_shift
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo

SHORT = {"max_frames": 90, "data_options": {"eval_every_n_frames": 90}}
TAG = "intervention/curl/encoder+critic.trunk/loss"
EMBEDDING = ("encoder.", "critic.trunk.")


def embedding(agent) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in agent.named_parameters() if name.startswith(EMBEDDING)}


class Slow(RLCallback):
    """Recomputes everything from outside: the average from copies of all weights, the loss with two loops.

    Args:
        curl: What is looked at.
    """

    def __init__(self, curl: CURL) -> None:
        self.curl = curl
        self.history: list[dict[str, torch.Tensor]] = []
        self.losses: list[tuple[float, float]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.history = [embedding(pl_module)]

    def on_update_start(self, agent) -> None:
        self.before = copy.deepcopy({name: getattr(agent, name) for name in ("encoder", "critic", "extras")})
        self.generator = torch.Generator()
        self.generator.set_state(agent.rng.get(f"intervention/{self.curl.state_key}").get_state())

    def on_update_end(self, agent, batch, metrics) -> None:
        first, second = (random_shift(batch["pixels"], self.curl.random_shift_pad, self.generator) for _ in range(2))
        logged = float(metrics[TAG])
        self.losses.append((logged, self.curl.coefficient * self.slow_loss(first, second)))
        self.history.append(embedding(agent))

    def average(self, updates: int) -> dict[str, torch.Tensor]:
        """Closed form: (1 - tau)^k theta_0 + tau sum_i (1 - tau)^(k - i) theta_i."""
        tau, k = self.curl.encoder_tau, updates
        total = {name: (1 - tau) ** k * value.double() for name, value in self.history[0].items()}
        for i in range(1, k + 1):
            for name, value in self.history[i].items():
                total[name] = total[name] + tau * (1 - tau) ** (k - i) * value.double()
        return total

    @torch.no_grad()
    def slow_loss(self, first, second) -> float:
        encoder, trunk = self.before["encoder"], self.before["critic"].trunk
        weight = self.before["extras"]["curl_critic_trunk"].weight
        queries = trunk(encoder(first))
        key_encoder, key_trunk = copy.deepcopy(encoder), copy.deepcopy(trunk)
        for name, value in self.average(len(self.history) - 1).items():
            module = key_encoder if name.startswith("encoder.") else key_trunk
            module.get_parameter(name.removeprefix("encoder.").removeprefix("critic.trunk.")).copy_(value)
        keys = key_trunk(key_encoder(second))
        total = 0.0
        for i in range(len(queries)):
            logits = [float(queries[i] @ weight @ keys[j]) for j in range(len(keys))]
            total += math.log(sum(math.exp(logit) for logit in logits)) - logits[i]
        return total / len(queries)


def test_the_term_equals_a_slow_version_and_the_keys_are_the_moving_average(tmp_path):
    curl = CURL(coefficient=0.5, encoder_tau=0.2, random_shift_pad=2)
    slow = Slow(curl)
    agent = fit_tiny(tmp_path, callbacks=[curl, slow], max_frames=120)
    assert len(slow.losses) == agent.num_updates >= 15
    for logged, expected in slow.losses:
        assert logged == pytest.approx(expected, rel=1e-4)
    assert len({logged for logged, _ in slow.losses}) == len(slow.losses)
    state, average = curl.state_dict()["slow"], slow.average(agent.num_updates)
    assert state.keys() == average.keys() == embedding(agent).keys()
    for name, value in average.items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(state[name], embedding(agent)[name], rtol=1e-4, atol=1e-6) or value.abs().max() == 0


def test_the_first_loss_with_equal_weights_is_near_the_log_of_the_batch_size(tmp_path):
    """With random weights in [0, 1) the products say little: about log 8 = 2.08 for a batch of 8."""
    agent = fit_tiny(tmp_path, callbacks=[CURL(random_shift_pad=1)], **{**SHORT, "max_frames": 44})
    assert agent.num_updates == 1
    assert 1.0 < float(agent.metrics[TAG]) < 3.0


class Gradients(RLCallback):
    """Compares the first gradient step of W and others with the initial weights."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_update_end(self, agent, batch, metrics) -> None:
        if agent.num_updates == 1:
            self.first = {name: p.detach().clone() for name, p in agent.named_parameters()}


def test_encoder_trunk_and_product_learn_from_it_and_the_actor_does_not(tmp_path):
    plain, with_term = Gradients(), Gradients()
    fit_tiny(tmp_path / "plain", callbacks=[plain], **SHORT)
    agent = fit_tiny(tmp_path / "curl", callbacks=[CURL(coefficient=10.0), with_term], **SHORT)
    name = "extras.curl_critic_trunk.weight"
    assert with_term.start.keys() - plain.start.keys() == {name}
    assert all(torch.equal(value, with_term.start[key]) for key, value in plain.start.items())
    differ = {key for key, value in plain.first.items() if not torch.equal(value, with_term.first[key])}
    trained = {key for key in plain.first if key.startswith(EMBEDDING) and not key.endswith("trunk.0.bias")}
    assert trained <= differ
    assert {key.split(".")[0] for key in differ} <= {"encoder", "critic", "critic_target"} | {"actor"}
    assert not {key for key in differ if key.startswith(("critic.Q1", "critic.Q2"))}  # the critic's own loss alone
    assert not torch.equal(with_term.first[name], with_term.start[name])
    encoder_optimizer = agent.trainer.optimizers[agent.optimizer_names.index("encoder")]
    held = {id(p) for group in encoder_optimizer.param_groups for p in group["params"]}
    assert id(agent.get_parameter(name)) in held


def test_coefficient_0_allocates_nothing(tmp_path):
    curl = CURL(coefficient=0.0)
    agent = fit_tiny(tmp_path, callbacks=[curl], **SHORT)
    assert not hasattr(agent, "extras")
    assert curl.state_dict() == {"slow": {}}
    assert not any("curl" in name for name in agent.rng.state_dict())
    assert TAG not in set(agent.metrics.keys())


def test_the_average_starts_over_where_a_module_is_reset(tmp_path):
    curl = CURL(encoder_tau=1e-9)  # so it stays where it started
    seen = {}

    class Look(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            seen["start"] = {name: value.clone() for name, value in curl.state_dict()["slow"].items()}

        def on_update_end(self, agent, batch, metrics) -> None:
            seen["last"] = {name: value.clone() for name, value in curl.state_dict()["slow"].items()}

        def on_weights_jumped(self, agent, jump) -> None:
            ids = {id(jump.live[name]) for name in jump.renewed}
            fresh = {name: p.detach().clone() for name, p in agent.named_parameters() if id(p) in ids}
            seen.setdefault("fresh", {}).update(fresh)

    reset = Reset(modules=["actor", "critic"], at_frames=[60])
    agent = fit_tiny(tmp_path, callbacks=[curl, reset, Look()], **SHORT)
    assert agent.num_updates > 5
    for name, value in seen["last"].items():
        expected = seen["fresh"][name] if name.startswith("critic.trunk") else seen["start"][name]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(seen["last"]["critic.trunk.0.weight"], seen["start"]["critic.trunk.0.weight"])


def test_the_loss_falls_when_only_the_contrast_counts(tmp_path):
    losses = []

    class Losses(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            losses.append(float(metrics[TAG]) / 100)

    curl = CURL(coefficient=100.0, random_shift_pad=1, encoder_tau=0.2)
    options = {"max_frames": 400, "data_options": {"eval_every_n_frames": 400}, "agent_options": {"replay_ratio": 1}}
    fit_tiny(tmp_path, callbacks=[curl, Losses()], **options)
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficient": -1.0}, "CURL.coefficient=-1.0 must be >= 0"),
        ({"encoder_tau": 0.0}, r"CURL.encoder_tau=0.0 must be in \(0, 1\]"),
        ({"encoder_tau": 1.5}, r"CURL.encoder_tau=1.5 must be in \(0, 1\]"),
        ({"random_shift_pad": 0}, "CURL.random_shift_pad=0 must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CURL(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "eyes"}, "no module 'eyes' in DrQV2"),
        ({"projection": "critic.head"}, "no module 'critic.head' in DrQV2"),
        ({"loss": "policy"}, r"CURL.loss='policy': there is no such loss in DrQV2, but \['critic', 'actor'\]"),
        ({"loss": "actor"}, "CURL: the actor loss does not train 'encoder'"),
        ({"encoder": "critic"}, "CURL.encoder='critic': DrQV2 does not encode observations by it"),
        ({"projection": "critic"}, r"CURL.projection='critic' cannot read the features"),
        ({"projection": "critic.Q1"}, r"CURL.projection='critic.Q1' cannot read the features"),
    ],
)
def test_wrong_names_are_refused_before_training(options, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[CURL(**options)], **SHORT)
    assert "\n" not in str(error.value)


def test_one_of_them_per_projection(tmp_path):
    with pytest.raises(UserError, match="^CURL cannot run beside CURL: both add the module extras.curl_critic_trunk$"):
        fit_tiny(tmp_path, callbacks=[CURL(), CURL(coefficient=0.5)], **SHORT)
    agent = fit_tiny(tmp_path, callbacks=[CURL(), CURL(projection=None, encoder_tau=0.5)], **SHORT)
    assert {name: tuple(module.weight.shape) for name, module in agent.extras.items()} == {
        "curl_critic_trunk": (8, 8),
        "curl_encoder": (agent.encoder.repr_dim, agent.encoder.repr_dim),
    }


# ---- an agent of another kind ----------------------------------------------------------------------------------------


def fit_other(folder, *, given, ckpt_path: str | None = None) -> TinyAgent:
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1, eval_every_n_frames=60)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    trainer = make_trainer(folder, callbacks=[*given, EvalVideo(every_n_evals=0)], **TINY_TRAINER)
    trainer.fit(agent, data, ckpt_path=ckpt_path)
    return agent


def test_other_agent_learns_from_it_and_resumes_exactly(tmp_path):
    """No trunk, so the features themselves are compared; other names, and one optimizer for torso and value."""
    arguments = {"encoder": "torso", "projection": None, "loss": "td", "random_shift_pad": 1}
    plain = fit_other(tmp_path / "plain", given=[])
    straight_curl, resumed_curl = CURL(**arguments), CURL(**arguments)
    straight = fit_other(tmp_path / "straight", given=[straight_curl])
    assert straight.extras["curl_torso"].weight.shape == (16, 16)
    assert not torch.equal(straight.torso[1].weight, plain.torso[1].weight)
    assert straight_curl.state_dict()["slow"].keys() == {"torso.1.weight", "torso.1.bias"}
    with pytest.raises(Killed):
        fit_other(tmp_path / "resumed", given=[CURL(**arguments), DieAt(90)])
    resumed = fit_other(tmp_path / "resumed", given=[resumed_curl], ckpt_path="last")
    assert differences(run_state(straight), run_state(resumed)) == []
    assert differences(callback_states([straight_curl]), callback_states([resumed_curl])) == []
