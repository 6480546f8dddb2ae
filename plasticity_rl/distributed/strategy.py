"""Training on several devices: ranks that average their gradients, and end together when one of them fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity_rl.distributed.launch import MAIN_PROCESS, RankLauncher, lost_connection
from plasticity_rl.distributed.variables import refuse_lone_rank
from plasticity_rl.errors import UserError

NAME = "ddp_rl"
"""Name for ``--trainer.strategy``; ``auto`` with several devices and ``ddp`` mean it as well."""
SECONDS_TO_BE_ENDED = 5.0
"""How long a rank that is not the first keeps an error to itself: the first one ends it if it has the same."""


class GradientAveraging(DDPStrategy):
    """Distributed data parallel without the ``DistributedDataParallel`` wrapper.

    All ranks start with rank 0's weights; before every step of an optimizer the gradients of its parameters are
    averaged. The wrapper averages inside ``backward`` instead, of all parameters in an order that it learns from the
    first update: with several losses per update, parameters that a loss leaves out and edits between updates, that
    fails or lets the ranks drift apart silently.
    """

    def setup_environment(self) -> None:
        """Connect the ranks, and give all of them the weights of rank 0 before any callback copies weights."""
        super().setup_environment()
        if self.lightning_module is not None:
            broadcast_weights(self.lightning_module, self.root_device)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: pl.LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Average the gradients, then step."""
        average_gradients(p for group in optimizer.param_groups for p in group["params"])
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Reduce over ranks, and leave ``tensor`` as it is: Lightning's version writes the result into it."""
        return super().reduce(tensor.clone() if isinstance(tensor, Tensor) else tensor, group, reduce_op)

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = RankLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def on_exception(self, exception: BaseException) -> None:
        """End all ranks; of errors that follow from another rank's, say only that.

        Raises:
            UserError: When this rank failed because another one did.
        """
        if not isinstance(exception, Exception):
            return  # Ctrl-C and SIGTERM reach all ranks
        if self.global_rank != 0:
            time.sleep(SECONDS_TO_BE_ENDED)
        lost = lost_connection(exception)
        failed = self._launcher.end(wait=lost) if isinstance(self._launcher, RankLauncher) else None
        if lost:
            what = failed or "another rank was lost"
            raise UserError(f"{what}; all ranks end, and its own error stands above") from exception


def broadcast_weights(module: nn.Module, device: torch.device) -> None:
    """Overwrite parameters and buffers by those of rank 0, in place.

    Args:
        module: Anywhere, e.g. still on the CPU.
        device: Device on which the ranks are connected.
    """
    for tensor in [*module.parameters(), *module.buffers()]:
        value = tensor.detach().to(device).contiguous()
        dist.broadcast(value, 0)
        tensor.data.copy_(value)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks, in one collective.

    A rank without a gradient counts as zero; where no rank has one it stays None, so that the optimizer skips it.

    Args:
        parameters: The same ones on all ranks, in the same order.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    present = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([*(piece.reshape(-1) for piece in pieces), present])
    dist.all_reduce(flat)
    *means, counts = (flat / dist.get_world_size()).split([*(p.numel() for p in trained), len(trained)])
    # Asked for only where something is missing, which is the same on all ranks as a rule: it waits for a GPU.
    somewhere = counts.tolist() if any(p.grad is None for p in trained) else []
    for index, (p, mean) in enumerate(zip(trained, means, strict=True)):
        if p.grad is not None:
            p.grad.copy_(mean.view_as(p))
        elif somewhere[index]:
            p.grad = mean.view_as(p).to(p.dtype, copy=True)


def asks_for_ranks(devices: Any, num_nodes: int = 1, accelerator: Any = "auto") -> bool:
    """Return whether these options of a Trainer mean several processes."""
    if num_nodes > 1:
        return True
    if isinstance(devices, str) and devices.strip() not in ("auto", "-1"):
        parts = [part for part in devices.split(",") if part.strip()]
        return len(parts) > 1 or ("," not in devices and parts[0].strip().isdecimal() and int(parts[0]) > 1)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices) > 1
    if devices in ("auto", "-1", -1):
        return accelerator != "cpu" and torch.cuda.device_count() > 1
    return isinstance(devices, int) and devices > 1


def choose_strategy(strategy: Any, *, devices: Any, num_nodes: int = 1, accelerator: Any = "auto") -> Any:
    """Return what to give to the Trainer as ``strategy``.

    Raises:
        UserError: When a launcher started several processes, but the options are those of a run with one, or the
            other way round.
    """
    several = asks_for_ranks(devices, num_nodes, accelerator)
    started = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started > 1 and not several:
        raise UserError(
            f"torchrun started {started} processes, but trainer.devices={devices} makes each a run of its own: "
            "give --trainer.devices the number of processes per node (and --trainer.num_nodes)"
        )
    if several and MAIN_PROCESS not in os.environ:
        refuse_lone_rank()
    return NAME if strategy == "ddp" or (strategy in (None, "auto") and several) else strategy


def refuse_other_strategy(trainer: pl.Trainer) -> None:
    """Raise UserError when a Trainer would run several processes under another strategy than ours."""
    if isinstance(trainer.strategy, ParallelStrategy) and not isinstance(trainer.strategy, GradientAveraging):
        raise UserError(
            f"trainer.strategy: {type(trainer.strategy).__name__} as asked for does not keep the ranks of a "
            f"reinforcement-learning run equal; leave it out, or use {NAME} (also by the name ddp)"
        )


StrategyRegistry.register(NAME, GradientAveraging, description="ranks average gradients; weights may be edited")
