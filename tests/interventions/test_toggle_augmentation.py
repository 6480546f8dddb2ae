"""ToggleAugmentation: a flag, at a frame, and what it does to the images of an update."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny

from callbacks import ToggleAugmentation
from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback


class Flags(RLCallback):
    """Notes at every update whether images were augmented: flag, generator, and what the encoder saw."""

    def __init__(self) -> None:
        self.flag: dict[int, bool] = {}
        self.drew: dict[int, bool] = {}
        self.shifted: dict[int, bool] = {}

    def on_update_start(self, agent) -> None:
        self.state = agent.rng.get("augment").get_state()
        self.seen: list[torch.Tensor] = []
        self.handle = agent.encoder.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].clone()))

    def on_update_end(self, agent, batch, metrics) -> None:
        self.handle.remove()
        self.flag[agent.env_frames] = agent.augment
        self.drew[agent.env_frames] = not torch.equal(self.state, agent.rng.get("augment").get_state())
        unshifted = torch.equal(self.seen[0], batch["pixels"]) and torch.equal(self.seen[1], batch["next", "pixels"])
        self.shifted[agent.env_frames] = not unshifted


def run(tmp_path, *toggles: ToggleAugmentation, **options) -> Flags:
    flags = Flags()
    fit_tiny(tmp_path, callbacks=[*toggles, flags], **options)
    return flags


def test_without_it_every_update_is_augmented(tmp_path):
    flags = run(tmp_path)
    assert set(flags.flag.values()) == set(flags.shifted.values()) == set(flags.drew.values()) == {True}


@pytest.mark.parametrize("frame", [100, 101, 103])
def test_off_from_the_first_update_after_its_frame(frame, tmp_path):
    flags = run(tmp_path, ToggleAugmentation(at_frame=frame, on=False))
    assert len(flags.flag) >= 30
    for noted in (flags.flag, flags.shifted, flags.drew):
        assert noted == {at: at <= frame for at in noted}


def test_on_for_a_run_that_started_without(tmp_path):
    flags = run(tmp_path, ToggleAugmentation(at_frame=100, on=True), agent_options={"augment": False})
    for noted in (flags.flag, flags.shifted, flags.drew):
        assert noted == {at: at > 100 for at in noted}


def test_off_then_on_by_two_instances(tmp_path):
    toggles = ToggleAugmentation(at_frame=60, on=False), ToggleAugmentation(at_frame=120, on=True)
    flags = run(tmp_path, *toggles)
    assert flags.shifted == {at: not 60 < at <= 120 for at in flags.shifted}


def test_frame_zero_is_the_first_update(tmp_path):
    flags = run(tmp_path, ToggleAugmentation(at_frame=0, on=False))
    assert set(flags.flag.values()) == {False}


def test_flag_survives_a_resume_after_the_switch(tmp_path):
    toggle = {"at_frame": 60, "on": False}
    run(tmp_path, ToggleAugmentation(**toggle), max_frames=100)
    flags = run(tmp_path, ToggleAugmentation(**toggle), max_frames=150, ckpt_path="last")
    assert min(flags.flag) > 100
    assert set(flags.flag.values()) == set(flags.shifted.values()) == {False}


def test_event_and_setting_are_logged(tmp_path):
    options = {"trainer_options": {"log_every_n_steps": 1}}
    agent = fit_tiny(tmp_path, callbacks=[ToggleAugmentation(at_frame=60, on=False)], **options)
    assert agent.latest["intervention/toggle_augmentation"] == 1.0
    assert agent.latest["schedule/augment"] == 0.0


def test_two_switches_at_one_frame_are_refused(tmp_path):
    both = [ToggleAugmentation(at_frame=50, on=on) for on in (True, False)]
    with pytest.raises(UserError, match="both switch augmentation at frame 50"):
        fit_tiny(tmp_path, callbacks=both)


def test_negative_frame_is_refused():
    with pytest.raises(UserError, match=r"^ToggleAugmentation.*moments are \[-1\], but must not be negative$"):
        ToggleAugmentation(at_frame=-1, on=True)


@pytest.mark.parametrize(("first", "second"), [(8, 9), (9, 10), (2, 30)])
def test_of_two_switches_that_fall_due_at_one_update_the_later_stays(first, second, tmp_path):
    """Both pass in the seed phase, of 40 frames; as text 10 comes before 9, and 30 after 2."""
    toggles = [ToggleAugmentation(at_frame=second, on=False), ToggleAugmentation(at_frame=first, on=True)]
    assert not fit_tiny(tmp_path, callbacks=toggles, max_frames=60).augment
