"""What a run shows while it trains: curves over env frames, events, films, the progress bar. Read back from disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from cli_runs import append_callbacks, checkpoint, events, fit_tiny_cli, scalar_points
from helpers import fit_tiny
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from callbacks import FractionActiveUnits
from plasticity_rl.run import progress
from plasticity_rl.run.progress import FrameProgressBar
from plasticity_rl.run.video import enlarge, film_speed

MAX_FRAMES = 400
REPEAT = 4
EPISODE_STEPS = 20


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """400 frames, an evaluation every 100, an update at every env step after frame 40, a reset due at frame 100."""
    folder = tmp_path_factory.mktemp("monitoring")
    fragment = append_callbacks(
        folder / "fragment.yaml",
        [
            ("callbacks.Reset", {"at_frames": [100], "modules": ["critic"]}),
            ("callbacks.FractionActiveUnits", {"every_n_updates": 5}),
            ("plasticity_rl.EvalVideo", {"every_n_evals": 2, "min_side": 64}),
        ],
    )
    options = [f"--data.action_repeat={REPEAT}", "--model.replay_ratio=1", "--config", fragment]
    options += ["--model.stddev_schedule=linear(1.0,0.5,50)"]
    fit_tiny_cli(folder / "run", *options, max_frames=MAX_FRAMES)
    return folder / "run"


@pytest.fixture(scope="module")
def read(run_dir) -> EventAccumulator:
    return events(run_dir)


def test_the_x_axis_is_env_frames(read):
    """Multiples of the action repeat up to ``max_frames``, each once a tag; a step counter would end at 100 or 270."""
    tags = read.Tags()["scalars"]
    assert len(tags) > 15
    for tag in tags:
        frames = list(scalar_points(read, tag))
        assert frames == sorted(frames), tag
        assert all(frame % REPEAT == 0 for frame in frames), tag
        assert max(frames) <= MAX_FRAMES, tag
    assert max(scalar_points(read, "loss/critic")) == MAX_FRAMES


def test_nothing_is_written_at_another_x(read):
    """Lightning writes ``hp_metric`` and ``epoch`` against its own counters unless it is told not to."""
    assert not {"hp_metric", "epoch"} & set(read.Tags()["scalars"])


def test_evaluations_stand_at_their_frames_and_equal_the_checkpoint(read, run_dir):
    returns = scalar_points(read, "eval/return")
    assert list(returns) == [0, 100, 200, 300, 400]
    assert list(scalar_points(read, "eval/return_std")) == [0, 100, 200, 300, 400]
    saved = dict(checkpoint(run_dir)["rl"]["eval_returns"])
    assert returns == pytest.approx(saved)


def test_training_episodes_stand_at_their_ends(read):
    """20 env steps of 4 frames."""
    assert list(scalar_points(read, "train/return")) == [80, 160, 240, 320, 400]
    assert set(scalar_points(read, "train/episode_steps").values()) == {EPISODE_STEPS}


def test_clocks_and_settings(read):
    steps, updates = scalar_points(read, "clock/env_steps"), scalar_points(read, "clock/num_updates")
    assert list(steps) == list(range(40, MAX_FRAMES + 1, 40))  # every 10 env steps
    assert all(frames == steps[frames] * REPEAT for frames in steps)
    assert updates[MAX_FRAMES] == 90  # one at every env step after the seed phase of 10
    assert set(scalar_points(read, "schedule/replay_ratio").values()) == {1.0}
    assert set(scalar_points(read, "schedule/augment").values()) == {1.0}
    noise = scalar_points(read, "schedule/stddev")
    assert noise[40] == pytest.approx(0.9)
    assert noise[MAX_FRAMES] == pytest.approx(0.5)


def test_speeds(read):
    frames, updates = scalar_points(read, "speed/frames_per_second"), scalar_points(read, "speed/updates_per_second")
    assert all(value > 0 for value in frames.values())
    # One update an env step: once the seed phase is over both measure the same time.
    for frame in range(80, MAX_FRAMES + 1, 40):
        assert updates[frame] == pytest.approx(frames[frame] / REPEAT, rel=1e-3)


def test_losses_and_values_start_with_the_updates(read):
    for tag in ("loss/critic", "loss/actor", "q/q1", "q/q2", "q/target", "q/reward"):
        assert min(scalar_points(read, tag)) > 40, tag


def test_fraction_of_active_units_by_module_and_layer(read):
    tags = [tag for tag in read.Tags()["scalars"] if tag.startswith("fau/")]
    assert {tag.split("/")[1] for tag in tags} == {"encoder", "actor", "critic"}
    assert len(tags) == 3 + 4 + 2 + 4
    for tag in tags:
        points = scalar_points(read, tag)
        assert list(points) == list(range(60, MAX_FRAMES + 1, 20))  # every fifth update, one every env step
        assert all(0 < value <= 1 for value in points.values())


def test_an_intervention_leaves_a_mark_and_a_line_of_text(read):
    """Due at frame 100, hence before the first update after that frame; zeros where the other curves have points."""
    expected = {**dict.fromkeys(range(40, MAX_FRAMES + 1, 40), 0.0), 104: 1.0}
    assert scalar_points(read, "intervention/reset") == dict(sorted(expected.items()))
    (text,) = read.Tensors("intervention/reset/text_summary")
    assert text.step == 104
    assert tensor_util.make_ndarray(text.tensor_proto).item().decode() == "reset critic at frame 104"


def test_films_are_animations_in_tensorboard(read):
    images = read.Images("eval/video")
    assert [image.step for image in images] == [0, 200, 400]
    for image in images:
        film = Image.open(io.BytesIO(image.encoded_image_string))
        assert film.format == "GIF"
        assert film.n_frames == EPISODE_STEPS + 1
        assert film.size == (64, 64)
        assert film.info["loop"] == 0


def test_films_are_mp4_files(run_dir):
    paths = sorted((run_dir / "videos").iterdir())
    assert [path.name for path in paths] == [f"eval_{frame:09d}.mp4" for frame in (0, 200, 400)]
    for path in paths:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
        assert frames == EPISODE_STEPS + 1
        assert seconds == pytest.approx(frames / film_speed(REPEAT), rel=0.1)


def test_the_film_shows_what_the_agent_saw(run_dir):
    """The first frame of the mp4 is the observation, each pixel four times as large; H.264 loses a little."""
    reader = imageio_ffmpeg.read_frames(str(run_dir / "videos" / "eval_000000000.mp4"))
    size = next(reader)["source_size"]
    frame = Image.frombytes("RGB", size, next(reader)).convert("L")
    reader.close()
    assert size == (64, 64)
    assert frame.crop((0, 24, 64, 40)).getextrema()[1] > 200  # the bright square ...
    assert frame.crop((0, 44, 64, 64)).getextrema()[1] < 60  # ... and the dark below it


def test_frames_are_enlarged_by_a_whole_factor():
    frame = torch.arange(3 * 2 * 2, dtype=torch.uint8).reshape(3, 2, 2)
    film = enlarge([frame], min_side=5)
    assert film.shape == (1, 6, 6, 3)
    assert (film[0, :3, 3:] == frame[:, 0, 1].numpy()).all()


def test_tensorboards_writer_still_has_the_private_method_that_films_need():
    """``SummaryWriter._get_file_writer`` takes a finished GIF; the public ``add_video`` needs moviepy < 2."""
    assert callable(getattr(SummaryWriter, "_get_file_writer", None))


class RecordingBar(progress.Bar):
    """Remembers how it was made; it is disabled once it is closed."""

    made: list[RecordingBar] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made.append(self)


@pytest.fixture
def bars(monkeypatch) -> list[RecordingBar]:
    monkeypatch.setattr(progress, "Bar", RecordingBar)
    monkeypatch.setattr(progress, "can_draw_over", lambda: True)
    monkeypatch.setattr(RecordingBar, "made", [])
    return RecordingBar.made


def test_the_bar_counts_frames_and_shows_return_and_fau(bars, tmp_path):
    callbacks = [FrameProgressBar(), FractionActiveUnits(every_n_updates=5)]
    agent = fit_tiny(tmp_path, callbacks=callbacks, trainer_options={"enable_progress_bar": True})
    (bar,) = bars
    assert (bar.total, bar.initial, bar.unit, bar.n) == (200, 0, "frame", 200)
    assert bar.disable, "closed"
    assert bar.results() == [
        f"return {agent.eval_returns[-1][1]:.0f}",
        f"critic FAU {agent.latest['fau/critic']:.2f}",
    ]
    assert bar.rates() == [
        f"{agent.num_updates} updates",
        f"{agent.latest['speed/updates_per_second']:.3g} updates/s",
    ]


def test_the_bar_shows_frames_per_second_and_the_time_left():
    """What tqdm writes itself: 2000 of 10000 frames in 4 seconds are 500 a second, and 16 seconds are left."""
    bar = tqdm(total=10_000, unit="frame", unit_scale=True, disable=True)
    line = bar.format_meter(2000, 10_000, 4.0, unit="frame", unit_scale=True, postfix="updates=500")
    assert "500frame/s" in line
    assert "00:04<00:16" in line
    assert "updates=500" in line


def test_the_bar_of_a_resumed_run_goes_on_where_it_stopped(bars, tmp_path):
    fit_tiny(tmp_path)
    fit_tiny(
        tmp_path,
        callbacks=[FrameProgressBar()],
        max_frames=300,
        ckpt_path="last",
        trainer_options={"enable_progress_bar": True},
    )
    (bar,) = bars
    assert (bar.initial, bar.total, bar.n) == (200, 300, 300)


def test_the_bar_is_closed_when_training_fails(bars, tmp_path):
    class Fail(FractionActiveUnits):
        def on_env_step(self, agent, step):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit_tiny(tmp_path, callbacks=[FrameProgressBar(), Fail()], trainer_options={"enable_progress_bar": True})
    (bar,) = bars
    assert bar.disable, "closed"
