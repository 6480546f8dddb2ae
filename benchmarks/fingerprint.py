"""Hashes of five trained configurations: does a change leave every number as it was?

``python -m benchmarks.fingerprint`` (``make fingerprint``), in the root of a checkout, trains and prints a line each:

* ``pixels``: configs/quickstart.yaml for 4 000 frames;
* ``sac``: SAC from states;
* ``ranks``: DrQ-v2 on two ranks (DDP over gloo);
* ``interventions``: DrQ-v2 with eight interventions, all of which act;
* ``resumed``: the same, stopped in the middle and resumed. It must equal ``interventions``, else the exit code is 1.

Keep the lines with ``--out FILE`` before a change and give them to ``--compare FILE`` after it. A line holds one short
hash per part, so that a difference says where it is; ``keys`` hashes the names of the parts' entries, which no other
hash contains. Hashes compare only on one machine with one set of packages: another processor or another build of torch
rounds differently.

This file stands alone and touches nothing but the command line and the run folder, both of which outlive a move of
modules: ``python PATH/fingerprint.py`` in another checkout measures that one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

PARTS = ("weights", "optimizers", "clocks", "generators", "simulator", "cursor", "records", "callbacks", "returns")
CLOCKS = ("env_frames", "env_steps", "num_updates", "updates_from_frame", "replay_ratio", "update_credit")
SEPARATE = {"run", "session"}
"""Entries that differ between equal runs: the random name of a replay, and how often it was resumed."""
QUICKSTART = "configs/quickstart.yaml"
FIT = [
    *("--trainer.accelerator=cpu", "--trainer.deterministic=true", "--trainer.enable_progress_bar=false"),
    "--data.storage=memmap",  # on disk, so that the records are in the run folder
]
SMALL = ["--data.batch_size=16", "--data.capacity=150", "--data.num_eval_episodes=1", "--model.hidden_dim=64"]
SMALL_PIXELS = [
    *(f"--config={QUICKSTART}", *SMALL, "--data.image_size=32", "--data.eval_every_n_frames=640"),
    *("--model.feature_dim=16", "--model.num_seed_frames=160", "--model.replay_ratio=1.0"),
]
HALF, WHOLE = 640, 1280
"""Env frames of 80 and of 160 env steps; an episode has 125. The ring of the replay goes round in the second half."""
INTERVENTIONS: dict[str, dict[str, Any]] = {
    "ReDo": {"tau": 0.5, "every_n_updates": 30, "batch_size": 16},
    "Reset": {"modules": ["actor"], "every_n_frames": 400},
    "ShrinkAndPerturb": {"modules": ["critic"], "at_frames": [480]},
    "OptimizerReset": {"modules": ["encoder"], "every_n_frames": 320},
    "L2Init": {"modules": ["critic"]},
    "ChurnReduction": {"module": "critic"},
    "WeightClipping": {"kappa": 1.0},
    "ToggleAugmentation": {"at_frame": 560, "on": False},
}
"""With frames below ``HALF``, since a run refuses events behind its end."""


def sha(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)  # else (b"a", b"bc") would equal (b"ab", b"c")
    return digest.digest()


def leaves(value: Any, path: tuple[str, ...] = (), *, folder: str = "") -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield the path and the digest of every tensor and plain value in nested dicts, lists and tuples.

    Args:
        value: What a checkpoint holds.
        path: Keys above ``value``.
        folder: Run folder, replaced in strings: two runs are in two of them.
    """
    if isinstance(value, Mapping):
        if not value:
            yield path, sha(b"empty")
        for key in value:
            if key not in SEPARATE:
                yield from leaves(value[key], (*path, str(key)), folder=folder)
    elif isinstance(value, (list, tuple)):
        yield path, sha(b"sequence", str(len(value)).encode())
        for index, item in enumerate(value):
            yield from leaves(item, (*path, f"{index:06d}"), folder=folder)
    elif isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        yield path, sha(str(tensor.dtype).encode(), str(tuple(tensor.shape)).encode(), content)
    else:
        text = repr(value)  # of a float: all its bits
        yield path, sha(type(value).__name__.encode(), (text.replace(folder, "RUN") if folder else text).encode())


def hash_values(value: Any, *, folder: str = "") -> bytes:
    """Hash all values, in the order of their keys, and no key."""
    found = sorted(leaves(value, folder=folder), key=lambda leaf: leaf[0])
    return sha(*(digest for _, digest in found))


def hash_named(states: Mapping[str, Any], *, folder: str = "") -> bytes:
    """Hash the values of states that are filed under names of classes, which may be renamed: in no order of theirs."""
    return sha(*sorted(hash_values(state, folder=folder) for state in states.values()))


def hash_keys(value: Any) -> bytes:
    """Hash the paths of all values."""
    return sha(*(sha(*(key.encode() for key in path)) for path in sorted(path for path, _ in leaves(value))))


def hash_files(folder: Path) -> bytes:
    """Hash names and contents of all files below ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sha(*(part for path in files for part in (str(path.relative_to(folder)).encode(), path.read_bytes())))


def data_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of the data module, which is filed under the name of its class, or of one per rank."""
    (found,) = (v for v in checkpoint.values() if isinstance(v, Mapping) and {"replay", "collector"} <= v.keys())
    return found


