"""The table of names and units against the docstrings, which say which tags there are."""

from __future__ import annotations

import pytest
import tables

import callbacks
from plasticity_rl.callback.documented import documented_tags, tag_pattern
from plasticity_rl.results.quantities import TABLE, quantity

NO_SCALARS = {"eval/video", "custom_scalars__config__", "weights/<module>/<parameter>", "activations/<module>/<layer>"}


@pytest.fixture(scope="module")
def documented() -> set[str]:
    tags = {tag for name in callbacks.__all__ for tag in documented_tags(getattr(callbacks, name))}
    of_loop = {tag for tags, _ in tables.loop_tags() for tag in tables.LOOP_TAG.findall(tags)}
    return (tags | of_loop) - NO_SCALARS


def test_every_documented_tag_of_a_scalar_has_a_name_and_a_unit(documented):
    """And each is found by its own entry, not by a wider one that stands before it."""
    for tag in documented:
        written = tag.replace("<", "").replace(">", "").replace("/...", "/critic")
        known = quantity(written)
        assert known.unit, tag
        assert "{" not in known.name
        assert known == quantity.__wrapped__(written)
        first = next(entry for entry in TABLE if tag_pattern(entry).fullmatch(written))
        assert first.count("/") == tag.count("/"), (tag, first)
        assert first == tag or "<name>" in first or "<module>" in first, (tag, first)


def test_every_entry_of_the_table_is_documented(documented):
    assert set(TABLE) <= documented


def test_a_tag_of_somebody_else_is_its_own_name():
    assert (quantity("mine/of/all").name, quantity("mine/of/all").unit) == ("mine/of/all", "")


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("fau/critic/Q1.1", "fraction of active units (FAU), critic, layer Q1.1"),
        ("fau_unit_rate/critic/Q1.1", "fraction of active units (FAU), unit_rate, critic, Q1.1"),
        ("eval/hopper_hop/visit_2/return", "return, evaluations on hopper_hop, visit 2"),
    ],
)
def test_the_parts_that_differ_stand_in_the_name(tag, name):
    assert quantity(tag).name == name
