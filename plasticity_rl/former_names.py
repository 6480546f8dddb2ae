"""Class paths of revisions before the packages, which the ``config.yaml`` of older runs holds."""

from __future__ import annotations

FORMER = {
    "plasticity_rl.checkpoint.BestCheckpoint": "plasticity_rl.run.checkpoints.BestCheckpoint",
    "plasticity_rl.checkpoint.LastCheckpoint": "plasticity_rl.run.checkpoints.LastCheckpoint",
    "plasticity_rl.checkpoint_io.AtomicCheckpointIO": "plasticity_rl.checkpoint_files.AtomicCheckpointIO",
    "plasticity_rl.histograms.Histograms": "plasticity_rl.Histograms",
    "plasticity_rl.monitor.RunMonitor": "plasticity_rl.run.monitor.RunMonitor",
    "plasticity_rl.nan_guard.DetectNaN": "plasticity_rl.run.nan_guard.DetectNaN",
    "plasticity_rl.progress.FrameProgressBar": "plasticity_rl.run.progress.FrameProgressBar",
    "plasticity_rl.run_folder.RunFolder": "plasticity_rl.run.folder.RunFolder",
    "plasticity_rl.strategy.GradientAveraging": "plasticity_rl.distributed.strategy.GradientAveraging",
    "plasticity_rl.video.EvalVideo": "plasticity_rl.EvalVideo",
}
"""Former class path -> today's. For configurations, and for the callbacks that a checkpoint lists."""


def todays_name(class_path: str) -> str:
    """Return where a class is found today that an older configuration names."""
    return FORMER.get(class_path, class_path)
