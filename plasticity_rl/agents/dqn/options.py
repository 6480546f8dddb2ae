"""What DQN refuses of its options, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasticity_rl.agents.dqn.networks import CONVOLUTIONS, ENCODERS, MLP, count_parameters
from plasticity_rl.agents.sizes import LEARNING_RATES, refuse_large_networks, refuse_shape
from plasticity_rl.errors import UserError, at_least, suggestion, within

LOSSES = ("huber", "mse")
SMALLEST_IMAGE_FOR_NATURE = 36
"""Image side, in pixels, below which the convolutions of ``nature`` leave nothing."""


def encoder_for(obs_shape: tuple[int, ...], given: str | None) -> str:
    """Return the name of the encoder: as given, or by the kind of observation.

    Raises:
        UserError: When there is none of this name, or it is for another kind of observation.
    """
    refuse_shape(obs_shape)
    if given is None:
        return MLP if len(obs_shape) == 1 else "nature"
    if given not in ENCODERS:
        raise UserError(f"model.encoder={given} must be one of {list(ENCODERS)}.{suggestion(given, ENCODERS)}")
    if (given == MLP) != (len(obs_shape) == 1):
        kind, fitting = ("states", [MLP]) if len(obs_shape) == 1 else ("images", list(CONVOLUTIONS))
        raise UserError(f"model.encoder={given}: observations are {kind} {tuple(obs_shape)}; use one of {fitting}")
    return given


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raise UserError for an option of the constructor that is out of range, or one that another leaves no use for."""
    if options["num_actions"] == 0:
        raise UserError("DQN chooses among discrete actions, and this task has continuous ones: use drqv2 or sac on it")
    for name in ("random_shift_pad", "target_every_n_updates"):
        at_least(f"model.{name}", options[name], 0)
    for name in ("num_actions", "hidden_dim", "num_atoms"):
        at_least(f"model.{name}", options[name], 1)
    if options["num_channels"] is not None:
        at_least("model.num_channels", options["num_channels"], 1, " (None: as published)")
    within("model.lr", options["lr"], LEARNING_RATES, "; published: 6.25e-5 of Rainbow")
    within("model.adam_eps", options["adam_eps"], "(0, inf)", "; published: 1.5e-4")
    within("model.noisy_sigma", options["noisy_sigma"], "[0, inf)", "; published: 0.5, and 0.1 later")
    within("model.eval_epsilon", options["eval_epsilon"], "[0, 1]", "; published: 0.001")
    within("model.target_tau", options["target_tau"], "[0, 1]", "; 0: hard copies, target_every_n_updates")
    within("model.intensity_scale", options["intensity_scale"], "[0, inf)", "; published: 0.05")
    if options["max_grad_norm"] is not None:
        within("model.max_grad_norm", options["max_grad_norm"], "(0, inf)", "; published: 10, or None")
    if options["loss"] not in LOSSES:
        raise UserError(f"model.loss={options['loss']} must be one of {list(LOSSES)}")
    _refuse_idle(options)


def _refuse_idle(options: Mapping[str, Any]) -> None:
    """Refuse what would be ignored."""
    if bool(options["target_every_n_updates"]) == bool(options["target_tau"]):
        raise UserError(
            f"model.target_every_n_updates={options['target_every_n_updates']} and "
            f"model.target_tau={options['target_tau']}: exactly one must be > 0, for the target network is copied "
            "every so many updates or follows at every update"
        )
    v_min, v_max = options["v_min"], options["v_max"]
    if options["num_atoms"] > 1:
        if options["loss"] != "huber":
            raise UserError(f"model.loss={options['loss']}: distributions have a loss of their own; num_atoms=1 has it")
        if not v_min < v_max:
            raise UserError(f"model.v_min={v_min} must be less than model.v_max={v_max}; published: -10 and 10")
    elif (v_min, v_max) != (-10.0, 10.0):
        raise UserError(f"model.v_min={v_min} and v_max={v_max} are of distributions: set model.num_atoms=51 as well")
    shifts = options["random_shift_pad"] != 4 or options["intensity_scale"] > 0
    if shifts and options["augment"] is None:
        raise UserError(
            "model.random_shift_pad and model.intensity_scale say how images are augmented, and model.augment was not "
            "given: set model.augment to true, or to false where a callback switches it on"
        )


def refuse_large(obs_shape: tuple[int, ...], encoder: str, options: Mapping[str, Any]) -> None:
    """Raise UserError when no memory can hold the networks."""
    count = count_parameters(
        obs_shape,
        options["num_actions"],
        encoder,
        options["num_channels"],
        options["hidden_dim"],
        options["num_atoms"],
        streams=2 if options["dueling"] else 1,
        per_weight=2 if options["noisy_sigma"] else 1,
    )
    widths = {name: options[name] for name in ("hidden_dim", "num_atoms")}
    refuse_large_networks(count, count, widths, "512, 51")
