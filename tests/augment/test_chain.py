"""Augmentations in a chain: which frames share random numbers, where these come from, and what is refused."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from cli_runs import call, checkpoint, fit_tiny_cli, write_yaml
from helpers import fit_tiny, tiny_agent, tiny_data, weights_hash
from run_state import DieAt, Killed, differences, run_state
from torch import Tensor, nn
from torchvision_import import torchvision_transforms

from plasticity_rl import UserError
from plasticity_rl.augment import (
    Augmentation,
    ColorJitter,
    CutMix,
    Cutout,
    MixUp,
    RandomConv,
    RandomCropResize,
    RandomShift,
)
from plasticity_rl.augment.chain import AugmentationChain
from plasticity_rl.augment.transforms import random_shift
from plasticity_rl.rng import NamedGenerators

SHAPE = (9, 20, 24)
BATCH = 12


def repeated_frames(seed: int = 0) -> Tensor:
    """Observations whose three frames are equal, all observations different."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (BATCH, 3, *SHAPE[1:]), dtype=torch.uint8, generator=generator).repeat(1, 3, 1, 1)


def kornia(name: str, *args, **options) -> nn.Module:
    import kornia.augmentation

    return getattr(kornia.augmentation, name)(*args, **options)


OLD_KORNIA = metadata.version("kornia").startswith("0.8.")


def torchvision(name: str, *args, **options) -> nn.Module:
    return getattr(torchvision_transforms(), name)(*args, **options)


KINDS = {
    "RandomShift": lambda: RandomShift(4),
    "RandomConv": lambda: RandomConv(p=1.0),
    "RandomCropResize": RandomCropResize,
    "ColorJitter": ColorJitter,
    "Cutout": Cutout,
    "MixUp": MixUp,
    "CutMix": lambda: CutMix(cut_size=(0.3, 0.6)),
    "kornia.RandomGrayscale": lambda: kornia("RandomGrayscale", p=0.5),
    "kornia.RandomAffine": lambda: kornia("RandomAffine", degrees=20.0, p=1.0),
    "kornia.RandomGaussianNoise": lambda: kornia("RandomGaussianNoise", p=0.0),
    "torchvision.ColorJitter": lambda: torchvision("ColorJitter", 0.4, 0.4, 0.4, 0.5),
    "torchvision.RandomResizedCrop": lambda: torchvision("RandomResizedCrop", SHAPE[1:], antialias=True),
    "torchvision.RandomErasing": lambda: torchvision("RandomErasing", p=1.0),
}


WORKING = [kind for kind in KINDS if kind != "CutMix" or not OLD_KORNIA]


@pytest.mark.parametrize("kind", WORKING)
def test_a_kind_augments_stacks_as_one_and_observations_apart(kind: str):
    chain, images = AugmentationChain([KINDS[kind]()], SHAPE), repeated_frames()
    before, global_state = images.clone(), torch.get_rng_state()
    out = chain(images, NamedGenerators(1))
    assert torch.equal(torch.get_rng_state(), global_state), "the process-wide generator was disturbed"
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert out.dtype == (torch.uint8 if kind == "RandomShift" else torch.float32)
    assert (out.min() >= 0, out.max() <= 255) == (True, True)
    frames = out.view(BATCH, 3, 3, *SHAPE[1:])
    assert torch.equal(frames[:, 0], frames[:, 1])
    assert torch.equal(frames[:, 0], frames[:, 2])
    if not kind.endswith("Noise"):
        changed = (out != images).flatten(1).any(1)
        assert changed.sum() >= 3
    again = chain(images, NamedGenerators(1))
    assert torch.equal(again, out), "same seed, same images"


@pytest.mark.parametrize("kind", [k for k in WORKING if not k.endswith("Noise")])
def test_equal_observations_are_augmented_differently_and_other_seeds_give_other_images(kind: str):
    chain, images = AugmentationChain([KINDS[kind]()], SHAPE), repeated_frames()[:1].expand(BATCH, -1, -1, -1)
    out = chain(images, NamedGenerators(1))
    if "Mix" not in kind:  # mixing equal images gives the image
        assert len({tuple(image.flatten().tolist()) for image in out}) >= 2
    other = chain(repeated_frames(), NamedGenerators(2))
    assert not torch.equal(other, chain(repeated_frames(), NamedGenerators(1)))


def test_a_second_call_draws_afresh():
    chain, images, generators = AugmentationChain([ColorJitter()], SHAPE), repeated_frames(), NamedGenerators(1)
    assert not torch.equal(chain(images, generators), chain(images, generators))


