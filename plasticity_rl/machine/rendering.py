"""Off-screen OpenGL: choose a backend before dm_control is imported, check that it draws, free what it holds.

MuJoCo and dm_control read ``MUJOCO_GL`` once, when they are imported, and with EGL that import already starts OpenGL.
Call :func:`prepare` before that (importing ``plasticity_rl.envs`` does).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes.util
import functools
import glob
import importlib.util
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Protocol

from plasticity_rl.errors import UserError

_FIX = "On Debian or Ubuntu: apt-get install libegl1 libgl1 libosmesa6, then set MUJOCO_GL=egl|osmesa|glfw."
OWN_EGL_DEVICE = "PLASTICITY_RL_CHOSE_EGL_DEVICE"
"""Environment variable: the value of ``MUJOCO_EGL_DEVICE_ID`` that a process chose for itself, not the user."""
_TINY_MODEL = "<mujoco><worldbody><light pos='0 0 2'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>"


def choose_backend(platform: str, nvidia_devices: int, has_library: Callable[[str], object]) -> str | None:
    """Return the OpenGL backend to ask for, or None to leave the choice to dm_control.

    Args:
        platform: ``sys.platform`` of the machine.
        nvidia_devices: number of NVIDIA GPUs visible as device files, 0 or more.
        has_library: truthy for the short names ("EGL", "OSMesa") of the shared libraries that can be loaded.

    Returns:
        ``"egl"``, ``"osmesa"`` or None. A GPU is used where there is one; without one OSMesa comes first, because
        an EGL library is often installed with no device behind it.
    """
    if not platform.startswith("linux"):
        return None
    if nvidia_devices and has_library("EGL"):
        return "egl"
    if has_library("OSMesa"):
        return "osmesa"
    return "egl" if nvidia_devices or has_library("EGL") else None


def choose_egl_device(nvidia_devices: int, local_rank: str | None) -> str | None:
    """Return the EGL device index for this rank, so that several ranks do not all draw on the first GPU.

    Args:
        nvidia_devices: number of NVIDIA GPUs, 0 or more.
        local_rank: what :func:`local_rank_in` returns.

    Returns:
        An index as text, or None to leave the choice to MuJoCo.
    """
    if nvidia_devices < 2 or local_rank is None or not local_rank.isdecimal():
        return None
    return str(int(local_rank) % nvidia_devices)


def local_rank_in(variables: Mapping[str, str]) -> str | None:
    """Return which of a machine's ranks a process is, as its launcher says, or None for a run of one process.

    ``SLURM_LOCALID`` counts where SLURM started several processes: it is left over in an interactive shell, where
    Lightning starts them, and is 0 in a job of one task.
    """
    if "LOCAL_RANK" in variables and variables.get("WORLD_SIZE") != "1":
        return variables["LOCAL_RANK"]
    return variables.get("SLURM_LOCALID") if variables.get("SLURM_NTASKS", "1") != "1" else None


def drop_own_egl_device(variables: MutableMapping[str, str]) -> None:
    """Remove ``MUJOCO_EGL_DEVICE_ID`` where a process chose it for itself: those that it starts choose anew."""
    own = variables.pop(OWN_EGL_DEVICE, None)
    if own is not None and variables.get("MUJOCO_EGL_DEVICE_ID") == own:
        del variables["MUJOCO_EGL_DEVICE_ID"]


def egl_device_of_worker(index: int, nvidia_devices: int, variables: Mapping[str, str]) -> str | None:
    """Return the EGL device index for a worker process, so that workers do not all draw on the first of several GPUs.

    Args:
        index: Which worker.
        nvidia_devices: number of NVIDIA GPUs, 0 or more.
        variables: those of the process that starts it; where they name a device, because the user or the rank has
            chosen one, it stays: workers of a rank draw on the rank's GPU. The first rank may have chosen none: it is
            imported before Lightning makes it a rank.

    Returns:
        An index as text, or None to leave it as it is.
    """
    if "MUJOCO_EGL_DEVICE_ID" in variables or variables.get("MUJOCO_GL") != "egl":
        return None
    rank = local_rank_in(variables)
    return choose_egl_device(nvidia_devices, str(index) if rank is None else rank)


def configure_backend() -> None:
    """Set ``MUJOCO_GL`` and ``MUJOCO_EGL_DEVICE_ID`` where the user has not; does nothing after dm_control's import."""
    if "dm_control._render" in sys.modules:
        return
    nvidia_devices = len(glob.glob("/dev/nvidia[0-9]*"))
    if "MUJOCO_GL" not in os.environ:
        # dm_control refuses a backend that contradicts PYOPENGL_PLATFORM, so a choice made there decides here.
        asked = os.environ.get("PYOPENGL_PLATFORM")
        backend = asked if asked in ("egl", "osmesa") else None
        backend = backend or choose_backend(sys.platform, nvidia_devices, ctypes.util.find_library)
        if backend:
            os.environ["MUJOCO_GL"] = backend
    drop_own_egl_device(os.environ)  # of the process that started this one
    device = choose_egl_device(nvidia_devices, local_rank_in(os.environ))
    if device is not None and os.environ.get("MUJOCO_GL") == "egl" and "MUJOCO_EGL_DEVICE_ID" not in os.environ:
        os.environ |= {"MUJOCO_EGL_DEVICE_ID": device, OWN_EGL_DEVICE: device}


