"""Is this machine fit for training? Small checks, each of which returns findings; imports nothing heavy.

``plasticity-rl doctor`` runs them all, ``fit`` at its start those that cost milliseconds (:func:`quick_findings`).
What has to be tried (imports, rendering) is tried in processes of its own: see ``trials.py``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plasticity_rl.machine import compromised

OURS = "plasticity-rl"
PAIRS = (("dm_control", "mujoco"), ("torchrl", "tensordict"), ("lightning", "torch"), ("torchvision", "torch"))
"""Packages that say themselves which versions of the second fit to the first."""
REASONS = {
    "dm_control": "it and mujoco fit in pairs only",
    "mujoco": "dm_control reads every field of its model, and mujoco 4 has removed some",
    "torchrl": "private attributes of these versions are used",
    "tensordict": "it and torchrl fit in pairs only",
    "torch": "older ones load checkpoints that may run code",
    "numpy": "2.5 deprecates setting the shape of an array, which dm_control does at every look-up of a name",
    "jsonargparse": "version 5 removes what lightning 2.6 calls",
}
SECURITY = "security"
"""The check whose problems nothing may be imported with."""
LEAST_DISK_BYTES = 10**9
"""Free space under which a run folder is likely to fill the disk with checkpoints, events and videos alone."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: What was looked at, one word.
        level: ``ok``; ``note`` for what may be meant; ``problem`` for what will fail, or waste most of the machine.
        text: What is the case.
        fix: What to do about it.
    """

    check: str
    level: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Package:
    """An installed distribution, read from its metadata alone.

    Attributes:
        version: Its version.
        requires: Requirements it declares, as in ``Requires-Dist``.
        requires_python: Python versions it declares, or "".
    """

    version: str
    requires: tuple[str, ...] = ()
    requires_python: str = ""


@functools.cache
def installed(name: str) -> Package | None:
    """Return the distribution called ``name``, or None where there is none; nothing is imported."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    text = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    # Line by line, up to the description: a parser of e-mail takes as long as everything else that fit checks.
    head = [line.partition(": ") for line in text.partition("\n\n")[0].splitlines()]
    fields = {name.lower(): value for name, _, value in head}
    requires = tuple(value for name, _, value in head if name.lower() == "requires-dist")
    return Package(fields.get("version", ""), requires, fields.get("requires-python", ""))


def needed_packages() -> dict[str, Package | None]:
    """Return what is installed of everything that the checks of versions look at, by name."""
    ours = installed(OURS)
    own = [_name(text) for text in (ours.requires if ours else ()) if "extra ==" not in text]
    names = dict.fromkeys([OURS, *own, *(name for pair in PAIRS for name in pair), *compromised.RELEASES])
    return {name: installed(name) for name in names}


def _name(requirement: str) -> str:
    """Return the name in a requirement; parsing all that torch declares would take as long as everything else."""
    match = re.match(r"[\w.-]+", requirement)
    return match[0] if match else ""


