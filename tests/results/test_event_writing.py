"""Event files that ``study keep`` writes: TensorBoard reads them, and so does our reader; same points, same bytes."""

from __future__ import annotations

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from plasticity_rl.results.event_writing import event_file
from plasticity_rl.results.events import LOST_BEFORE, read_events
from plasticity_rl.results.runs import Curve, Event

FLOAT = float(np.float32(0.1))
CURVES = {
    "eval/return": Curve(np.array([0, 100]), np.array([FLOAT, np.inf])),
    "fau/critic": Curve(np.array([100, 2**40]), np.array([float("nan"), float(np.float32(1e-42))])),
}
EVENTS = [Event(100, "reset", "reset critic at frame 100"), Event(50, "redo", "")]
NAME = "events.out.tfevents.kept"


def test_tensorboard_reads_it(tmp_path):
    (tmp_path / NAME).write_bytes(event_file(CURVES, EVENTS))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(one.step, one.value) for one in read.Scalars("eval/return")] == [(0, FLOAT), (100, np.inf)]
    (text,) = read.Tensors("intervention/reset/text_summary")
    assert text.step == 100
    assert tensor_util.make_ndarray(text.tensor_proto).item() == b"reset critic at frame 100"
    assert read.SummaryMetadata("intervention/reset/text_summary").plugin_data.plugin_name == "text"


def test_our_reader_finds_every_bit(tmp_path):
    (tmp_path / NAME).write_bytes(event_file(CURVES, EVENTS))
    logged = read_events(tmp_path)
    assert logged.problems == []
    for tag, curve in CURVES.items():
        frames, values = zip(*logged.scalars[tag], strict=True)
        assert frames == tuple(curve.frames)
        assert np.array(values).tobytes() == curve.values.tobytes()
    assert logged.texts == {"intervention/redo": [(50, "")], "intervention/reset": [(100, EVENTS[0].text)]}


def test_the_same_points_give_the_same_bytes():
    assert event_file(CURVES, EVENTS) == event_file(dict(reversed(CURVES.items())), EVENTS)
    assert event_file({}, []) != event_file({}, EVENTS)


def test_what_was_lost_before_it_was_kept_is_still_said(tmp_path):
    (tmp_path / NAME).write_bytes(event_file(CURVES))
    (tmp_path / LOST_BEFORE).write_text("a file is damaged\nand another\n")
    assert read_events(tmp_path).problems == ["a file is damaged", "and another"]
