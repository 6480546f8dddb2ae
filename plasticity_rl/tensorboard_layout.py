"""The "Custom Scalars" tab of TensorBoard: the charts that answer the question, made of the tags that runs write."""

from __future__ import annotations

from collections.abc import Sequence

Layout = dict[str, dict[str, list[str]]]
"""Category -> chart -> regular expressions of the tags in it, each matched against the whole tag."""

ONE = "[^/]+"
"""One segment of a tag."""


def layout(modules: Sequence[str]) -> Layout:
    """Return the charts of an agent with these top-level modules.

    A chart whose tags no probe writes stays empty, so that what the run was started with decides.
    """
    events = f"intervention/{ONE}"
    by_module = [(module, rf"{module}(\.{ONE})?") for module in modules]
    return {
        "Plasticity": {
            "Fraction of active units of all modules, and events": [f"fau/{ONE}", events],
            "Return": ["eval/return", "train/return"],
            "Replay ratio, and events": ["schedule/replay_ratio", events],
            "Dormant units of all modules, and events": [f"dormant/{ONE}/tau_{ONE}", events],
        },
        "Active units by layer": {module: [f"fau/{name}/{ONE}"] for module, name in by_module},
        "Dormant units by layer": {
            **{module: [f"dormant/{name}/{ONE}/tau_{ONE}"] for module, name in by_module},
            "Overlap with the dormant units before": [f"dormant_overlap/{ONE}/tau_{ONE}"],
        },
        "Ranks of the features": {module: [f"rank/{ONE}/{name}"] for module, name in by_module},
        "Norms": {
            "Weights": [f"weight_norm/{ONE}"],
            "Distance from the initial weights": [f"distance_from_init/{ONE}"],
            "Gradients, Euclidean": [f"gradient_norm_l2/{ONE}"],
        },
        "Losses": {
            "Losses": [f"loss/{ONE}"],
            "Values of the critic": [f"q/{ONE}"],
            "Terms that interventions add": [f"intervention/{ONE}/{ONE}/loss"],
        },
    }


def summary(charts: Layout) -> dict[str, dict[str, list[str | list[str]]]]:
    """Return ``charts`` as ``SummaryWriter.add_custom_scalars`` takes them.

    TensorBoard matches a pattern from the start of a tag but not to its end, so each gets its end here.
    """
    return {
        category: {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in of_category.items()}
        for category, of_category in charts.items()
    }