def check_python(version: str, allowed: str) -> list[Finding]:
    """Compare the version of Python with what the package declares, e.g. ``>=3.10,<3.13``."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(allowed).contains(version, prereleases=True):
        return [Finding("python", "ok", f"{version} (allowed: {allowed})")]
    return [Finding("python", "problem", f"{version} is not in {allowed}", "make an environment of Python 3.12")]


def check_compromised(packages: Mapping[str, Package | None]) -> list[Finding]:
    """Find releases that must not even be imported."""
    return [
        Finding(
            SECURITY,
            "problem",
            compromised.found(name, found.version),
            compromised.fix(name),
        )
        for name, found in packages.items()
        if found and found.version in compromised.RELEASES.get(name, ())
    ]


def check_versions(packages: Mapping[str, Package | None]) -> list[Finding]:
    """Compare installed versions with the bounds that this package declares, and those of :data:`PAIRS`.

    Args:
        packages: What is installed, by name, :data:`OURS` among them.
    """
    from packaging.requirements import Requirement

    bad: dict[str, Finding] = {}
    ours = packages.get(OURS)
    for text in ours.requires if ours else ():
        if "extra ==" in text:
            continue
        requirement = Requirement(text)
        name, found = requirement.name, packages.get(requirement.name)
        fix = f"pip install '{name}{requirement.specifier}'"
        if found is None:
            bad[name] = Finding("packages", "problem", f"{name} is not installed", fix)
        elif not requirement.specifier.contains(found.version, prereleases=True):
            why = f": {REASONS[name]}" if name in REASONS else ""
            bad[name] = Finding(
                "packages", "problem", f"{name} {found.version} is not in {requirement.specifier}{why}", fix
            )
    for one, other in PAIRS:
        if other not in bad and (clash := _clash(one, other, packages)):
            bad[other] = clash
    names = ("torch", "torchrl", "tensordict", "lightning", "dm_control", "mujoco")
    seen = ", ".join(f"{name} {found.version}" for name in names if (found := packages.get(name)))
    return list(bad.values()) or [Finding("packages", "ok", seen)]


def _clash(one: str, other: str, packages: Mapping[str, Package | None]) -> Finding | None:
    """Return the problem when ``one`` declares that the installed ``other`` does not fit, or is of another build."""
    from packaging.requirements import Requirement

    first, second = packages.get(one), packages.get(other)
    if first is None or second is None:
        return None
    for requirement in [Requirement(text) for text in first.requires if _name(text) == other and ";" not in text]:
        if not requirement.specifier.contains(second.version, prereleases=True):
            text = f"{one} {first.version} needs {other}{requirement.specifier}, but {second.version} is installed"
            fix = (
                "pip uninstall torchvision" if one == "torchvision" else f"pip install '{other}{requirement.specifier}'"
            )
            return Finding("packages", "problem", text, fix)
    builds = [re.search(r"\+(cpu|cu\d+|rocm[\d.]+)$", package.version) for package in (first, second)]
    labels = [build[1] if build else "" for build in builds]  # without: the package index's build, or one's own
    if one == "torchvision" and labels[0] != labels[1] and ("cpu" in labels or all(labels)):
        text = f"torchvision {first.version} is of another build than torch {second.version}, which breaks imports"
        return Finding("packages", "problem", text, "pip uninstall torchvision, or install both from one index")
    return None


def available_cores() -> int:
    """Return how many cores this process may use: of its affinity, and of a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file; "max": no quota
        return cores


def check_threads(cores: int, omp_num_threads: str | None, visible_cores: int) -> list[Finding]:
    """Compare the threads that torch will start with the cores that it may use.

    Args:
        cores: Cores that the process may use.
        omp_num_threads: Value of ``OMP_NUM_THREADS``, or None.
        visible_cores: Cores that torch sees, and starts a thread for each when nothing is set.
    """
    fix = f"export OMP_NUM_THREADS={max(1, min(cores, 8))}"
    if omp_num_threads is not None and not (omp_num_threads.isdecimal() and int(omp_num_threads)):
        return [Finding("threads", "problem", f"OMP_NUM_THREADS={omp_num_threads} is no whole number >= 1", fix)]
    threads = int(omp_num_threads) if omp_num_threads else visible_cores
    cause = f"OMP_NUM_THREADS={omp_num_threads}" if omp_num_threads else "OMP_NUM_THREADS is not set"
    if threads > cores:
        text = f"{threads} threads of torch for {cores} cores ({cause}): training can be several times slower"
        return [Finding("threads", "problem", text, fix)]
    return [Finding("threads", "ok", f"{threads} of torch, {cores} cores ({cause})")]


def check_disk(folder: Path) -> list[Finding]:
    """Look at the free space where ``folder`` is, or would be made."""
    here = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(here).free
    text = f"{free / 1e9:.1f} GB free where {folder} is"
    if not os.access(here, os.W_OK):
        return [Finding("disk", "problem", f"{here} cannot be written", "name another with --trainer.default_root_dir")]
    if free < LEAST_DISK_BYTES:
        fix = "make room, or name a folder on another disk with --trainer.default_root_dir"
        return [Finding("disk", "problem", f"only {text}", fix)]
    return [Finding("disk", "ok", text)]


def quick_findings() -> list[Finding]:
    """Return what is known within milliseconds: versions and threads."""
    packages = needed_packages()
    allowed = ours.requires_python if (ours := packages[OURS]) else ""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        *guarded("python", lambda: check_python(platform.python_version(), allowed)),
        *(check_compromised(packages) or guarded("packages", lambda: check_versions(packages))),
        *guarded("threads", lambda: check_threads(available_cores(), os.environ.get("OMP_NUM_THREADS"), visible)),
    ]


def guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of a check; one that cannot be done on a broken installation is a finding too.

    Args:
        name: What is checked.
        check: Does it.
    """
    try:
        return check()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [
            Finding(name, "problem", f"the check itself fails: {reason}", "pip install --force-reinstall plasticity-rl")
        ]


def problems(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that are problems."""
    return [finding for finding in findings if finding.level == "problem"]
