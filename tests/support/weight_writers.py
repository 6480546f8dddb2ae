"""Interventions that write weights all along or at frame 24, beside which masks have to hold."""

from __future__ import annotations

from collections.abc import Callable

from callbacks import DASH, ContinualBackprop, HareAndTortoise, ReDo, ReGraMa, Reset, ShrinkAndPerturb, WeightDecay
from plasticity_rl import Intervention

WEIGHT_WRITERS: dict[str, Callable[[], Intervention]] = {
    "Reset": lambda: Reset(modules=["actor", "critic"], at_frames=[24]),
    "ShrinkAndPerturb": lambda: ShrinkAndPerturb(modules=["encoder", "critic"], at_frames=[24]),
    "DASH": lambda: DASH(modules=["encoder", "critic"], at_frames=[24], batch_size=8),
    "ReDo": lambda: ReDo(tau=0.5, every_n_updates=6, batch_size=8),
    "ReGraMa": lambda: ReGraMa(tau=0.5, every_n_updates=6, batch_size=8),
    "ContinualBackprop": lambda: ContinualBackprop(replacement_rate=0.1, maturity_threshold=2),
    "HareAndTortoise": lambda: HareAndTortoise(every_n_updates=6),
    "WeightDecay": lambda: WeightDecay(coefficient=0.1),
}
