"""Tests of the command line: what they call by itself names options, as within ``main``."""

from __future__ import annotations

import pytest

from plasticity_rl.errors import command_line


@pytest.fixture(autouse=True)
def options_instead_of_arguments():
    with command_line():
        yield
