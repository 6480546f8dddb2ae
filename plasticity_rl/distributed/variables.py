"""The environment variables of launchers: torchrun, SLURM, LSF, MPI. Light: they are looked at before Lightning is.

Lightning takes the rank of a process from them when it is imported. In a shell, a notebook or a job they may be left
over, or be those of a job in which this run is a single process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from plasticity_rl.errors import UserError
from plasticity_rl.machine.rendering import drop_own_egl_device

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""From which Lightning takes the rank of a process, the first that is set."""
NUMBERS = (
    *RANKS,
    *("GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"),
    *("SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"),
)
"""Variables that have to be whole numbers."""
OF_A_PROCESS = (
    *NUMBERS,
    *("MASTER_ADDR", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMI_SIZE"),
)
"""Variables that say which process of a job this is: nothing that a run of its own started by it should hear."""


def refuse_bad_variables(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for a variable of a launcher that is no whole number: importing Lightning would fail."""
    for name in NUMBERS:
        value = environment.get(name)
        if value is not None and not (value.strip().isascii() and value.strip().isdecimal()):
            raise UserError(
                f"the environment variable {name}={value!r}, which launchers set, must be a whole number >= 0: "
                f"unset {name}, or start the run with torchrun or srun"
            )


def refuse_lone_rank(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for a rank whose run has several, when nothing says where they meet: each would wait alone."""
    if "LOCAL_RANK" in environment and "MASTER_PORT" not in environment:
        raise UserError(
            f"LOCAL_RANK={environment['LOCAL_RANK']} is set, as by a launcher of several processes, but MASTER_PORT is "
            "not, so that they would not meet: unset LOCAL_RANK (the run starts its processes itself), or use torchrun"
        )


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a run that is a process of its own, whatever job this one belongs to."""
    kept = {name: value for name, value in environment.items() if name not in OF_A_PROCESS}
    drop_own_egl_device(kept)  # by the rank of this process
    return kept
