"""What an intervention cannot do is refused by the command line: one line, exit code 2, before anything is trained."""

from __future__ import annotations

import pytest
from cli_runs import TINY, append_callbacks, call, fit_tiny_cli

MAX_FRAMES = 100
BAD = {
    # modules that do not exist, or have nothing to work on
    "reset of an unknown module": (
        [("Reset", {"modules": ["critc"], "at_frames": [50]})],
        "no module 'critc' in DrQV2; there are ['encoder', 'actor', 'critic'] and their parts.",
        "Did you mean critic",
    ),
    "reset of the target": (
        [("Reset", {"modules": ["critic_target"], "at_frames": [50]})],
        "no module 'critic_target'",
    ),
    "shrink of an unknown module": (
        [("ShrinkAndPerturb", {"modules": ["encodr"], "at_frames": [50]})],
        "no module 'encodr'",
        "Did you mean encoder",
    ),
    "recycling where there are no units": (
        [("ReDo", {"modules": ["critic.trunk"]})],
        "ReDo.modules: 'critic.trunk' has no hidden ReLU units",
    ),
    "units of an unknown module": ([("PruneDormant", {"modules": ["critic.Q3"]})], "no module 'critic.Q3'"),
    "optimizer of an unknown module": ([("OptimizerReset", {"modules": ["q"], "at_frames": [5]})], "no module 'q'"),
    "average of an unknown module": ([("HareAndTortoise", {"modules": ["critics"]})], "no module 'critics'"),
    "penalty of an untrained module": (
        [("WeightDecay", {"modules": ["actor"]})],
        "the critic loss does not train 'actor', so the penalty would do nothing",
    ),
    # schedules
    "period zero": ([("Reset", {"every_n_frames": 0})], "Reset.every_n_frames / at_frames: the period is 0"),
    "negative period": ([("ShrinkAndPerturb", {"every_n_frames": -5})], "the period is -5, but must be a whole number"),
    "period zero in updates": ([("ReDo", {"every_n_updates": 0})], "ReDo.every_n_updates: the period is 0"),
    "negative period in updates": ([("HareAndTortoise", {"every_n_updates": -1})], "the period is -1"),
    "no schedule": ([("OptimizerReset", {})], "no schedule given; set a period or a list of moments"),
    "negative frame": ([("Reset", {"at_frames": [-1]})], "moments are [-1], but must not be negative"),
    "frame after the end": (
        [("Reset", {"at_frames": [50, 5000, 300]})],
        "Reset.at_frames: an event at frame 300 never happens in a run of max_frames=100",
        "list earlier frames, or raise --max_frames above 5000",
    ),
    "in the last env step, right before an evaluation": (
        [("Reset", {"at_frames": [98]})],
        "Reset.at_frames: an event at frame 98 never happens in a run of max_frames=100",
    ),
    "the last frame": ([("Reset", {"at_frames": [100]})], "Reset.at_frames: an event at frame 100 never happens"),
    "switch after the end": (
        [("ToggleAugmentation", {"at_frame": 100, "on": False})],
        "ToggleAugmentation.at_frame: an event at frame 100 never happens",
    ),
    "replay ratio after the end": (
        [("ReplayRatioSchedule", {"at_frames": [0, 120], "replay_ratios": [1.0, 2.0]})],
        "ReplayRatioSchedule.at_frames: an event at frame 120 never happens",
    ),
    "injection after the end": (
        [("PlasticityInjection", {"modules": ["critic"], "at_frames": [1000000]})],
        "PlasticityInjection.at_frames: an event at frame 1000000 never happens in a run of max_frames=100",
    ),
    "one of two callbacks after the end": (
        [("Reset", {"every_n_frames": 30}), ("ShrinkAndPerturb", {"at_frames": [400]})],
        "ShrinkAndPerturb.at_frames: an event at frame 400 never happens",
    ),
    # numbers out of range
    "tau of one": ([("ReDo", {"tau": 1.0})], "ReDo.tau=1.0 must be in [0, 1)"),
    "negative tau": ([("PruneDormant", {"tau": -0.1})], "PruneDormant.tau=-0.1 must be in [0, 1)"),
    "tau of a ratio": ([("DormantRatioPerturbation", {"tau": 2, "at_frames": [5]})], "tau=2.0 must be in [0, 1)"),
    "fraction above one": (
        [("ShrinkAndPerturb", {"shrink": 1.5, "at_frames": [50]})],
        "ShrinkAndPerturb.shrink=1.5 must be in [0, 1]",
    ),
    "negative fraction": (
        [("ShrinkAndPerturb", {"perturb": -0.5, "at_frames": [50]})],
        "ShrinkAndPerturb.perturb=-0.5 must be in [0, 1]",
    ),
    "factor above one": (
        [("DormantRatioPerturbation", {"max_factor": 1.5, "at_frames": [50]})],
        "max_factor=1.5 must be in [0, 1]",
    ),
    "decay of one": ([("HareAndTortoise", {"decay": 1.0})], "HareAndTortoise.decay=1.0 must be in [0, 1)"),
    "recovery above one": ([("AdaptiveReplayRatio", {"min_recovery": 1.2})], "min_recovery=1.2 in [0, 1]"),
    "infinite replay ratio": (
        [("ReplayRatioSchedule", {"at_frames": [0, 50], "replay_ratios": [1.0, float("inf")]})],
        "ReplayRatioSchedule.replay_ratios=inf must be a finite number",
    ),
    "replay ratio of nearly nothing": (
        [("AdaptiveReplayRatio", {"low": 1e-9})],
        "AdaptiveReplayRatio.low=1e-09 must be > 0 and finite",
    ),
    "replacement of more than all": (
        [("ContinualBackprop", {"replacement_rate": 1.5})],
        "ContinualBackprop.replacement_rate=1.5 must be in [0, 1]",
    ),
    "percentile of one": ([("SelfNormalizedReset", {"eta": 1.0})], "SelfNormalizedReset.eta=1.0 must be in [0, 1)"),
    "no heads": ([("InFeR", {"num_heads": 0})], "InFeR.num_heads=0 must be a whole number >= 1"),
    "churn of a part": (
        [("ChurnReduction", {"module": "critic.Q1"})],
        "ChurnReduction.module='critic.Q1' must be one of",
    ),
    "no layers": (
        [("Reset", {"last_layers": 0, "at_frames": [50]})],
        "Reset.last_layers=0 must be a whole number >= 1",
    ),
    "too many layers": (
        [("Reset", {"modules": ["actor"], "last_layers": 9, "at_frames": [50]})],
        "Reset.last_layers=9 is more than the 4 layers of 'actor'",
    ),
    "bound of zero": ([("WeightClipping", {"kappa": 0})], "WeightClipping.kappa=0.0 must be > 0"),
    # two that need the same thing
    "two that set the replay ratio": (
        [("AdaptiveReplayRatio", {}), ("ReplayRatioSchedule", {"at_frames": [0], "replay_ratios": [1.0]})],
        "cannot run beside",
        "both set the replay ratio",
    ),
    "two schedules of the replay ratio": (
        [("ReplayRatioSchedule", {"at_frames": [at], "replay_ratios": [1.0]}) for at in (0, 50)],
        "ReplayRatioSchedule cannot run beside ReplayRatioSchedule: both set the replay ratio",
    ),
    "two switches at one frame": (
        [("ToggleAugmentation", {"at_frame": 50, "on": on}) for on in (True, False)],
        "ToggleAugmentation cannot run beside ToggleAugmentation: both switch augmentation at frame 50",
    ),
    "two lists of tasks": (
        [("ContinualTasks", {"tasks": ["tiny", "tiny_away"], "every_n_frames": frames}) for frames in (20, 40)],
        "ContinualTasks cannot run beside ContinualTasks: both choose the task",
    ),
    "two on the same features": (
        [("InFeR", {"modules": ["critic.Q1"]}), ("InFeR", {"num_heads": 3})],
        "InFeR cannot run beside InFeR: both regress the features of critic.Q1",
    ),
    "one renews what the other removes": (
        [("SelfNormalizedReset", {}), ("PruneDormant", {})],
        "SelfNormalizedReset cannot run beside PruneDormant",
    ),
    "one prunes what the other recycles": ([("PruneDormant", {}), ("ReDo", {})], "cannot run beside"),
    "the same twice": ([("ReDo", {}), ("ReDo", {})], "ReDo is given twice with the same arguments; remove one of them"),
}


@pytest.mark.parametrize(("given", "expected"), [(g, e) for g, *e in BAD.values()], ids=BAD)
def test_a_bad_intervention_is_one_line_before_training(given, expected, tmp_path):
    fragment = append_callbacks(tmp_path / "fragment.yaml", [(f"callbacks.{name}", a) for name, a in given])
    run_dir = tmp_path / "run"
    options = [f"--max_frames={MAX_FRAMES}", f"--trainer.default_root_dir={run_dir}", "--config", fragment]
    result = call("fit", *TINY, *options)
    assert result.code == 2, result.out + result.err
    assert len(result.err.strip().splitlines()) == 1, result.err
    for part in expected:
        assert part in result.err
    assert not run_dir.exists(), "nothing was trained or saved"


def test_a_frame_just_before_the_end_and_a_long_period_are_accepted(tmp_path):
    given = [("callbacks.Reset", {"at_frames": [97]}), ("callbacks.Reset", {"every_n_frames": 10**9})]
    fragment = append_callbacks(tmp_path / "fragment.yaml", given)
    fit_tiny_cli(tmp_path / "run", "--config", fragment, "--model.replay_ratio=1", max_frames=MAX_FRAMES)
