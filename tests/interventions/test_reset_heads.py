"""Reset of the last layers of heads that are not alike: dueling streams, and an architecture on one head alone."""

from __future__ import annotations

import pytest
import torch
from built import assert_target_is_a_twin, drqv2

from callbacks import BroNet, CReLU, RandomPruning, Reset, SimBaBlocks, SpectralNorm
from plasticity_rl import DQN, UserError

OF_A_NOISY_LAYER = ("weight", "bias", "weight_sigma", "bias_sigma")


def layers(reset: Reset, agent) -> set[str]:
    """Return what is reset, as the children of the heads: ``critic.Q1.4``."""
    return {".".join(name.split(".")[:3]) for name in reset.mutates(agent).optimizer_slots}


STREAMS = {
    "both": (["critic"], 1, ["advantage.2", "value.2"]),
    "all of both": (["critic"], 2, ["advantage.2", "value.2", "advantage.0", "value.0"]),
    "one by name": (["critic.advantage"], 1, ["advantage.2"]),
    "the other": (["critic.value"], 1, ["value.2"]),
}


@pytest.mark.parametrize(("modules", "last_layers", "expected"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("options", [{}, {"num_atoms": 5, "noisy_sigma": 0.5}], ids=["drq_eps", "rainbow"])
def test_the_last_layers_of_dueling_streams(options, modules, last_layers, expected):
    """Weights, and the noise of noisy layers, with their twins; all others bit-equal."""
    torch.manual_seed(0)
    agent = DQN((5,), 3, hidden_dim=8, dueling=True, **options)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    reset = Reset(modules=modules, last_layers=last_layers, at_frames=[0])
    reset.act(agent)
    changed = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    kinds = OF_A_NOISY_LAYER if "noisy_sigma" in options else OF_A_NOISY_LAYER[:2]
    own = {f"critic.{path}.{kind}" for path in expected for kind in kinds}
    twins = {name.replace("critic.", "critic_target.") for name in own}
    assert changed == own | twins
    assert reset.mutates(agent).parameters == own | twins
    assert reset.mutates(agent).optimizer_slots == own
    for name in own:
        assert torch.equal(agent.get_parameter(name), agent.get_parameter(name.replace("critic.", "critic_target.")))


def test_more_layers_than_a_stream_has_are_refused():
    agent = DQN((5,), 3, hidden_dim=8, dueling=True)
    with pytest.raises(UserError, match="^Reset.last_layers=3 is more than the 2 layers of 'critic'"):
        Reset(modules=["critic"], last_layers=3, at_frames=[0]).mutates(agent)


@pytest.mark.parametrize(
    ("architecture", "last"),
    [
        (BroNet(modules=["critic.Q1"], hidden_dim=8), "critic.Q1.5"),
        (SimBaBlocks(modules=["critic.Q1"], hidden_dim=8), "critic.Q1.4"),
        (CReLU(modules=["critic.Q1"]), "critic.Q1.4"),
        (SpectralNorm(modules=["critic.Q1"]), "critic.Q1.4"),
        (RandomPruning(modules=["critic.Q1"]), "critic.Q1.4"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_the_output_layers_of_both_heads_where_one_has_another_architecture(architecture, last):
    agent = drqv2(architecture)
    for modules, expected in ((["critic"], {last, "critic.Q2.4"}), (["critic.Q1"], {last})):
        reset = Reset(modules=modules, last_layers=1, at_frames=[0])
        assert layers(reset, agent) == expected
    reset = Reset(modules=["critic"], last_layers=1, at_frames=[0])
    zeros = {name: p == 0 for name, p in agent.named_parameters() if name == "critic.Q1.4.weight"}
    reset.act(agent)
    assert_target_is_a_twin(agent)
    if isinstance(architecture, RandomPruning):
        assert torch.equal(agent.critic.Q1[4].effective_weight == 0, zeros["critic.Q1.4.weight"])


def test_a_shorter_head_is_reset_whole_before_the_trunk_is():
    """Q1 is a layer, two blocks of two and a layer; Q2 is three layers."""
    agent = drqv2(BroNet(modules=["critic.Q1"], hidden_dim=8))
    whole = {"critic.Q2.0", "critic.Q2.2", "critic.Q2.4"}
    expected = {
        2: {"critic.Q1.5", "critic.Q1.4", "critic.Q2.4", "critic.Q2.2"},
        4: {"critic.Q1.5", "critic.Q1.4", "critic.Q1.3", *whole},
        6: {"critic.Q1.5", "critic.Q1.4", "critic.Q1.3", "critic.Q1.0", "critic.Q1.1", *whole},
    }
    expected[7] = {*expected[6], "critic.trunk.0", "critic.trunk.1"}
    for last_layers, layers_of in expected.items():
        assert layers(Reset(modules=["critic"], last_layers=last_layers, at_frames=[0]), agent) == layers_of
