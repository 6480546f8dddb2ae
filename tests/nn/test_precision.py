"""bfloat16 by ``--trainer.precision bf16-mixed``: what is reduced, what is not, and that everything still acts."""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
import pytest
import torch
from callback_examples import EXPORTED, example, names
from helpers import fit_tiny, tiny_agent, tiny_data, tiny_sac

from plasticity_rl import DrQV2, UserError
from plasticity_rl.nn.precision import (
    full_precision,
    hint_where_faster,
    in_full_precision,
    reduced,
    warn_where_emulated,
)

BF16 = {"trainer_options": {"precision": "bf16-mixed"}}
TEN_UPDATES = {"max_frames": 60, "data_options": {"eval_every_n_frames": 60}, "agent_options": {"replay_ratio": 1}}


# On a CPU without instructions for bfloat16 every run here says so.
pytestmark = pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)


def test_a_context_switches_autocast_off_and_on_again():
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    with autocast():
        assert reduced(x.device)
        with full_precision(x.device):
            assert not reduced(x.device)
        assert layer(x).dtype == torch.bfloat16
        assert in_full_precision(layer, x.bfloat16()).dtype == torch.float32
    assert not reduced(x.device)
    assert torch.equal(in_full_precision(layer, x), layer(x))


def test_convolutions_and_trunks_are_reduced_and_heads_are_not():
    agent = DrQV2((9, 16, 16), 2, feature_dim=8, hidden_dim=8, num_channels=4)
    pixels = torch.randint(0, 256, (5, 9, 16, 16), dtype=torch.uint8)
    exact = agent.encoder(pixels)
    with autocast():
        features = agent.encoder(pixels)
        mean, (q1, q2) = agent.actor(features), agent.critic(features, torch.zeros(5, 2))
        assert agent.critic.trunk[0](features).dtype == torch.bfloat16
    assert features.dtype == torch.bfloat16
    assert mean.dtype == q1.dtype == q2.dtype == torch.float32
    # bfloat16 keeps 8 bits; the order of the flattened features is that of float32.
    assert torch.allclose(features.float(), exact, atol=0.03 * float(exact.detach().abs().max()))


@pytest.mark.parametrize("make", [lambda pixels: pixels, lambda pixels: pixels + 0.25], ids=["bytes", "floats"])
def test_the_encoder_computes_what_autocast_makes_of_its_float32_formula(make):
    """To the bit, though pixels are centred in bfloat16 and the gradient takes the layout of the maps."""
    encoder = DrQV2((9, 32, 32), 2, num_channels=4).encoder
    every_byte = torch.arange(256, dtype=torch.uint8).repeat(5 * 9 * 4)
    pixels = make(every_byte[torch.randperm(len(every_byte))].view(5, 9, 32, 32))
    with autocast():
        features = encoder(pixels)
        centred = (pixels.contiguous(memory_format=torch.channels_last) / 255.0).sub_(0.5)
        expected = encoder.convnet(centred).flatten(1)
    gradient = torch.randn(expected.shape).bfloat16()
    parameters = list(encoder.parameters())
    assert features.is_contiguous()
    assert torch.equal(features, expected)
    for ours, theirs in zip(
        torch.autograd.grad(features, parameters, gradient),
        torch.autograd.grad(expected, parameters, gradient),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_a_cpu_that_emulates_bfloat16_says_so(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for capabilities, warns in (
        ({"avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "aarch64"}, False),  # does not tell
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_where_emulated("bf16-mixed", cpu)
            assert [str(w.message).partition(":")[0] for w in caught] == warns * ["trainer.precision=bf16-mixed"]
            warn_where_emulated("bf16-mixed", gpu)
            warn_where_emulated("32-true", cpu)
            assert len(caught) == warns


def test_a_run_on_such_a_cpu_warns_once(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_tiny(tmp_path, **TEN_UPDATES, **BF16)
    assert len([w for w in caught if "no instructions for bfloat16" in str(w.message)]) == 1


def test_a_large_run_in_float32_says_once_that_bfloat16_would_be_faster(monkeypatch, tmp_path, capsys):
    """Not where the CPU lacks it or does not tell, not where convolutions are small, not where it is on already."""
    cpu = torch.device("cpu")
    for capabilities, says in (({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert (hint_where_faster("32-true", cpu) is not None) == says
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert hint_where_faster("32-true", torch.device("cuda")) is None
    for case, (least_flops, options, says) in enumerate(((1e15, {}, 0), (1.0, {}, 1), (1.0, BF16, 0))):
        monkeypatch.setattr("plasticity_rl.agents.base.LARGE_BATCH_FLOPS", least_flops)
        fit_tiny(tmp_path / str(case), **TEN_UPDATES, **options)
        assert capsys.readouterr().out.count("--trainer.precision bf16-mixed") == says


def test_weights_moments_targets_and_losses_stay_float32(tmp_path):
    agent = fit_tiny(tmp_path, **TEN_UPDATES, **BF16)
    assert agent.num_updates == 10
    state = [v for o in agent.trainer.optimizers for slots in o.state.values() for v in slots.values()]
    assert {t.dtype for t in (*agent.parameters(), *state)} == {torch.float32}
    assert {value.dtype for value in agent.metrics.values()} == {torch.float32}


def test_it_trains_close_to_float32_and_not_as_float32(tmp_path):
    """Also that the encoder learns: a cast of its weights, cached without gradient while acting, would stop it."""
    pl.seed_everything(1, verbose=False)
    start = tiny_agent(tiny_data(max_frames=60), seed=1)
    exact = fit_tiny(tmp_path / "float32", **TEN_UPDATES)
    agent = fit_tiny(tmp_path / "bfloat16", **TEN_UPDATES, **BF16)
    for name, parameter in agent.named_parameters():
        moved, wanted = parameter - start.get_parameter(name), exact.get_parameter(name) - start.get_parameter(name)
        if not wanted.any():
            continue
        assert moved.any(), name
        assert torch.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0) > 0.7, name
    assert not torch.equal(agent.encoder.convnet[0].weight, exact.encoder.convnet[0].weight)


@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_every_callback_works_in_bfloat16(cls, tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[example(cls)], **TEN_UPDATES, **BF16)
    assert agent.num_updates >= 5  # some set the replay ratio
    assert all(torch.isfinite(p).all() for p in agent.parameters())


@pytest.mark.parametrize(
    ("make", "precision"), [(tiny_agent, "64-true"), (tiny_agent, "bf16-true"), (tiny_sac, "bf16-mixed")]
)
def test_other_precisions_are_refused(make, precision, tmp_path):
    data = {"observation": "state"} if make is tiny_sac else {}
    with pytest.raises(UserError, match=rf"precision={precision}: \w+ trains in one of .*32-true"):
        fit_tiny(tmp_path, make_agent=make, data_options=data, trainer_options={"precision": precision})