def test_kornia_per_frame_equals_kornia_on_that_frame_alone():
    """Slow version: the transform itself on frame i of all observations, from the same seed."""
    images = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8)
    for kind in (ColorJitter(), Cutout(), RandomCropResize()):
        generators = NamedGenerators(3)
        out = AugmentationChain([kind], SHAPE)(images, generators)
        seed = int(torch.randint(2**62, (), generator=NamedGenerators(3).get("augment_seed")))
        for frame in range(3):
            channels = slice(3 * frame, 3 * frame + 3)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                expected = kind.build(*SHAPE[1:])(images[:, channels].float() / 255).clamp(0, 1) * 255
            assert torch.allclose(out[:, channels], expected, atol=1e-3)


def test_torchvision_per_observation_equals_a_loop():
    images, jitter = torch.randint(0, 256, (3, *SHAPE), dtype=torch.uint8), torchvision("ColorJitter", 0.4, 0.4)
    out = AugmentationChain([jitter], SHAPE)(images, NamedGenerators(3))
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=NamedGenerators(3).get("augment_seed"))))
        for image, got in zip(images, out, strict=True):
            expected = jitter(image.view(3, 3, *SHAPE[1:]).float() / 255).clamp(0, 1) * 255
            assert torch.allclose(got, expected.view(SHAPE), atol=1e-3)


def test_cutout_blanks_one_rectangle():
    out = AugmentationChain([Cutout()], SHAPE)(torch.full((BATCH, *SHAPE), 255, dtype=torch.uint8), NamedGenerators(0))
    for image in out[:, 0]:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert torch.equal(image == 0, rows[:, None] & columns[None])
        assert 0.02 * 0.5 <= (image == 0).float().mean() <= 0.33 * 1.5  # whole pixels round the area


@pytest.mark.skipif(OLD_KORNIA, reason="kornia 0.9 needs Python 3.11; 0.8 is right for square images only")
def test_crop_and_resize_of_the_whole_is_the_image():
    images = repeated_frames()
    out = AugmentationChain([RandomCropResize(scale=(1.0, 1.0), ratio=(1.2, 1.2))], SHAPE)(images, NamedGenerators(0))
    assert torch.allclose(out, images.float(), atol=1e-2)  # 24 x 20 pixels have the ratio 1.2


def test_mix_up_blends_with_one_other_image():
    # Image i has the value 20 i: a blend of i with j is 20 (i + share (j - i)), the same for every pixel.
    images = (torch.arange(BATCH) * 20).to(torch.uint8).view(BATCH, 1, 1, 1).expand(-1, *SHAPE)
    out = AugmentationChain([MixUp(share=(0.5, 0.5))], SHAPE)(images, NamedGenerators(0))
    assert torch.equal(out, out[:, :1, :1, :1].expand_as(out))
    halves = out[:, 0, 0, 0].div(10).round(decimals=3)
    assert torch.equal(halves, halves.round()), "half of two multiples of 20"


def test_kinds_are_applied_in_order():
    class Add(Augmentation):
        def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
            return images + 1

    class Double(Augmentation):
        def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
            return images * 2

    images = torch.full((1, *SHAPE), 10, dtype=torch.uint8)
    assert AugmentationChain([Add(), Double()], SHAPE)(images, NamedGenerators(0)).unique().tolist() == [22]
    assert AugmentationChain([Double(), Add()], SHAPE)(images, NamedGenerators(0)).unique().tolist() == [21]


def test_a_shift_after_a_float_kind_moves_floats():
    images, chain = repeated_frames(), AugmentationChain([RandomConv(p=1.0), RandomShift(2)], SHAPE)
    out = chain(images, NamedGenerators(0))
    assert out.dtype == torch.float32
    generator = NamedGenerators(0).get("augment")
    assert torch.equal(out, random_shift(RandomConv(p=1.0)(images, generator), 2, generator))


