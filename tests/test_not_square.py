"""Images of other height than width, from the environment to the film."""

from __future__ import annotations

import imageio_ffmpeg
import pytest
import torch
from cli_runs import call
from helpers import fit_tiny, tiny_agent, tiny_data

from plasticity_rl import UserError, make_env
from plasticity_rl.agents.drqv2.networks import Encoder
from plasticity_rl.augment import chain
from plasticity_rl.augment.transforms import CutMix, RandomCropResize, shift
from plasticity_rl.envs.dmc_options import DMControlOptions
from plasticity_rl.rng import NamedGenerators
from plasticity_rl.run.video import EvalVideo


def test_a_shift_by_hand():
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)  # 0 1 2 / 3 4 5
    down_and_left = shift(images, torch.tensor([[1]]), torch.tensor([[-1]]))
    assert down_and_left.tolist() == [[[[3, 3, 4], [3, 3, 4]]]]
    right = shift(images, torch.tensor([[0]]), torch.tensor([[2]]))
    assert right.tolist() == [[[[2, 2, 2], [5, 5, 5]]]]


def test_the_encoder():
    encoder = Encoder((9, 48, 64), num_channels=2)  # 48 -> 23, 21, 19, 17; 64 -> 31, 29, 27, 25
    assert encoder.repr_dim == 2 * 17 * 25
    assert encoder(torch.zeros(3, 9, 48, 64, dtype=torch.uint8)).shape == (3, 850)


def test_kornia_keeps_the_size_and_an_old_one_is_refused(monkeypatch):
    images = torch.randint(0, 256, (4, 9, 16, 24), dtype=torch.uint8)
    stages = [RandomCropResize(), CutMix()]
    assert chain.AugmentationChain(stages, (9, 16, 24))(images, NamedGenerators(0)).shape == images.shape
    monkeypatch.setattr(chain, "old_kornia", lambda: "0.8.2")
    with pytest.raises(UserError, match=r"kornia 0\.8\.2 takes height for width, and images here are 16 x 24"):
        chain.AugmentationChain(stages[:1], (9, 16, 24))


def test_a_run_with_its_replay_film_and_resume(tmp_path):
    data = {"data_options": {"image_size": (16, 24)}}
    assert tiny_data(**data["data_options"]).obs_shape == (9, 16, 24)
    whole = fit_tiny(tmp_path / "whole", max_frames=200, callbacks=[EvalVideo(1, 32)], **data)
    fit_tiny(tmp_path / "run", max_frames=100, **data)
    resumed = fit_tiny(tmp_path / "run", max_frames=200, ckpt_path="last", **data)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert whole.data.replay.sample()[whole.observation_key].shape[1:] == (9, 16, 24)
    film = imageio_ffmpeg.read_frames(str(next((tmp_path / "whole" / "videos").glob("*.mp4"))))
    assert next(film)["size"] == (48, 32)  # width, height
    film.close()
    assert tiny_agent(whole.data).encoder.repr_dim == 4 * 1 * 5


def test_images_of_dm_control_and_the_option(tmp_path):
    assert DMControlOptions("cup_catch", image_size=[84, 84]).values["image_size"] == 84
    options = DMControlOptions("cup_catch", image_size=[48, 64])
    assert (options.values["image_size"], options.least_observation_bytes) == ((48, 64), 9 * 48 * 64)
    for wrong, says in (
        ([48], r"\[48\] must be .* two: \[height, width\]"),
        ([0, 64], "=0 must be .* each of"),
        ("a", ""),
    ):
        with pytest.raises(UserError, match=rf"^image_size.*{says}"):
            DMControlOptions("cup_catch", image_size=wrong)
    result = call("fit", "--data.image_size=[48, 64]", "--print_config", trust=False)
    assert "image_size:\n  - 48\n  - 64\n" in result.out.replace("    ", "  ").replace("  image", "image")
    env = make_env("cup_catch", seed=0, image_size=(48, 64))
    shown = env.reset()["pixels"]
    assert shown.shape == (9, 48, 64)
    # The camera sees as much from top to bottom as in a square image of that height, and more to the sides.
    square = make_env("cup_catch", seed=0, image_size=48).reset()["pixels"]
    assert (shown[:, :, 8:56].float() - square.float()).abs().mean() < 1
