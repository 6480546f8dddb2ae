"""The options of ``fit`` and ``validate`` that belong to no class, and those that follow from others. Light."""

from __future__ import annotations

from typing import Any, NamedTuple


class OwnOption(NamedTuple):
    """An option beside ``data.``, ``model.`` and ``trainer.``.

    Attributes:
        name: Its name without dashes.
        type: Its type, as it would be annotated.
        default: Its default.
        help: What it is, with the unit.
    """

    name: str
    type: str
    default: Any
    help: str


AGENT = OwnOption(
    "agent",
    "str",
    "drqv2",
    "Agent to train; it decides which options --model.* there are (see `--agent sac --help`).",
)
OWN_OPTIONS = (
    OwnOption(
        "max_frames",
        "int",
        3_100_000,
        "Env frames (simulator frames, action repeat included) at which training stops.",
    ),
    OwnOption(
        "detect_nan",
        "bool",
        True,
        "Whether a loss or weight that is NaN or infinite ends the run, before it is saved.",
    ),
    OwnOption(
        "init_weights",
        "str | None",
        None,
        "Checkpoint whose weights a new run begins with; all else is fresh (optimizers, clocks, replay).",
    ),
)
"""Beside :data:`AGENT`, whose values are the known agents."""
FROM_LIGHTNING = (
    OwnOption("seed_everything", "bool | int", 1, "Seed of all random generators; true takes a random one."),
)
"""Those that LightningCLI itself adds."""
CONFIG_HELP = "YAML file; repeat to merge, `callbacks+:` in a file appends."
FROM_OTHERS = (
    ("max_frames", "data.max_frames"),
    ("seed_everything", "data.seed"),
    ("seed_everything", "model.seed"),
    ("data.obs_shape", "model.obs_shape"),
    ("data.action_dim", "model.action_dim"),
    ("data.num_actions", "model.num_actions"),
)
"""Option or attribute, and the option that takes its value, which therefore cannot be given."""
HIDDEN = frozenset({"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"})
"""Arguments of Trainer's own methods that no option gives: the other options make them."""
