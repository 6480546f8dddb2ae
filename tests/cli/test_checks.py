"""What the command line refuses before anything is built."""

from __future__ import annotations

import enum

import pytest
from jsonargparse import Namespace

from plasticity_rl import UserError
from plasticity_rl.cli import checks


def test_numbers_at_the_limit_pass_and_switches_are_no_numbers():
    entry = {"class_path": "callbacks.Reset", "init_args": {"at_frames": [checks.LARGEST_INTEGER], "on": True}}
    config = {"model": {"stddev_clip": float("inf")}, "trainer": {"callbacks": [entry]}, "data": {"task": "tiny"}}
    checks.refuse_extreme_numbers(config)
    entry["init_args"]["at_frames"].append(-checks.LARGEST_INTEGER - 2)
    with pytest.raises(UserError, match=r"^Reset\.at_frames=-\d+ does not fit in 64 bits"):
        checks.refuse_extreme_numbers(config)


def test_what_is_neither_number_nor_option_is_not_looked_into():
    """A member of an Enum, such as an argument of Lightning's Timer, holds its class, which holds all members."""
    unit = enum.Enum("Unit", ["step", "epoch"])
    entry = Namespace(
        class_path="lightning.pytorch.callbacks.Timer", init_args=Namespace(interval=unit.step, verbose=1)
    )
    checks.refuse_extreme_numbers(Namespace(trainer=Namespace(callbacks=[entry])))
    entry.init_args.verbose = float("inf")
    with pytest.raises(UserError, match=r"^Timer\.verbose=inf must be a finite number"):
        checks.refuse_extreme_numbers(Namespace(trainer=Namespace(callbacks=[entry])))
