"""``--help`` of ``fit`` and ``validate``: ours first, short, and every option is found somewhere."""

from __future__ import annotations

import pytest
from cli_runs import assert_refused, call, run_without_torch

import callbacks
from plasticity_rl.cli.declared.command import groups
from plasticity_rl.cli.early_checks import option_names


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", [["fit"], ["validate"], ["fit", "--agent=sac"]], ids=" ".join)
def test_the_first_page_is_short_and_fits(command, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = call(*command, "--help", trust=False)
    lines = result.out.splitlines()
    assert result.code == 0
    assert len(lines) < 120
    assert max(map(len, lines)) <= columns
    of_ours = {name for name in option_names(groups(command[0], "sac" if len(command) > 1 else "drqv2", "")) if name}
    of_ours = {name for name in of_ours - {"--weights_only"} if not name.startswith("--trainer.")}
    assert [name for name in of_ours if f"  {name}=" not in result.out] == []
    assert result.out.index("--max_frames=3100000") < result.out.index("--data.task=") < result.out.index("--trainer.")
    assert ("--model.init_temperature=" in result.out) == (len(command) > 1)


def test_every_option_has_its_type_and_text_on_the_page_of_its_group():
    for group, options in groups("fit", "drqv2", "").items():
        text = " ".join(call("fit", f"--help={group or 'run'}", trust=False).out.split())
        for name, option in (options or {}).items():
            assert f"--{group}.{name}=".replace("--.", "--") in text
            assert option.text in text


def test_a_callback_is_explained_without_torch():
    process = run_without_torch("fit", "--trainer.callbacks.help=callbacks.Reset")
    assert process.returncode == 0, process.stderr
    assert "--trainer.callbacks.every_n_frames=null  (int | None)" in process.stdout
    assert "Reference: Nikishin" in process.stdout


def test_every_callback_has_a_page():
    for name in callbacks.__all__:
        assert "options:" in call("fit", f"--help={name}", trust=False).out, name


@pytest.mark.parametrize(
    ("given", "says"),
    {
        "--trainer.callbacks.help=Resett": "no class 'Resett'; write its path, package.Name. Did you mean callbacks",
        "--trainer.callbacks.help=callbacks.Resett": "no attribute 'Resett'). Did you mean callbacks.Reset",
        "--help=modl": "--help=modl: no such topic; there are run, data, model, trainer, callbacks, all. Did you",
    }.items(),
)
def test_what_is_near_is_suggested(given, says):
    assert_refused(call("fit", given, trust=False), says)
