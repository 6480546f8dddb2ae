"""What the ranks of one run (processes that train one agent together) tell each other.

All of them run the same program on environments and replay of their own, and average their gradients. What is
exchanged here is collective: every rank must call it at the same point. With one process it returns what it was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from plasticity_rl.errors import UserError

if TYPE_CHECKING:
    import lightning.pytorch as pl

OTHER_RANKS = "other_ranks"
"""Entry of a checkpoint: what differs from rank 0's on ranks 1, 2, ..., in this order; absent with one process."""


def world_size_of(module: pl.LightningModule) -> int:
    """Return the number of ranks; 1 where no Trainer is attached."""
    return module._trainer.world_size if module._trainer is not None else 1


@rank_zero_only
def say(line: str) -> None:
    """Print a line, on the first rank only."""
    print(line, flush=True)


def be_first_when_alone(trainer: pl.Trainer) -> None:
    """Let a run with one process write, whatever rank Lightning took from the variables of a launcher at its import."""
    if trainer.world_size == 1:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]


def gathered(value: Any) -> list[Any]:
    """Return the plain ``value`` of every rank, in order of rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def over_ranks(module: pl.LightningModule, mean: Tensor) -> Tensor:
    """Return the mean of ``mean`` over all ranks."""
    if module._trainer is None:
        return mean
    reduced = module.trainer.strategy.reduce(mean, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def mean_over_ranks(module: pl.LightningModule, scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of each of ``scalars`` over all ranks, which must all have the same ones."""
    names = sorted(scalars.keys())
    if not names or world_size_of(module) == 1:
        return dict(scalars.items())
    means = over_ranks(module, torch.stack([scalars[name].float() for name in names]))
    return dict(zip(names, means.unbind(), strict=True))


def refuse_different(settings: Mapping[str, Any]) -> None:
    """Raise UserError on all ranks naming the first setting in which a rank differs from rank 0."""
    first, *others = gathered(dict(settings))
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other[name] != value:
                raise UserError(
                    f"rank {rank} was started with {name}={other[name]}, but rank 0 with {value}: "
                    "give all processes of a run the same options"
                )


def all_finished(own: Sequence[tuple[float, int]], num_envs: int, device: torch.device) -> list[tuple[float, int]]:
    """Return the ``(return, env steps)`` of the training episodes that ended in this env step, on any rank.

    Args:
        own: Those of this rank, at most one per env.
        num_envs: Environments of a rank.
        device: Device on which the ranks are connected.
    """
    table = torch.zeros(num_envs, 2, dtype=torch.float64)  # no episode has 0 steps
    table[: len(own)] = torch.tensor(own, dtype=torch.float64).view(-1, 2)
    table = table.to(device)
    tables = [torch.empty_like(table) for _ in range(dist.get_world_size())]
    dist.all_gather(tables, table)
    return [(value, int(steps)) for value, steps in torch.cat(tables).tolist() if steps]


# ---- checkpoints: one file, written by rank 0, holds what every rank needs to go on


def add_other_ranks(checkpoint: dict[str, Any], data_key: str) -> None:
    """Add what the other ranks need to a finished checkpoint: generators, data module and callbacks that differ.

    Args:
        checkpoint: What Lightning has put together on this rank.
        data_key: Entry of the data module.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    states = checkpoint.get("callbacks", {})
    digests = gathered({key: digest(state) for key, state in states.items()})
    different = [key for key in states if len({one.get(key) for one in digests}) > 1]
    own = {
        "rl": {name: checkpoint["rl"][name] for name in ("rng", "global_rng")},
        "callbacks": {key: states[key] for key in different},
        "data": checkpoint.get(data_key),
    }
    main = dist.get_rank() == 0
    parts: list[Any] | None = [None] * dist.get_world_size() if main else None
    dist.gather_object(move_data_to_device(own, torch.device("cpu")), parts)
    if parts is not None:
        checkpoint[OTHER_RANKS] = parts[1:]


def take_own_part(checkpoint: dict[str, Any], data_key: str, rank: int) -> None:
    """Turn a checkpoint into that of ``rank``, in place, before anything is restored from it."""
    if rank == 0:
        return
    own = checkpoint[OTHER_RANKS][rank - 1]
    checkpoint["rl"].update(own["rl"])
    checkpoint["callbacks"] = {**checkpoint.get("callbacks", {}), **own["callbacks"]}
    checkpoint[data_key] = own["data"]


def saved_world_size(checkpoint: Mapping[str, Any]) -> int:
    """Return by how many ranks a checkpoint was written."""
    return 1 + len(checkpoint.get(OTHER_RANKS, []))


def refuse_other_world_size(checkpoint: Mapping[str, Any], world_size: int) -> None:
    """Raise UserError when training would go on with another number of ranks: each continues its own environments."""
    saved = saved_world_size(checkpoint)
    if saved != world_size:
        raise UserError(
            f"the checkpoint was written by {saved} rank{'s' * (saved > 1)}, but this run has {world_size}: resume "
            f"with trainer.devices * trainer.num_nodes = {saved} (every rank continues its own environments and replay)"
        )


def digest(value: Any) -> str:
    """Return a digest of nested plain data and tensors, equal where they are equal bit by bit."""
    total = hashlib.sha256()
    _feed(total, value)
    return total.hexdigest()


def _feed(total: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        total.update(f"{tuple(value.shape)}{value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            total.update(f"{key!r}:".encode())
            _feed(total, value[key])
    elif isinstance(value, (list, tuple)):
        total.update(f"[{len(value)}]".encode())
        for item in value:
            _feed(total, item)
    else:
        total.update(repr(value).encode())


def times_ranks(world_size: int) -> str:
    """Return what a message adds to a number per rank where it means that of all ranks."""
    return f" * {world_size} ranks" if world_size > 1 else ""
