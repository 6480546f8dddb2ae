"""``plasticity-rl list``: what there is, and one good sentence about each."""

from __future__ import annotations

import re

import pytest
from cli_runs import REPOSITORY, call, run_without_torch

import callbacks
from plasticity_rl.cli import catalogue
from plasticity_rl.cli.commands.list import KINDS
from plasticity_rl.envs import task_names
from plasticity_rl.packaged import config_names, study_names

SENTENCES = {
    f"{kind} {name}": text for kind in ("configs", "callbacks", "studies") for name, text in KINDS[kind][0]().items()
}


def test_the_tasks_are_those_that_an_environment_can_be_made_of():
    """Read from the source of dm_control; an environment asks its registry."""
    assert list(catalogue.tasks()) == list(task_names())


def test_a_task_says_where_its_settings_are():
    tasks = catalogue.tasks()
    assert (
        tasks["hopper_hop"]
        == "hopper: a Hopper that strives to hop forward. DrQ-v2's settings: --config task/hopper_hop"
    )
    assert tasks["dog_run"] == "dog: the Run task."
    assert {name for name, text in tasks.items() if "settings" in text} == {
        path.stem for path in (REPOSITORY / "configs" / "task").glob("*.yaml")
    }


def test_the_callbacks_are_those_that_are_exported():
    assert sorted(catalogue.callbacks()) == sorted(f"callbacks.{name}" for name in callbacks.__all__)


def test_configs_and_studies_are_the_packaged_ones():
    assert list(catalogue.configs()) == list(config_names())
    assert list(catalogue.studies()) == list(study_names())


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_one(name):
    """Whole, in one line, and not the command that follows it in the comment."""
    text = SENTENCES[name]
    assert re.fullmatch(r"[^a-z\s].{20,219}[.?!]", text), text
    assert not re.search(r"Claim|Use:|plasticity-rl|--config|``", text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("Resets (Ma et al. 2024, Fig. 2).\nUse: --config x", "Resets (Ma et al. 2024, Fig. 2)."),
        ("Does it\nmatter?", "Does it matter?"),
        ("Small.\n  plasticity-rl fit", "Small."),
        ("Of Ellis et\n  al. 2024. Next.", "Of Ellis et al. 2024."),
        ("``tau`` of it.", "tau of it."),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_the_first_sentence(text, sentence):
    assert catalogue.first_sentence(text) == sentence


def test_the_comment_at_the_top(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("# Claim: it helps\n#   a lot. And more.\nbase: []\n# below\n")
    assert catalogue.leading_comment(path) == "It helps\n  a lot. And more."


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_listed_without_torch(kind):
    process = run_without_torch("list", kind)
    assert process.returncode == 0, process.stderr
    head, *lines = process.stdout.splitlines()
    assert head.startswith(f"{kind}: ")
    assert [line.split()[0] for line in lines] == list(KINDS[kind][0]())


def test_without_a_kind_all_are_listed():
    out = call("list").out
    assert out == "\n".join(call("list", kind).out for kind in KINDS)


def test_no_such_kind():
    result = call("list", "envs")
    assert result.code == 2
    assert result.err.startswith("error: argument KIND: invalid choice: 'envs'")


def test_tasks_without_dm_control(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = call("list", "tasks")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "not installed; see plasticity-rl doctor" in result.err
