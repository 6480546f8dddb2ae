"""ChurnReduction: which networks are compared on which observations, whom the gradient reaches, and the coefficient."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from agent_kinds import KINDS
from helpers import TINY_TRAINER, fit_tiny, tiny_agent, tiny_data, tiny_sac
from tiny_agent import TinyAgent
from torch import Tensor

from callbacks import ChurnReduction, FractionActiveUnits, RandomFrozenEncoder, Reset, SimBaBlocks
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.shadow import network_tensors
from plasticity_rl.replay.buffer import FrameReplay
from plasticity_rl.rng import derive_seed
from plasticity_rl.run.video import EvalVideo


class Look(RLCallback):
    """Recomputes churn and coefficient of every update from weights, losses and batches that it keeps itself.

    Args:
        regularizer: What is looked at.
    """

    def __init__(self, regularizer: ChurnReduction) -> None:
        self.regularizer, self.penalty = regularizer, regularizer.penalty
        regularizer.penalty = self.note
        self.weights: list[dict[str, Tensor]] = []
        self.churn: list[float] = []
        self.expected: list[float] = []
        self.terms: list[float] = []
        self.losses: list[float] = []
        self.reached: set[str] = set()

    def on_update_start(self, agent) -> None:
        self.weights.append({name: p.detach().clone() for name, p in agent.named_parameters()})

    def _output(self, agent, weights: dict[str, Tensor], batch) -> Tensor:
        with torch.no_grad():
            return torch.func.functional_call(agent, weights, (batch,))[self.regularizer.module]

    def note(self, agent, batch) -> Tensor:
        name = f"intervention/{self.regularizer.state_key}"
        generator = torch.Generator()
        generator.set_state(agent.rng.get(name).get_state())
        reference = agent.data.replay.peek(len(batch["action"]), generator)
        penalty = self.penalty(agent, batch)
        older = self.weights[max(len(self.weights) - 2, 0)]
        now = {name: p.detach() for name, p in agent.named_parameters()}
        new, old = self._output(agent, now, reference), self._output(agent, older, reference)
        values = [(float(a) - float(b)) ** 2 for a, b in zip(new.flatten(), old.flatten(), strict=True)]
        self.expected.append(sum(values) / len(values))
        self.churn.append(float(penalty.detach()))
        wanted = {name: p for name, p in agent.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(penalty, list(wanted.values()), allow_unused=True, retain_graph=True)
        self.reached |= {n for n, g in zip(wanted, gradients, strict=True) if g is not None and g.any()}
        return penalty

    def on_update_end(self, agent, batch, metrics) -> None:
        name = f"intervention/churn_reduction/{self.regularizer.module}/loss"
        self.terms.append(float(metrics[name]))
        self.losses.append(float(metrics[f"loss/{self.regularizer.loss}"]))


def other_agent(data, **options) -> TinyAgent:
    return TinyAgent(data.obs_shape, data.action_dim, **options)


@pytest.mark.parametrize(
    ("module", "reached"), [("critic", ("encoder.", "critic.")), ("actor", ("actor.",))], ids=["value", "policy"]
)
def test_churn_is_the_difference_to_one_update_earlier(module, reached, tmp_path):
    """In update t the weights after t - 1 updates are compared with those after t - 2; in the first with themselves.

    In the actor's loss the encoder has already taken the critic's step of this update.
    """
    regularizer = ChurnReduction(module=module, loss=module, coefficient=0.5)
    look = Look(regularizer)
    fit_tiny(tmp_path, callbacks=[regularizer, look], max_frames=100)
    assert look.churn == pytest.approx(look.expected, rel=1e-3, abs=1e-12)
    assert look.churn[0] == 0.0 or module == "actor"
    assert min(look.churn[1:]) > 0.0
    assert {name.split(".")[0] + "." for name in look.reached} == set(reached)
    assert look.terms == pytest.approx([0.5 * value for value in look.churn], rel=1e-5)


@pytest.mark.parametrize("module", ["critic", "actor"])
def test_the_coefficient_follows_the_ratio_of_moving_averages(module, tmp_path):
    """Loss and churn are averaged from update 2 on, the term takes part from update 3 on: ratio * L / R * churn."""
    regularizer = ChurnReduction(module=module, loss=module, target_ratio=0.2, decay=0.75)
    look = Look(regularizer)
    fit_tiny(tmp_path, callbacks=[regularizer, look], max_frames=120)
    loss_average = churn_average = 0.0
    for update, (churn, term, loss) in enumerate(zip(look.churn, look.terms, look.losses, strict=True), start=1):
        expected = 0.2 * loss_average / churn_average * churn if update > 2 else 0.0
        assert term == pytest.approx(expected, rel=1e-3, abs=1e-12), update
        if update > 1:
            loss_average = 0.75 * loss_average + 0.25 * abs(loss - term)
            churn_average = 0.75 * churn_average + 0.25 * churn
    shares = [term / abs(loss - term) for term, loss in zip(look.terms[5:], look.losses[5:], strict=True)]
    assert 0.02 < sum(shares) / len(shares) < 2.0


SHARES = {
    "drqv2": {"encoder": 0.01, "actor": 0.00005, "critic": 0.01},
    "sac": {"actor": 0.00005, "critic": 0.01},
    "dqn": {"encoder": 0.01, "critic": 0.01},
    "other": {"torso": 0.01, "policy": 0.00005, "value": 0.01},
}


@pytest.mark.parametrize("kind", SHARES)
def test_a_policy_has_a_share_of_its_own(kind):
    """Its loss is minus a value, of any size: a hundredth of that is many times the gradient of the policy."""
    make, options = (other_agent, {}) if kind == "other" else (KINDS[kind].make, KINDS[kind].data)
    agent = make(tiny_data(**options))
    for module, expected in SHARES[kind].items():
        regularizer, given = ChurnReduction(module=module), ChurnReduction(module=module, target_ratio=0.2)
        assert regularizer.arguments()["target_ratio"] is None
        regularizer.resolve(agent)
        given.resolve(agent)
        assert (regularizer.arguments()["target_ratio"], given.target_ratio) == (expected, 0.2), module


def test_the_term_of_a_policy_has_its_share(tmp_path):
    """With decay 0 it is ``5e-5 * |loss before| / churn before * churn``."""
    regularizer = ChurnReduction(module="actor", loss="actor", decay=0.0)
    look = Look(regularizer)
    fit_tiny(tmp_path, callbacks=[regularizer, look], max_frames=100)
    own = [abs(loss - term) for loss, term in zip(look.losses, look.terms, strict=True)]
    for update in range(3, len(look.terms)):
        expected = 0.00005 * own[update - 1] / look.churn[update - 1] * look.churn[update]
        assert look.terms[update] == pytest.approx(expected, rel=1e-3, abs=1e-12), update
    assert len(own) > 8


OLD_KEY = (
    "ChurnReduction{{'module': '{0}', 'loss': '{0}', 'coefficient': None, 'target_ratio': 0.01, 'decay': 0.999, "
    "'batch_size': None}}"
)
"""What checkpoints called a ChurnReduction that was left at its defaults, when that of a policy was 0.01 too."""


def test_runs_with_the_share_of_before_go_on_with_it(tmp_path):
    """Their ``config.yaml`` names it. What is left open now is another share of a policy, and refused."""
    both = [
        ChurnReduction(module=name, loss=name, target_ratio=ratio)
        for name, ratio in (("critic", None), ("actor", 0.01))
    ]
    fit_tiny(tmp_path, callbacks=both, max_frames=100)
    assert [one.state_key for one in both] == [OLD_KEY.format("critic"), OLD_KEY.format("actor")]
    updates = both[1].state_dict()["updates"]
    again = [ChurnReduction(module=name, loss=name, target_ratio=0.01) for name in ("critic", "actor")]
    fit_tiny(tmp_path, callbacks=again, max_frames=140, ckpt_path="last")
    assert [one.target_ratio for one in again] == [0.01, 0.01]
    assert again[1].state_dict()["updates"] > updates > 5
    left_open = [ChurnReduction(module=name, loss=name) for name in ("critic", "actor")]
    with pytest.raises(UserError, match="written with ChurnReduction.target_ratio=0.01, but this run has 5e-05"):
        fit_tiny(tmp_path, callbacks=left_open, max_frames=180, ckpt_path="last")


def test_reference_batches_are_not_those_of_the_updates(tmp_path, monkeypatch):
    """They come from a generator of this callback's own, and the run's sequence of batches stays as it was."""
    batches: dict[str, list[Tensor]] = {"without": [], "with": []}
    drawn: list[Tensor] = []
    peek = FrameReplay.peek

    def spy(replay, size, generator):
        batch = peek(replay, size, generator)
        drawn.append(batch["pixels"].clone())
        assert size == 5
        return batch

    class Keep(RLCallback):
        def __init__(self, name: str) -> None:
            self.name_of_run = name

        def arguments(self):
            return {}

        def on_update_end(self, agent, batch, metrics) -> None:
            batches[self.name_of_run].append(batch["pixels"].clone())

    monkeypatch.setattr(FrameReplay, "peek", spy)
    # Nothing acts on the policy's exploration but the weights, so the batches agree up to the first changed action.
    fit_tiny(tmp_path / "0", callbacks=[Keep("without")], max_frames=60)
    regularizer = ChurnReduction(batch_size=5)
    agent = fit_tiny(tmp_path / "1", callbacks=[Keep("with"), regularizer], max_frames=60)
    assert torch.equal(batches["without"][0], batches["with"][0])
    assert len(drawn) == len(batches["with"]) == agent.num_updates
    assert all(value.shape[0] == 5 for value in drawn)
    name = f"intervention/{regularizer.state_key}"
    generator = torch.Generator().manual_seed(derive_seed(agent.rng.seed, name))
    state = agent.rng.get(name).get_state()
    assert not torch.equal(generator.get_state(), state)


def test_a_module_that_was_reset_is_compared_with_itself(tmp_path):
    """Without that, the term would pull the fresh critic back to the old one."""
    regularizer = ChurnReduction(coefficient=1.0)
    seen: dict[int, float] = {}

    class Note(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            seen[agent.env_frames] = float(metrics["intervention/churn_reduction/critic/loss"])

    reset = Reset(modules=["encoder", "actor", "critic"], at_frames=[100])
    fit_tiny(tmp_path, callbacks=[regularizer, reset, Note()], max_frames=120)
    assert seen[104] == 0.0
    assert seen[100] > 0
    assert seen[108] > 0


def test_added_on_a_resume_it_compares_with_the_weights_of_the_checkpoint(tmp_path):
    class Start(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            live = network_tensors(pl_module)
            self.equal = [torch.equal(kept[name], live[name]) for kept in (term._older, term._newer) for name in live]

    fit_tiny(tmp_path, max_frames=100)
    term, start = ChurnReduction(coefficient=1.0), Start()
    fit_tiny(tmp_path, callbacks=[term, start], ckpt_path="last")
    assert len(start.equal) > 20
    assert all(start.equal)


def test_probes_of_the_training_batch_do_not_see_the_reference_batch(tmp_path):
    """Its passes through actor and critic come before the actor's own; the value is only watched with weight 1e-30."""
    values = []
    for name, given in (("without", []), ("with", [ChurnReduction(coefficient=1e-30)])):
        fau: list[dict[str, float]] = []

        class Note(RLCallback):
            def on_update_end(self, agent, batch, metrics, fau=fau) -> None:
                fau.append({tag: float(value) for tag, value in agent.latest.items() if tag.startswith("fau/")})

        fit_tiny(tmp_path / name, callbacks=[FractionActiveUnits(every_n_updates=1), *given, Note()], max_frames=70)
        values.append(fau)
    assert values[0] == values[1]
    assert len(values[0]) > 5


