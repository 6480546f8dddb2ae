"""What a tag is called on a figure, and in which unit it counts: the one table of all tags that we document.

Tags are written as the docstrings write them (``callback/documented.py``), and the tests compare: every documented tag
of a scalar has an entry, and every entry is documented. A tag of somebody's own has its own name and no unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from plasticity_rl.callback.documented import tag_pattern

REWARDS = "sum of rewards of an episode"
UNITS = "share of units"
WEIGHTS = "share of weights"
RANK = "number of directions"
L2 = "l2 norm"
NO_UNIT = ""


@dataclass(frozen=True)
class Quantity:
    """What a curve shows.

    Attributes:
        name: In words, with the parts of the tag that differ, e.g. ``dormant units, critic, tau 0.1``.
        unit: Of its values, for the axis; empty for a tag that is not ours.
        low: Least value that is possible; None where there is none.
        high: Largest value that is possible; None where there is none.
        scale: Quantities of one scale are compared by eye, so their axes have the same range; empty for none.
    """

    name: str
    unit: str
    low: float | None = None
    high: float | None = None
    scale: str = ""


def _share(name: str, unit: str = UNITS, scale: str = "") -> Quantity:
    return Quantity(name, unit, 0.0, 1.0, scale)


def _least(name: str, unit: str, low: float = 0.0) -> Quantity:
    return Quantity(name, unit, low)


FAU = "fraction of active units (FAU)"
TABLE: dict[str, Quantity] = {
    # ---- the loop ----
    "eval/return": Quantity("return, evaluations", REWARDS),
    "eval/return_std": _least("standard deviation of the return over evaluation episodes", REWARDS),
    "final/return": Quantity("return, evaluation after training", REWARDS),
    "final/return_std": _least("standard deviation of the return over the episodes after training", REWARDS),
    "final/episode_steps": _least("length of the episodes after training", "env steps"),
    "train/return": Quantity("return, training episodes", REWARDS),
    "train/episode_steps": _least("length of training episodes", "env steps"),
    "train/<task>/return": Quantity("return, training episodes of {task}", REWARDS),
    "eval/<task>/return": Quantity("return, evaluations on {task}", REWARDS),
    "train/<task>/visit_<visit>/return": Quantity("return, training episodes of {task}, visit {visit}", REWARDS),
    "eval/<task>/visit_<visit>/return": Quantity("return, evaluations on {task}, visit {visit}", REWARDS),
    "train/<task>/visit_return": Quantity("return, last training episodes of a visit to {task}", REWARDS),
    "train/<task>/visit_episodes": _least("training episodes of a visit to {task}", "episodes"),
    "loss/temperature": Quantity("loss of the temperature", "loss"),
    "loss/critic": _least("loss of the critic", "squared units of the return"),
    "loss/actor": Quantity("loss of the actor", "units of the return"),
    "q/q1": Quantity("value of critic 1, mean of the batch", "units of the return"),
    "q/q2": Quantity("value of critic 2, mean of the batch", "units of the return"),
    "q/target": Quantity("target of the critics, mean of the batch", "units of the return"),
    "q/clipped": _share("targets outside the range of the histogram", "share of targets"),
    "q/reward": Quantity("n-step reward, mean of the batch", "sum of rewards of n env steps"),
    "policy/entropy": Quantity("entropy of the policy", "nats"),
    "policy/temperature": _least("weight of the entropy (temperature)", "units of the return per nat"),
    "schedule/replay_ratio": _least("replay ratio", "updates per env step"),
    "schedule/stddev": _least("standard deviation of the exploration noise", "units of the action"),
    "schedule/augment": _share("augmentation", "0: off, 1: on"),
    "schedule/target_entropy": Quantity("target of the entropy", "nats"),
    "clock/env_steps": _least("env steps", "env steps"),
    "clock/num_updates": _least("gradient updates", "updates"),
    "clock/policy_lag_updates": _least("updates since the actions were chosen", "updates"),
    "speed/frames_per_second": _least("speed of collecting", "env frames per second"),
    "speed/updates_per_second": _least("speed of training", "updates per second"),
    "hparam/best_return": Quantity("best return so far", REWARDS),
    "hparam/last_return": Quantity("last return", REWARDS),
    "hparam/fau_<module>": _share(f"{FAU}, {{module}}", scale="fau"),
    # ---- interventions ----
    "intervention/adaptive_replay_ratio/fau": _share(f"{FAU} that AdaptiveReplayRatio watches"),
    "intervention/continual_backprop/replaced/<module>": _least("units replaced so far, {module}", "units"),
    "intervention/continual_tasks/visit": _least("visit to a task", "number of the visit"),
    "intervention/dormant_ratio_perturbation/dormant_ratio": _share("dormant units that DormantRatioPerturbation sees"),
    "intervention/dormant_ratio_perturbation/factor": _share("share of the weights that stays (factor a)", WEIGHTS),
    "intervention/prune_dormant/pruned/<module>": _share("units pruned so far, {module}"),
    "intervention/redo/recycled/<module>": _least("units recycled, {module}", "units"),
    "intervention/regrama/recycled/<module>": _least("units recycled, {module}", "units"),
    "intervention/gradual_pruning/sparsity/<module>": _share("weights pruned gradually, {module}", WEIGHTS),
    "intervention/neuroplastic_expansion/sparsity/<module>": _share("weights not in use, {module}", WEIGHTS),
    "intervention/neuroplastic_expansion/grown/<module>": _least("weights that joined, {module}", "weights"),
    "intervention/neuroplastic_expansion/pruned/<module>": _least("weights pruned, {module}", "weights"),
    "intervention/trac/scale/<module>": _least("scale of what was walked, {module}", "of the displacement"),
    "intervention/anneal_horizon/n_step": _least("steps of the return (n)", "env steps", 1.0),
    "intervention/anneal_horizon/discount": _share("discount", "per env step"),
    "intervention/dash/factor/<module>": _share("mean factor of the weights that shrank, {module}", WEIGHTS),
    "intervention/self_normalized_reset/reset/<module>": _least("units reset so far, {module}", "units"),
    "intervention/weight_clipping/<modules>/clipped_fraction": _share("weights clipped, {modules}", WEIGHTS),
    "intervention/<name>/<modules>/loss": Quantity("term that {name} adds to the loss, {modules}", "loss"),
    "intervention/<name>/loss": Quantity("terms that {name} adds to the loss", "loss"),
    "intervention/<name>": _share("events of {name}", "1: it acted"),
    # ---- probes ----
    "fau/<module>": _share(f"{FAU}, {{module}}", scale="fau"),
    "fau/<module>/<layer>": _share(f"{FAU}, {{module}}, layer {{layer}}", scale="fau"),
    "fau_<definition>_probe_batch/...": _share(f"{FAU}, {{definition}}, probe batch, {{rest}}", scale="fau"),
    "fau_<definition>/...": _share(f"{FAU}, {{definition}}, {{rest}}", scale="fau"),
    "dormant/<module>/tau_<tau>": _share("dormant units, {module}, tau {tau}", scale="dormant"),
    "dormant/<module>/<layer>/tau_<tau>": _share("dormant units, {module}, layer {layer}, tau {tau}", scale="dormant"),
    "dormant_overlap/<module>/tau_<tau>": _share(
        "dormant units that were dormant at the point before, {module}, tau {tau}", "share of dormant units"
    ),
    "dormant_overlap_history/<module>/tau_<tau>": _share(
        "units that were ever dormant and are now, {module}, tau {tau}", "share of the units once dormant"
    ),
    "gradient_dormancy/<module>/tau_<tau>": _share("units without gradient, {module}, tau {tau}"),
    "gradient_dormancy/<module>/<layer>/tau_<tau>": _share(
        "units without gradient, {module}, layer {layer}, tau {tau}"
    ),
    "linearized/<module>": _share("linearized units, {module}"),
    "linearized/<module>/<layer>": _share("linearized units, {module}, layer {layer}"),
    "tanh_saturation/<module>/<layer>": _share("saturated tanh outputs, {module}, layer {layer}", "share of outputs"),
    "policy_saturation/<module>": _share("saturated actions, {module}", "share of actions"),
    "rank/approximate_rank/<module>": _least("approximate rank of the features, {module}", RANK),
    "rank/effective_rank/<module>": _least("effective rank of the features, {module}", RANK),
    "rank/feature_rank/<module>": _least("feature rank, {module}", RANK),
    "rank/feature_rank_undivided/<module>": _least("feature rank (undivided), {module}", RANK),
    "rank/srank/<module>": _least("srank of the features, {module}", RANK),
    "rank/stable_rank/<module>": _least("stable rank of the features, {module}", RANK),
    "ntk/<output>/<modules>/srank": _least("srank of the NTK of {output}, {modules}", RANK),
    "ntk/<output>/<modules>/effective_rank": _least("effective rank of the NTK of {output}, {modules}", RANK),
    "ntk/<output>/<modules>/condition_number": _least(
        "condition number of the NTK of {output}, {modules}", "ratio of eigenvalues"
    ),
    "feature_norm/<module>": _least("norm of the features, {module}", L2),
    "preactivation_norm/<module>": _least("norm of the pre-activations, {module}", L2),
    "preactivation_norm/<module>/<layer>": _least("norm of the pre-activations, {module}, layer {layer}", L2),
    "weight_norm/<module>": _least("norm of the weights, {module}", L2),
    "weight_norm/<module>/<layer>": _least("norm of the weights, {module}, layer {layer}", L2),
    "weight_change/<module>": _least("change of the weights, {module}", L2),
    "weight_change/<module>/<layer>": _least("change of the weights, {module}, layer {layer}", L2),
    "distance_from_init/<module>": _least("distance from initial weights, {module}", L2),
    "distance_from_init/<module>/<layer>": _least("distance from initial weights, {module}, layer {layer}", L2),
    "effective_learning_rate/<module>": _least("effective learning rate, {module}", "relative change per update"),
    "effective_learning_rate/<module>/<layer>": _least(
        "effective learning rate, {module}, layer {layer}", "relative change per update"
    ),
    "gradient_norm_l0/<module>": _least("entries of the gradient that are not 0, {module}", "l0 norm"),
    "gradient_norm_l1/<module>": _least("norm of the gradient, {module}", "l1 norm"),
    "gradient_norm_l2/<module>": _least("norm of the gradient, {module}", L2),
    "gradient_norm_l0/<module>/<layer>": _least(
        "entries of the gradient that are not 0, {module}, layer {layer}", "l0 norm"
    ),
    "gradient_norm_l1/<module>/<layer>": _least("norm of the gradient, {module}, layer {layer}", "l1 norm"),
    "gradient_norm_l2/<module>/<layer>": _least("norm of the gradient, {module}, layer {layer}", L2),
    "gradient_covariance/<modules>/mean_cosine": Quantity(
        "cosine of gradients of two samples, {modules}", "mean cosine", -1.0, 1.0
    ),
    "gradient_covariance/<modules>/negative_fraction": _share(
        "pairs of samples with opposed gradients, {modules}", "share of pairs"
    ),
    "gradient_covariance/<modules>/mean_negative": Quantity(
        "cosine of opposed gradients, {modules}", "mean cosine", -1.0, 0.0
    ),
    "gradient_spectrum/<modules>/trace": _least("variance of the gradient, {modules}", "trace"),
    "gradient_spectrum/<modules>/largest_share": _share("largest eigenvalue, {modules}", "share of the trace"),
    "gradient_spectrum/<modules>/effective_rank": _least("effective rank of the gradients, {modules}", RANK),
    "gradient_spectrum/<modules>/srank": _least("srank of the gradients, {modules}", RANK),
    "hessian_spectrum/<modules>/largest": Quantity(
        "largest eigenvalue of the Hessian, {modules}", "curvature of the loss"
    ),
    "hessian_spectrum/<modules>/smallest": Quantity(
        "least eigenvalue of the Hessian, {modules}", "curvature of the loss"
    ),
    "hessian_spectrum/<modules>/trace": Quantity("trace of the Hessian, {modules}", "curvature of the loss"),
    "hessian_spectrum/<modules>/negative_mass": _share(
        "negative eigenvalues of the Hessian, {modules}", "share of all magnitudes"
    ),
    "hessian_spectrum/<modules>/effective_rank": _least("effective rank of the Hessian, {modules}", RANK),
    "hessian_spectrum/<modules>/srank": _least("srank of the Hessian, {modules}", RANK),
    "hessian_top/<modules>/eigenvalue": Quantity("top eigenvalue of the Hessian, {modules}", "curvature of the loss"),
    "hessian_top/<modules>/residual": _least("error of the top eigenvalue, {modules}", "curvature of the loss"),
    "random_target_fit/<output>/<modules>/loss": _least("loss on random targets, {modules}", "loss"),
    "random_target_fit/<output>/<modules>/fresh_loss": _least(
        "loss of a fresh network on random targets, {modules}", "loss"
    ),
    "random_target_fit/<output>/<modules>/gap": Quantity(
        "loss on random targets above a fresh network's, {modules}", "loss"
    ),
    "churn/<module>": _least("churn, {module}", "units of the output"),
    "target/magnitude": _least("magnitude of the value targets", "units of the return"),
    "target/spread": _least("spread of the value targets", "units of the return"),
    "target/td_error": _least("absolute TD error", "units of the return"),
    "target/overestimation": Quantity("over-estimation of the return", "units of the return"),
    "target/missing_tail": Quantity("value beyond the end of evaluation episodes", "units of the return"),
}
"""Documented tag -> what it is. Of two that fit, the first is taken."""


@cache
def quantity(tag: str) -> Quantity:
    """Return what a written tag is, with its name filled in; a tag that we do not document is its own name."""
    for documented, known in TABLE.items():
        if match := tag_pattern(documented).fullmatch(tag):
            parts = {key: value.removeprefix("/").replace("/", ", ") for key, value in match.groupdict().items()}
            return Quantity(known.name.format_map(parts), known.unit, known.low, known.high, known.scale)
    return Quantity(tag, NO_UNIT)
