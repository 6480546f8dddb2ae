"""The checks behind ``plasticity-rl doctor``, on facts made up by hand and on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from importlib import metadata

import pytest

from plasticity_rl.machine import compromised, health
from plasticity_rl.machine.health import (
    Package,
    check_compromised,
    check_disk,
    check_python,
    check_threads,
    check_versions,
)
from plasticity_rl.machine.trial_findings import (
    check_egl_device,
    check_gpu,
    check_imports,
    check_triton,
    rendering_findings,
)
from plasticity_rl.machine.trials import Trial, run_trial

FITTING = {
    "plasticity-rl": Package(
        "0.1.0",
        (
            "mujoco<4,>=3.17",
            "dm_control==1.0.50",
            "torch>=2.6",
            "jsonargparse[signatures]<5,>=4.39",
            "x; extra == 'dev'",
        ),
    ),
    "mujoco": Package("3.17.0"),
    "dm_control": Package("1.0.50", ("mujoco>=3.17.0", "numpy>=1.9.0")),
    "torch": Package("2.13.0+cpu"),
    "jsonargparse": Package("4.53.0"),
    "torchrl": Package("0.14.1", ("tensordict<0.15.0,>=0.14.3", "mujoco; extra == 'gym-continuous'")),
    "tensordict": Package("0.14.3"),
    "lightning": Package("2.6.6", ("torch<4.0,>=2.1.0",)),
}


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def test_packages_are_read_from_their_metadata():
    found = health.installed("torchrl")
    assert found is not None
    assert found.version == metadata.version("torchrl")
    assert list(found.requires) == metadata.requires("torchrl")
    assert health.installed("no-such-package") is None


def test_fitting_versions_are_one_line():
    (found,) = check_versions(FITTING)
    assert found.level == "ok"
    assert "dm_control 1.0.50, mujoco 3.17.0" in found.text


@pytest.mark.parametrize(
    ("name", "package", "text", "fix"),
    [
        (
            "mujoco",
            Package("4.0.0"),
            "mujoco 4.0.0 is not in <4,>=3.17: dm_control reads",
            "pip install 'mujoco<4,>=3.17'",
        ),
        ("mujoco", None, "mujoco is not installed", "pip install 'mujoco<4,>=3.17'"),
        (
            "jsonargparse",
            Package("5.0.0"),
            "jsonargparse 5.0.0 is not in <5,>=4.39: version 5 removes",
            "jsonargparse<5",
        ),
        (
            "tensordict",
            Package("0.15.0"),
            "torchrl 0.14.1 needs tensordict<0.15.0,>=0.14.3, but 0.15.0",
            "tensordict<0.15.0",
        ),
        ("torch", Package("2.5.1"), "torch 2.5.1 is not in >=2.6: older ones load", "pip install 'torch>=2.6'"),
        (
            "torchvision",
            Package("0.28.0", ("torch==2.12.0",)),
            "torchvision 0.28.0 needs torch==2.12.0",
            "uninstall torchv",
        ),
        (
            "torchvision",
            Package("0.28.0", ("torch==2.13.0",)),
            "0.28.0 is of another build than torch 2.13.0+cpu",
            "one index",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_clash_of_versions_is_a_problem_with_its_fix(name, package, text, fix):
    (found,) = check_versions({**FITTING, name: package})
    assert found.level == "problem"
    assert text in found.text
    assert fix in found.fix


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.13.0+cpu", "0.28.0+cpu"), ("2.13.0", "0.28.0"), ("2.13.0+cu130", "0.28.0"), ("2.13.0+mine", "0.28.0+git1")],
)
def test_a_fitting_torchvision_is_no_problem(torch, torchvision):
    """The package index's build has no label; nor has one's own a known one."""
    packages = {**FITTING, "torch": Package(torch), "torchvision": Package(torchvision, ("torch==2.13.0",))}
    assert levels(check_versions(packages)) == ["ok"]


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_compromised_releases_are_named(name, version):
    (found,) = check_compromised({**FITTING, name: Package(version)})
    assert (found.check, found.level) == ("security", "problem")
    assert f"{name} {version} is a compromised release" in found.text
    assert check_compromised(FITTING) == []


def test_the_python_version_is_compared_with_the_metadata():
    assert levels(check_python("3.12.9", ">=3.10,<3.13")) == ["ok"]
    (found,) = check_python("3.13.0", ">=3.10,<3.13")
    assert (found.level, found.text) == ("problem", "3.13.0 is not in >=3.10,<3.13")


@pytest.mark.parametrize(
    ("cores", "omp", "visible", "level"),
    [
        (2, "1", 2, "ok"),
        (2, "2", 64, "ok"),
        (2, None, 2, "ok"),
        (2, "8", 2, "problem"),
        (2, None, 64, "problem"),  # a container with a quota: torch sees 64 cores and starts 64 threads
        (2, "", 2, "problem"),
        (2, "0", 2, "problem"),
        (2, "many", 2, "problem"),
    ],
)
def test_more_threads_than_cores_is_a_problem(cores, omp, visible, level):
    (found,) = check_threads(cores, omp, visible)
    assert found.level == level, found
    assert found.fix == ("export OMP_NUM_THREADS=2" if level == "problem" else "")


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path, monkeypatch):
    assert levels(check_disk(tmp_path / "runs" / "one")) == ["ok"]
    monkeypatch.setattr(health, "LEAST_DISK_BYTES", 10**18)
    (found,) = check_disk(tmp_path / "runs")
    assert found.level == "problem"
    assert "GB free where" in found.text
    assert "--trainer.default_root_dir" in found.fix
    assert list(tmp_path.iterdir()) == []


def test_what_fit_looks_at_imports_nothing_heavy_and_finds_this_environment_in_order():
    code = (
        "import sys; from plasticity_rl.machine.health import problems, quick_findings\n"
        "print([f.text for f in problems(quick_findings()) if f.check != 'threads'])\n"
        "print({'torch', 'numpy', 'lightning', 'torchrl', 'mujoco', 'dm_control', 'yaml'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "set()"]


# ---- trials ----------------------------------------------------------------------------------------------------------


def drawn(speed: float, renderer: str) -> Trial:
    return Trial([{"frames_per_second": speed}, {"renderer": renderer}])


def test_only_the_backend_that_training_uses_can_be_a_problem():
    trials = {"egl": Trial(error="ImportError: no EGL"), "osmesa": drawn(50.0, "llvmpipe")}
    egl, osmesa = rendering_findings(trials, "osmesa")
    assert (egl.level, egl.fix) == ("note", "")
    assert osmesa.level == "ok"
    assert "osmesa (training uses it): 50 frames/s of 84x84 pixels on llvmpipe" in osmesa.text
    egl, osmesa = rendering_findings(trials, "egl")
    assert (egl.level, egl.fix) == ("problem", "export MUJOCO_GL=osmesa")
    assert "egl (training uses it) does not draw: ImportError: no EGL" in egl.text


def test_without_any_backend_the_packages_are_named():
    found = rendering_findings({name: Trial(error="broken") for name in ("egl", "osmesa")}, None)
    assert levels(found) == ["note", "note", "problem"]
    assert "apt-get install libegl1" in found[-1].fix


def test_a_much_faster_backend_is_mentioned():
    *_, found = rendering_findings({"egl": drawn(900.0, "NVIDIA"), "osmesa": drawn(50.0, "llvmpipe")}, "osmesa")
    assert (found.level, found.fix) == ("note", "export MUJOCO_GL=egl")
    assert len(rendering_findings({"egl": drawn(90.0, "NVIDIA"), "osmesa": drawn(50.0, "llvmpipe")}, "osmesa")) == 2


H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("renderer", "gpus", "cuda_visible", "egl_device", "level", "text"),
    [
        (f"{H100}/PCIe/SSE2", [H100], None, None, "ok", "EGL draws on NVIDIA H100"),
        (f"{H100}/PCIe/SSE2", [H100, H100], None, None, "note", "order of EGL's devices is not checked"),
        ("llvmpipe (LLVM 15)", [H100], None, None, "problem", "EGL draws in software"),
        (f"{H100}/PCIe/SSE2", [H100], "3", None, "problem", "uses GPU 3"),
        (f"{H100}/PCIe/SSE2", [H100], "3", "3", "ok", "EGL draws on"),
        (
            "NVIDIA T4/PCIe/SSE2",
            [H100],
            None,
            None,
            "problem",
            f"EGL draws on NVIDIA T4/PCIe/SSE2, but training uses {H100}",
        ),
    ],
)
def test_egl_must_draw_on_the_gpu_that_trains(renderer, gpus, cuda_visible, egl_device, level, text):
    (found,) = check_egl_device(drawn(900.0, renderer), gpus, cuda_visible, egl_device)
    assert found.level == level
    assert text in found.text
    assert bool(found.fix) == (level == "problem")


def test_without_gpu_there_is_nothing_to_say_about_egl():
    assert check_egl_device(drawn(50.0, "llvmpipe"), [], None, None) == []


@pytest.mark.parametrize(
    ("gpus", "cuda", "devices", "level"),
    [([], None, 0, "ok"), ([H100], "12.8", 1, "ok"), ([], None, 1, "problem"), ([], "12.8", 1, "problem")],
)
def test_a_gpu_that_torch_does_not_see_is_a_problem(gpus, cuda, devices, level):
    assert levels(check_gpu(Trial([{"gpus": gpus, "cuda_of_torch": cuda}]), devices)) == [level]


def test_a_torch_without_answer_leaves_the_gpu_open():
    assert levels(check_gpu(Trial(error="broken"), 1)) == ["note"]


def test_a_process_that_dies_names_the_import():
    trial = Trial(
        [{"importing": "torch"}, {"module": "torch", "seconds": 1.0}, {"importing": "tensordict"}], "signal 11"
    )
    (found,) = check_imports(trial)
    assert (found.level, found.fix) == ("problem", "pip install --force-reinstall tensordict")
    assert found.text == "import tensordict fails: signal 11"


def test_a_broken_import_is_found_by_trying(tmp_path):
    """A real process, with a package in front that fails as a half-installed torch does."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libc10.so: cannot open shared object file')")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    (found,) = check_imports(run_trial("imports", environment={"PYTHONPATH": paths}))
    assert found.text == "import torch fails: ImportError: libc10.so: cannot open shared object file"
    assert found.fix == "pip install --force-reinstall torch"


