"""Does a long run hold memory, open files and threads flat?

    python benchmarks/soak.py --hours 2 --out docs/soak.png --csv soak.csv
    python benchmarks/soak.py --hours 0.5 -- --trainer.callbacks+=callbacks.ReDo      # options of fit after --

Trains configs/quickstart.yaml without end in a process of its own, with evaluations, videos and checkpoints, and looks
at that process every few seconds. When the time is over the run is asked to stop (SIGTERM). What counts begins once the
replay is full: the mean of the first and of the last quarter of that time, and the slope of a line through all of it.
Needs Linux (/proc) and, for --out, matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENDLESS_FRAMES = 10**9
COLUMNS = ("hours", "rss_mib", "open_files", "threads", "gpu_mib", "run_folder_mib")
MEASURED = COLUMNS[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every_n_seconds", type=float, default=10.0)
    parser.add_argument("--capacity", type=int, default=2000, help="transitions of the replay; full after minutes")
    parser.add_argument("--out", type=Path, help="figure, png or svg")
    parser.add_argument("--csv", type=Path, help="every sample")
    parser.add_argument("fit_options", nargs="*", help="after --: options of plasticity-rl fit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = watch(Path(folder) / "run", options)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *samples])
    report(samples)
    if options.out:
        draw(samples, options.out)


def watch(run_dir: Path, options: argparse.Namespace) -> list[list[float]]:
    """Run for the time asked for, and return a row of ``COLUMNS`` for every sample after the replay is full."""
    command = [sys.executable, "-m", "plasticity_rl", "fit", "--config", "configs/quickstart.yaml"]
    command += [f"--max_frames={ENDLESS_FRAMES}", f"--data.capacity={options.capacity}"]
    command += [f"--trainer.default_root_dir={run_dir}", "--trainer.enable_progress_bar=false", *options.fit_options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    start, samples, full_since = time.monotonic(), [], None
    while (hours := (time.monotonic() - start) / 3600) < options.hours:
        if process.poll() is not None:
            sys.exit(f"the run ended with exit code {process.returncode} after {hours:.2f} hours")
        # The replay is written out at checkpoints: one that is there and does not grow means that the ring went round.
        if full_since is None and replay_is_full(run_dir, options.capacity):
            full_since = hours
            print(f"replay full after {hours * 60:.1f} minutes", flush=True)
        if full_since is not None:
            samples.append([hours, *look_at(process.pid, run_dir)])
        time.sleep(options.every_n_seconds)
    process.send_signal(signal.SIGTERM)
    print(f"asked to stop: exit code {process.wait(timeout=300)}, checkpoint there: {any(run_dir.rglob('last.ckpt'))}")
    return samples


def replay_is_full(run_dir: Path, capacity: int) -> bool:
    """Whether the newest checkpoint holds as many env steps as the replay has room for."""
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    if not checkpoint.exists():
        return False
    import torch

    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["rl"]["env_steps"]) > capacity


def look_at(pid: int, run_dir: Path) -> list[float]:
    """Return resident memory, open files, threads, GPU memory (0 without a GPU) and the size of the run folder."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    folder = sum(path.stat().st_blocks * 512 for path in run_dir.rglob("*") if path.is_file())
    rss, threads = int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"])
    return [rss, len(os.listdir(f"/proc/{pid}/fd")), threads, gpu_memory(pid), folder / 2**20]


def gpu_memory(pid: int) -> float:
    """Return the GPU memory of a process in MiB, as the driver reports it."""
    if not shutil.which("nvidia-smi"):
        return 0.0
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    rows = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(float(row.split(",")[1]) for row in rows if row.split(",")[0].strip() == str(pid))


def report(samples: list[list[float]]) -> None:
    """Print the first and the last quarter, and the slope, of everything that was measured."""
    if len(samples) < 8:
        sys.exit("too short: the replay was hardly full")
    quarter = len(samples) // 4
    hours = [row[0] for row in samples]
    print(f"{len(samples)} samples over {hours[-1] - hours[0]:.2f} hours\n")
    print(f"{'':16} {'first quarter':>14} {'last quarter':>14} {'per hour':>10}")
    for name, values in zip(MEASURED, list(zip(*samples, strict=True))[1:], strict=True):
        first, last = statistics.fmean(values[:quarter]), statistics.fmean(values[-quarter:])
        slope = statistics.linear_regression(hours, values).slope
        print(f"{name:16} {first:14.1f} {last:14.1f} {slope:+10.2f}")


def draw(samples: list[list[float]], path: Path) -> None:
    """Draw everything that was measured over time, each from zero."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    columns = list(zip(*samples, strict=True))
    shown = [name for name, values in zip(MEASURED, columns[1:], strict=True) if any(values)]
    figure, axes = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 2.6), constrained_layout=True)
    for axis, name in zip(axes, shown, strict=True):
        axis.plot(columns[0], columns[COLUMNS.index(name)])
        axis.set(title=name.replace("_", " ").replace("mib", "(MiB)"), xlabel="hours", ylim=(0, None))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