def load_triton() -> None:
    """Load triton's native library, where it is installed, so that it does not crash the interpreter later.

    Mesa draws on a CPU with LLVM, and its drivers show all symbols of ``libLLVM`` to the process. ``libtriton.so``
    holds another version of LLVM under the same names. Loaded afterwards it is bound to Mesa's, its constructors write
    into tables of another layout, and the process ends with a segmentation fault. Lightning loads it, by way of
    ``torch._dynamo``. Loaded before Mesa it is bound to itself, and stays so. Where Mesa is there already, because a
    script has imported dm_control by itself, ``RTLD_DEEPBIND`` binds it to itself all the same; not otherwise, because
    that flag goes past an allocator given with ``LD_PRELOAD``.

    The library alone takes a quarter of the time of ``import triton`` (0.06 of 0.25 s, and none of 250 modules); that
    import then finds it loaded. Without triton nothing happens.
    """
    if not sys.platform.startswith("linux") or "triton" in sys.modules:
        return  # elsewhere libraries do not share their symbols
    spec = importlib.util.find_spec("triton")  # imports nothing
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(folder, "_C").glob("libtriton*.so"):
            mesa_is_loaded = hasattr(ctypes.CDLL(None), "LLVMContextCreate")  # triton does not export this one
            mode = getattr(os, "RTLD_DEEPBIND", 0) if mesa_is_loaded else 0  # not in every C library
            with contextlib.suppress(OSError):  # not for this machine: torch does without, and so do we
                ctypes.CDLL(str(library), mode=mode)


def prepare() -> None:
    """Do all that has to be done before dm_control or mujoco is imported; harmless after it."""
    configure_backend()
    load_triton()


