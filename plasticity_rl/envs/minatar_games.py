"""The games of MinAtar; nothing of it is imported."""

from __future__ import annotations

CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}
"""The games, and the channels of their observations."""
SIDE = 10
"""Height and width of an observation, pixels."""