def test_rendering_is_tried_in_a_process_of_its_own():
    from plasticity_rl.machine.rendering import configure_backend

    configure_backend()
    backend = os.environ["MUJOCO_GL"]
    (found,) = rendering_findings({backend: run_trial("rendering")}, backend)
    assert found.level == "ok", found
    trial = run_trial("rendering", environment={"MUJOCO_GL": "nonsense"})
    assert trial.results == []
    assert "MUJOCO_GL must be one of" in trial.error


@pytest.mark.parametrize(
    ("trial", "level", "text"),
    [
        (None, "ok", "not installed"),
        (Trial(error="no EGL"), "note", "nothing can be drawn"),
        (Trial([{"drawn": True}], "the process was ended by signal 11"), "problem", "ended by signal 11"),
        (Trial([{"drawn": True}, {"triton": "3.8.0"}]), "ok", "3.8.0, loaded before OpenGL"),
    ],
)
def test_triton_beside_opengl(trial, level, text):
    (found,) = check_triton(trial)
    assert found.level == level
    assert text in found.text
    assert bool(found.fix) == (level == "problem")


def test_the_order_of_training_is_tried():
    trial = run_trial("order")
    assert trial.error == ""
    assert [list(result) for result in trial.results] == [["drawn"], ["triton"]]


def test_a_trial_that_hangs_is_given_up(tmp_path):
    """The process is stopped before Python has even started."""
    trial = run_trial("rendering", timeout_seconds=0.001)
    assert (trial.results, trial.error) == ([], "no answer within 0 s")


@pytest.mark.parametrize("module", ["lightning", "pytorch_lightning", "lightning.pytorch", "torch"])
def test_a_compromised_release_is_not_imported_by_anything_after_ours(module, monkeypatch):
    """``import callbacks`` in a script too: whatever it is that imports it, the release stays on the disk."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.6.2")
    guards = [finder for finder in sys.meta_path if isinstance(finder, compromised.Guard)]
    assert guards == sys.meta_path[:1]
    if module in compromised.MODULES:
        with pytest.raises(ImportError, match=r"2\.6\.2 is a compromised release .* pip uninstall"):
            guards[0].find_spec(module)
    else:
        assert guards[0].find_spec(module) is None
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.6.4")
    assert guards[0].find_spec(module) is None
