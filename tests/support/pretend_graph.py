"""A CUDA graph that is not there: operators are recorded on the CPU and repeated as a graph repeats kernels.

What was recorded stays as it was: the memory that operators read and write, every number that Python handed them,
which of them there are. Python itself does not run again. So a replay that should have been captured anew (a flag was
toggled, a number changed, a tensor moved) ends with other bits than the update that it stands for. To record changes
nothing, and an operator that waits for the GPU raises, as it does there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2")


class PretendGraphs:
    """In the place of ``plasticity_rl.nn.graphed.GraphRecorder``.

    Attributes:
        captures: How many graphs there are.
        replays: How often one was replayed.
    """

    records = True

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any], generators: Iterable[torch.Generator]) -> tuple[Any, Callable[[], Any]]:
        generators = list(generators)
        states = [generator.get_state() for generator in generators]
        tape = _Tape()
        try:
            with tape:
                result = work()
        finally:
            tape.undo()
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        self.captures += 1

        def replay() -> Any:
            self.replays += 1
            tape.replay()
            return result

        return result, replay


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._operators: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        if func.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        arguments = func._schema.arguments
        aliases = [one.alias_info for one in arguments]
        writes = {one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write}
        given = dict(zip((one.name for one in arguments), args, strict=False)) | kwargs
        for name in writes:
            self._before += [
                (x.detach(), x.detach().clone()) for x in tree_leaves(given.get(name)) if isinstance(x, Tensor)
            ]
        out = func(*args, **kwargs)
        is_view = any(alias is not None for alias in aliases) and not writes
        if not is_view:  # a view needs no repetition: its memory stays
            fresh = [] if writes else [x.detach() for x in tree_leaves(out) if isinstance(x, Tensor)]
            self._operators.append((func, args, kwargs, fresh))
        return out

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, value in reversed(self._before):
            tensor.copy_(value)
        self._before = []

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)  # casts were recorded
    def replay(self) -> None:
        for func, args, kwargs, outputs in self._operators:
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for output, value in zip(outputs, again, strict=bool(outputs)):
                output.copy_(value)
