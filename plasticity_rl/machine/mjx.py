"""Keeps TorchRL from importing MuJoCo, and with it OpenGL, for environments that need neither."""

from __future__ import annotations

import importlib.util
import os
import sys


def answer_for_mjx() -> None:
    """Note that ``mujoco.mjx`` is not installed, where it is not; harmless when called again.

    TorchRL asks for it when it is imported, and to answer, Python imports ``mujoco`` (0.3 s), which loads the library
    that ``MUJOCO_GL`` names and fails where that is broken. None in ``sys.modules`` is Python's own note that a module
    cannot be imported, so that it need not look. Where mjx is installed, TorchRL finds it as before.
    """
    if "mujoco" in sys.modules or "mujoco.mjx" in sys.modules:
        return
    spec = importlib.util.find_spec("mujoco")  # of a package at the top, which is not imported for it
    folders = (spec.submodule_search_locations or ()) if spec else ()
    if folders and not any(os.path.exists(os.path.join(folder, "mjx")) for folder in folders):
        sys.modules["mujoco.mjx"] = None  # type: ignore[assignment]
