"""Everything on a GPU: no tensor and no generator is left on the CPU, and where it lies changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from callback_examples import EXPORTED, INTERVENTIONS, example, examples, names
from helpers import TINY_DISCRETE, fit_tiny, tiny_dqn, tiny_sac, weights_hash
from pretend_gpu import GPU, Misplaced, OnGPU, pretend_gpu, trainer_options
from run_state import differences, run_state

from plasticity_rl import Intervention, Probe
from plasticity_rl.augment import RandomConv
from plasticity_rl.callback import ActsAtEvents, RLCallback

TOGETHER = [type(callback) for callback in examples()]
OTHERS = [cls for cls in INTERVENTIONS if cls not in TOGETHER]


FRAMES = 110
"""By then every example has acted, the last one (``ContinualTasks``) at frame 100."""


def fit_on_gpu(run_dir: Path, **options: Any) -> Any:
    with pretend_gpu():
        return fit_tiny(run_dir, **options, trainer_options=trainer_options())


def assert_equal_on_gpu(tmp_path: Path, classes: list[type[RLCallback]], **options: Any) -> None:
    given = [example(cls) for cls in classes]
    on_gpu = fit_on_gpu(tmp_path / "gpu", callbacks=given, max_frames=FRAMES, **options)
    on_cpu = fit_tiny(tmp_path / "cpu", callbacks=[example(cls) for cls in classes], max_frames=FRAMES, **options)
    assert on_gpu.num_updates
    assert all(one.events.seen for one in given if isinstance(one, ActsAtEvents)), "one did not act"
    assert weights_hash(on_gpu) == weights_hash(on_cpu)
    assert on_gpu.latest.keys() == on_cpu.latest.keys()


def test_the_pretended_gpu_refuses_tensors_and_generators_of_the_cpu():
    with pretend_gpu():
        layer, inputs = torch.nn.Linear(3, 2).to(GPU), torch.ones(1, 3)
        assert isinstance(layer.weight, OnGPU)
        assert layer.weight.device == GPU
        layer(inputs.to(GPU)).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.cpu().tolist() == [[1.0] * 3] * 2
        for misplaced in (
            lambda: layer(inputs),
            lambda: inputs.add_(layer.bias.detach().sum()),
            lambda: torch.randn(2, generator=torch.Generator(), device=GPU),
            lambda: torch.randn(2, generator=torch.Generator(GPU)),
            lambda: layer.bias.detach().numpy(),
        ):
            with pytest.raises(Misplaced):
                misplaced()


def test_a_run_ends_with_the_bits_of_the_cpu_and_goes_on_exactly(tmp_path):
    fit_on_gpu(tmp_path / "run", max_frames=100)
    resumed = fit_on_gpu(tmp_path / "run", ckpt_path="last")
    assert differences(run_state(resumed), run_state(fit_tiny(tmp_path / "cpu"))) == []


def test_a_replay_on_the_gpu_gives_the_bits_of_one_in_memory(tmp_path):
    """Also where it goes on."""
    on_gpu = fit_on_gpu(tmp_path / "gpu", max_frames=100, data_options={"storage": "device"})
    columns = on_gpu.data.replay._records._columns
    assert {name for name, column in columns.items() if isinstance(column, OnGPU)} == {"pixels", "action", "reward"}
    with pretend_gpu():
        batch = on_gpu.data.replay.sample()
        assert {str(value.device) for value in batch.values(True, True)} == {"cuda:0"}
    resumed = fit_on_gpu(tmp_path / "gpu", ckpt_path="last", data_options={"storage": "device"})
    assert differences(run_state(resumed), run_state(fit_tiny(tmp_path / "cpu"))) == []


def test_priorities_beside_a_replay_on_the_gpu(tmp_path):
    options = {"make_agent": tiny_dqn, "max_frames": FRAMES}
    data = {**TINY_DISCRETE, "prioritized": True}
    on_gpu = fit_on_gpu(tmp_path / "gpu", data_options={**data, "storage": "device"}, **options)
    assert on_gpu.num_updates
    assert weights_hash(on_gpu) == weights_hash(fit_tiny(tmp_path / "cpu", data_options=data, **options))


def test_a_replay_that_was_in_memory_goes_on_on_the_gpu(tmp_path):
    fit_tiny(tmp_path, max_frames=100)
    resumed = fit_on_gpu(tmp_path, ckpt_path="last", data_options={"storage": "device"})
    assert weights_hash(resumed) == weights_hash(fit_tiny(tmp_path / "straight"))


@pytest.mark.parametrize("kind", [Probe, Intervention])
def test_all_that_go_together(kind, tmp_path):
    assert_equal_on_gpu(tmp_path, [cls for cls in TOGETHER if issubclass(cls, kind)])


@pytest.mark.parametrize("cls", OTHERS, ids=names(OTHERS))
def test_those_that_do_not(cls, tmp_path):
    assert_equal_on_gpu(tmp_path, [cls])


@pytest.mark.slow
@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_every_intervention(cls, tmp_path):
    assert_equal_on_gpu(tmp_path, [cls])


@pytest.mark.parametrize(
    "options",
    [
        {"make_agent": tiny_sac, "data_options": {"observation": "state", "n_step": 1}},
        {"data_options": {"observation": "state"}},
        {"data_options": {"overlap": True, "num_envs": 2}, "agent_options": {"replay_ratio": 2.0}},
        {"agent_options": {"augmentations": [RandomConv()]}},
    ],
    ids=["sac", "state", "overlap", "random_conv"],
)
def test_other_ways_to_run(options, tmp_path):
    assert_equal_on_gpu(tmp_path, [], **options)


@pytest.mark.gpu
@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_every_callback_on_a_gpu(cls, tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[example(cls)], trainer_options={"accelerator": "gpu", "devices": 1})
    assert agent.num_updates
    assert all(p.isfinite().all() for p in agent.parameters())
