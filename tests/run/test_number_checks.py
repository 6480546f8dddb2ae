"""Numbers that nothing can hold are refused wherever they stand."""

from __future__ import annotations

import enum

import pytest
from jsonargparse import Namespace

from plasticity_rl import UserError
from plasticity_rl.run import number_checks


def test_numbers_at_the_limit_pass_and_switches_are_no_numbers():
    entry = {"class_path": "callbacks.Reset", "init_args": {"at_frames": [number_checks.LARGEST_INTEGER], "on": True}}
    config = {"model": {"stddev_clip": float("inf")}, "trainer": {"callbacks": [entry]}, "data": {"task": "tiny"}}
    number_checks.refuse_extreme_numbers(config)
    entry["init_args"]["at_frames"].append(-number_checks.LARGEST_INTEGER - 2)
    with pytest.raises(UserError, match=r"^Reset\.at_frames=-\d+ does not fit in 64 bits"):
        number_checks.refuse_extreme_numbers(config)


def test_what_is_neither_number_nor_option_is_not_looked_into():
    """A member of an Enum, such as an argument of Lightning's Timer, holds its class, which holds all members."""
    unit = enum.Enum("Unit", ["step", "epoch"])
    entry = Namespace(
        class_path="lightning.pytorch.callbacks.Timer", init_args=Namespace(interval=unit.step, verbose=1)
    )
    number_checks.refuse_extreme_numbers(Namespace(trainer=Namespace(callbacks=[entry])))
    entry.init_args.verbose = float("inf")
    with pytest.raises(UserError, match=r"^Timer\.verbose=inf must be a finite number"):
        number_checks.refuse_extreme_numbers(Namespace(trainer=Namespace(callbacks=[entry])))
