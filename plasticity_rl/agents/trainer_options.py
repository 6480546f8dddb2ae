"""Options of a Trainer that mean something else here: refused for ours and for ``lightning.Trainer`` as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plasticity_rl.errors import UserError

if TYPE_CHECKING:  # the command line asks before Lightning is imported
    import lightning.pytorch as pl

OF_DATA_SETS = {
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "limit_test_batches": 1.0,
    "limit_predict_batches": 1.0,
    "overfit_batches": 0.0,
    "val_check_interval": 1.0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
"""Options that choose batches or evaluations, with the values that leave both as they are."""
OF_AUTOMATIC_STEPS = {"gradient_clip_val": None, "gradient_clip_algorithm": None, "accumulate_grad_batches": 1}
"""Options about steps of an optimizer that the Trainer takes by itself, with the values that mean nothing."""
CLOCKS = {
    "max_steps": "counts the steps of all optimizers",
    "min_steps": "counts the steps of all optimizers",
    "max_epochs": "counts evaluations here",
    "min_epochs": "counts evaluations here",
}
"""Options about the length of a run, and what they count."""
EPOCHS_OF_A_PLAIN_TRAINER = 1000
"""What ``lightning.Trainer`` has for ``max_epochs`` when it is given none."""


def refuse_meaningless(options: Mapping[str, Any]) -> None:
    """Raise UserError for options that choose batches, take steps, or count something else than env frames.

    Args:
        options: Arguments of the Trainer by name; those that are left out have their defaults.
    """
    if options.get("fast_dev_run"):
        raise UserError(
            f"trainer.fast_dev_run={options['fast_dev_run']} would end after some steps, before anything is learned, "
            "and save nothing; for a short run: --max_frames, with small --data.eval_every_n_frames and "
            "--model.num_seed_frames"
        )
    for name, what in CLOCKS.items():
        if options.get(name) not in (None, -1):
            raise UserError(f"trainer.{name}={options[name]} {what}; give env frames: --max_frames")
    for name, usual in OF_DATA_SETS.items():
        if options.get(name) not in (None, usual):
            raise UserError(
                f"trainer.{name}={options[name]} is for data sets, of which there are none here; leave it out. "
                "Evaluations: --data.eval_every_n_frames and --data.num_eval_episodes"
            )
    for name, usual_step in OF_AUTOMATIC_STEPS.items():
        if options.get(name) not in (None, usual_step):
            raise UserError(
                f"trainer.{name}={options[name]} is for steps that the Trainer takes, and agents step their three "
                "optimizers themselves; leave it out"
            )


def adapt_plain_trainer(trainer: pl.Trainer) -> None:
    """Let a Trainer that :func:`plasticity_rl.make_trainer` did not make stop on env frames, and refuse its options.

    An evaluation of the untrained agent belongs to every run, so that Lightning's own sanity check is left out.

    Raises:
        UserError: For an option that cannot mean anything here.
    """
    if trainer.max_epochs == EPOCHS_OF_A_PLAIN_TRAINER:
        trainer.fit_loop.max_epochs = -1
    trainer.num_sanity_val_steps = 0
    # The loop turns a ``min_epochs`` that was not given into 0.
    given = {
        name: getattr(trainer, name, None) for name in ("fast_dev_run", *CLOCKS, *OF_DATA_SETS, *OF_AUTOMATIC_STEPS)
    }
    refuse_meaningless({**given, "min_epochs": trainer.min_epochs or None})
