"""Named random generators, each derived from one seed and saved in the checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_rl.errors import at_least


def derive_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed that depends on ``seed`` and ``name`` only: equal on every rank, machine and version."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


class NamedGenerators:
    """A family of ``torch.Generator`` objects, made on first use.

    Every consumer draws from its own generator, so that switching one of them on or off leaves the numbers of all the
    others as they were: a run with an intervention differs from the run without it by that intervention alone.

    Args:
        seed: Seed that every generator is derived from.
        rank: Which of the run's processes draws.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        at_least("seed", seed, 0)
        self.seed, self.rank = seed, rank
        self._generators: dict[str, torch.Generator] = {}
        self._pending: dict[str, Tensor] = {}

    def get(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return the generator called ``name``, on ``device``, restored if a checkpoint held it; equal on all ranks."""
        device = torch.device(device)
        generator = self._generators.get(name)
        if generator is None or generator.device.type != device.type:
            generator = torch.Generator(device).manual_seed(derive_seed(self.seed, name))
            saved = self._pending.pop(name, None)
            # A state saved on another kind of device has another length; such a run continues with fresh numbers.
            if saved is not None and saved.shape == generator.get_state().shape:
                generator.set_state(saved)
            self._generators[name] = generator
        return generator

    def get_own(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator of this rank's own, as augmentation and the losses' noise need; rank 0's is ``name``."""
        return self.get(f"{name}/rank{self.rank}" if self.rank else name, device)

    @contextlib.contextmanager
    def other_family(self, name: str) -> Iterator[None]:
        """Draw other numbers for a while, derived from ``name``, also for whoever asks this object later."""
        own = self.seed, self._generators, self._pending
        self.seed, self._generators, self._pending = derive_seed(self.seed, name), {}, {}
        try:
            yield
        finally:
            self.seed, self._generators, self._pending = own

    def generators(self) -> list[torch.Generator]:
        """Return all that were used so far."""
        return list(self._generators.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of every generator that was used or restored, by name."""
        return {**self._pending, **{name: g.get_state() for name, g in self._generators.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Forget all generators; each takes its saved state when it is next asked for."""
        self._generators = {}
        self._pending = {name: value.cpu() for name, value in state.items()}


def global_rng_state() -> dict[str, Any]:
    """Return the state of the process-wide generators (Python, NumPy, torch, CUDA) as plain data and tensors.

    The framework itself draws from named generators only; these are saved for callbacks and libraries that do not.
    """
    return {
        **processor_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def processor_rng_state() -> dict[str, Any]:
    """Return the same without CUDA's, which asking would start in a process that does not use it."""
    version, numbers, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    algorithm, keys, position, has_gauss, cached = numpy_state
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [
            str(algorithm),
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }


def set_global_rng_state(state: dict) -> None:
    """Restore what :func:`global_rng_state` returned."""
    set_processor_rng_state(state)
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def set_processor_rng_state(state: dict) -> None:
    """Restore what :func:`processor_rng_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
