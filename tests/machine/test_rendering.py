"""The choice of an OpenGL backend and the message when it does not start."""

from __future__ import annotations

import glob
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plasticity_rl.distributed.variables import without_ranks
from plasticity_rl.errors import UserError
from plasticity_rl.machine import rendering
from plasticity_rl.machine.rendering import check_rendering, choose_backend, choose_egl_device, egl_device_of_worker


@pytest.mark.parametrize(
    ("platform", "gpus", "libraries", "expected"),
    [
        ("linux", 1, {"EGL", "OSMesa"}, "egl"),
        ("linux", 1, {"OSMesa"}, "osmesa"),
        ("linux", 1, set(), "egl"),
        ("linux", 0, {"EGL", "OSMesa"}, "osmesa"),
        ("linux", 0, {"EGL"}, "egl"),
        ("linux", 0, set(), None),
        ("darwin", 0, {"EGL", "OSMesa"}, None),
        ("win32", 1, {"EGL"}, None),
    ],
)
def test_choice_of_backend(platform: str, gpus: int, libraries: set[str], expected: str | None) -> None:
    assert choose_backend(platform, gpus, lambda name: name in libraries) == expected


@pytest.mark.parametrize(
    ("gpus", "rank", "expected"),
    [(0, "1", None), (1, "1", None), (4, None, None), (4, "2", "2"), (4, "5", "1"), (4, "x", None)],
)
def test_ranks_draw_on_their_own_gpu(gpus: int, rank: str | None, expected: str | None) -> None:
    assert choose_egl_device(gpus, rank) == expected


@pytest.mark.parametrize(
    ("gpus", "index", "variables", "expected"),
    [
        (4, 0, {"MUJOCO_GL": "egl"}, "0"),
        (4, 5, {"MUJOCO_GL": "egl"}, "1"),
        (1, 1, {"MUJOCO_GL": "egl"}, None),
        (4, 1, {"MUJOCO_GL": "osmesa"}, None),
        (4, 1, {}, None),
        (4, 1, {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "3"}, None),  # the user's choice, or the rank's
        (4, 1, {"MUJOCO_GL": "egl", "LOCAL_RANK": "0"}, "0"),  # rank 0 became one after it had chosen nothing
        (4, 1, {"MUJOCO_GL": "egl", "LOCAL_RANK": "6", "WORLD_SIZE": "8"}, "2"),
        (4, 1, {"MUJOCO_GL": "egl", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "1"),
        (4, 1, {"MUJOCO_GL": "egl", "SLURM_LOCALID": "3", "SLURM_NTASKS": "4"}, "3"),
        (4, 1, {"MUJOCO_GL": "egl", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}, "1"),
        (4, 1, {"MUJOCO_GL": "egl", "SLURM_LOCALID": "0"}, "1"),
    ],
)
def test_workers_draw_on_all_gpus_unless_one_was_chosen(gpus, index, variables, expected) -> None:
    assert egl_device_of_worker(index, gpus, variables) == expected


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch):
    """Return what turns the variables of a process on a machine with four GPUs into those it has once it has chosen."""
    monkeypatch.setattr(glob, "glob", lambda pattern: [f"/dev/nvidia{index}" for index in range(4)])
    monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)

    def configure(variables: dict[str, str], **own: str) -> dict[str, str]:
        environment = {**variables, **own}
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", environment)
            rendering.configure_backend()
            rendering.configure_backend()  # once more changes nothing
        return environment

    return configure


def device(environment: dict[str, str]) -> str | None:
    return environment.get("MUJOCO_EGL_DEVICE_ID")


@pytest.mark.parametrize(("tasks", "first"), [("1", None), ("4", "0")])
def test_a_rank_does_not_keep_what_the_process_that_started_it_chose_for_itself(tasks, first, configured) -> None:
    """``srun --pty bash`` leaves ``SLURM_LOCALID=0`` behind, and other ranks inherit what rank 0 has."""
    started = configured({"MUJOCO_GL": "egl", "SLURM_LOCALID": "0", "SLURM_NTASKS": tasks})
    assert device(started) == first
    launched = {**started, "WORLD_SIZE": "4"}
    ranks = [configured(launched, LOCAL_RANK=str(rank)) for rank in (1, 2, 3)]
    assert [device(rank) for rank in ranks] == ["1", "2", "3"]
    assert [device(configured(rank)) for rank in ranks] == ["1", "2", "3"], "a worker of theirs"
    assert device(configured(without_ranks(ranks[0]))) is None, "a run of its own"


