"""Pages: every name is escaped, the data of curves end no element, the library inside is the kept one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from plasticity_rl.results import page as pages
from plasticity_rl.results.arms import Band
from plasticity_rl.results.interactive import as_json
from plasticity_rl.results.page import Html, drawing, element, page, table
from plasticity_rl.results.panels import FAINT, Chart, Entry, Events, Line, Look, Panel

WEB = Path(pages.__file__).parent / "web"
EVIL = "</script><script>alert(1)</script><!--&\u2028\"'"


def band(values: list[float], spread: float, *, runs: int) -> Band:
    iqm = np.array(values)
    frames = np.arange(len(values)) * 100.0
    rows = np.stack([iqm + seed for seed in range(runs)])
    return Band(frames, iqm, iqm - spread, iqm + spread, runs, rows)


def chart(name: str = "arm", **more) -> Chart:
    """Two arms, of which the second has seeds enough for a band, and the first an event."""
    arms = [
        Entry(name, Look("#0072B2")),
        Entry("other", Look("#D55E00", "dashed", points=True)),
    ]
    lines = [
        Line(name, arms[0].look, 0, "eval/return", band([1.0, 2.0, 1 / 3], np.nan, runs=2), (1, 2)),
        Line("other", arms[1].look, 1, "eval/return", band([1.0, np.nan, 3.0], 0.5, runs=5), (1, 2, 3, 4, 5)),
    ]
    events = [Events(1, 0, "walk", "shrink_and_perturb", (250,), ("",))]
    panel = Panel("walk", "return", "reward", lines, events, low=0.0, from_zero=True, **more)
    return Chart("title", arms, [panel], events, False, "", [])


def test_the_data_of_a_chart():
    data = json.loads(as_json(chart()))
    (group,) = data["groups"]
    (panel,) = group["panels"]
    one, two = panel["lines"]
    assert (data["apart"], group["title"]) == (False, "")
    assert panel["frames"] == [0, 250], "an event after the last point is inside"
    assert (panel["title"], panel["unit"], panel["low"], panel["high"]) == ("return", "reward", 0.0, None)
    assert one["values"] == [1, 2, 0.333333], "six digits"
    assert (one["low"], one["band"], one["points"]) == (None, False, False)
    assert one["runs"] == [[1, 2, 0.333333], [2, 3, 1.33333]], "few seeds are lines of their own"
    assert (two["values"], two["runs"]) == ([1, None, 3], []), "JSON has no NaN"
    assert (two["low"], two["high"], two["band"]) == ([0.5, None, 2.5], [1.5, None, 3.5], True)
    assert (one["name"], one["key"], two["dash"], two["points"]) == ("arm, 2 seeds", "arm", [7, 3], True)
    (event,) = panel["events"]
    expected = {"frame": 250, "key": "arm", "text": "arm: shrink and perturb", "colour": "#0072B2", "tick": False}
    assert event == expected


def test_lines_that_are_no_arms_are_hidden_by_their_own_name_and_events_stay():
    own = chart(own_legend=True)
    own.panels[0].lines[1] = Line("training", Look(FAINT), 1, "train/return", own.panels[0].lines[1].band, (1,))
    panel = json.loads(as_json(own))["groups"][0]["panels"][0]
    assert [line["key"] for line in panel["lines"]] == ["arm", "training"]
    assert [line["thin"] for line in panel["lines"]] == [False, True]
    assert (panel["events"][0]["key"], panel["events"][0]["colour"]) == ("", "")


def test_no_name_ends_the_element_that_the_data_stand_in():
    text = as_json(chart(EVIL))
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text)["groups"][0]["panels"][0]["lines"][0]["key"] == EVIL


def test_texts_are_escaped_and_elements_are_not():
    assert element("p", "<b>", element("br"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<br></p>'
    assert "<td>&lt;i&gt;</td>" in table([["a"], ["<i>"]])
    assert "<td>1.0<br>[0, 2]</td>" in table([["a"], ["1.0 [0, 2]"]], broken=True)
    assert "<td><code>x [y</code></td>" in table([["a"], [element("code", "x [y")]], broken=True)
    text = page(EVIL, [element("h1", EVIL)], chart(EVIL))
    assert text.count("<script") == text.count("</script>") == 3  # data, library, ours
    assert "alert(1)</script>" not in text


def test_only_the_scripts_of_the_page_may_run():
    with_curves, without = page("a", [Html("")], chart()), page("a", [Html("")])
    assert len(re.findall("'sha256-[^']+'", with_curves)) == 2
    assert "script-src 'none'" in without
    assert "<script" not in without


def test_drawings_of_one_page_do_not_share_ids():
    svg = '<?xml?><svg><g id="a"/><use xlink:href="#a"/><g clip-path="url(#a)"/></svg>'
    assert drawing(svg, "x") == '<svg><g id="x-a"/><use xlink:href="#x-a"/><g clip-path="url(#x-a)"/></svg>'


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("uPlot.iife.min.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
        ("uPlot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    ],
)
def test_the_library_is_the_kept_version_unchanged(name, sha256):
    assert hashlib.sha256((WEB / "uplot" / name).read_bytes()).hexdigest() == sha256
    assert "1.6.32" in (WEB / "README.md").read_text()
    assert "MIT" in (WEB / "uplot" / "LICENSE").read_text()
