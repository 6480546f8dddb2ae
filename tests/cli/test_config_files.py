"""Config files that are read before there is a parser."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_runs import call

from plasticity_rl.cli.config_files import read_config
from plasticity_rl.errors import UserError
from plasticity_rl.yaml_files import MOST, load

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
