"""Names, hyperparameters and checkpoints say what a run consists of."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny

from callbacks import DormantUnits, FractionActiveUnits, L2Init, ReDo, Reset, ToggleAugmentation, WarmStartReplay
from plasticity_rl.agents.hooks import class_path, describe, plain
from plasticity_rl.run.description import first_columns, hyperparameters, short_name
from plasticity_rl.run.video import EvalVideo

GIVEN = (
    FractionActiveUnits(every_n_updates=7),
    Reset(modules=["critic"], at_frames=[100]),
    EvalVideo(every_n_evals=0),
    L2Init(coefficient=0.25),
    Reset(modules=["actor"], every_n_frames=60),
)


def test_callbacks_are_described_in_the_order_in_which_they_act():
    """Regularizers before resets, resets by their arguments, probes last; a film is neither."""
    found = [(entry["class"], entry["arguments"].get("modules")) for entry in describe(GIVEN)]
    assert found == [
        ("callbacks.L2Init", ["critic"]),
        ("callbacks.Reset", ["actor"]),
        ("callbacks.Reset", ["critic"]),
        ("callbacks.FractionActiveUnits", None),  # left to the agent, which is not known yet
    ]
    assert describe(reversed(GIVEN)) == describe(GIVEN)


def test_arguments_are_complete():
    (entry,) = describe([Reset(modules=["critic"], at_frames=(100,))])
    assert entry["arguments"].items() >= {"modules": ["critic"], "at_frames": [100], "every_n_frames": None}.items()


def test_a_class_of_ones_own_is_named_by_its_module():
    class Mine(FractionActiveUnits):
        pass

    assert class_path(Mine).endswith("test_a_class_of_ones_own_is_named_by_its_module.<locals>.Mine")
    assert class_path(FractionActiveUnits) == "callbacks.FractionActiveUnits"


def test_plain_data_stays_and_the_rest_becomes_text():
    value = {"a": (1, 2.5, None, True), "b": {"c": torch.float32}}
    assert plain(value) == {"a": [1, 2.5, None, True], "b": {"c": "torch.float32"}}


def test_a_checkpoint_lists_them(tmp_path):
    callbacks = [Reset(modules=["critic"], at_frames=[100]), FractionActiveUnits()]
    fit_tiny(tmp_path, callbacks=callbacks, max_frames=100)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["rl"]["callbacks"]
    assert saved == describe(callbacks)
    assert [entry["class"] for entry in saved] == ["callbacks.Reset", "callbacks.FractionActiveUnits"]


def test_hyperparameters_have_a_readable_key_for_each_argument(tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[*GIVEN[:2], GIVEN[3]], max_frames=40, seed=3)
    found = hyperparameters(agent, agent.trainer.callbacks)
    assert found["task"] == "tiny"
    assert found["seed"] == 3
    assert found["interventions"] == "L2Init + Reset"
    assert found["probes"] == "FractionActiveUnits"
    assert found["interventions/L2Init/coefficient"] == 0.25
    assert found["interventions/Reset/modules"] == "[critic]"
    assert found["interventions/Reset/at_frames"] == "[100]"
    assert found["interventions/Reset/every_n_frames"] == "none"
    assert found["probes/FractionActiveUnits/every_n_updates"] == 7
    assert found["data/batch_size"] == 8
    assert found["model/hidden_dim"] == 16
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())


def test_a_run_without_callbacks_says_so(tmp_path):
    agent = fit_tiny(tmp_path, max_frames=40)
    found = hyperparameters(agent, agent.trainer.callbacks)
    assert (found["interventions"], found["probes"]) == ("none", "none")
    assert not [key for key in found if key.startswith(("interventions/", "probes/"))]


def test_the_first_columns_tell_runs_apart():
    """Two resets are numbered; what has its default value is not shown first, and probes never are."""
    assert first_columns(GIVEN) == [
        "interventions",
        "seed",
        "task",
        "interventions/L2Init/coefficient",
        "interventions/Reset/every_n_frames",
        "interventions/Reset/modules",
        "interventions/Reset_2/at_frames",
        "interventions/Reset_2/modules",
    ]


@pytest.mark.parametrize(
    ("interventions", "expected"),
    [
        ([], ""),
        ([(ReDo, {})], "redo"),
        ([(ReDo, {"tau": 0.025, "modules": None})], "redo"),  # the defaults
        ([(ReDo, {"tau": 0.1, "every_n_updates": 1000})], "redo-tau=0.1"),
        (
            [(ReDo, {}), (ToggleAugmentation, {"at_frame": 50, "on": False})],
            "toggle_augmentation-at_frame=50-on=false+redo",
        ),
        (
            [(Reset, {"at_frames": [7, 9]}), (ReDo, {}), (Reset, {"every_n_frames": 5})],
            "reset-at_frames=7,9+reset-every_n_frames=5+redo",
        ),
        ([(WarmStartReplay, {"path": "/data/my runs/failed*"})], "warm_start_replay-path=data-my-runs-failed"),
    ],
)
def test_short_names(interventions, expected):
    assert short_name(interventions) == expected
    assert short_name(interventions[::-1]) == expected


def test_short_names_stay_short():
    """38 characters for all four names: "toggle_augmentation+l2_init+reset+redo"."""
    four = [(ReDo, {}), (Reset, {"at_frames": [3]}), (L2Init, {}), (ToggleAugmentation, {})]
    full = "toggle_augmentation+l2_init+reset-at_frames=3+redo"
    assert short_name(four) == short_name(four, longest=50) == full
    assert short_name(four, longest=49) == "toggle_augmentation+l2_init+reset+redo"
    assert short_name(four, longest=37) == "toggle_augmentation+l2_init+2_more"
    assert short_name(four, longest=30) == "toggle_augmentation+3_more"
    assert short_name(four, longest=5) == "4_more"
    assert short_name([(Reset, {"at_frames": [n]}) for n in (1, 2)], longest=10) == "reset_x2"


def test_probes_have_no_part_in_the_order_of_interventions():
    assert [entry["class"] for entry in describe([DormantUnits(), ReDo(every_n_updates=5)])] == [
        "callbacks.ReDo",
        "callbacks.DormantUnits",
    ]
