"""The tables of the documentation are those of the docstrings, which have all that the tables need."""

from __future__ import annotations

import re

import pytest
import tables
from cli_runs import REPOSITORY

import callbacks
from plasticity_rl.callback.documented import documented_tags, sections, tag_pattern


@pytest.mark.parametrize("name", tables.PAGES)
def test_a_page_has_the_tables_that_the_docstrings_make(name: str):
    text = (REPOSITORY / name).read_text()
    assert tables.TABLE.search(text)
    assert tables.page(text) == text, "make tables"


def test_every_table_is_on_a_page():
    shown = "".join((REPOSITORY / name).read_text() for name in tables.PAGES)
    assert {name for _, name, _ in tables.TABLE.findall(shown)} == set(tables.TABLES)


def test_a_row_for_each_and_a_change_of_a_docstring_changes_it(monkeypatch):
    rows = re.findall(r"^\| \[`(\w+)`\]", tables.table_of_callbacks(), re.MULTILINE)
    assert sorted(rows) == sorted(callbacks.__all__)
    monkeypatch.setattr(callbacks.ReDo, "__doc__", callbacks.ReDo.__doc__.replace("Give dormant", "Give sleeping"))
    assert "Give sleeping hidden units" in tables.table_of_callbacks()


@pytest.mark.parametrize("name", callbacks.__all__)
def test_a_docstring_says_what_the_tables_need(name: str):
    found = sections(getattr(callbacks, name).__doc__)
    assert {"", "Mutates", "Logs", "Reference"} <= set(found)
    assert tables._papers(getattr(callbacks, name)), "`Reference:` names no paper"
    assert documented_tags(getattr(callbacks, name)) or found["Logs"].startswith("nothing")
    assert (REPOSITORY / tables._fragment(getattr(callbacks, name))).exists()


def test_without_logs_it_is_refused():
    with pytest.raises(ValueError, match="Silent: its docstring has no `Logs:`"):
        documented_tags(type("Silent", (), {"__doc__": "Nothing.\n\n    Mutates: nothing.\n"}))


def test_patterns_of_tags():
    one = tag_pattern("dormant/<module>/tau_<tau>")
    assert one.fullmatch("dormant/critic.Q1/tau_0.1")
    assert not one.fullmatch("dormant/critic/layer/tau_0.1")
    assert not one.fullmatch("dormantXcritic/tau_0.1")
    assert one.fullmatch("dormant/critic/tau_0.1").groupdict() == {"module": "critic", "tau": "0.1"}
    assert tag_pattern("a/<any name>/<b>/<b>").fullmatch("a/x y/1/2").groupdict() == {"b": "1"}
    several = tag_pattern("fau_<definition>/...")
    assert several.fullmatch("fau_mean_rate/critic")
    assert several.fullmatch("fau_mean_rate/critic/Q1")
    assert not several.fullmatch("fau_mean_rate")