def test_coefficient_zero_keeps_and_draws_nothing(tmp_path):
    regularizer = ChurnReduction(coefficient=0.0)
    agent = fit_tiny(tmp_path, callbacks=[regularizer], max_frames=80)
    state = regularizer.state_dict()
    assert state["older"] == state["newer"] == {}
    assert not any("ChurnReduction" in name for name in agent.rng.state_dict())


def test_a_second_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=100, seed=1)
    agent = other_agent(data, seed=1)
    both = [ChurnReduction(module="value", loss="td"), ChurnReduction(module="policy", loss="dpg")]
    make_trainer(tmp_path, callbacks=[*both, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    for callback in both:
        assert (callback.state_dict()["averages"] > 0).all()
        assert callback.state_dict()["updates"] == agent.num_updates > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficient": -1.0}, "ChurnReduction.coefficient=-1.0 must be >= 0"),
        ({"target_ratio": 0.0}, "ChurnReduction.target_ratio=0.0 must be > 0; for no term set coefficient: 0"),
        ({"decay": 1.0}, r"ChurnReduction.decay=1.0 must be in \[0, 1\)"),
        ({"batch_size": 0}, "ChurnReduction.batch_size=0 must be a whole number >= 1, or null"),
        ({"module": "critic.Q1"}, r"ChurnReduction.module='critic.Q1' must be one of \['encoder', 'actor', 'critic'\]"),
        ({"module": "critc"}, "no module 'critc'"),
        ({"loss": "value"}, "no loss 'value' in DrQV2"),
        ({"module": "actor"}, "the critic loss does not train 'actor'"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[ChurnReduction(**arguments)])


class Terms(RLCallback):
    """Remembers the term of every update."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        self.seen.append(float(metrics["intervention/churn_reduction/critic/loss"]))


SMALL_RESNET = {"architecture": "resnet18", "layer": "layer1", "feature_dim": 16}


@pytest.mark.parametrize(
    ("given", "make_agent", "observation"),
    [
        ([SimBaBlocks(hidden_dim=8)], tiny_sac, "state"),
        ([RandomFrozenEncoder(**SMALL_RESNET, batch_norm="train")], tiny_agent, "pixels"),
    ],
    ids=["normalised observations", "batch statistics"],
)
def test_statistics_that_move_are_nothing_that_was_learned(given, make_agent, observation, tmp_path):
    """At a learning rate of almost 0 the network of the update before is the present one."""
    options = {"make_agent": make_agent, "data_options": {"observation": observation}, "max_frames": 64}
    churn, terms = ChurnReduction(coefficient=1.0), Terms()
    fit_tiny(tmp_path, callbacks=[churn, terms, *given], agent_options={"lr": 1e-30}, **options)
    assert len(terms.seen) > 3
    assert max(terms.seen) < 1e-10
