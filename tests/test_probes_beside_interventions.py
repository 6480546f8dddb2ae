"""Law 1 again, where it is harder to keep: a probe only watches a run that interventions change as well."""

from __future__ import annotations

from typing import Any

import pytest
from callback_examples import INTERVENTIONS, PROBES, example, examples, names
from helpers import fit_tiny
from run_state import differences, run_state

from plasticity_rl import Intervention
from plasticity_rl.callback import ActsAtEvents, RLCallback


def state_of(folder, given: list[RLCallback]) -> dict[str, Any]:
    state = run_state(fit_tiny(folder, callbacks=given, max_frames=110))
    assert all(one.events.seen for one in given if isinstance(one, ActsAtEvents)), "one did not act"
    state["generators"] = {k: v for k, v in state["generators"].items() if not k.startswith("probe/")}
    return state


def test_beside_all_interventions_that_go_together(tmp_path):
    given = lambda: [one for one in examples() if isinstance(one, Intervention)]  # noqa: E731
    assert len(given()) > 10
    without = state_of(tmp_path / "without", given())
    watched = state_of(tmp_path / "watched", [*map(example, PROBES), *given()])
    assert differences(without, watched) == []


@pytest.mark.slow
@pytest.mark.parametrize("cls", INTERVENTIONS, ids=names(INTERVENTIONS))
def test_beside_each_intervention(cls, tmp_path):
    without = state_of(tmp_path / "without", [example(cls)])
    watched = state_of(tmp_path / "watched", [*map(example, PROBES), example(cls)])
    assert differences(without, watched) == []


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "FractionActiveUnits": [
        {"definition": "any_input"},
        {"definition": "mean_rate", "threshold": 0.5},
        {"batch": "probe", "batch_size": 12},
        {"definition": "any_input", "batch": "probe", "batch_size": 12, "per_layer": False},
    ],
    "FeatureRank": [{"divide": False, "batch_size": 12}],
    "GradientCovariance": [{"modules": ["actor"], "loss": "actor", "batch_size": 3}],
    "GradientDormancy": [{"per_layer": False, "taus": [0.5], "batch_size": 4}],
    "HessianTop": [{"modules": ["actor"], "loss": "actor", "num_iterations": 1, "batch_size": 3}],
    "NTKRank": [{"modules": ["actor"], "output": "actor", "batch_size": 3}],
    "RandomTargetFit": [{"modules": ["actor"], "output": "actor", "num_steps": 2, "num_targets": 2, "batch_size": 3}],
    "Churn": [{"modules": ["encoder"], "batch_size": 4}],
}


def test_other_options_of_the_probes_watch_only_too(tmp_path):
    """Their examples, which the laws run, take the defaults."""
    import callbacks

    probes = [
        getattr(callbacks, name)(every_n_updates=2, **options) for name, given in VARIANTS.items() for options in given
    ]
    without, watched = state_of(tmp_path / "without", []), state_of(tmp_path / "watched", probes)
    assert differences(without, watched) == []
