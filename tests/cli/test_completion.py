"""The script for the shell completes what there is, in the spelling that is documented."""

from __future__ import annotations

import pytest
from cli_runs import assert_refused, call
from shells import of_bash, of_fish, of_zsh

from plasticity_rl.cli.commands.table import COMMANDS

CASES = {
    "plasticity-rl f": "fit",
    "plasticity-rl fit --data.b": "--data.batch_size=",
    "plasticity-rl fit --data.task=cartpole_swingup_": "cartpole_swingup_sparse",
    "plasticity-rl fit --data.task cup_": "cup_catch",
    "plasticity-rl fit --config=qui": "quickstart",
    "plasticity-rl fit -c qui": "quickstart",
    "plasticity-rl fit --agent=s": "sac",
    "plasticity-rl fit --model.init": "--model.init_temperature=",
    "plasticity-rl fit --trainer.callbacks+=callbacks.Rese": "callbacks.Reset",
    "plasticity-rl fit --trainer.callbacks+=callbacks.Reset --trainer.callbacks.la": "--trainer.callbacks.last_layers=",
    "plasticity-rl validate --data.render=f": "fast",
    "plasticity-rl fit --help=Rese": "Reset",
    "plasticity-rl fit --trainer.callbacks.help=callbacks.Rese": "callbacks.Reset",
    "plasticity-rl fit --init_weights=my.ck": "my.ckpt",
    "plasticity-rl list c": "callbacks configs",
    "plasticity-rl study repo": "report",
    "plasticity-rl plot --o": "--out=",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my.ckpt").touch()
    return tmp_path


def test_bash_completes(folder):
    first, *found = of_bash(call("completion", "bash").out, list(CASES), folder)
    assert first == "complete -F _plasticity_rl plasticity-rl"
    assert dict(zip(CASES, found, strict=True)) == CASES


def test_fish_completes(folder):
    """It completes names of options without ``=``, and values with their option."""
    found = of_fish(call("completion", "fish").out, list(CASES), folder)
    plain = [line.rpartition("=")[2] for line in found]
    assert dict(zip(CASES, plain, strict=True)) == {line: words.rstrip("=") for line, words in CASES.items()}


def test_zsh_completes(folder):
    """A single word is put into the line, with a blank behind it unless a value follows; of several, their start."""
    found = of_zsh(call("completion", "zsh").out, list(CASES), folder)
    for line, words in CASES.items():
        start = line[: max(line.rfind(" "), -1 if words[0] == "-" else line.rfind("=")) + 1]
        expected = line if " " in words else start + words + " " * (words[-1] != "=")
        assert found[list(CASES).index(line)] == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_the_same_words(shell):
    text = call("completion", shell).out
    for word in (*COMMANDS, "quickstart", "callbacks.Reset", "cup_catch", "init_temperature"):
        assert word in text


def test_wrong_words_are_one_line_with_what_is_near():
    assert_refused(call("completion", "basch"), "invalid choice: 'basch'", "Did you mean bash")
    assert_refused(call("list", "callback"), "invalid choice: 'callback'", "Did you mean callbacks")
