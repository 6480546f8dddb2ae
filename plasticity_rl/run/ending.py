"""The last block that a run prints: what it came to, what interventions did, where everything is, how to go on."""

from __future__ import annotations

import importlib.util
import shlex
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import _TunerExitException

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import RLCallback, callbacks_of
from plasticity_rl.callback import ActsAtEvents
from plasticity_rl.checkpoint_files import LAST_CHECKPOINT
from plasticity_rl.errors import spelled
from plasticity_rl.files import own_files
from plasticity_rl.files.places import CONFIG_OF_A_RUN, configs_in
from plasticity_rl.replay.files import holds_replay

WIDTH = 80
"""Columns; a path or a command is never broken, so that it can be pasted."""
INDENT = 13
FINISHED = "finished.yaml"
"""Written when a run has come to its end."""


class Stopwatch:
    """Time and frames of one start.

    Args:
        env_frames: Where it began.
    """

    def __init__(self, env_frames: int) -> None:
        self.env_frames, self._began = env_frames, time.monotonic()

    def reading(self) -> str:
        """Return the time since it was made, in words."""
        return in_words(time.monotonic() - self._began)


def in_words(seconds: float) -> str:
    """Return a duration: ``8 s``, ``5 min 12 s``, ``3 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def labelled(label: str, text: str) -> str:
    """Return ``text`` behind its label, in lines of at most 80 columns."""
    indent = " " * INDENT
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{label + ':':{INDENT}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def command(label: str, *words: object) -> str:
    """Return a command behind its label, in one line however long, quoted for the shell."""
    return f"{label + ':':{INDENT}}{shlex.join(map(str, words))}"


def where_to_look(trainer: pl.Trainer) -> list[str]:
    """Return the run folder and the command for TensorBoard, a line each."""
    lines = [f"{'Run folder:':{INDENT}}{trainer.default_root_dir}"]
    folders = [Path(logger.log_dir) for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return [*lines, *(command("TensorBoard", "tensorboard", "--logdir", folder) for folder in folders)]


def last_block(trainer: pl.Trainer, stopwatch: Stopwatch, *, finished: bool) -> list[str]:
    """Return what is known at the end of a start, and the commands that show it or go on.

    Args:
        trainer: Of the run.
        stopwatch: Of this start.
        finished: Whether the run came to its end; else it was stopped, and the command that goes on is among the lines.
    """
    agent = as_agent(trainer.lightning_module)
    lines = [*_returns(agent, finished=finished), *_modules(agent), *_events(agent)]
    lines.append(labelled("Trained", _trained(agent, stopwatch)))
    folder, *tensorboard = where_to_look(trainer)
    lines += [folder, *_files(trainer)]
    if tensorboard and (Path(trainer.default_root_dir) / CONFIG_OF_A_RUN).is_file():  # of a run of the command line
        lines.append(command("Plot", "plasticity-rl", "plot", trainer.default_root_dir))
        if importlib.util.find_spec("matplotlib") is None:
            lines.append(f"{'':{INDENT}}which needs pip install 'plasticity-rl[plot]'")
    lines += tensorboard
    if not finished and (arguments := how_to_go_on(trainer)):
        lines.append(f"{'Go on:':{INDENT}}{arguments}")
    return lines


def _returns(agent: RLModule, *, finished: bool) -> Iterator[str]:
    if not agent.eval_returns:
        return
    (first_frame, first), (last_frame, last) = agent.eval_returns[0], agent.eval_returns[-1]
    yield f"Return before training: {first:8.1f}  (frame {first_frame:,})"
    best = agent.best_evaluation()
    if best is not None:
        yield f"Best return:            {best[1]:8.1f}  (frame {best[0]:,})"
    if finished:
        yield f"Return after training:  {last:8.1f}  (frame {last_frame:,})"
    elif last_frame > first_frame:
        yield f"Return so far:          {last:8.1f}  (frame {last_frame:,})"


def _modules(agent: RLModule) -> Iterator[str]:
    for callback in callbacks_of(agent.trainer):
        if not isinstance(callback, RLCallback) or (headline := callback.headline()) is None:
            continue
        label, tag = headline
        tags = {name: tag.format(name) for name in agent.module_names}
        values = [f"{name} {agent.latest[own]:.2f}" for name, own in tags.items() if own in agent.latest]
        if values:
            words = f"  ({callback.headline_words})" if callback.headline_words else ""
            yield labelled(label, ", ".join(values) + words)


def _events(agent: RLModule) -> Iterator[str]:
    scheduled = [one.name for one in callbacks_of(agent.trainer) if isinstance(one, ActsAtEvents)]
    counts = {**dict.fromkeys(scheduled, 0), **agent.event_counts}
    if counts:
        yield labelled("Events", ", ".join(f"{name} {count}" for name, count in counts.items()))


def _trained(agent: RLModule, stopwatch: Stopwatch) -> str:
    text = f"{agent.env_frames:,} frames, {agent.num_updates:,} updates"
    if stopwatch.env_frames:
        return f"{text}; {agent.env_frames - stopwatch.env_frames:,} frames of them now, in {stopwatch.reading()}"
    return f"{text}, in {stopwatch.reading()}"


def _files(trainer: pl.Trainer) -> Iterator[str]:
    """Yield the checkpoints and the newest video, as they are called in the run folder if they lie there."""
    run_dir = Path(trainer.default_root_dir)

    def called(path: Path) -> str:
        return str(path.relative_to(run_dir)) if path.is_relative_to(run_dir) else str(path)

    given = [getattr(one, "best_model_path", "") for one in trainer.checkpoint_callbacks]
    found = {Path(path) for path in given if path and Path(path).is_file()}
    saved = sorted(found, key=lambda path: path.name != LAST_CHECKPOINT)
    if saved:
        yield labelled("Checkpoints", ", ".join(map(called, saved)))
    if films := sorted((run_dir / "videos").glob("eval_*.mp4")):
        more = f"  (and {len(films) - 1} before it)" if len(films) > 1 else ""
        yield labelled("Video", called(films[-1]) + more)


class AlreadyFinished(_TunerExitException):
    """There is nothing left to train; ``Trainer.fit`` returns, as Lightning lets a loop end early without an error."""


def stop_if_finished(run_dir: Path, env_frames: int, max_frames: int) -> None:
    """Raise AlreadyFinished where a run that is to go on has noted its end, and is not to become longer.

    Args:
        run_dir: Its folder.
        env_frames: Of the checkpoint with which it is to go on.
        max_frames: Env frames at which it is to stop.
    """
    if env_frames < max_frames or not (run_dir / FINISHED).is_file():
        return
    longer = f"--max_frames={2 * max_frames}"
    lines = [f"This run is finished: it has {env_frames:,} of {max_frames:,} frames. Nothing was changed in {run_dir}."]
    lines.append(f"To train longer, raise the frames, for example {spelled(longer)}")
    if (run_dir / CONFIG_OF_A_RUN).is_file():
        checkpoint = run_dir / "checkpoints" / LAST_CHECKPOINT
        lines.append(command("Go on", "plasticity-rl", "fit", f"--ckpt_path={checkpoint}", longer, *_trusting()))
    raise AlreadyFinished("\n".join(lines))


Played = Mapping[str, Sequence[tuple[float, int]]]
"""Return and env steps of every evaluation episode, by task."""


def table_of_returns(by_task: Played) -> list[str]:
    """Return the lines of a table of evaluation episodes, a row for each task."""
    width = max(map(len, ["task", *by_task]))
    rows = [f"{'task':{width}}  {'episodes':>8}{'return':>11}{'std':>11}{'lowest':>11}{'highest':>11}"]
    for task, played in by_task.items():
        returns = [episode_return for episode_return, _ in played]
        numbers = [fmean(returns), pstdev(returns), min(returns), max(returns)]
        rows.append(f"{task:{width}}  {len(returns):8}" + "".join(f"{number:11.3f}" for number in numbers))
    return rows


def table_of_episodes(by_task: Played) -> list[str]:
    """Return the lines of a table of evaluation episodes, a row for each; they are numbered from 0, as their seeds."""
    width = max(map(len, ["task", *by_task]))
    rows = [f"{'task':{width}}  {'episode':>8}{'return':>11}{'env steps':>11}"]
    for task, played in by_task.items():
        rows += [f"{task:{width}}  {i:8}{total:11.3f}{steps:11}" for i, (total, steps) in enumerate(played)]
    return rows


def how_to_go_on(trainer: pl.Trainer) -> str:
    """Return the command that continues a run of the command line, or nothing where there is no checkpoint."""
    run_dir = Path(trainer.default_root_dir)
    last = run_dir / "checkpoints" / LAST_CHECKPOINT
    if not last.is_file() or not (run_dir / CONFIG_OF_A_RUN).is_file():
        return ""
    _, *resumed = configs_in(run_dir)
    arguments = ["plasticity-rl", "fit", *(f"--config={path}" for path in resumed[-1:]), f"--ckpt_path={last}"]
    replay = getattr(trainer.datamodule, "replay_folder", None)  # type: ignore[attr-defined]
    if replay is not None and not holds_replay(replay):
        arguments.append("--data.allow_empty_replay=true")
    return shlex.join([*arguments, *_trusting()])


def _trusting() -> list[str]:
    """Return the option without which the config of a run may name no files of the user's own, where it does."""
    return ["--trust"] if own_files.latest() else []
