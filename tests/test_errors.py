"""The checks of single options: what passes, and the one line about what does not."""

from __future__ import annotations

import math

import pytest

from plasticity_rl.errors import RunFailure, UserError, at_least, at_most, command_line, one_of, within


def refusal(check, *arguments) -> str:
    with pytest.raises(UserError) as error:
        check(*arguments)
    return str(error.value)


def test_a_count():
    at_least("data.n_step", 1, 1)
    assert refusal(at_least, "data.n_step", 0, 1) == "n_step=0 must be a whole number >= 1"
    assert refusal(at_least, "a", math.nan, 1) == "a=nan must be a whole number >= 1"
    assert refusal(at_least, "a", -1, 0, " (published: 4)") == "a=-1 must be a whole number >= 0 (published: 4)"


def test_a_limit_with_its_reason():
    at_most("a", 5, 5, "why")
    assert refusal(at_most, "a", 6, 5, "more is slow") == "a=6 must be at most 5: more is slow"


@pytest.mark.parametrize(
    ("interval", "allowed", "refused", "words"),
    [
        ("[0, 1]", (0, 0.5, 1), (-0.1, 1.1, math.nan, math.inf), "in [0, 1]"),
        ("[0, 1)", (0, 0.9), (-1, 1), "in [0, 1)"),
        ("(0, 1]", (1e-9, 1), (0, 2), "in (0, 1]"),
        ("(0, inf]", (1e-9, 1e9, math.inf), (0, -1, math.nan), "> 0"),
        ("[-2, inf]", (-2, math.inf), (-3,), ">= -2"),
        ("(0, inf)", (1e-9, 1e9), (0, math.inf, math.nan), "> 0 and finite"),
    ],
)
def test_an_interval(interval, allowed, refused, words):
    for value in allowed:
        within("a", value, interval)
    for value in refused:
        assert refusal(within, "a", value, interval, "; published: 1") == f"a={value} must be {words}; published: 1"


def test_choices():
    one_of("render", "fast", ("exact", "fast"))
    assert refusal(one_of, "render", "nice", ("exact", "fast")) == "render='nice' must be one of ['exact', 'fast']"
    three = {"gather": 1, "shift": 2, "keep": 3}
    assert refusal(one_of, "a", 7, three) == "a=7 must be one of ['gather', 'shift', 'keep']"
    assert refusal(one_of, "a", "shft", three).endswith("'keep']. Did you mean shift?")


@pytest.mark.parametrize("value", [True, 2.0, 1e300, float("nan"), "3", None, 0])
def test_a_count_is_a_whole_number(value):
    with pytest.raises(UserError, match=r"^n_step=.* must be a whole number >= 1$"):
        at_least("data.n_step", value, 1)


@pytest.mark.parametrize("value", [True, "many", None, 1e300, float("nan"), -1.0])
def test_a_number_is_one_that_networks_can_hold(value):
    with pytest.raises(UserError, match=r"^L2Init\.coefficient=.* must be (a number|>= 0|at most 3e\+38: float32)"):
        within("L2Init.coefficient", value, "[0, inf]")


@pytest.mark.parametrize(
    ("written", "in_python"),
    [
        ("data.n_step=0 must be a whole number", "n_step=0 must be a whole number"),
        (
            "raise --max_frames, or lower --data.n_step",
            "raise RLDataModule(max_frames=...), or lower RLDataModule(n_step=...)",
        ),
        ("use --data.observation state", "use RLDataModule(observation='state')"),
        ("use --model.augment false", "use the agent's augment=False"),
        ("(--detect_nan false never stops)", "(make_trainer(detect_nan=False) never stops)"),
        ("continue it with --ckpt_path last,", "continue it with fit(..., ckpt_path='last'),"),
        ("or another --trainer.default_root_dir", "or another make_trainer(run_dir)"),
        ("Reset.every_n_frames=0, in runs/data.x=1", "Reset.every_n_frames=0, in runs/data.x=1"),
    ],
)
def test_errors_name_arguments_in_a_program_and_options_on_the_command_line(written, in_python):
    assert str(UserError(written)) == str(RunFailure(written)) == in_python
    with command_line():
        assert str(UserError(written)) == written
