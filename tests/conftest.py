"""What must be in the environment before torch is imported, seeds, settings of hypothesis, a stand-in for weights."""

import os
import random
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tensorboard.summary.writer import event_file_writer

from plasticity_rl.machine.rendering import load_triton

load_triton()  # before any test imports dm_control by itself
torch.set_num_threads(1)

# Event files of one second are read in the order of their names, which end in this number: 10 would come before 9.
event_file_writer._global_uid = event_file_writer.AtomicCounter(1_000_000)

# The same examples in every run, and no test that fails because the machine is busy.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test, with its fixtures, draws the same numbers whatever ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


RUN_ALL_EXAMPLES = {
    "test_compiled.py",
    "test_devices.py",
    "test_laws.py",
    "test_laws_agents.py",
    "test_laws_compose.py",
    "test_laws_resume.py",
    "test_pages.py",
    "test_precision.py",
    "test_probes_beside_interventions.py",
    "test_second_agent.py",
}


@pytest.fixture(scope="session", autouse=True)
def weights_in_the_cache(tmp_path_factory) -> Iterator[None]:
    """Torch's cache of downloads with random weights where those of ImageNet would be: tests use no network."""
    from plasticity_rl.nn.resnet import resnet

    home = tmp_path_factory.mktemp("torch_home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = resnet("resnet18", "layer2", torch.Generator().manual_seed(0)).state_dict()
    torch.save(state, folder / "resnet18-f37072fd.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        yield


@pytest.fixture(scope="session", autouse=True)
def donor_run(request, tmp_path_factory) -> Iterator[None]:
    """A stopped run that ``WarmStartReplay`` finds under its example arguments, where examples are run."""
    if not RUN_ALL_EXAMPLES & {item.path.name for item in request.session.items}:
        yield
        return
    from helpers import fit_tiny

    from callbacks import WarmStartReplay

    folder = tmp_path_factory.mktemp("donor")
    fit_tiny(folder, max_frames=60, seed=9, data_options={"eval_every_n_frames": 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WarmStartReplay, "example_arguments", {"path": str(folder)})
        yield
