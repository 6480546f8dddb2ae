"""The script for the shell completes what there is, in the spelling that is documented."""

from __future__ import annotations

import subprocess

import pytest
from cli_runs import assert_refused, call

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
    "plasticity-rl fit --init_weights=my.ck": "my.ckpt",
    "plasticity-rl list c": "callbacks configs",
    "plasticity-rl study repo": "report",
    "plasticity-rl plot --o": "--out=",
}
ASK = """
ask() {
    COMP_LINE=$1 COMP_POINT=${#1}
    read -ra COMP_WORDS <<< "${1//=/ = }"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _plasticity_rl
    echo "${COMPREPLY[*]}"
}
"""


def test_bash_completes(tmp_path):
    (tmp_path / "my.ckpt").touch()
    script = call("completion", "bash").out
    lines = [script, ASK, "complete -p plasticity-rl", *(f"ask '{line}'" for line in CASES)]
    process = subprocess.run(
        ["bash", "--norc"], input="\n".join(lines), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    first, *found = process.stdout.splitlines()
    assert first == "complete -F _plasticity_rl plasticity-rl", process.stderr
    assert dict(zip(CASES, found, strict=True)) == CASES


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_the_same_words(shell):
    text = call("completion", shell).out
    for word in (*COMMANDS, "quickstart", "callbacks.Reset", "cup_catch", "init_temperature"):
        assert word in text


def test_wrong_words_are_one_line_with_what_is_near():
    assert_refused(call("completion", "basch"), "invalid choice: 'basch'", "Did you mean bash")
    assert_refused(call("list", "callback"), "invalid choice: 'callback'", "Did you mean callbacks")
