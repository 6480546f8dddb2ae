"""``--model.compile``: the same run, callbacks included, and none that ends because a compiler is missing."""

from __future__ import annotations

import pytest
import torch
from callback_examples import EXPORTED, example, names
from helpers import fit_tiny
from run_state import differences, run_state
from torch import nn

import callbacks
from plasticity_rl import DrQV2, UserError
from plasticity_rl.nn.compiled import HOOKED_CALLS_BEFORE_WARNING, Compiled, has_hooks

TEN_UPDATES = {"max_frames": 60, "data_options": {"eval_every_n_frames": 60}}
EAGER = "eager"
"""The backend that traces and then runs the same kernels: what it computes has equal bits."""


def runs(tmp_path, cls, backend: str) -> list:
    return [
        fit_tiny(
            tmp_path / str(compiled),
            callbacks=[example(cls)],
            agent_options={"replay_ratio": 1, "compile": compiled},
            **TEN_UPDATES,
        )
        for compiled in (None, backend)
    ]


def test_hooks_are_seen_wherever_they_are():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert not has_hooks(network)
    handle = network[1][0].register_forward_hook(lambda *_: None)
    assert has_hooks(network)
    handle.remove()
    assert not has_hooks(network)


def test_a_network_is_compiled_once_and_runs_plain_while_it_is_watched():
    traced, watched = [], []

    class Network(nn.Linear):
        def forward(self, x):
            if torch.compiler.is_compiling():
                traced.append(1)
            return super().forward(x)

    network, run, x = Network(3, 2), Compiled(EAGER), torch.ones(1, 3)
    wanted = network(x)
    for _ in range(3):
        assert torch.equal(run(network, x), wanted)
    handle = network.register_forward_hook(lambda *_: watched.append(1))
    assert torch.equal(run(network, x), wanted)
    handle.remove()
    with torch.no_grad():
        network.weight.mul_(2)
        network.bias.mul_(2)
    assert torch.allclose(run(network, x), 2 * wanted)
    assert watched == [1]


def test_a_callback_that_always_watches_is_named_once():
    network, run = nn.Linear(1, 1), Compiled(EAGER)
    network.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="watches the Linear at every update") as caught:
        list(map(run, [network] * (HOOKED_CALLS_BEFORE_WARNING + 50), torch.ones(1000, 1, 1)))
    assert len(caught) == 1


def test_without_a_working_compiler_the_run_goes_on(monkeypatch):
    def no_compiler(function, backend):
        def call(*inputs):
            raise RuntimeError("g++ not found\nand more")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    network, run, x = nn.Linear(3, 2), Compiled("inductor"), torch.ones(1, 3)
    with pytest.warns(
        UserWarning, match=r"compile=inductor does not work here \(RuntimeError: g\+\+ not found\)"
    ) as got:
        outputs = [run(network, x) for _ in range(3)]
    assert len(got) == 1
    assert all(torch.equal(output, network(x)) for output in outputs)


def test_errors_of_the_network_itself_are_not_the_compilers():
    run = Compiled(EAGER)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(nn.Linear(3, 2), torch.ones(1, 4))


def test_unknown_backends_are_refused():
    with pytest.raises(UserError, match=r"compile='inductr' must be one of .*Did you mean inductor"):
        DrQV2((9, 16, 16), 1, compile="inductr")


@pytest.mark.parametrize("cls", [callbacks.PlasticityInjection, callbacks.FractionActiveUnits, callbacks.HessianTop])
def test_the_run_is_the_same(cls, tmp_path):
    """An injection changes flags, FAU hooks an update, the Hessian differentiates twice."""
    one, two = runs(tmp_path, cls, EAGER)
    assert differences(run_state(one), run_state(two)) == []
    kept = {tag for tag in one.latest if not tag.startswith("speed/")}
    assert {tag: float(one.latest[tag]) for tag in kept} == {tag: float(two.latest[tag]) for tag in kept}


@pytest.mark.slow
@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_the_run_is_the_same_with_every_callback(cls, tmp_path):
    one, two = runs(tmp_path, cls, EAGER)
    assert differences(run_state(one), run_state(two)) == []


@pytest.mark.slow
def test_inductor_is_close(tmp_path):
    one, two = runs(tmp_path, callbacks.L2Init, "inductor")
    for name, parameter in one.named_parameters():
        assert torch.allclose(parameter, two.get_parameter(name), atol=1e-4), name
