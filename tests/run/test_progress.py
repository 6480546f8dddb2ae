"""The progress bar: what it shows first, and the lines above it."""

from __future__ import annotations

import io
import re

import pytest
import tqdm.std
from helpers import fit_tiny

from callbacks import FractionActiveUnits, Reset
from plasticity_rl.run import progress
from plasticity_rl.run.progress import Bar, FrameProgressBar


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys) -> str:
    """What a run with a reset and a probe writes to a terminal of 80 columns."""
    monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda file: (80, 24))
    monkeypatch.setattr(progress, "can_draw_over", lambda: True)
    given = [Reset(modules=["critic"], at_frames=[110]), FractionActiveUnits(every_n_updates=10)]
    options = {"trainer_options": {"enable_progress_bar": True}}
    fit_tiny(tmp_path, callbacks=[*given, FrameProgressBar(refresh_seconds=0)], **options)
    return capsys.readouterr().err


def test_80_columns_have_room_for_the_return_and_the_active_units(shown):
    bars = [bar for bar in re.split(r"[\r\n]", shown) if "frame/s" in bar]
    assert max(map(len, bars)) <= 80
    assert re.search(r"200/200 return -?\d+, critic FAU 0\.\d\d \[\S+, \S+frame/s", bars[-1])


def test_evaluations_and_events_are_lines_above_it(shown):
    lines = [line for line in re.split(r"[\r\n]+", shown) if re.search(r"at frame \d+$", line)]
    assert [re.sub(r"return \S+", "return", line.strip()) for line in lines] == [
        "return at frame 100",
        "reset critic at frame 112",
        "return at frame 200",
    ]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (200, "return 175, critic FAU 0.51 [00:00<?, ?it/s, 250 updates]"),
        (60, "return 175, critic FAU 0.51 [00:00<?]"),
        (48, "return 175, critic FAU 0.51"),
        (35, "return 175"),
        (20, "0/200"),
    ],
)
def test_a_narrow_terminal_is_spared_what_it_has_no_room_for(columns, shown):
    bar = Bar(total=200, ncols=columns, file=io.StringIO())
    bar.results, bar.rates = lambda: ["return 175", "critic FAU 0.51"], lambda: ["250 updates"]
    assert str(bar).endswith(shown)
    assert len(str(bar)) <= columns
    bar.close()


def test_in_a_file_states_are_lines_and_none_is_drawn_over(tmp_path, capsys):
    fit_tiny(tmp_path, trainer_options={"enable_progress_bar": True})
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert not any("\r" in line for line in lines)
    assert [line for line in lines if line.startswith("return")][0].endswith("at frame 100\n")
    assert lines[-2].startswith("100%|##########| 200/200 return ") or lines[-2].startswith("100%|██████████| 200/200 ")
