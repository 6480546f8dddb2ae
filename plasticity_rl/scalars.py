"""Where every number goes: tag names and the one rule for the x-axis (env frames).

Tags:
    ``train/return``, ``train/episode_steps``: at the end of every training episode.
    ``train/<task>/return``, ``eval/<task>/return``: the same by task, where a run has several;
        ``train/<task>/visit_<visit>/return``, ``eval/<task>/visit_<visit>/return``: and by visit.
    ``eval/return``, ``eval/return_std``: at every evaluation, the first at frame 0.
    ``loss/critic``, ``loss/actor``, ``q/q1``, ``q/q2``, ``q/target``, ``q/reward``: means over the last update's batch.
    ``loss/temperature``, ``policy/entropy`` (estimate, nats), ``policy/temperature``: of SAC's last update.
    ``schedule/replay_ratio``, ``schedule/stddev``, ``schedule/augment``, ``schedule/target_entropy``: what the agent is
        set to, as far as it has it.
    ``clock/env_steps``, ``clock/num_updates``: the other two clocks, against env frames.
    ``clock/policy_lag_updates``: with ``data.overlap``, updates since the actions under way were chosen.
    ``speed/frames_per_second``, ``speed/updates_per_second``: since the previous value.
    ``hparam/best_return``, ``hparam/last_return``, ``hparam/fau_<module>``: metrics beside the hyperparameters.
    ``custom_scalars__config__``: the layout of TensorBoard's custom charts (``callback/charts.py``).
    ``weights/<module>/<parameter>``, ``activations/<module>/<layer>``: histograms, on demand.
    ``fau/<module>``, ``fau/<module>/<layer>``: fraction of active units; by other definitions ``fau_<definition>/...``,
        on the probe batch ``fau_<definition>_probe_batch/...``.
    ``dormant/<module>/tau_<tau>``, ``dormant/<module>/<layer>/tau_<tau>``, ``dormant_overlap/<module>/tau_<tau>``,
        ``dormant_overlap_history/<module>/tau_<tau>``: shares of dormant units, and their overlap with those found the
        time before and ever before.
    ``rank/<name>/<module>``: rank of the features of a module's last hidden layer; the name says which rank.
    ``weight_norm/...``, ``distance_from_init/...``, ``weight_change/...``, ``gradient_norm_l0/...`` (``l1``, ``l2``),
        each followed by ``<module>`` or ``<module>/<layer>``: sizes of weights and of the last update's gradient.
    ``linearized/<module>``, ``linearized/<module>/<layer>``: share of units that are active on every input.
    ``gradient_dormancy/<module>/tau_<tau>``, ``gradient_dormancy/<module>/<layer>/tau_<tau>``: share of units that
        hardly receive any gradient.
    ``gradient_covariance/<modules>/mean_cosine`` (``negative_fraction``, ``mean_negative``): of single transitions.
    ``hessian_top/<modules>/eigenvalue``, ``hessian_top/<modules>/residual``: of a loss, by power iteration.
    ``ntk/<output>/<modules>/srank`` (``effective_rank``, ``condition_number``): of the neural tangent kernel.
    ``random_target_fit/<output>/<modules>/loss`` (``fresh_loss``, ``gap``): the plasticity probe.
    ``churn/<module>``: mean absolute change of the output over one update.
    ``target/magnitude``, ``target/spread``, ``target/td_error``; at evaluations ``target/overestimation``.
    ``intervention/<name>`` and ``intervention/<name>/<detail>``: 1 at the frame an intervention acted (0 in between),
        and its details.
    ``intervention/<name>/<modules>/loss``: term that a regularizer adds to a loss.
    ``intervention/<name>/loss``: the sum of these terms over all regularizers of that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

LOSS_TERM = re.compile(r"(intervention/[^/]+)/[^/]+/loss")


def log_scalars(loggers: Iterable[Logger], scalars: Mapping[str, Any], env_frames: int) -> dict[str, float]:
    """Write scalars at x = ``env_frames``, once, and return them as numbers.

    Lightning's ``self.log`` is not used for curves: it counts optimizer steps on the x-axis, repeats the last value at
    every later logging step, and costs 0.35 ms for each value.
    """
    values = read(scalars)
    for logger in loggers:
        logger.log_metrics(values, step=env_frames)
    return values


def read(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Return scalars as numbers. Waits for a GPU once, and not for every tensor: all of a device come back together."""
    on_device: dict[torch.device, list[str]] = {}
    for tag, value in scalars.items():
        if isinstance(value, Tensor):
            on_device.setdefault(value.device, []).append(tag)
    found: dict[str, float] = {}
    for device, tags in on_device.items():
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs lack
        together = torch.stack([scalars[tag].detach().reshape(()).to(dtype) for tag in tags])
        found |= dict(zip(tags, together.tolist(), strict=True))
    return {tag: found[tag] if tag in found else float(value) for tag, value in scalars.items()}


def log_text(loggers: Iterable[Logger], tag: str, text: str, env_frames: int) -> None:
    """Write a line of text at x = ``env_frames`` to the loggers that show text (TensorBoard)."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(tag, text, global_step=env_frames)


def with_term_sums(scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``scalars`` and, of the terms that regularizers add to losses, the sum by the regularizer's name.

    Args:
        scalars: By tag; terms are ``intervention/<name>/<modules>/loss``, their sum ``intervention/<name>/loss``.
    """
    sums: dict[str, Tensor] = {}
    for tag, value in scalars.items():
        if match := LOSS_TERM.fullmatch(tag):
            total = f"{match[1]}/loss"
            sums[total] = sums[total] + value if total in sums else value
    return {**scalars, **sums}