def test_the_users_choice_stays_in_all_processes(configured) -> None:
    shell = {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "3", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
    rank = configured(configured(shell), LOCAL_RANK="1", WORLD_SIZE="4")
    assert device(rank) == device(without_ranks(rank)) == "3"
    chosen = configured({"MUJOCO_GL": "egl", "LOCAL_RANK": "1"})
    assert device(configured(chosen, MUJOCO_EGL_DEVICE_ID="2")) == "2", "for a process started by a rank"


def test_a_job_of_one_task_leaves_the_choice_to_mujoco(configured) -> None:
    """Its workers draw on all GPUs, and ``doctor`` sees that nobody has chosen."""
    assert device(configured({"MUJOCO_GL": "egl", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"})) is None


def in_new_process(
    code: str, timeout_seconds: float | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment |= variables
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_seconds
    )


CHECK = """
from plasticity_rl.errors import UserError
try:
    from plasticity_rl.machine.rendering import check_rendering
    check_rendering()
except UserError as error:
    print(error)
"""


def test_rendering_works_here() -> None:
    check_rendering()


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "rubbish"},  # the import of dm_control fails
        {"MUJOCO_GL": "off"},  # the import works, the first frame fails
        {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"},
    ],
)
def test_failure_is_one_line_with_the_fix(variables: dict[str, str]) -> None:
    run = in_new_process(CHECK, **variables)
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    for part in ("MUJOCO_GL=" + variables["MUJOCO_GL"], "libegl1 libgl1 libosmesa6", "MUJOCO_GL=egl|osmesa|glfw"):
        assert part in line


def test_glfw_without_display_is_refused_instead_of_aborting(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import dm_control.suite; from plasticity_rl.envs import make_env; make_env('walker_run', seed=0)"
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    run = in_new_process(code, MUJOCO_GL="glfw")
    if "ImportError" not in run.stderr:  # the GLFW library itself may be missing
        assert "import make_env of plasticity_rl before dm_control" in run.stderr.splitlines()[-1]


def test_an_environment_that_draws_fails_with_the_same_line() -> None:
    run = in_new_process("from plasticity_rl.envs import make_env; make_env('walker_run', seed=0)", MUJOCO_GL="rubbish")
    assert run.returncode != 0
    last = run.stderr.splitlines()[-1]
    assert last.startswith("plasticity_rl.errors.UserError: Rendering does not start with MUJOCO_GL=rubbish")


FROM_STATES = """
import sys
from plasticity_rl.__main__ import main
agent = ["--agent=sac", "--model.hidden_dim=16", "--model.num_seed_frames=160", "--data.observation=state"]
agent += ["--data.task=cartpole_swingup", "--data.batch_size=8", "--data.capacity=200", "--data.action_repeat=16"]
agent += ["--data.eval_every_n_frames=320", "--data.num_eval_episodes=1", "--max_frames=320"]
assert main(["fit", *agent, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={sys.argv[1]}"]) == 0
checkpoint = f"{sys.argv[1]}/checkpoints/last.ckpt"
assert main(["validate", f"--ckpt_path={checkpoint}"]) == 0
assert main(["probe", checkpoint, "--probes", "WeightNorm"]) == 0
assert main(["probe", "--probes", "WeightNorm", "--compare", checkpoint, checkpoint]) == 0
"""


def test_a_run_from_states_needs_no_rendering_to_be_trained_evaluated_and_measured(tmp_path: Path) -> None:
    run = in_new_process(FROM_STATES.replace("sys.argv[1]", repr(str(tmp_path / "run"))), MUJOCO_GL="off")
    assert run.returncode == 0, run.stderr


def test_unset_variables_are_set_and_set_ones_kept() -> None:
    code = "import os, plasticity_rl.machine.rendering as r; r.configure_backend(); print(os.environ.get('MUJOCO_GL'))"
    assert in_new_process(code, MUJOCO_GL="glfw").stdout.strip() == "glfw"
    assert in_new_process(code, PYOPENGL_PLATFORM="osmesa").stdout.strip() == "osmesa"
    if sys.platform.startswith("linux"):
        assert in_new_process(code).stdout.strip() in ("egl", "osmesa")


def test_errors_module_stays_light() -> None:
    run = in_new_process("import sys, plasticity_rl.errors; print('dm_control' in sys.modules, 'torch' in sys.modules)")
    assert run.stdout.split() == ["False", "False"], run.stderr


def test_a_user_error_passes_unchanged() -> None:
    with pytest.raises(UserError, match="^mine$"), rendering.rendering_errors():
        raise UserError("mine")


def test_the_early_exit_hook_exists() -> None:
    assert hasattr(threading, "_register_atexit"), (
        "without threading._register_atexit, dm_control prints errors at exit"
    )


DROP_IN_A_CYCLE = """
import gc, os
from plasticity_rl import make_env
gc.disable()
for _ in range(3):
    env = make_env("cartpole_balance", seed=0, image_size=16, render="fast")
    env.rollout(2)
    env.itself = env
    del env
    gc.collect()
print("collected")
from dm_control._render.executor import render_executor
print(len(render_executor._THREAD_POOL_EXECUTOR_POOL._deque), os.environ["MUJOCO_GL"])
"""


def test_an_environment_dropped_in_a_reference_cycle_is_freed() -> None:
    """An agent, its trainer and its environments refer to each other; without the kept threads this waits forever."""
    run = in_new_process(DROP_IN_A_CYCLE, timeout_seconds=250)
    assert run.stdout.startswith("collected"), run.stderr
    _, unused, backend = run.stdout.split()
    assert int(unused) == (0 if backend == "egl" else 1)  # EGL draws in this thread; else one thread, used three times


# ---- triton's LLVM and Mesa's ----------------------------------------------------------------------------------------

with_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not sys.platform.startswith("linux"), reason="needs triton on Linux"
)
DRAW_BY_ONESELF = """
import os
os.environ.setdefault("MUJOCO_GL", BACKEND)
from dm_control import suite
assert suite.load("cartpole", "balance").physics.render(16, 16).any()
"""
DRAW_WITH_CHECK = "from plasticity_rl.machine.rendering import check_rendering; check_rendering()"
LOAD_TRITON = "from triton._C import libtriton; libtriton.llvm.context()"
OWN_DRAWING = DRAW_BY_ONESELF.replace("BACKEND", repr(choose_backend(sys.platform, 0, lambda name: name == "EGL")))


def runs(*code: str) -> None:
    run = in_new_process("\n".join([*code, "print('to the end')"]))
    assert (run.returncode, run.stdout) == (0, "to the end\n"), run.stderr[-2000:]


@with_triton
@pytest.mark.parametrize(
    "order",
    [
        (LOAD_TRITON, DRAW_WITH_CHECK),
        (DRAW_WITH_CHECK, LOAD_TRITON),
        (DRAW_WITH_CHECK, LOAD_TRITON, DRAW_WITH_CHECK.replace("check_rendering()", "check_rendering.__wrapped__()")),
        (OWN_DRAWING, DRAW_WITH_CHECK, LOAD_TRITON),
        (OWN_DRAWING, "import plasticity_rl", LOAD_TRITON, OWN_DRAWING),
    ],
    ids=["triton first", "drawn first", "drawn before and after", "drawn by a script first", "imported in between"],
)
def test_triton_and_opengl_work_in_either_order(order: tuple[str, ...]) -> None:
    """Mesa's drivers show their LLVM to the whole process; triton's, loaded later, was bound to it and crashed."""
    runs(*order)


@with_triton
@pytest.mark.xfail(strict=False, reason="Mesa and triton without us: where this passes, load_triton is needed no more")
def test_what_happens_without_us() -> None:
    runs(OWN_DRAWING, LOAD_TRITON)


@pytest.mark.parametrize("observation", ["pixels", pytest.param("state", marks=pytest.mark.slow)])
def test_a_script_may_import_lightning_after_it_has_drawn(observation: str) -> None:
    """With EGL, importing dm_control is enough to start OpenGL, so states are concerned as well."""
    runs(
        "from plasticity_rl import make_env",
        f"make_env('cartpole_balance', seed=0, image_size=16, observation='{observation}').rollout(2)",
        "import lightning.pytorch",
    )


@pytest.mark.parametrize("command", ["fit", pytest.param("validate", marks=pytest.mark.slow), "probe"])
def test_a_mistyped_option_is_one_line_under_what_pip_gives(command: str) -> None:
    run = in_new_process(f"from plasticity_rl.__main__ import main; raise SystemExit(main(['{command}', '--batch=1']))")
    assert run.returncode == 2, run.stderr[-2000:]
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")


def test_dm_control_turns_no_warnings_on() -> None:
    """It asks for every DeprecationWarning of every package; with numpy 2.5 that was 30 000 lines in a short run."""
    warn = "exec(\"__import__('warnings').warn('old', DeprecationWarning)\", {'__name__': 'some_library'})"
    run = in_new_process(f"import plasticity_rl.envs.dmc; {warn}")
    assert run.returncode == 0
    assert "old" not in run.stderr


def test_without_triton_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("ctypes.CDLL", loaded.append)
    before = set(sys.modules)
    rendering.load_triton()
    assert loaded == []
    assert set(sys.modules) == before


@with_triton
def test_only_what_draws_loads_triton_and_its_library_alone() -> None:
    code = """
import contextlib, os, sys
from plasticity_rl.__main__ import main
for args in (["--version"], ["--help"], ["doctor", "--help"], ["plot", "--help"], ["study", "report", "--help"]):
    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
        main(args)
loaded = lambda: "/libtriton" in open("/proc/self/maps").read()
print(loaded())
from plasticity_rl.machine.rendering import prepare
prepare()
print(loaded(), "triton" in sys.modules)
"""
    run = in_new_process(code)
    assert run.stdout.split() == ["False", "True", "False"], run.stderr


def test_a_triton_that_does_not_load_is_left_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another architecture, or half installed: torch does without it, and says so where it matters."""
    (tmp_path / "triton" / "_C").mkdir(parents=True)
    (tmp_path / "triton" / "__init__.py").touch()
    (tmp_path / "triton" / "_C" / "libtriton.so").write_bytes(b"not a library")
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    rendering.load_triton()
