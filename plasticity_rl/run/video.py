"""Evaluation videos: an mp4 in the run folder and an animation in TensorBoard, without moviepy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.data.evaluation import Episode
from plasticity_rl.files.writing import drafted
from plasticity_rl.machine.parents import children_deaf


class EvalVideo(RLCallback):
    """Films the first episode of every ``every_n_evals``-th and of the last evaluation, as the agent sees it.

    The frames are those the policy was given (of games the screen in colour; the first 1000 env steps), so it costs no
    rendering, and with ``--data.observation state`` there are none: it then films nothing.
    (``plasticity_rl.envs.make.render_frame`` draws any moment of an environment.)

    Mutates: nothing.
    Logs: image ``eval/video`` (an animated GIF) and ``videos/eval_<frames>.mp4`` in the run folder.

    Args:
        every_n_evals: Period in evaluations; 0 films nothing.
        min_side: Frames are enlarged by a whole factor until their height is at least this many pixels.
    """

    cuda_graph = "stays"

    def __init__(self, every_n_evals: int = 5, min_side: int = 256) -> None:
        self.every_n_evals, self.min_side = every_n_evals, min_side

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask the data module to keep the frames of the first episode."""
        if self.every_n_evals and stage == "fit" and trainer.is_global_zero:
            as_agent(pl_module).data.keep_frames_of = 0

    def on_evaluation(self, agent: RLModule, episodes: Sequence[Episode]) -> None:
        """Write the film when this evaluation is due; the last one always is."""
        last = agent.env_frames >= agent.data.max_frames
        due = self.every_n_evals and (last or len(agent.eval_returns) % self.every_n_evals == 0)
        if not due or not episodes[0].frames:
            return
        frames = enlarge(episodes[0].frames, self.min_side)
        frames_per_second = film_speed(agent.data.action_repeat)
        path = Path(agent.trainer.default_root_dir) / "videos" / f"eval_{agent.env_frames:09d}.mp4"
        write_mp4(frames, path, frames_per_second)
        for logger in agent.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_animation(logger, "eval/video", frames, frames_per_second, agent.env_frames)


def film_speed(action_repeat: int) -> int:
    """Frames per second that show an episode in about its own simulated time (50 simulator frames a second)."""
    return max(50 // action_repeat, 5)


def enlarge(frames: Sequence[Tensor], min_side: int) -> np.ndarray:
    """Stack ``(3, H, W)`` frames to ``(time, H', W', 3)`` uint8, each pixel repeated a whole number of times."""
    film = np.stack([frame.permute(1, 2, 0).numpy() for frame in frames])
    factor = -(-min_side // film.shape[1])
    return film.repeat(factor, axis=1).repeat(factor, axis=2)


def write_mp4(frames: np.ndarray, path: Path, frames_per_second: int) -> None:
    """Write ``(time, H, W, 3)`` uint8 frames as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    # Ctrl-C is for the run, which ends with a checkpoint; ffmpeg, in the same group, would stop in the middle.
    with drafted(path) as draft, children_deaf():
        writer = imageio_ffmpeg.write_frames(str(draft), (width, height), fps=frames_per_second, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()


def add_animation(
    logger: TensorBoardLogger, tag: str, frames: np.ndarray, frames_per_second: int, env_frames: int
) -> None:
    """Show frames in TensorBoard's image tab, as a GIF: ``SummaryWriter.add_video`` needs moviepy < 2."""
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    duration = 1000 // frames_per_second
    images[0].save(buffer, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    logger.experiment._get_file_writer().add_summary(summary, env_frames)
