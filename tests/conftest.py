"""Settings that must be in the environment before torch is imported, and a stand-in for ImageNet weights."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def weights_in_the_cache(tmp_path_factory):
    """Torch's cache of downloads with random weights where those of ImageNet would be: tests use no network."""
    from plasticity_rl.resnet import resnet

    home = tmp_path_factory.mktemp("torch_home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = resnet("resnet18", "layer2", torch.Generator().manual_seed(0)).state_dict()
    torch.save(state, folder / "resnet18-f37072fd.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        yield
