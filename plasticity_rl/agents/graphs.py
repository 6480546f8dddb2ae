"""Updates on static tensors, captured as a whole and replayed (``model.cuda_graph``).

An update is a fixed row of some hundred small kernels; a replayed graph launches all of them at once. It repeats what
was recorded: the same memory, the same decisions of Python. So a batch is copied into tensors that stay, numbers that
move (learning rate, standard deviation of the noise) are tensors as well, and everything else that an update depends on
is in a key (``graph_keys.py``): another key is another graph. What only changes values in place, as all surgery does,
leaves graphs valid. An update that somebody looks into, by hooks, or that a callback takes part in by Python, is done
without.

No update is done twice and none is left out: a new key begins with ``WARM_UP`` ordinary updates, which are the warm-up
that a capture needs; then the next one is recorded, which computes nothing, and replayed.

On a CPU the same function runs on the same static tensors, without a graph.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.cuda import is_current_stream_capturing

from plasticity_rl.agents.graph_keys import Key, difference, key_of, spec_of
from plasticity_rl.agents.graph_rules import always_eager, inside
from plasticity_rl.errors import UserError
from plasticity_rl.nn.graphed import WARM_UP, Recorder, recorder_for
from plasticity_rl.nn.hooks import is_hooked

KEPT = 8
"""Graphs that are kept, those that were used last."""
UNSETTLED = 200
"""Updates without a replay, in a row and with nobody looking, after which a run says what keeps changing."""


@dataclass
class _Left:
    """What Python did while a graph was recorded, to be done again after every replay."""

    gradients: list[tuple[Tensor, Tensor | None]]
    losses: Any
    steps: int


@dataclass
class _Graph:
    """A key's graph, if it has one by now."""

    objects: list[Any]
    seen: int = 0
    replay: Callable[[], Any] | None = None
    left: _Left | None = None


