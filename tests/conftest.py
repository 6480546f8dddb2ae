"""Settings that must be in the environment before torch is imported."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def donor_run(request, tmp_path_factory) -> Iterator[None]:
    """A stopped run that ``WarmStartReplay`` finds under its example arguments, where examples are run."""
    if not {"test_laws.py", "test_readme.py"} & {item.path.name for item in request.session.items}:
        yield
        return
    from helpers import fit_tiny

    from callbacks import WarmStartReplay

    folder = tmp_path_factory.mktemp("donor")
    fit_tiny(folder, max_frames=60, seed=9, data_options={"eval_every_n_frames": 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WarmStartReplay, "example_arguments", {"path": str(folder)})
        yield
