"""Releases of other packages that must not be imported: they steal credentials. Light."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

RELEASES = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}
"""Distribution -> its compromised versions (GHSA-w37p-236h-pfx3)."""
MODULES = {"lightning": "lightning", "pytorch_lightning": "pytorch-lightning"}
"""Module -> the distribution that it belongs to."""


def found(name: str, version: str) -> str:
    """Return what is to be said about a release."""
    return f"{name} {version} is a compromised release that steals credentials when imported"


def fix(name: str) -> str:
    """Return what is to be done about it."""
    return f"pip uninstall {name}, replace every key and token on this machine, then pip install '{name}>=2.6.4'"


class Guard:
    """Refuses the import of such a release by anything that runs after ``import plasticity_rl``, scripts too.

    It stands in front of ``sys.meta_path``, finds nothing, and looks at the version before the first import.
    """

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Raise ImportError for a compromised release; leave everything else to the finders that follow."""
        distribution = MODULES.get(name)
        if distribution is None:
            return
        import importlib.metadata

        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return
        if version in RELEASES[distribution]:
            raise ImportError(f"{found(distribution, version)}: {fix(distribution)}", name=name)
