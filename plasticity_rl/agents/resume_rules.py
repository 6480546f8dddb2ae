"""The table that decides about every option when a run goes on with another value than its checkpoint was written with.

An option is applied, and said so, or it is refused by name: none is accepted and ignored. What only concerns a single
start (where it writes, what it shows) is not compared. ``resume.py`` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["applied", "refused", "own"]
"""``own``: every start has its own value, which no number of the run follows from."""


@dataclass(frozen=True)
class Rule:
    """What happens to an option, and why: how it takes effect, or why it cannot."""

    verdict: Verdict
    why: str


def _rules(verdict: Verdict, why: str, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, Rule(verdict, why))


_NETWORK = "the networks of the checkpoint have other shapes"
_EXPERIENCE = "the replay and the simulator of the checkpoint were made with it"
_FILES = "the files of the replay are laid out for it"
_BATCHES = "at the next batch; the replay keeps single steps"
_ROUNDING = "numbers differ in rounding from here on"
_EVERY_RUN = "no run of this framework takes another value"
_SHOWN = "what a start shows, or where it writes"

RULES: Mapping[str, Rule] = {
    "agent": Rule("refused", "another agent has other networks"),
    "init_weights": Rule("refused", "it chooses the weights with which a run begins"),
    "detect_nan": Rule("applied", "at the next check"),
    # ---- agents
    "model.lr": Rule("applied", "in all parameter groups of the optimizers, which keep their moments"),
    "model.replay_ratio": Rule("applied", "at the next env step; update credit that was earned before stays"),
    **_rules("applied", "at the next update", "model.critic_target_tau", "model.stddev_clip", "model.target_entropy"),
    **_rules("applied", "at the next update", "model.augment", "model.random_shift_pad", "model.augmentations"),
    "model.stddev_schedule": Rule("applied", "at the next env step; durations count from env step 0"),
    "model.epsilon_schedule": Rule("applied", "at the next env step; durations count from the end of the seed phase"),
    "model.eval_epsilon": Rule("applied", "at the next evaluation"),
    **_rules("applied", "at the next update", "model.double", "model.loss", "model.max_grad_norm"),
    **_rules("applied", "at the next update", "model.target_every_n_updates", "model.target_tau"),
    "model.intensity_scale": Rule("applied", "at the next update"),
    "model.compile": Rule("applied", _ROUNDING),
    "model.cuda_graph": Rule("applied", "at the next update; on a GPU numbers differ in rounding from here on"),
    **_rules("refused", _NETWORK, "model.feature_dim", "model.hidden_dim", "model.num_channels"),
    **_rules("refused", _NETWORK, "model.encoder", "model.dueling", "model.num_atoms"),
    **_rules("refused", "the distributions of the checkpoint are over it", "model.v_min", "model.v_max"),
    "model.noisy_sigma": Rule("refused", "it is where the noise of the layers began"),
    "model.adam_eps": Rule("refused", "the optimizers of the checkpoint have it"),
    **_rules("refused", "the environment of the run decides it", "model.obs_shape", "model.action_dim"),
    "model.num_actions": Rule("refused", "the environment of the run decides it"),
    "model.num_seed_frames": Rule("refused", "the seed phase is how the run began"),
    "model.init_temperature": Rule("refused", "it is where the temperature began"),
    # ---- data and environments
    **_rules(
        "refused", "random numbers of the run follow from it (seed_everything sets it)", "model.seed", "data.seed"
    ),
    **_rules("refused", _EXPERIENCE, "data.task", "data.observation", "data.action_repeat", "data.num_envs"),
    **_rules("refused", _EXPERIENCE, "data.frame_stack", "data.image_size", "data.render", "data.camera_id"),
    **_rules("refused", _EXPERIENCE, "data.full_actions", "data.sticky", "data.noops", "data.noop_unit"),
    **_rules("refused", _EXPERIENCE, "data.life_loss", "data.max_episode_frames"),
    **_rules("refused", _EXPERIENCE, "data.channels", "data.difficulty_ramping"),
    **_rules("refused", _FILES, "data.capacity", "data.resumable_epochs", "data.eval_every_n_frames"),
    **_rules("applied", _BATCHES, "data.n_step", "data.discount", "data.batch_size"),
    "data.reward_clip": Rule("applied", _BATCHES),
    "data.prioritized": Rule("applied", "at the next batch; where nothing has set a priority it is the largest so far"),
    "data.priority_exponent": Rule("refused", "the priorities of the checkpoint were made with it"),
    "data.priority_beta": Rule("applied", "at the next batch; durations count from env step 0"),
    "data.env_steps_per_tick": Rule("applied", "at the next tick; no number follows from it"),
    "data.overlap": Rule("applied", "at the next env step"),
    "data.env_workers": Rule("own", "it is where environments are stepped, and changes no number"),
    "data.storage": Rule("applied", "the records are the same on disk, in memory and on a device"),
    "data.draw_on_device": Rule("applied", "at the next batch, which the numbers of another generator decide"),
    "data.env": Rule("applied", "it makes the environments from here on"),
    "data.replay_dir": Rule("applied", "the files of the replay are looked for there"),
    "data.max_frames": Rule("applied", "it is where the run ends"),
    "data.num_eval_episodes": Rule("applied", "at the next evaluation"),
    "data.final_eval_episodes": Rule("applied", "at the end of the run"),
    **_rules("own", "it permits something to a single start", "data.allow_empty_replay", "data.exact_resume"),
    # ---- Trainer
    "trainer.precision": Rule("applied", _ROUNDING),
    "trainer.accelerator": Rule("applied", f"{_ROUNDING}; generators of another kind of device begin anew"),
    **_rules("applied", _ROUNDING, "trainer.deterministic", "trainer.benchmark", "trainer.sync_batchnorm"),
    "trainer.strategy": Rule("applied", "in how ranks exchange gradients"),
    "trainer.log_every_n_steps": Rule("applied", "at the next env step"),
    **_rules("refused", "every rank goes on with environments of its own", "trainer.devices", "trainer.num_nodes"),
    **_rules("refused", _EVERY_RUN, "trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps"),
    **_rules("refused", _EVERY_RUN, "trainer.min_steps", "trainer.limit_train_batches", "trainer.limit_val_batches"),
    **_rules("refused", _EVERY_RUN, "trainer.overfit_batches", "trainer.val_check_interval"),
    **_rules("refused", _EVERY_RUN, "trainer.check_val_every_n_epoch", "trainer.num_sanity_val_steps"),
    **_rules("refused", _EVERY_RUN, "trainer.reload_dataloaders_every_n_epochs", "trainer.accumulate_grad_batches"),
    **_rules("refused", _EVERY_RUN, "trainer.gradient_clip_val"),
    **_rules(
        "own", "it means nothing without data sets", "trainer.limit_test_batches", "trainer.limit_predict_batches"
    ),
    **_rules("own", "it means nothing without data sets", "trainer.use_distributed_sampler"),
    **_rules("own", "gradient_clip_val, which it belongs to, is refused", "trainer.gradient_clip_algorithm"),
    **_rules("own", _SHOWN, "trainer.logger", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    **_rules("own", _SHOWN, "trainer.profiler", "trainer.default_root_dir", "trainer.enable_autolog_hparams"),
    **_rules("own", _SHOWN, "trainer.enable_checkpointing", "trainer.plugins", "trainer.model_registry"),
    **_rules("own", "it looks at a start", "trainer.fast_dev_run", "trainer.barebones", "trainer.detect_anomaly"),
    "trainer.inference_mode": Rule("own", "it is how an evaluation is computed, not what"),
    "trainer.max_time": Rule("own", "it is the time that a single start has"),
    # ---- callbacks: what was changed about the list of them
    "probe added": Rule("applied", "it measures from here on"),
    "probe removed": Rule("applied", "it measures nothing any more"),
    "probe changed": Rule("applied", "it begins anew: what it compares with is of this moment"),
    "intervention added": Rule(
        "applied", "its next period counts; moments of at_frames that are over come at once, at the next update"
    ),
    "intervention removed": Rule("refused", "what it did is part of the run"),
    "intervention changed": Rule("refused", "its state in the checkpoint belongs to its arguments"),
    "intervention of the start added": Rule("refused", "it can only be there from the first frame on"),
    "other callback added": Rule("applied", "it begins here"),
    "other callback removed": Rule("applied", "it ends here"),
    "other callback changed": Rule("applied", "it goes on with it"),
}
"""By the name of the option (``model.``, ``data.``, ``trainer.``), and by what was done to the list of callbacks."""
OF_YOUR_OWN = {
    "data.": Rule("refused", _EXPERIENCE),
    "model.": Rule("refused", "nothing says that it would take effect in a run that has begun"),
    "trainer.": Rule("refused", "nothing is known here of what it does to a run that has begun"),
}
"""Options that are not in the table: of environments and agents of one's own, and of a newer Lightning."""
ALIASES = {"data.max_frames": "max_frames"}
"""Options that the command line calls something else."""


def rule_of(name: str) -> Rule:
    """Return what the table says about an option."""
    return RULES.get(name) or next(rule for prefix, rule in OF_YOUR_OWN.items() if name.startswith(prefix))


@dataclass(frozen=True)
class Change:
    """An option that has another value than in the checkpoint, as plain data; two times None where there is none."""

    option: str
    old: Any
    new: Any
    rule: Rule

    @property
    def only_watches(self) -> bool:
        """Whether no number of the run follows from it, as far as the framework knows."""
        return self.rule in (RULES[name] for name in RULES if name.startswith(("probe", "other callback")))

    @property
    def name(self) -> str:
        """What the option is called."""
        return ALIASES.get(self.option, self.option)

    def __str__(self) -> str:
        """Return the option with both values."""
        values = f" {show(self.old)} -> {show(self.new)}"
        return self.name if self.old is None and self.new is None else self.name + values


def show(value: Any) -> str:
    """Return a value as it stands in a message: not longer than a line."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
