"""Start the runs of a study on a Ray cluster; imported only for ``--ray-address``.

An actor holds the place of a run in the cluster and starts the same process there as on this machine. Ray counts CPUs
and GPUs, in fractions too, so that several seeds share one GPU. The machines must see the same folder under the same
path, and have the package installed. Looked at first: Ray Tune and Ray Jobs; both bring folders, retries and logs of
their own beside the run folders.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ray
from ray.exceptions import RayError

from plasticity_rl.distributed.variables import without_ranks
from plasticity_rl.errors import UserError
from plasticity_rl.files import own_files
from plasticity_rl.study.runner import start_fit

FAILED = 1
"""Exit code of a run whose actor or machine was lost."""
SECONDS_TO_CONNECT = 10.0
SECONDS_FOR_A_PLACE = 3600.0
"""How long a run waits for a place: there is one for it, unless somebody else holds it."""
LOOPBACK = "127.0.0.1"
INHERITED = ("PYTHONPATH", own_files.VARIABLE, "OMP_NUM_THREADS", "MUJOCO_GL")
"""Variables that the user set here and a run elsewhere needs too."""


class Place:
    """What runs in the cluster: one process, which can be asked to stop from a second thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def ready(self) -> None:
        """Return once there are resources."""

    def run(self, arguments: Sequence[str], log: str, folder: str, variables: dict[str, str]) -> int:
        """Train, with output to the file ``log``; return the exit code."""
        with Path(log).open("ab") as output:
            self._process = start_fit(arguments, output, without_ranks({**os.environ, **variables}), folder)
            return self._process.wait()

    def stop(self) -> None:
        """Ask the process to save and end."""
        if self._process is not None:
            self._process.terminate()


class RayJob:
    """A run in the cluster, as :class:`plasticity_rl.study.runner.Job`."""

    def __init__(self, place: Any, arguments: Sequence[str], log: str, variables: dict[str, str]) -> None:
        self._place = place
        self._ready = place.ready.remote()
        self._result = place.run.remote(list(arguments), log, str(Path.cwd()), variables)
        self._log = log
        self._code: int | None = None
        self._until = time.monotonic() + SECONDS_FOR_A_PLACE

    def poll(self) -> int | None:
        """Return the exit code, or None while it goes on."""
        if self._code is None and ray.wait([self._result], timeout=0)[0]:
            self._code = self._collect()
        elif self._code is None and time.monotonic() > self._until and not self._is_placed():
            self._say(
                f"no place in the cluster within {SECONDS_FOR_A_PLACE:g} seconds; `ray status` shows what is held"
            )
            self.kill()
            self._code = FAILED
        return self._code

    def _is_placed(self) -> bool:
        return bool(ray.wait([self._ready], timeout=0)[0])

    def _say(self, reason: str) -> None:
        with Path(self._log).open("a") as log:
            log.write(f"error: {reason}\n")

    def _collect(self) -> int:
        try:
            return int(ray.get(self._result))
        except RayError as error:
            self._say(f"lost in the cluster: {str(error).splitlines()[0]}")
            return FAILED
        finally:
            ray.kill(self._place)  # gives its resources back

    def terminate(self) -> None:
        """Ask it to save and end; one that still waits for resources ends at once."""
        if self._is_placed():
            self._place.stop.remote()
        else:
            self.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or raise ``subprocess.TimeoutExpired``."""
        if self._code is None and not ray.wait([self._result], timeout=timeout)[0]:
            raise subprocess.TimeoutExpired("plasticity-rl fit", timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def kill(self) -> None:
        """Give its place back; a process in it ends with the actor."""
        ray.kill(self._place)


class RayLaunch:
    """Starts runs in a cluster, each with so many CPUs and GPUs.

    Args:
        address: Of the cluster, e.g. ``auto`` on one of its machines; ``local`` starts one on this machine.
        cpus_per_run: CPUs that a run holds, and its threads.
        gpus_per_run: GPUs that a run holds; 0.25 lets four runs share one.

    Raises:
        UserError: When there is no such cluster, or no room for a single run in it.
    """

    def __init__(self, address: str, cpus_per_run: float, gpus_per_run: float) -> None:
        _refuse_unreachable(address)
        here = {"_node_ip_address": LOOPBACK, "include_dashboard": False} if address == "local" else {}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
        try:
            ray.init(address=address, **options, **here)
        except Exception as error:  # Ray raises that too, of a node that does not start in time
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"--ray-address {address}: no connection ({reason}); `ray status` shows a cluster"
            ) from error
        needs = {"CPU": cpus_per_run, "GPU": gpus_per_run}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.num_places = places(nodes, needs)
        if self.num_places < 1:
            ray.shutdown()
            raise UserError(no_room(nodes, needs))
        self._place = ray.remote(Place).options(num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_concurrency=3)
        self._variables = {"OMP_NUM_THREADS": str(max(1, int(cpus_per_run)))}
        self._variables |= {name: os.environ[name] for name in INHERITED if name in os.environ}

    def __call__(self, arguments: Sequence[str], log: IO[bytes]) -> RayJob:
        """Queue a run; it starts when there are resources."""
        return RayJob(self._place.remote(), arguments, str(Path(log.name).resolve()), self._variables)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        ray.shutdown()


def places(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """Return how many runs there is room for: each lies on one node, whatever all nodes have together.

    Args:
        nodes: CPUs and GPUs of every node, by ``CPU`` and ``GPU``.
        needs: Of a run.
    """
    asked = [(name, need) for name, need in needs.items() if need > 0]
    return sum(min(int(node.get(name, 0.0) / need + 1e-9) for name, need in asked) for node in nodes)


def no_room(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> str:
    """Return what is said when no node has room for a run."""

    def words(found: Mapping[str, float]) -> str:
        return f"{found.get('CPU', 0.0):g} and {found.get('GPU', 0.0):g}"

    together = {name: sum(node.get(name, 0.0) for node in nodes) for name in needs}
    largest = sorted(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), reverse=True)
    single = ", ".join(words(node) for node in largest[:3]) or "none"
    return (
        f"no room for a run of {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs: the cluster has {words(together)}, and "
        f"a run needs them on one machine (the largest: {single}); ask for less with --cpus-per-run and --gpus-per-run"
    )


def _refuse_unreachable(address: str) -> None:
    """Refuse a head that nobody answers at: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray-address {address}: no connection within {SECONDS_TO_CONNECT:g} seconds ({error}); "
            "`ray status` shows a cluster"
        ) from error
