"""What trials say about this machine, as findings; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from plasticity_rl.machine.health import Finding
from plasticity_rl.machine.trials import SIZE, Trial

BACKENDS = ("egl", "osmesa", "glfw")
SOFTWARE = ("llvmpipe", "softpipe", "software", "swrast")
INSTALL_GL = "on Debian or Ubuntu: apt-get install libegl1 libgl1 libosmesa6; or train from states"
GPU_GL = (
    "install the OpenGL part of NVIDIA's driver (libnvidia-gl-<version>); in a container give it the GPU with the "
    "capability graphics: NVIDIA_DRIVER_CAPABILITIES=all"
)


def check_imports(trial: Trial) -> list[Finding]:
    """Report the first import that fails, or how long all take."""
    failed = next((result for result in trial.results if "error" in result), None)
    if failed:
        return [_broken(failed["module"], failed["error"])]
    if trial.error:
        at = [result["importing"] for result in trial.results if "importing" in result]
        return [_broken(at[-1] if at else "Python", trial.error)]
    total = sum(result.get("seconds", 0.0) for result in trial.results)
    return [Finding("imports", "ok", f"torch, torchrl, lightning and callbacks in {total:.1f} s")]


def _broken(module: str, reason: str) -> Finding:
    package = module.partition(".")[0]
    fix = "pip install --force-reinstall " + {"callbacks": "plasticity-rl"}.get(package, package)
    return Finding("imports", "problem", f"import {module} fails: {reason}", fix)


def check_gpu(trial: Trial, nvidia_devices: int) -> list[Finding]:
    """Say whether torch sees the GPUs that the system has.

    Args:
        trial: Of the imports.
        nvidia_devices: NVIDIA GPUs that there are device files of.
    """
    seen = next((result for result in trial.results if "gpus" in result), None)
    if seen is None:
        return [Finding("gpu", "note", "not checked: torch cannot be imported")]
    gpus, cuda = seen["gpus"], seen["cuda_of_torch"]
    if gpus:
        return [Finding("gpu", "ok", f"torch sees {', '.join(gpus)} (CUDA {cuda})")]
    if not nvidia_devices:
        return [Finding("gpu", "ok", "none on this machine; training runs on the CPU")]
    if cuda is None:
        text = f"{nvidia_devices} NVIDIA GPU(s), but this torch was built for the CPU"
        return [Finding("gpu", "problem", text, "pip install --force-reinstall torch (from the index's CUDA builds)")]
    text = f"{nvidia_devices} NVIDIA GPU(s), but torch (CUDA {cuda}) sees none"
    return [
        Finding("gpu", "problem", text, "compare with nvidia-smi: the driver may be too old; see CUDA_VISIBLE_DEVICES")
    ]


def rendering_findings(trials: Mapping[str, Trial], chosen: str | None) -> list[Finding]:
    """Say which backends draw, how fast and on what; only the one that training would use can be a problem.

    Args:
        trials: Of the rendering, by backend.
        chosen: The backend that training would use, or None when dm_control chooses.
    """
    speeds = {name: _of(trial, "frames_per_second") for name, trial in trials.items()}
    drawing = [name for name, speed in speeds.items() if speed]
    chosen = chosen or next((name for name in ("glfw", "egl", "osmesa") if speeds.get(name)), None)
    found = []
    for name, trial in trials.items():
        used = " (training uses it)" if name == chosen else ""
        if speeds[name]:
            device = _of(trial, "renderer") or "a device without a name"
            text = f"{name}{used}: {speeds[name]:.0f} frames/s of {SIZE}x{SIZE} pixels on {device}"
            found.append(Finding("rendering", "ok", text))
        elif used:
            fix = f"export MUJOCO_GL={drawing[0]}" if drawing else INSTALL_GL
            found.append(
                Finding("rendering", "problem", f"{name}{used} does not draw: {shorten(trial.error, 160)}", fix)
            )
        else:
            found.append(Finding("rendering", "note", f"{name} does not draw: {shorten(trial.error, 120)}"))
    if chosen is None or chosen not in trials:
        fix = f"export MUJOCO_GL={drawing[0]}" if drawing else INSTALL_GL
        found.append(Finding("rendering", "problem", f"MUJOCO_GL={chosen or '(unset)'} does not draw", fix))
    faster = max(drawing, key=lambda name: speeds[name] or 0.0, default=None)
    if faster and speeds.get(chosen or "") and (speeds[faster] or 0) > 2 * (speeds[chosen or ""] or 0):
        found.append(Finding("rendering", "note", f"{faster} is faster than {chosen}", f"export MUJOCO_GL={faster}"))
    return found


def _of(trial: Trial, key: str) -> Any:
    return next((result[key] for result in trial.results if key in result), None)


def check_triton(trial: Trial | None) -> list[Finding]:
    """Say whether triton and OpenGL go together; :func:`plasticity_rl.machine.rendering.load_triton` has the reason.

    Args:
        trial: Of the order of training; None where triton is not installed.
    """
    if trial is None:
        return [Finding("triton", "ok", "not installed; only torch.compile on a GPU needs it")]
    if not _of(trial, "drawn"):
        return [Finding("triton", "note", "installed; not checked beside OpenGL: nothing can be drawn")]
    version = _of(trial, "triton")
    if version is None:
        text = f"drawing a frame, then importing lightning, does not work: {shorten(trial.error, 160)}"
        fix = "without a GPU: pip uninstall triton; or train from states (--data.observation state)"
        return [Finding("triton", "problem", text, fix)]
    return [Finding("triton", "ok", f"{version or 'installed'}, loaded before OpenGL: lightning imports after a frame")]


def check_egl_device(
    trial: Trial, gpus: Sequence[str], cuda_visible_devices: str | None, egl_device: str | None
) -> list[Finding]:
    """Say whether EGL draws on the GPU that trains; nothing where there is none to train on.

    Args:
        trial: Of the rendering with EGL.
        gpus: Names of the GPUs that torch sees.
        cuda_visible_devices: Value of ``CUDA_VISIBLE_DEVICES``, or None.
        egl_device: Value of ``MUJOCO_EGL_DEVICE_ID``, or None.
    """
    renderer = str(_of(trial, "renderer") or "")
    if not gpus or not _of(trial, "frames_per_second"):
        return []
    if any(name in renderer.lower() for name in SOFTWARE):
        return [Finding("egl", "problem", f"EGL draws in software ({renderer}) although there is {gpus[0]}", GPU_GL)]
    first = (cuda_visible_devices or "0").split(",")[0].strip()
    if first.isdecimal() and egl_device is None and first != "0":
        text = f"training uses GPU {first} (CUDA_VISIBLE_DEVICES), but EGL draws on the first it finds"
        return [Finding("egl", "problem", text, f"export MUJOCO_EGL_DEVICE_ID={first}")]
    if renderer and gpus[0].lower() not in renderer.lower():
        fix = "export MUJOCO_EGL_DEVICE_ID=<number of the GPU that trains>"
        return [Finding("egl", "problem", f"EGL draws on {renderer}, but training uses {gpus[0]}", fix)]
    text = f"EGL draws on {renderer or 'a GPU'}, by name the one that trains; the order of EGL's devices is not checked"
    return [Finding("egl", "ok" if len(gpus) == 1 else "note", text)]
