"""What others import from the package is promised; everything else may move."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import plasticity_rl

PROMISED = {
    "plasticity_rl": [
        *["DrQV2", "EvalVideo", "Histograms", "Intervention", "Mutation", "Probe", "RLDataModule", "RLModule"],
        *["Regularizer", "SAC", "ScheduledIntervention", "UpdateIntervention", "UserError", "__version__"],
        *["make_env", "make_trainer", "measures", "surgery"],
    ],
    "plasticity_rl.augment": [
        *["Augmentation", "ColorJitter", "CutMix", "Cutout", "KorniaAugmentation", "MixUp", "RandomConv"],
        *["RandomCropResize", "RandomShift"],
    ],
    "plasticity_rl.callback": [
        *["Intervention", "Mutation", "Probe", "RLCallback", "Regularizer", "ScheduledIntervention"],
        "UpdateIntervention",
    ],
    "plasticity_rl.envs": ["make_env", "task_names"],
    "plasticity_rl.measures": ["effective_rank", "fraction_active_units", "measure_module"],
    "plasticity_rl.surgery": ["clear_state", "reinitialize", "shrink_and_perturb"],
}
BEFORE_TORCH = ["plasticity_rl.cli", "plasticity_rl.cli.commands", "plasticity_rl.machine"]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PROMISED.items() for name in names])
def test_promised_name_is_there(module, name):
    assert getattr(importlib.import_module(module), name) is not None


def test_the_package_says_what_it_exports():
    assert set(PROMISED["plasticity_rl"]) <= set(plasticity_rl.__all__) == set(dir(plasticity_rl))


@pytest.mark.parametrize("package", BEFORE_TORCH)
def test_packages_that_load_before_torch_import_nothing(package):
    code = f"import sys, plasticity_rl; before = set(sys.modules); import {package}; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    parents = [".".join(package.split(".")[:length]) for length in (2, 3)]
    assert set(run.stdout.split()) <= set(parents)


def test_the_package_is_a_command():
    run = subprocess.run(
        [sys.executable, "-m", "plasticity_rl", "--version"], capture_output=True, text=True, check=True, timeout=100
    )
    assert run.stdout.startswith("plasticity-rl ")