def parts_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint holds, by part; ``callbacks`` by names of classes."""
    agent, data = checkpoint["rl"], data_state(checkpoint)
    replay = data["replay"]
    return {
        "weights": checkpoint["state_dict"],
        "optimizers": checkpoint["optimizer_states"],
        "clocks": {name: agent[name] for name in CLOCKS},
        "generators": [agent["rng"], agent["global_rng"], replay["sampler"]],
        "simulator": [data["collector"], data["current_task"]],
        "cursor": [replay["storage"], replay["writer"]],
        "callbacks": checkpoint["callbacks"],
        "returns": agent["eval_returns"],
    }


def fingerprint(run: Path) -> dict[str, str]:
    """Return short hashes of the parts of a run, of the names in them, and two clocks in plain numbers."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    parts, folder = parts_of(checkpoint), str(run)
    digests = {
        name: (hash_named if name == "callbacks" else hash_values)(part, folder=folder) for name, part in parts.items()
    }
    digests["records"] = sha(*(hash_files(path) for path in sorted(run.glob("replay/rank*/records"))))
    # Names of callbacks hold their classes; those of ModelCheckpoint's files hold the run folder.
    named = {name: part for name, part in parts.items() if name != "callbacks"}
    clocks = parts["clocks"]
    return {
        **{name: digests[name].hex()[:10] for name in PARTS},
        "keys": hash_keys(named).hex()[:10],
        "frames": str(clocks["env_frames"]),
        "updates": str(clocks["num_updates"]),
    }


def line(name: str, found: Mapping[str, str]) -> str:
    return f"{name:<13} " + " ".join(f"{part}={digest}" for part, digest in found.items())


def fit(run: Path, *options: str, seed: int) -> None:
    """Train by the command line of the checkout that is the working directory."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), environment.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "plasticity_rl", "fit", *options, *FIT]
    command += [f"--seed_everything={seed}", f"--trainer.default_root_dir={run}"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}:\n{process.stderr[-3000:]}")


def pixels(run: Path, seed: int) -> None:
    fit(run, f"--config={QUICKSTART}", "--max_frames=4000", seed=seed)


def sac(run: Path, seed: int) -> None:
    options = ["--config=configs/sac_state.yaml", *SMALL, "--data.eval_every_n_frames=800", "--max_frames=800"]
    fit(run, *options, "--model.num_seed_frames=200", seed=seed)


def ranks(run: Path, seed: int) -> None:
    fit(run, *SMALL_PIXELS, f"--max_frames={WHOLE}", "--trainer.devices=2", "--trainer.strategy=ddp", seed=seed)


def with_interventions(run: Path) -> list[str]:
    """Write the callbacks beside the run folder, and return the options of a run with them."""
    entries = [{"class_path": f"callbacks.{name}", "init_args": given} for name, given in INTERVENTIONS.items()]
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"trainer": {"callbacks+": entries}}))
    return [*SMALL_PIXELS, f"--config={path}"]


def interventions(run: Path, seed: int) -> None:
    fit(run, *with_interventions(run), f"--max_frames={WHOLE}", seed=seed)


def resumed(run: Path, seed: int) -> None:
    options = with_interventions(run)
    fit(run, *options, f"--max_frames={HALF}", seed=seed)
    fit(run, *options, f"--max_frames={WHOLE}", "--ckpt_path=last", seed=seed)


RUNS: dict[str, Callable[[Path, int], None]] = {
    "pixels": pixels,
    "sac": sac,
    "ranks": ranks,
    "interventions": interventions,
    "resumed": resumed,
}


def differences(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return the lines of ``after`` that differ from those of the same name in ``before``, with the parts that do."""
    old = {text.split()[0]: _parts(text) for text in before if text.split()[:1] and text.split()[0] in RUNS}
    found = []
    for text in after:
        name, now = text.split()[0], _parts(text)
        was = old.get(name)
        if was is None:
            found.append(f"{name}: not in the file")
        elif was.keys() != now.keys():
            found.append(f"{name}: other parts in the file ({' '.join(was)}), now {' '.join(now)}")
        elif was != now:
            found.append(
                f"{name}: " + ", ".join(f"{part}={was[part]} -> {now[part]}" for part in now if was[part] != now[part])
            )
    return found


def _parts(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split()[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the lines, and return the exit code: 1 when lines differ that must not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fingerprint", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=RUNS, help="one configuration; resumed brings interventions along")
    parser.add_argument("--seed", type=int, default=1, help="seed of all runs (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the lines to FILE")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="exit 1 if a line differs from the one in FILE")
    given = parser.parse_args(arguments)
    if not Path(QUICKSTART).is_file():
        parser.error(f"{QUICKSTART} is not here: start it in the root of a checkout")
    before = given.compare.read_text().splitlines() if given.compare else []
    names = {None: list(RUNS), "resumed": ["interventions", "resumed"]}.get(given.only, [given.only])
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            RUNS[name](Path(folder, name), given.seed)
            found[name] = fingerprint(Path(folder, name))
            print(line(name, found[name]), flush=True)
    lines = [line(name, value) for name, value in found.items()]
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")
    wrong = differences(before, lines) if given.compare else []
    if "resumed" in found:
        straight, stopped = line("resumed", found["interventions"]), line("resumed", found["resumed"])
        wrong += [f"{text} (from interventions, which it must equal)" for text in differences([straight], [stopped])]
    for text in wrong:
        print(f"differs: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
