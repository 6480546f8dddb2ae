"""Config files that are read before there is a parser."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_runs import call

from plasticity_rl.cli.config_files import read_config
from plasticity_rl.errors import UserError
from plasticity_rl.files.strict_yaml import MOST, load

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 30)
)
"""Thirty lines that stand for 10 ** 30 values."""


def test_aliases_that_repeat_each_other_are_refused(tmp_path):
    (tmp_path / "bomb.yaml").write_text(BOMB)
    result = call("fit", f"--config={tmp_path / 'bomb.yaml'}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert f"bomb.yaml is not valid YAML: its aliases (*name) stand for more than {MOST:,} values" in result.err


def test_so_are_they_in_a_text():
    result = call("fit", f"--config={BOMB}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "--config: the text given is not valid YAML: its aliases" in result.err


def test_aliases_that_people_write_are_not():
    assert load("a: &a [1, 2]\nb: *a\nc: {d: *a}\n") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    with pytest.raises(yaml.YAMLError, match="'a' twice in one section, line 2"):
        load("a: 1\na: 2\n")


def test_an_alias_that_holds_itself_is_refused(tmp_path):
    file = Path(tmp_path / "itself.yaml")
    file.write_text("data: &d {task: *d}\n")
    with pytest.raises(UserError, match="nested too deeply, or an alias holds itself"):
        read_config(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {lr: 1}\nmodel: {lr: 2}\n", "'model' twice in one section, line 2, column 1 and before in line 1"),
        ("data:\n  on: 1\n  true: 2\n", "'true' twice in one section, line 3, column 3 and before as 'on' in line 2"),
        ("model.lr: 1\nmodel: {lr: 2}\n", "model.lr is given twice, once with the name in parts"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(tmp_path / "c.yaml")
    assert message in str(caught.value)


def test_so_is_one_on_the_command_line():
    result = call("fit", "--trainer.callbacks+={class_path: callbacks.ReDo, init_args: {tau: 0.1, tau: 0.2}}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "--trainer.callbacks+: 'tau' twice in one section" in result.err