class Halves(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames[..., ::2, ::2]


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (lambda: torch.relu, "is not a torch module"),
        (Halves, "Halves does not work on images of shape"),
        (lambda: kornia("ImageSequential", kornia("RandomErasing")), "ImageSequential .*list a container's members"),
        (lambda: kornia("Resize", size=(8, 8)), "Resize does not work"),
        (lambda: torchvision("Resize", (8, 8)), "Resize does not work"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(stage, reason: str):
    with pytest.raises(UserError, match=reason) as error:
        AugmentationChain([stage()], SHAPE)
    assert "\n" not in str(error.value)


def test_frames_that_are_not_rgb_can_be_shifted_only():
    AugmentationChain([RandomShift()], (4, 20, 20))
    with pytest.raises(UserError, match="ColorJitter needs RGB frames"):
        AugmentationChain([ColorJitter()], (4, 20, 20))


def test_without_kornia_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(UserError, match=r"^ColorJitter needs kornia: .*plasticity-rl\[augment\]"):
        AugmentationChain([ColorJitter()], SHAPE)


# ---- in the agent ----------------------------------------------------------------------------------------------------


def test_the_default_is_the_published_shift_alone(tmp_path: Path):
    default = fit_tiny(tmp_path / "default", max_frames=100)
    named = fit_tiny(tmp_path / "named", max_frames=100, agent_options={"augmentations": [RandomShift(1)]})
    none = fit_tiny(tmp_path / "none", max_frames=100, agent_options={"augmentations": []})
    off = fit_tiny(tmp_path / "off", max_frames=100, agent_options={"augment": False})
    assert weights_hash(default) == weights_hash(named)
    assert weights_hash(none) == weights_hash(off) != weights_hash(default)


def mixed_agent() -> list[nn.Module]:
    return [RandomShift(1), ColorJitter(), Cutout(), RandomConv(p=0.5), MixUp()]


def test_a_run_with_all_kinds_resumes_exactly_from_a_checkpoint_of_plain_data(tmp_path: Path):
    options = {"max_frames": 140, "data_options": {"eval_every_n_frames": 60}}
    straight = fit_tiny(tmp_path / "straight", agent_options={"augmentations": mixed_agent()}, **options)
    with pytest.raises(Killed):
        fit_tiny(
            tmp_path / "resumed", agent_options={"augmentations": mixed_agent()}, callbacks=[DieAt(100)], **options
        )
    resumed = fit_tiny(
        tmp_path / "resumed", agent_options={"augmentations": mixed_agent()}, ckpt_path="last", **options
    )
    assert differences(run_state(straight), run_state(resumed)) == []
    assert "augmentations" not in checkpoint(tmp_path / "straight")["hyper_parameters"]
    plain = fit_tiny(tmp_path / "plain", **options)
    assert weights_hash(plain) != weights_hash(straight)


def test_it_adds_no_parameters_and_no_state():
    plain = tiny_agent(tiny_data())
    assert tiny_agent(tiny_data(), augmentations=mixed_agent()).state_dict().keys() == plain.state_dict().keys()


def test_class_paths_in_yaml_and_on_the_command_line(tmp_path: Path):
    kinds = [
        {"class_path": "plasticity_rl.augment.RandomShift", "init_args": {"pad": 2}},
        {"class_path": "kornia.augmentation.RandomErasing", "init_args": {"p": 0.5}},
    ]
    config = write_yaml(tmp_path / "augment.yaml", {"model": {"augmentations": kinds}})
    option = "--model.augmentations+=plasticity_rl.augment.ColorJitter"
    run = tmp_path / "run"
    fit_tiny_cli(run, "--config", config, option, "--model.augmentations.hue=0.1", max_frames=100)
    text = (run / "config.yaml").read_text()
    positions = [text.index(name) for name in ("augment.RandomShift", "augmentation.RandomErasing", "ColorJitter")]
    assert positions == sorted(positions)
    assert "hue: 0.1" in text
    result = call("validate", f"--ckpt_path={run}/checkpoints/last.ckpt")
    assert result.code == 0, result.err
    assert call("fit", f"--config={run}/config.yaml", "--ckpt_path=last", "--max_frames=140").code == 0


def test_torchvision_by_class_path(tmp_path: Path):
    torchvision_transforms()
    option = "--model.augmentations+=torchvision.transforms.v2.ColorJitter"
    fit_tiny_cli(tmp_path, option, "--model.augmentations.brightness=0.5", max_frames=60)
    assert "torchvision.transforms.v2.ColorJitter" in (tmp_path / "config.yaml").read_text()


def test_cut_mix_names_the_kornia_that_it_needs(monkeypatch):
    monkeypatch.setattr(metadata, "version", {"kornia": "0.8.2"}.get)
    with pytest.raises(UserError, match="CutMix needs kornia 0.9, hence Python 3.11, and 0.8.2 is installed"):
        AugmentationChain([CutMix()], SHAPE)