class StaticUpdates:
    """Does the updates of an agent, by replays where that is possible.

    Args:
        agent: An :class:`plasticity_rl.RLModule` with optimizers.
        callbacks: All that are attached to it.
        recorder: What captures; None for what fits its device.

    Attributes:
        counts: How many updates were ``replayed``, ``captured`` (and replayed at once), ``warm_up`` and ``eager``.
    """

    def __init__(self, agent: Any, callbacks: Sequence[Any] = (), recorder: Recorder | None = None) -> None:
        self.agent, self.recorder = agent, recorder or recorder_for(agent.device)
        self.eager_beside, self._inside = always_eager(callbacks), inside(callbacks)
        self.counts: Counter[str] = Counter()
        self._graphs: OrderedDict[Key, _Graph] = OrderedDict()
        self._batches: dict[Any, TensorDictBase] = {}
        self._batch: TensorDictBase | None = None
        self._scalars: dict[str, Tensor] = {}
        self._held: dict[str, float] = {}
        self._rates: list[tuple[dict[str, Any], str]] = []
        self._unsettled = 0
        self._before: Key = ()
        self._last: Key = ()

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Do one gradient update and return its detached metrics, as ``agent.update`` does."""
        steps = self.agent.stepping()
        optimizers = [getattr(one, "optimizer", one) for one in steps.optimizers]
        self._take(batch)
        self._take_scalars(optimizers)
        return self.agent.finish_update(batch, self._compute(steps, optimizers))

    def _compute(self, steps: Any, optimizers: list[torch.optim.Optimizer]) -> TensorDictBase:
        if self.eager_beside or is_hooked(self.agent, optimizers):
            self.counts["eager"] += 1
            return self._core()
        graph = self._graph_of(optimizers)
        if graph.replay is None and graph.seen < WARM_UP:
            graph.seen += 1
            self.counts["warm_up"] += 1
            self._note_unsettled()
            return self.recorder.run(self._core)
        self._unsettled = 0
        if graph.replay is None:
            self.counts["captured"] += 1
            self._record(graph, steps, optimizers)
            assert graph.replay is not None
            return _own(graph.replay())
        self.counts["replayed"] += 1
        metrics = _own(graph.replay())
        if graph.left is not None:
            for parameter, gradient in graph.left.gradients:
                parameter.grad = gradient
            self.agent.keep_losses(graph.left.losses)
            steps.count(graph.left.steps)
        return metrics

    def _graph_of(self, optimizers: list[torch.optim.Optimizer]) -> _Graph:
        named = key_of(self.agent, self._batch, optimizers, self._inside)
        if named.key not in self._graphs:
            self._graphs[named.key] = _Graph(named.objects)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(named.key)
        self._before, self._last = self._last, named.key
        return self._graphs[named.key]

    def _record(self, graph: _Graph, steps: Any, optimizers: list[torch.optim.Optimizer]) -> None:
        taken = steps.taken
        try:
            _, graph.replay = self.recorder.record(self._core, self.agent.rng.generators())
        except RuntimeError as error:  # CUDA says so of whatever waits for the GPU
            # The end of a capture fails too, and says only that something before it did.
            reason = str(error.__context__ or error).strip().splitlines()[0][:200]
            raise UserError(
                f"model.cuda_graph=true: an update of {type(self.agent).__name__} cannot be captured as it is now "
                f"({reason}): use --model.cuda_graph false, or leave out the callback or option that waits for the GPU"
            ) from error
        if self.recorder.records:
            parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
            gradients = [(p, p.grad) for p in parameters]
            graph.left = _Left(gradients, self.agent.kept_losses(), steps.taken - taken)

    def _core(self) -> TensorDictBase:
        with self._static():
            return self.agent.update_core(self._batch)

    @contextmanager
    def _static(self) -> Iterator[None]:
        """Let the agent and its optimizers read numbers from tensors; to everybody else they stay numbers."""
        before = [(group, group["lr"], group.get("capturable")) for group, _ in self._rates]
        self.agent.numbers = self._scalars
        try:
            for group, name in self._rates:
                group["lr"] = self._scalars[name]
                if "capturable" in group and self.agent.device.type == "cuda" and is_current_stream_capturing():
                    group["capturable"] = True
            yield
        finally:
            self.agent.numbers = None
            for group, rate, capturable in before:
                group["lr"] = rate
                if capturable is not None:
                    group["capturable"] = capturable

    # ---- what goes in

    def _take(self, batch: TensorDictBase) -> None:
        """Copy a batch into the tensors that stay for batches like it."""
        spec = spec_of(batch)
        if spec not in self._batches:
            self._batches[spec] = batch.clone()
        else:
            static = self._batches[spec]
            names = [name for name, *_ in spec]
            torch._foreach_copy_([static[name] for name in names], [batch[name] for name in names], non_blocking=True)
        self._batch = self._batches[spec]

    def _take_scalars(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Write the numbers that move into their tensors, where they have moved."""
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._rates = [(group, f"lr/{place}") for place, group in enumerate(groups)]
        numbers = self.agent.numbers_of_update() | {name: group["lr"] for group, name in self._rates}
        for name, number in numbers.items():
            if name not in self._scalars:
                self._scalars[name] = torch.full((), number, dtype=self._dtype(name), device=self.agent.device)
            elif number != self._held[name]:
                self._scalars[name].fill_(number)
            self._held[name] = number

    def _dtype(self, name: str) -> torch.dtype:
        # On a CPU Adam takes all bits of its learning rate; on a GPU, from a tensor, those of a float32.
        rate = name.startswith("lr/") and self.agent.device.type == "cpu"
        return torch.float64 if rate else torch.float32

    def _note_unsettled(self) -> None:
        self._unsettled += 1
        if self._unsettled == UNSETTLED:
            self.agent.warn_once(
                "model.cuda_graph",
                f"model.cuda_graph=true: in {UNSETTLED} updates none was replayed, for before each something changed "
                f"that updates depend on ({difference(self._before, self._last)}): --model.cuda_graph false is as fast",
            )


def _own(metrics: TensorDictBase) -> TensorDictBase:
    """Return a copy: the next replay writes into the same tensors."""
    return metrics.clone()
