"""Options, config files and folders that are wrong: one line before training."""

from __future__ import annotations

import os

import pytest
from cli_runs import (
    TINY,
    assert_refused,
    call,
    tree,
)

CALLBACK = "--trainer.callbacks+=callbacks."
BAD_OPTIONS = {
    "unknown task": (["--data.env=plasticity_rl.make_env", "--data.task=walker_rum"], "Did you mean walker_run"),
    "unknown option": (["--data.bach_size=3"], "--data.bach_size. Did you mean --data.batch_size"),
    "stray word": (["walker_run"], "unrecognized arguments: walker_run"),
    "option without value": (["--max_frames"], "--max_frames: expected one argument"),
    "zero replay ratio": (["--model.replay_ratio=0"], "replay_ratio=0.0 must be > 0"),
    "negative replay ratio": (["--model.replay_ratio=-1"], "replay_ratio=-1.0 must be > 0"),
    "replay ratio of text": (["--model.replay_ratio=often"], "model.replay_ratio: expected float, got often"),
    "batch larger than seed data": (["--data.batch_size=30"], "larger than the 20 transitions of the seed phase"),
    "fractional batch": (["--data.batch_size=2.5"], "data.batch_size: expected int, got 2.5"),
    "image too small": (["--data.image_size=8"], "image_size=8 is too small for the encoder"),
    "replay larger than memory": (["--data.capacity=100000000000", "--max_frames=1000000000000"], "of memory"),
    "replay larger than disk": (
        ["--data.capacity=100000000000", "--max_frames=1000000000000", "--data.storage=memmap"],
        "of disk",
    ),
    "unknown rendering": (["--data.render=slow"], "expected one of 'exact', 'fast', got slow"),
    "evaluation between env steps": (["--data.eval_every_n_frames=101"], "must be a multiple of"),
    "no frames": (["--max_frames=0"], "data.max_frames=0 must be a whole number >= 1"),
    "wrong schedule": (["--model.stddev_schedule=linear(1,2)"], "is not a schedule"),
    "negative seed": (["--seed_everything=-5"], "seed_everything=-5 must be"),
    "seed of text": (["--seed_everything=abc"], "seed_everything: expected bool or int, got abc"),
    "unknown interpolation": (["--data.capacity=${fit.data.bach}"], "'fit.data.bach' not found"),
    "relative interpolation": (
        ["--data.capacity=${data.batch_size}"],
        "keys are absolute and start with the subcommand",
    ),
    "unknown env factory": (["--data.env=tiny_env.nothing"], "module 'tiny_env' has no attribute 'nothing'"),
    "unknown accelerator": (["--trainer.accelerator=abacus"], "invalid accelerator name"),
    "unknown logger": (["--trainer.logger=Foo"], "trainer.logger: no class 'Foo'"),
    "wrong class": ([CALLBACK + "Rest"], "no class 'callbacks.Rest'", "Did you mean callbacks.Reset"),
    "class without package": (["--trainer.callbacks+=Resets"], "no class 'Resets'", "Did you mean callbacks.Reset"),
    "wrong package": (["--trainer.callbacks+=calbacks.Reset"], "No module named 'calbacks'", "mean callbacks.Reset"),
    "wrong argument": (
        [CALLBACK + "Reset", "--trainer.callbacks.every_n_frame=5"],
        "there is no option 'every_n_frame'. Did you mean every_n_frames",
    ),
    "argument of text": (
        [CALLBACK + "Reset", "--trainer.callbacks.every_n_frames=often"],
        "every_n_frames: expected int or null, got often",
    ),
    "missing argument": ([CALLBACK + "ToggleAugmentation"], "ToggleAugmentation: ", "are required: at_frame, on"),
    "no schedule": ([CALLBACK + "Reset"], "Reset.every_n_frames / at_frames: no schedule given"),
    "negative period": ([CALLBACK + "Reset", "--trainer.callbacks.every_n_frames=-5"], "the period is -5"),
    "negative coefficient": (
        [CALLBACK + "L2Init", "--trainer.callbacks.coefficient=-1"],
        "L2Init.coefficient=-1.0 must be >= 0",
    ),
    "wrong module": (
        [CALLBACK + "L2Init", "--trainer.callbacks.modules=[critc]"],
        "no module 'critc'",
        "there are ['encoder', 'actor', 'critic'] and their parts.",
        "Did you mean critic",
    ),
    "no channels": (["--model.num_channels=0"], "model.num_channels=0 must be a whole number >= 1"),
    "no hidden units": (["--model.hidden_dim=0"], "model.hidden_dim=0 must be a whole number >= 1"),
    "negative shift": (["--model.random_shift_pad=-1"], "model.random_shift_pad=-1 must be a whole number >= 0"),
    "negative learning rate": (["--model.lr=-1"], "model.lr=-1.0 must be in (0, 1]"),
    "wrong loss": ([CALLBACK + "L2Init", "--trainer.callbacks.loss=foo"], "no loss 'foo' in DrQV2"),
    "the same callback twice": ([CALLBACK + "L2Init", CALLBACK + "L2Init"], "L2Init is given twice"),
}


