"""The original DrQ-v2 from a clone that the user supplies (facebookresearch/drqv2); nothing of it is in ours.

Its modules are imported as they are. Shims for versions newer than it, none of which is in anything that is timed:
``drqv2.py`` imports ``hydra`` and uses nothing of it, so that an empty module stands in where hydra is not installed;
its action spec is float32 again, as its storage demands, where numpy 2 makes it float64; and its loader's workers seed
Python with an int, which since 3.11 no longer takes numpy's. Configuration values are those of ``cfgs/config.yaml``.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.child import Gate, serve

FILES = ("dmc.py", "drqv2.py", "replay_buffer.py", "utils.py")
WORKERS = 4
"""``replay_buffer_num_workers`` of its configuration."""
TRAIN_PY = {"MUJOCO_GL": "egl", "MKL_SERVICE_FORCE_INTEL": "1"}
"""What its ``train.py`` sets in the environment."""


def check(path: str) -> None:
    """Exit with one line when ``path`` is no clone of it."""
    missing = [name for name in FILES if not (Path(path) / name).is_file()]
    if missing:
        sys.exit(
            f"error: --reference {path}: no {', '.join(missing)} there; git clone github.com/facebookresearch/drqv2"
        )


def revision(path: str) -> str:
    """Return its git revision, or ``unknown``."""
    found = subprocess.run(["git", "-C", path, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def settings(ours: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process of it: what its ``train.py`` sets, and on top what our command sets."""
    return {**TRAIN_PY, **(ours or {})}


def load(path: str) -> types.SimpleNamespace:
    """Import its modules."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch

    torch.backends.cudnn.benchmark = True  # as its train.py
    if "hydra" not in sys.modules and importlib.util.find_spec("hydra") is None:
        sys.modules["hydra"] = types.ModuleType("hydra")
    if path not in sys.path:
        sys.path.insert(0, path)
    names = [name.removesuffix(".py") for name in FILES]
    return types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def make_env(modules: Any, task: str) -> Any:
    """Build its environment."""
    import numpy as np

    env = modules.dmc.make(task, 3, 2, 1)
    spec = env.action_spec().replace(dtype=np.dtype("float32"))
    env.action_spec = lambda: spec
    return env


def make_agent(modules: Any, obs_shape: tuple[int, ...], action_shape: tuple[int, ...], device: str) -> Any:
    """Build its agent as ``cfgs/config.yaml`` does."""
    return modules.drqv2.DrQV2Agent(
        obs_shape=obs_shape,
        action_shape=action_shape,
        device=device,
        lr=1e-4,
        feature_dim=50,
        hidden_dim=1024,
        critic_target_tau=0.01,
        num_expl_steps=2000,
        update_every_steps=2,
        stddev_schedule="linear(1.0,0.1,500000)",
        stddev_clip=0.3,
        use_tb=True,
    )


def choose_device(device: str) -> str:
    """Turn ``auto`` into the device that our Trainer would take."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def updates(path: str, device: str) -> None:
    """Contestant: its ``update`` on one batch of noise, as its loader would hand it on."""
    import torch

    from benchmarks.contestants.inside import random_batch

    modules, device = load(path), choose_device(device)
    agent = make_agent(modules, (9, 84, 84), (6,), device)
    batches: dict[int, Any] = {}

    def work(n: int, batch_size: int = 256) -> None:
        if batch_size not in batches:
            b = random_batch(batch_size, (9, 84, 84), 6)
            batches[batch_size] = itertools.repeat(
                (b["pixels"], b["action"], b["reward"], b["discount"], b["next", "pixels"])
            )
        for _ in range(n):
            agent.update(batches[batch_size], 2000)

    work(2)
    serve(work, device=str(torch.device(device)), precision="float32")


def _new_storage(modules: Any, env: Any, folder: Path) -> Any:
    import numpy as np
    from dm_env import specs

    scalars = (specs.Array((1,), np.float32, "reward"), specs.Array((1,), np.float32, "discount"))
    return modules.replay_buffer.ReplayBufferStorage((env.observation_spec(), env.action_spec(), *scalars), folder)


def _seed_worker(worker_id: int) -> None:
    """Do what its ``_worker_init_fn`` does."""
    import random

    import numpy as np

    seed = np.random.get_state()[1][0] + worker_id
    np.random.seed(seed)
    random.seed(int(seed))


def _new_loader(modules: Any, folder: Path, workers: int, capacity: int = 1_000_000) -> Any:
    modules.replay_buffer._worker_init_fn = _seed_worker
    return modules.replay_buffer.make_replay_loader(folder, capacity, 256, workers, False, 3, 0.99)


def _random_action(env: Any) -> Any:
    import numpy as np

    return np.random.uniform(-1.0, 1.0, env.action_spec().shape).astype(np.float32)


def replay(path: str, task: str, workers: int, episodes: int) -> None:
    """Contestant: batches from its loader, and writing into its storage. Frames are real ones, 50 of them in turn."""
    import torch

    modules = load(path)
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    env = make_env(modules, task)
    some = [env.reset(), *(env.step(_random_action(env)) for _ in range(50))]
    first, middle = some[0], some[1:]
    last = middle[-1]._replace(step_type=modules.dmc.StepType.LAST)
    episode = [first, *(middle[index % 50] for index in range(499)), last]

    def write(storage: Any, n: int) -> None:
        for index in range(n):
            storage.add(episode[index % 501])

    write(_new_storage(modules, env, folder), 501)
    (written,) = folder.glob("*.npz")
    stamp = written.stem.split("_")[0]
    for index in range(1, episodes):
        shutil.copy(written, folder / f"{stamp}_{index}_500.npz")
    file_bytes = written.stat().st_size / 500
    array_bytes = sum(array.nbytes for array in modules.replay_buffer.load_episode(written).values()) / 500
    batches = iter(_new_loader(modules, folder, workers))
    storage = _new_storage(modules, env, Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR"))))

    def work(n: int, what: str) -> None:
        if what == "sample":
            for _ in range(n):
                modules.utils.to_torch(next(batches), torch.device("cpu"))
        else:
            write(storage, n)

    work(2 * max(workers, 1) + 4, "sample")  # by now the loader has read all episodes and its queue was emptied once
    serve(work, file_bytes=file_bytes, array_bytes=array_bytes, workers=workers)


def training(path: str, task: str, device: str, workers: int = WORKERS, seed_frames: int = 4000) -> None:
    """Contestant: the loop of its ``train.py`` with its own parts, without evaluation, logger and video."""
    import torch

    modules, device = load(path), choose_device(device)
    modules.utils.set_seed_everywhere(1)
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    env = make_env(modules, task)
    storage = _new_storage(modules, env, folder)
    loader = _new_loader(modules, folder, workers)
    agent = make_agent(modules, env.observation_spec().shape, env.action_spec().shape, device)
    batches, gate, opened = None, Gate(), False
    time_step = env.reset()
    storage.add(time_step)
    for step in itertools.count():
        if time_step.last():
            time_step = env.reset()
            storage.add(time_step)
        with torch.no_grad(), modules.utils.eval_mode(agent):
            action = agent.act(time_step.observation, step, eval_mode=False)
        if step >= seed_frames // 2:
            batches = iter(loader) if batches is None else batches
            agent.update(batches, step)
        time_step = env.step(action)
        storage.add(time_step)
        if opened:
            gate.tick()
        elif step == seed_frames // 2 + 4:
            opened = True
            gate.open(device=str(device), precision="float32", workers=workers)
