"""InFeR: the term, whom its gradient reaches, and targets that never move."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data, tiny_sac
from run_state import DieAt, Killed, differences, fingerprint, run_state
from tiny_agent import TinyAgent
from torch import Tensor

from callbacks import InFeR, Reset, SimBaBlocks, SimBaV2Blocks
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.losses import feature_regression
from plasticity_rl.run.video import EvalVideo


def test_feature_regression_by_hand():
    """Sum over heads, mean over the batch: ((1 - 3)^2 + (2 - 2)^2 + (0 - 1)^2 + (4 - 1)^2) / 2 = 14 / 2."""
    outputs = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    assert float(feature_regression(outputs, torch.tensor([[3.0, 2.0], [1.0, 1.0]]))) == 7.0


class Look(RLCallback):
    """Recomputes the term of one update from networks that it keeps itself, with a loop over heads and observations.

    Args:
        regularizer: What is looked at.
        number: Which update, from 1.
    """

    def __init__(self, regularizer: InFeR, number: int) -> None:
        self.regularizer, self.number = regularizer, number
        self.penalty = regularizer.penalty
        regularizer.penalty = self.note
        self.expected = self.seen = 0.0
        self.reached: set[str] = set()

    def on_train_start(self, trainer, pl_module) -> None:
        self.first = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    @torch.no_grad()
    def _penultimate(self, agent, weights: dict[str, Tensor], batch) -> dict[str, Tensor]:
        """Features of both heads, layer by layer, with ``weights``."""
        x = batch["augmented", "pixels"].float() / 255.0 - 0.5
        for index, stride in ((0, 2), (2, 1), (4, 1), (6, 1)):
            key = f"encoder.convnet.{index}"
            x = torch.relu(torch.nn.functional.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride))
        features = x.flatten(1)
        linear = lambda x, key: x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]  # noqa: E731
        norm = (weights["critic.trunk.1.weight"], weights["critic.trunk.1.bias"])
        h = torch.tanh(torch.nn.functional.layer_norm(linear(features, "critic.trunk.0"), norm[0].shape, *norm))
        h = torch.cat([h, batch["action"]], -1)
        hidden = {q: torch.relu(linear(torch.relu(linear(h, f"critic.{q}.0")), f"critic.{q}.2")) for q in ("Q1", "Q2")}
        return {**hidden, "encoder": features}

    def note(self, agent, batch) -> Tensor:
        penalty = self.penalty(agent, batch)
        if agent.num_updates + 1 == self.number:
            now = {name: p.detach() for name, p in agent.named_parameters()}
            current, first = self._penultimate(agent, now, batch), self._penultimate(agent, self.first, batch)
            for name in self.regularizer.modules:
                head = f"extras.{self.regularizer.extra}.{name.replace('.', '_')}"
                features = current[name.split(".")[-1]], first[name.split(".")[-1]]
                for x in range(len(batch["action"])):
                    for i in range(self.regularizer.num_heads):
                        g = float(features[0][x] @ now[f"{head}.weight"][i] + now[f"{head}.bias"][i])
                        g0 = float(features[1][x] @ self.first[f"{head}.weight"][i] + self.first[f"{head}.bias"][i])
                        self.expected += (g - self.regularizer.scale * g0) ** 2 / len(batch["action"])
            self.seen = float(penalty.detach())
            parameters = dict(agent.named_parameters())
            wanted = {name: p for name, p in parameters.items() if p.requires_grad}
            gradients = torch.autograd.grad(penalty, list(wanted.values()), allow_unused=True, retain_graph=True)
            self.reached = {n for n, g in zip(wanted, gradients, strict=True) if g is not None and g.any()}
        return penalty


@pytest.mark.parametrize(
    ("modules", "reached"),
    [
        (["critic.Q1", "critic.Q2"], ("encoder.", "critic.trunk.", "critic.Q1.0.", "critic.Q1.2.", "critic.Q2.0.")),
        (["encoder"], ("encoder.",)),
    ],
    ids=["heads", "encoder"],
)
def test_the_term_against_a_slow_loop(modules, reached, tmp_path):
    """At update 9, after training and with augmentation: networks, heads and observations all matter."""
    regularizer = InFeR(modules=modules, num_heads=3, scale=7.0, coefficient=0.01)
    look = Look(regularizer, 9)
    agent = fit_tiny(tmp_path, callbacks=[regularizer, look], max_frames=100)
    assert look.seen == pytest.approx(look.expected, rel=1e-4)
    assert look.seen > 0
    assert all(any(name.startswith(part) for name in look.reached) for part in reached)
    assert any(name.startswith(f"extras.{regularizer.extra}") for name in look.reached)
    assert not any(name.startswith("actor.") or ".4." in name for name in look.reached if "critic" in name)
    assert any(tag.startswith("intervention/infer/") for tag in agent.metrics.keys())  # noqa: SIM118


@pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")
def test_features_that_are_reduced_are_regressed_in_full(tmp_path):
    """Those of the encoder come in bfloat16 from the update; the term is that of float32 up to their rounding."""
    terms = []
    for precision in ("32-true", "bf16-mixed"):
        given = {"trainer_options": {"precision": precision}, "data_options": {"eval_every_n_frames": 50}}
        agent = fit_tiny(tmp_path / precision, callbacks=[InFeR(modules=["encoder"])], max_frames=50, **given)
        terms.append(agent.metrics["intervention/infer/encoder/loss"])
    assert terms[1].dtype == torch.float32
    assert float(terms[1]) == pytest.approx(float(terms[0]), rel=0.05)


def test_targets_never_move(tmp_path):
    """Neither training nor a reset touches the initial network or heads; those in use do move."""
    regularizer, states = InFeR(modules=["critic.Q1"]), []

    class Note(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            self.first = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

        def on_update_end(self, agent, batch, metrics) -> None:
            states.append(fingerprint(regularizer.state_dict()))

    note = Note()
    reset = Reset(modules=["encoder", "critic"], at_frames=[100])
    agent = fit_tiny(tmp_path, callbacks=[regularizer, reset, note])
    assert len(states) > 30
    assert all(state == states[0] for state in states)
    state = regularizer.state_dict()
    for name, value in state["initial"].items():
        assert torch.equal(value, note.first[name]), name
    for key, value in state["initial_heads"].items():
        assert torch.equal(value, note.first[f"extras.infer_critic_Q1.{key}"])
        assert not torch.equal(value, agent.get_parameter(f"extras.infer_critic_Q1.{key}"))
    held = {id(p) for o in agent.trainer.optimizers for group in o.param_groups for p in group["params"]}
    frozen = [*state["initial"].values(), *state["initial_heads"].values()]
    assert not any(id(value) in held or value.requires_grad for value in frozen)
    pointers = {p.data_ptr() for p in agent.parameters()}
    assert not any(value.data_ptr() in pointers for value in frozen)


class LookAtStates(RLCallback):
    """Recomputes the term of one update with a whole critic that it keeps, whose statistics it sets to the live ones.

    Args:
        regularizer: Of ``critic.Q1`` alone.
        number: Which update, from 1.
    """

    def __init__(self, regularizer: InFeR, number: int) -> None:
        self.regularizer, self.number = regularizer, number
        self.penalty = regularizer.penalty
        regularizer.penalty = self.note
        self.seen = self.expected = self.of_raw_states = 0.0

    def on_train_start(self, trainer, pl_module) -> None:
        self.first = copy.deepcopy(pl_module.critic.Q1)
        self.last = list(pl_module.activation_layers("critic.Q1"))[-1]
        head = pl_module.extras["infer_critic_Q1"].head("critic.Q1")
        self.weight, self.bias = head.weight.detach().clone(), head.bias.detach().clone()

    @torch.no_grad()
    def _hidden(self, head, batch) -> Tensor:
        kept: list[Tensor] = []
        handle = head.get_submodule(self.last).register_forward_hook(lambda *args: kept.append(args[-1]))
        head(torch.cat([batch["state"], batch["action"]], -1))
        handle.remove()
        return kept[0]

    def note(self, agent, batch) -> Tensor:
        penalty = self.penalty(agent, batch)
        if agent.num_updates + 1 == self.number:
            head = agent.extras["infer_critic_Q1"].head("critic.Q1")
            now = self._hidden(agent.critic.Q1, batch) @ head.weight.detach().T + head.bias.detach()
            found = []
            for live in (False, True):
                if live:
                    for name, value in agent.critic.Q1.get_submodule("observations").named_buffers():
                        self.first.get_submodule("observations").get_buffer(name).copy_(value)
                target = self.regularizer.scale * (self._hidden(self.first, batch) @ self.weight.T + self.bias)
                found.append(float((now - target).square().sum(-1).mean()))
            self.of_raw_states, self.expected = found
            self.seen = float(penalty.detach())
        return penalty


@pytest.mark.parametrize("blocks", [SimBaBlocks, SimBaV2Blocks])
def test_states_are_normalised_for_the_initial_weights_as_they_are_now(blocks, tmp_path):
    regularizer = InFeR(modules=["critic.Q1"], num_heads=3, scale=7.0, coefficient=0.01)
    look = LookAtStates(regularizer, 9)
    given = [blocks(hidden_dim=4), regularizer, look]
    fit_tiny(tmp_path, callbacks=given, make_agent=tiny_sac, data_options={"observation": "state"}, max_frames=100)
    assert look.seen == pytest.approx(look.expected, rel=1e-4)
    assert look.of_raw_states != pytest.approx(look.expected, rel=1e-2), "statistics matter here"


@pytest.mark.parametrize("blocks", [SimBaBlocks, SimBaV2Blocks])
def test_a_killed_run_on_normalised_states_goes_on_exactly(blocks, tmp_path):
    data = {"observation": "state", "eval_every_n_frames": 60}
    run = {"make_agent": tiny_sac, "data_options": data, "max_frames": 150}
    given = lambda: [blocks(hidden_dim=4), InFeR(coefficient=0.01)]  # noqa: E731
    straight = fit_tiny(tmp_path / "straight", callbacks=given(), **run)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*given(), DieAt(100)], **run)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=given(), ckpt_path="last", **run)
    assert differences(run_state(straight), run_state(resumed)) == []


def test_heads_are_trained_by_the_critics_optimizer(tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[InFeR()], max_frames=80)
    critic = agent.optimizer_by_name("critic").optimizer
    for parameter in agent.extras["infer_critic_Q1_critic_Q2"].parameters():
        assert agent.optimizer_of(parameter) is critic
        assert float(critic.state[parameter]["step"]) == agent.num_updates > 0


def test_initial_weights_of_the_agent_do_not_depend_on_it(tmp_path):
    """The heads draw from numbers of their own."""
    first: list[dict[str, Tensor]] = []

    class First(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            first.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})

    fit_tiny(tmp_path / "without", callbacks=[First()], max_frames=50)
    fit_tiny(tmp_path / "with", callbacks=[First(), InFeR()], max_frames=50)
    without, with_heads = first
    assert all(torch.equal(value, with_heads[name]) for name, value in without.items())
    added = with_heads.keys() - without.keys()
    assert {name.split(".")[0] for name in added} == {"extras"}
    weight = with_heads["extras.infer_critic_Q1_critic_Q2.critic_Q1.weight"]
    torch.testing.assert_close(weight @ weight.T, torch.eye(10), atol=1e-5, rtol=0)


def test_coefficient_zero_allocates_nothing(tmp_path):
    regularizer = InFeR(coefficient=0.0)
    agent = fit_tiny(tmp_path, callbacks=[regularizer], max_frames=80)
    assert not hasattr(agent, "extras")
    assert regularizer.state_dict() == {"initial": {}, "initial_heads": {}}
    assert not any("infer" in tag for tag in agent.metrics.keys())  # noqa: SIM118


def test_two_of_them_on_different_features(tmp_path):
    both = [InFeR(modules=["encoder"]), InFeR(modules=["actor"], loss="actor")]
    agent = fit_tiny(tmp_path, callbacks=both, max_frames=80)
    assert set(agent.extras) == {"infer_encoder", "infer_actor"}
    tags = {"intervention/infer/encoder/loss", "intervention/infer/actor/loss"}
    assert tags <= set(agent.metrics.keys())
    actor = agent.optimizer_by_name("actor").optimizer
    assert all(agent.optimizer_of(p) is actor for p in agent.extras["infer_actor"].parameters())


def test_a_second_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=80, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    regularizer = InFeR(modules=["torso", "value"], loss="td", scale=2.0)
    make_trainer(tmp_path, callbacks=[regularizer, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    head = agent.get_parameter("extras.infer_torso_value.torso.weight")
    assert not torch.equal(head, regularizer.state_dict()["initial_heads"]["torso.weight"])
    assert torch.isfinite(head).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficient": -1.0}, "InFeR.coefficient=-1.0 must be >= 0"),
        ({"num_heads": 0}, "InFeR.num_heads=0 must be a whole number >= 1"),
        ({"scale": 0.0}, "InFeR.scale=0.0 must be > 0; published: 100"),
        ({"modules": ["critic.trunk"]}, "InFeR.modules: 'critic.trunk' has no hidden layer"),
        ({"modules": ["critc"]}, "no module 'critc'"),
        ({"loss": "value"}, "no loss 'value' in DrQV2"),
        ({"modules": ["actor"]}, "the critic loss does not train 'actor'"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[InFeR(**arguments)])


def test_twice_on_the_same_features_is_refused(tmp_path):
    both = [InFeR(modules=["critic.Q1"]), InFeR(modules=["critic.Q1", "critic.Q2"], num_heads=3)]
    with pytest.raises(UserError, match=r"InFeR cannot run beside InFeR: both regress the features of critic\.Q1"):
        fit_tiny(tmp_path, callbacks=both)
