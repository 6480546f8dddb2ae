"""What every run has: the Trainer, checkpoints, the run folder, the logger, the progress bar, guards.

May import callback, agents, data and what is below; study and the command line import it.
Start at ``trainer.py``.
"""
