"""What has to be tried to be known, each in a process of its own: ``python -m plasticity_rl.machine.trials WHAT``.

A process loads one OpenGL backend only, an import that fails may take the interpreter with it, and a driver may hang.
Every result is one line of JSON, written as soon as it is known.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODULES = ("torch", "tensordict", "torchrl.collectors", "lightning.pytorch", "tensorboard", "callbacks")
SIZE = 84
"""Height and width of the frames, in pixels: DrQ-v2's."""
SECONDS = 1.0
"""How long frames are drawn."""


@dataclass
class Trial:
    """What a process reported.

    Attributes:
        results: Lines of JSON it wrote, in order.
        error: Why it did not come to its end, or "".
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def run_trial(*what: str, environment: Mapping[str, str | None] = {}, timeout_seconds: float = 120) -> Trial:
    """Run a trial in a process of its own.

    Args:
        what: Its name and arguments.
        environment: Variables to change; None removes one.
        timeout_seconds: When to stop waiting.
    """
    variables: dict[str, str | None] = {**os.environ, **environment}
    env = {name: value for name, value in variables.items() if value is not None}
    command = [sys.executable, "-m", "plasticity_rl.machine.trials", *what]
    trial, error_text, output = Trial(), "", ""
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout_seconds, check=False, errors="replace"
        )
        output, error_text = done.stdout, done.stderr.strip()
        if done.returncode:
            last = error_text.splitlines()[-1] if error_text else "no message"
            trial.error = (
                last if done.returncode > 0 else f"the process was ended by signal {-done.returncode} ({last})"
            )
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        trial.error = f"no answer within {timeout_seconds:.0f} s"
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            trial.results.append(json.loads(line))
    return trial


def _report(**result: Any) -> None:
    print(json.dumps(result), flush=True)


def try_imports() -> None:
    """Import what training imports, one after the other, and ask torch for GPUs."""
    for name in MODULES:
        _report(importing=name)
        started = time.monotonic()
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken installation raises
            _report(module=name, error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
            return
        _report(module=name, seconds=round(time.monotonic() - started, 1))
        if name == "torch":
            _report(**_gpus())


def _gpus() -> dict[str, Any]:
    import torch

    available = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if available else []
    return {"gpus": names, "cuda_of_torch": torch.version.cuda, "threads": torch.get_num_threads()}


def try_rendering() -> None:
    """Draw frames of a small task with the backend in ``MUJOCO_GL``, and name the renderer."""
    from plasticity_rl.machine.rendering import load_triton

    load_triton()
    from dm_control import suite

    env = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
    env.reset()
    draw = lambda: env.physics.render(SIZE, SIZE, camera_id=0)  # noqa: E731
    if not draw().any():
        raise RuntimeError("the frame is black")
    started, frames = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        draw()
        frames += 1
    _report(frames_per_second=frames / (time.perf_counter() - started))
    env.physics.free()
    _report(renderer=_renderer())


def try_order() -> None:
    """Draw, then import Lightning, in one process: the order of a training run."""
    from plasticity_rl.machine.rendering import check_rendering

    check_rendering()
    _report(drawn=True)
    importlib.import_module("lightning.pytorch")
    _report(triton=getattr(sys.modules.get("triton"), "__version__", ""))


def _renderer() -> str:
    """Return what OpenGL calls the device that draws, or "" where it does not say."""
    import mujoco
    from OpenGL import GL

    with contextlib.suppress(Exception):  # a name is all that is lost
        context = mujoco.GLContext(16, 16)
        context.make_current()
        name = GL.glGetString(GL.GL_RENDERER)
        context.free()
        return name.decode(errors="replace") if name else ""
    return ""


if __name__ == "__main__":
    {"imports": try_imports, "rendering": try_rendering, "order": try_order}[sys.argv[1]]()