@contextlib.contextmanager
def rendering_errors() -> Iterator[None]:
    """Turn any failure of the block (an import of dm_control, the first frame) into one line that says what to do.

    Raises:
        UserError: when the block raises anything else than a UserError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # backends fail with ImportError, AttributeError, RuntimeError, GLError, FatalError ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        backend = os.environ.get("MUJOCO_GL", "(unset)")
        raise UserError(f"Rendering does not start with MUJOCO_GL={backend} ({reason}). {_FIX}") from error


def check_display() -> None:
    """Refuse what would abort the interpreter: GLFW on Linux without a display.

    dm_control chooses GLFW by itself when it is imported with ``MUJOCO_GL`` unset, so before :func:`prepare`.

    Raises:
        UserError: one line with the fix.
    """
    backend = getattr(sys.modules.get("dm_control._render"), "BACKEND", None)
    has_display = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if backend == "glfw" and sys.platform.startswith("linux") and not has_display:
        raise UserError(
            "dm_control draws with glfw, which needs a display, and there is none: "
            f"set MUJOCO_GL, or import make_env of plasticity_rl before dm_control. {_FIX}"
        )


def refuse_drawing_in_threads(asked: bool) -> None:
    """Refuse to draw in another thread than the first, if that is asked for, where it does not work: with GLFW.

    Raises:
        UserError: one line with the fix.
    """
    if asked and getattr(sys.modules.get("dm_control._render"), "BACKEND", None) == "glfw":
        raise UserError(
            "data.overlap=true draws in a thread, which glfw cannot: set MUJOCO_GL=egl or osmesa, draw in processes "
            "(--data.env_workers 1), or leave out --data.overlap"
        )


@functools.cache  # what worked once in a process works again; a failure is not remembered
def check_rendering() -> None:
    """Draw one 16 x 16 frame of a tiny model and free it again, once per process.

    Raises:
        UserError: when no frame can be drawn; one line with the packages and the variable that usually fix it.
    """
    prepare()
    with rendering_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GLFW warns about a missing display; check_display says what to do about it
        from dm_control import mujoco  # the import itself is part of what is checked

        check_display()
        physics = mujoco.Physics.from_xml_string(_TINY_MODEL)
        try:
            frame = physics.render(height=16, width=16)
        finally:
            physics.free()
        if not frame.any():
            raise RuntimeError("the frame is black")


def free_contexts(physics: Any) -> None:
    """Free the OpenGL contexts of a dm_control ``Physics``; the next frame makes new ones from the current model.

    dm_control has no public call for this that keeps the physics alive.
    """
    with physics._contexts_lock:
        if physics._contexts:
            physics._free_rendering_contexts()


_render_threads: list[object] = []


def keep_render_threads() -> None:
    """Keep dm_control's pool of drawing threads alive, so that the garbage collector can free an environment.

    Dropped in one reference cycle (an agent and its trainer), the environment and its thread are collected together:
    the thread ends first, and dm_control then waits forever for it to free the context. The pool reuses its threads,
    so there are never more of them than contexts were open at the same time. Call it after dm_control is imported.
    """
    from dm_control._render.executor import render_executor

    pool = render_executor._THREAD_POOL_EXECUTOR_POOL
    if "acquire" in vars(pool):
        return
    acquire = pool.acquire

    def acquire_and_keep() -> object:
        executor = acquire()
        if not any(kept is executor for kept in _render_threads):
            _render_threads.append(executor)
        return executor

    pool.acquire = acquire_and_keep


class Renders(Protocol):
    """Anything that holds OpenGL contexts."""

    def free_rendering(self) -> None:
        """Free the contexts now; called at most once more when the interpreter exits."""


_live: list[weakref.ref[Renders]] = []


def free_at_exit(owner: Renders) -> None:
    """Free ``owner``'s contexts at interpreter exit, unless it is gone by then.

    The last one is asked first: who has an environment draw in a thread of its own comes after the environment, and
    frees it in that thread. With EGL no other thread may.
    """
    _live[:] = [known for known in _live if known() is not None]
    _live.append(weakref.ref(owner))


def _free_all() -> None:
    for known in reversed(_live):
        owner = known()
        with contextlib.suppress(Exception):  # nobody is left to handle it
            if owner is not None:
                owner.free_rendering()


# dm_control draws in worker threads which Python stops before it runs `atexit` hooks; dm_control's own hook then prints
# "cannot schedule new futures after shutdown". Only `threading` has a hook that comes before, and it is not public. Its
# hooks run last in, first out, so the one that stops the workers has to be registered first.
importlib.import_module("concurrent.futures.thread")
getattr(threading, "_register_atexit", atexit.register)(_free_all)
