"""Endpoints of a study: what they read from a curve, and what is wrong with an entry."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_rl import UserError
from plasticity_rl.results.runs import Curve
from plasticity_rl.study.endpoints import Endpoint, last_value, mean_value, read_endpoint


def curve(*points: tuple[int, float]) -> Curve:
    frames, values = zip(*points, strict=True)
    return Curve(np.array(frames), np.array(values, dtype=float))


POINTS = curve((0, 0.0), (50, 100.0), (90, 200.0), (100, 300.0))


def test_values_by_hand():
    assert last_value(POINTS, "final") == Endpoint("x", "final").value(POINTS) == 250.0  # frames 90 and 100
    assert Endpoint("x", "last_third").value(curve((0, 0.0), (60, 1.0), (70, 5.0), (100, 7.0))) == 6.0
    # 50 * 50 + 40 * 150 + 10 * 250 = 2500 + 6000 + 2500 over 100 frames
    assert mean_value(POINTS) == Endpoint("x").value(POINTS) == 110.0
    assert Endpoint("x", at=70).value(POINTS) == 150.0
    assert Endpoint("x", at=101).value(POINTS) is None
    assert Endpoint("x", at=9).value(curve((10, 7.0), (20, 9.0))) is None
    assert Endpoint("x", at=10).value(curve((10, 7.0), (20, 9.0))) == 7.0
    for endpoint in (Endpoint("x"), Endpoint("x", "final"), Endpoint("x", "last_third"), Endpoint("x", at=10)):
        assert endpoint.value(curve((10, 7.0))) == 7.0
    for endpoint in (Endpoint("x"), Endpoint("x", "final"), Endpoint("x", "last_third")):
        assert (endpoint.value(curve((0, 7.0))), endpoint.num_points(curve((0, 7.0)))) == (7.0, 1)


@pytest.mark.parametrize("end", [3 * 10**k for k in range(1, 7)])
def test_a_point_where_a_share_begins_is_in_the_last_tenth_and_not_in_the_last_third(end):
    """Whatever 1 - 1 / 3 is in floating point."""
    third, tenth = end * 2 // 3, end * 9 // 10
    points = curve((0, 0.0), (third, 100.0), (tenth, 30.0), (end, 10.0))
    assert Endpoint("x", "last_third").value(points) == 20.0
    assert Endpoint("x", "last_third").num_points(points) == 2
    assert Endpoint("x", "final").value(curve((0, 0.0), (tenth, 30.0), (end, 10.0))) == 20.0


@pytest.mark.parametrize(
    ("endpoint", "first"),
    [
        (Endpoint("x"), 90),
        (Endpoint("x", "final"), 90),
        (Endpoint("x", "last_third"), 67),
        (Endpoint("final/x"), 90),
        (Endpoint("x", at=30), 30),
    ],
)
def test_it_is_reached_from_the_frame_on_at_which_its_share_begins(endpoint, first):
    """The last third of 100 frames begins after 66.7."""
    assert [endpoint.is_reached(frame, 100) for frame in (first - 1, first, 100, 104)] == [False, True, True, True]


def test_names():
    assert Endpoint("eval/return").name == "area under eval/return"
    assert Endpoint("fau/critic", "last_third").name == "fau/critic, last third"
    assert Endpoint("fau/critic", at=400_000).name == "fau/critic at frame 400,000"


def test_entries():
    assert read_endpoint({"tag": "a"}, "primary", 100) == Endpoint("a", "area")
    assert read_endpoint({"tag": "a", "of": "final"}, "primary", 100) == Endpoint("a", "final")
    assert read_endpoint({"tag": "a", "at": 100}, "primary", 100) == Endpoint("a", at=100)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("area", "primary: 'area' must name a curve, as in TensorBoard, and what of it: {tag: eval/return, of: area}"),
        ({"of": "area"}, "primary: .* must name a curve"),
        ({"tag": "a", "off": "area"}, "primary: no entry 'off'; an endpoint has tag, and of or at. Did you mean of"),
        (
            {"tag": "a", "of": "last_thrid"},
            "primary: of='last_thrid' must be one of area, last_third, final. Did you mean last_third",
        ),
        ({"tag": "a", "of": ["area"]}, r"primary: of=\['area'\] must be one of"),
        ({"tag": "a", "at": 101}, "primary: at=101 must be a whole number of env frames up to max_frames=100"),
        ({"tag": "a", "at": 10, "of": "area"}, "without of"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(entry, message):
    with pytest.raises(UserError, match=message) as caught:
        read_endpoint(entry, "primary", 100)
    assert "\n" not in str(caught.value)
