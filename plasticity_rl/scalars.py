"""Where every number goes: tag names and the one rule for the x-axis (env frames).

What a callback logs stands in its own docstring, under ``Logs:`` (``callback/documented.py``). The others:

Tags:
    ``train/return``, ``train/episode_steps``: undiscounted return and env steps of every finished training episode.
    ``train/<task>/return``, ``eval/<task>/return``: the same of each task, where a run has several.
    ``train/<task>/visit_<visit>/return``, ``eval/<task>/visit_<visit>/return``: and of each visit to a task.
    ``train/<task>/visit_return``, ``train/<task>/visit_episodes``: mean return of a visit's last episodes, and their
        number in all, once at its end.
    ``eval/return``, ``eval/return_std``: mean and standard deviation over the evaluation episodes, first
        at frame 0.
    ``final/return``, ``final/return_std``, ``final/episode_steps``: with ``--data.final_eval_episodes``: mean and
        standard deviation of the return, and mean env steps, of so many episodes at the end of training.
    ``eval/video``: first evaluation episode as the agent sees it (also ``videos/*.mp4``).
    ``loss/critic``, ``loss/actor``: losses of the last update.
    ``q/q1``, ``q/q2``, ``q/target``, ``q/reward``: batch means of both critics, their target, and the n-step reward.
    ``loss/temperature``, ``policy/entropy``, ``policy/temperature``: SAC: temperature loss, entropy of the policy on
        the last batch (nats, one sample each), weight of the entropy.
    ``schedule/replay_ratio``, ``schedule/stddev``, ``schedule/augment``, ``schedule/target_entropy``: what the agent is
        set to (the last of SAC, the two before of DrQ-v2).
    ``clock/env_steps``, ``clock/num_updates``: the other two clocks.
    ``clock/policy_lag_updates``: with ``--data.overlap true``: updates since the actions of the env step under way were
        chosen.
    ``speed/frames_per_second``, ``speed/updates_per_second``: since the point before.
    ``hparam/best_return``, ``hparam/last_return``: metrics of the tab HParams, after every evaluation; the best is of
        those after the seed phase.
    ``hparam/fau_<module>``: and the last headline value of each module (``RLCallback.headline``), of a probe that has
        one.
    ``custom_scalars__config__``: the charts of the tab Custom Scalars (``callback/charts.py``).
    ``weights/<module>/<parameter>``, ``activations/<module>/<layer>``: histograms, on demand
        (``plasticity_rl.Histograms``).
    ``intervention/<name>``: 1 at the frame an intervention acted, and a line of text; 0 in between.
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
