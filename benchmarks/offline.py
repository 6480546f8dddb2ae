"""Fill a folder with what this package needs on a machine that has torch and Lightning, but no network.

    python -m benchmarks.offline kit --python 3.12 --reference PATH_OF_A_CLONE_OF_DRQV2
    # take the checkout with kit/ to the machine, and there, in the root of the checkout:
    bash kit/run.sh --seconds 470 --json results.json

The folder holds the wheels of this environment's versions, without what training does not read (20 MB instead of 70),
the original agent where a clone was given, and ``run.sh``, which installs them aside and does ``python -m benchmarks
gpu``. With ``--size tiny`` that is a rehearsal on any machine.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.contestants import reference

THERE = ("torch", "lightning", "tensorboard", "scipy", "lxml", "requests", "tqdm", "packaging")
"""What the machine has, each with what it needs."""
LEFT_OUT = ("plasticity-rl", "imageio-ffmpeg", "labmaze", "websockets")
"""Ours is the checkout; films need 68 MB of ffmpeg; the other two are of parts of dm_control and TorchRL not used."""
UNREAD = {
    "dm_control": r"dm_control/(locomotion/|mujoco/testing/|blender/|viewer/|suite/dog_assets/|.*_test\.py$|.*\.png$)",
    "mujoco": r"mujoco/(experimental/|_render_filament|include/|testdata/|sysid/|usd/|introspect/|.*_test\.py$)",
    "torchrl": r"(test/|examples/)",
}
"""Pattern of the files of a wheel that are left out, by the beginning of its name."""
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
RUN = """#!/bin/bash
# In the root of the checkout: bash KIT/run.sh [OPTIONS of python -m benchmarks gpu]
set -u
kit=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
site=${SITE:-$(mktemp -d)}
"$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$kit"/wheels/*.whl || exit 1
cp -r "$kit"/imageio_ffmpeg.py "$kit"/plasticity_rl.dist-info "$site/"
given=()
[ -d "$kit/reference" ] && case " $* " in *" tiny "*) ;; *) given=(--reference "$kit/reference") ;; esac
export PYTHONPATH=$site:$PWD:${PYTHONPATH:-} PYTHONDONTWRITEBYTECODE=1
exec "$python" -m benchmarks gpu "${given[@]}" "$@"
"""
NO_FILMS = '''"""Stands in for imageio-ffmpeg where it is missing: takes frames and writes no film."""


def write_frames(*args, **kwargs):
    while True:
        yield
'''


def needed(names: Iterable[str], there: Collection[str] = ()) -> set[str]:
    """Return the installed distributions that these need, themselves included, by their normalized names.

    Args:
        names: Names of distributions.
        there: Normalized names at which to stop.
    """
    found: set[str] = set()
    asked: set[tuple[str, str]] = set()
    waiting = [(_normalized(name), "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in asked or name in there:
            continue
        asked.add((name, extra))
        try:
            requires = [Requirement(line) for line in metadata.distribution(name).requires or []]
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        found.add(name)
        met = (one for one in requires if one.marker is None or one.marker.evaluate({"extra": extra}))
        waiting += [(_normalized(one.name), extra) for one in met for extra in ("", *one.extras)]
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def slim(wheel: Path, target: Path) -> None:
    """Copy a wheel without what ``UNREAD`` says, from its list of files too."""
    pattern = next((re.compile(p) for name, p in UNREAD.items() if wheel.name.startswith(f"{name}-")), None)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as sink:
        for item in source.infolist():
            data = source.read(item)
            if pattern and pattern.match(item.filename):
                continue
            if pattern and item.filename.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if not pattern.match(line.split(",")[0].strip('"'))).encode()
            sink.writestr(item, data, zipfile.ZIP_DEFLATED)


def download(names: Iterable[str], python: str, folder: Path) -> None:
    """Download the installed version of each, as a wheel for Linux on x86-64, into ``folder``."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    fixed = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    versions = [f"{name}=={metadata.version(name)}" for name in sorted(names)]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *fixed, "-d", str(folder), *versions], check=True)


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--python", default=".".join(map(str, sys.version_info[:2])), help="version on the machine")
    parser.add_argument("--reference", type=Path, metavar="PATH", help="a clone of github.com/facebookresearch/drqv2")
    options = parser.parse_args()
    if options.reference:
        reference.check(str(options.reference))
    wheels = options.folder / "wheels"
    wheels.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as raw:
        download(needed(["plasticity-rl"], needed(THERE)) - set(LEFT_OUT), options.python, Path(raw))
        for wheel in sorted(Path(raw).glob("*.whl")):
            slim(wheel, wheels / wheel.name)
    (options.folder / "imageio_ffmpeg.py").write_text(NO_FILMS)
    (options.folder / "run.sh").write_text(RUN)
    about = options.folder / "plasticity_rl.dist-info"  # the checkout is not installed there, and asked for its version
    about.mkdir()
    (about / "METADATA").write_text(metadata.distribution("plasticity-rl").read_text("METADATA") or "")
    if options.reference:
        (options.folder / "reference").mkdir()
        for name in reference.FILES:
            shutil.copy(options.reference / name, options.folder / "reference")
    size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
    print(f"{size / 2**20:.1f} MB; on the machine, in the root of the checkout: bash {options.folder}/run.sh")


if __name__ == "__main__":
    main()
