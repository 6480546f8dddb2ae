"""Env steps per second, each of which draws one frame: exact and fast, and the reference's wrappers, in one process."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.harness.child import command, serve
from benchmarks.harness.contest import Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import print_rates, rate_rows


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    full = options.size == "full"
    n = options.units or (100 if full else 3)
    arguments = {"path": options.reference, "task": options.task, "image_size": 84 if full else 16}
    with Contestants() as group:
        # One thread, as our command sets it on two cores: with more, ours lets a second thread copy 64 KB and wait. The
        # reference does no work in torch here.
        contestant = group.start(
            "render", command("measurements.render:environments", **arguments), {"OMP_NUM_THREADS": "1"}
        )
        if contestant is None:
            sys.exit(1)
        ready = contestant.ready
        lanes = [Lane(name, contestant, {"which": name, "n": n}) for name in ready["environments"]]
        answers = interleave(lanes, options.repeats)
    baseline = lanes[0].name
    rows = rate_rows(answers, baseline)
    title = f"render: env steps (one frame each) per second, {options.task}, {ready['backend']} on {ready['renderer']}"
    print_rates(title, "frames/s", rows, baseline)
    if ready["identical"] is not None:
        print(f"pixels of 'ours, exact' equal the reference's over {ready['compared']} steps: {ready['identical']}")
    return {"rows": rows, "answers": answers, "contestant": ready}


def environments(path: str | None, task: str, image_size: int) -> None:
    """Contestant: the environments side by side, stepped with the same random actions."""
    from plasticity_rl.machine.rendering import prepare

    prepare()  # before dm_control is imported; one process has one backend, so this one is everybody's
    import numpy as np
    import torch

    from plasticity_rl import make_env

    envs = {f"ours, {mode}": make_env(task, seed=1, image_size=image_size, render=mode) for mode in ("exact", "fast")}
    now = {name: env.reset() for name, env in envs.items()}
    action_dim = next(iter(envs.values())).action_spec.shape[-1]
    actions = np.random.RandomState(0).uniform(-1, 1, (1000, action_dim)).astype(np.float32)
    taken = dict.fromkeys([*envs, "reference"], 0)

    def step_ours(name: str) -> Any:
        now[name]["action"] = torch.from_numpy(actions[taken[name] % 1000])
        stepped, now[name] = envs[name].step_and_maybe_reset(now[name])
        return stepped["next", "pixels"]

    theirs: Any = None
    if path:
        from benchmarks.contestants import reference

        theirs = reference.make_env(reference.load(path), task)
        time_step = theirs.reset()

    def step_theirs(name: str) -> Any:
        nonlocal time_step
        if time_step.last():
            time_step = theirs.reset()
        time_step = theirs.step(actions[taken[name] % 1000])
        return time_step.observation

    stepping = {**({"reference": step_theirs} if path else {}), **dict.fromkeys(envs, step_ours)}

    def work(n: int, which: str) -> None:
        for _ in range(n):
            stepping[which](which)
            taken[which] += 1

    identical, compared = None, 20
    if path:
        pairs = []
        for _ in range(compared):
            pairs.append(np.array_equal(step_theirs("reference"), step_ours("ours, exact").numpy()))
            taken["reference"] += 1
            taken["ours, exact"] += 1
        identical = all(pairs)
    work(3, "ours, fast")
    serve(work, environments=list(stepping), identical=identical, compared=compared, **_backend())


def _backend() -> dict[str, str]:
    """Return the name of the OpenGL backend, and of what draws, as the doctor tells it."""
    import os

    from dm_control import mujoco

    physics = mujoco.Physics.from_xml_string("<mujoco/>")
    physics.render(height=8, width=8)
    with physics.contexts.gl.make_current() as context:
        from OpenGL import GL

        renderer = context.call(GL.glGetString, GL.GL_RENDERER)
    physics.free()
    name = renderer.decode() if isinstance(renderer, bytes) else str(renderer)
    return {"backend": os.environ.get("MUJOCO_GL", "dm_control's choice"), "renderer": name}