@pytest.mark.parametrize(("options", "expected"), [(o, e) for o, *e in BAD_OPTIONS.values()], ids=BAD_OPTIONS)
def test_a_bad_option_is_one_line_before_training(options, expected, tmp_path):
    result = call("fit", *TINY, "--max_frames=200", f"--trainer.default_root_dir={tmp_path}", *options)
    assert_refused(result, *expected)
    assert not tree(tmp_path)


BAD_FILES = {
    "unknown key": ("data: {bach_size: 3}", "no option 'data.bach_size'. Did you mean --data.batch_size"),
    "unknown top-level key": ("batch_size: 3", "no option 'batch_size'. Did you mean --data.batch_size"),
    "broken yaml": ("data: [3\nmodel: }", "config.yaml is not valid YAML", "line 2"),
    "tabs": ("data:\n\tbatch_size: 3", "config.yaml is not valid YAML"),
    "a list": ("- data\n- model", "config.yaml must hold options", "holds a list"),
    "nothing": ("# data: {}", "config.yaml must hold options", "holds nothing"),
    "wrong class": ("trainer: {callbacks+: [{class_path: callbacks.Rest}]}", "Did you mean callbacks.Reset"),
    "wrong argument": (
        "trainer: {callbacks+: [{class_path: callbacks.Reset, init_args: {every_n_frame: 5}}]}",
        "Reset: there is no option 'every_n_frame'. Did you mean every_n_frames",
    ),
    "negative coefficient": (
        "trainer: {callbacks+: [{class_path: callbacks.L2Init, init_args: {coefficient: -1}}]}",
        "L2Init.coefficient=-1.0 must be >= 0",
    ),
}


@pytest.mark.parametrize(("text", "expected"), [(t, e) for t, *e in BAD_FILES.values()], ids=BAD_FILES)
def test_a_bad_config_file_is_one_line_before_training(text, expected, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    result = call("fit", *TINY, "--max_frames=200", folder, "--config", tmp_path / "config.yaml")
    assert_refused(result, *expected)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == text


def test_a_missing_config_file_is_named(tmp_path):
    result = call("fit", *TINY, "--config", tmp_path / "nowhere.yaml")
    assert_refused(result, f"{tmp_path / 'nowhere.yaml'}")


def test_an_unwritable_folder_is_refused(tmp_path):
    """A file in the way stands for missing permissions, which do not stop an administrator."""
    (tmp_path / "file").write_text("precious")
    result = call("fit", *TINY, f"--trainer.default_root_dir={tmp_path / 'file' / 'run'}")
    assert_refused(result, "cannot be written (Not a directory): choose another with --trainer.default_root_dir")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop an administrator")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    result = call("fit", *TINY, f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert_refused(result, "cannot be written (Permission denied)")


@pytest.mark.parametrize("args", [["fti"], ["--config", "a.yaml"], ["train"]])
def test_an_unknown_subcommand_is_one_line(args):
    assert_refused(call(*args), f"no command {args[0]!r}; there are fit, validate")
