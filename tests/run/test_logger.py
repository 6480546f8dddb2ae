"""The logger leaves nothing on disk until something is written."""

from __future__ import annotations

from plasticity_rl.run.logger import run_logger


def test_the_event_file_is_made_by_the_first_point(tmp_path):
    """Through ``SummaryWriter._get_file_writer``, which torch calls in every method that writes."""
    logger = run_logger(tmp_path / "run")
    writer = logger.experiment
    logger.save()
    writer.flush()
    assert list(tmp_path.iterdir()) == []
    logger.log_hyperparams({"lr": 0.5})
    assert list(tmp_path.iterdir()) == []
    writer.add_scalar("a", 1.0, 5)
    assert "lr: 0.5" in (tmp_path / "run" / "hparams.yaml").read_text()
    assert logger.experiment is writer
    logger.finalize("success")
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert events.stat().st_size > 60


def test_a_logger_that_never_writes_leaves_nothing(tmp_path):
    logger = run_logger(tmp_path / "run")
    assert logger.experiment is not None
    logger.finalize("failed")
    assert list(tmp_path.iterdir()) == []
