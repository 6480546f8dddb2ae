"""Does a long run hold memory, open files and threads flat?

    python benchmarks/soak.py --hours 2 --out docs/soak.png --csv soak.csv
    python benchmarks/soak.py --hours 0.5 -- --trainer.callbacks+=callbacks.ReDo      # options of fit after --
    python benchmarks/soak.py --from_csv soak.csv --out docs/soak.png                 # report and draw again

Trains configs/quickstart.yaml without end in a process of its own, with evaluations, videos and checkpoints, and looks
at that process every few seconds. When the time is over the run is asked to stop (SIGTERM). What counts begins once the
replay is full and the warm-up is over: the mean of the first and of the last quarter of that time, and the slope of a
line through all of it, which is also drawn. Every sample is written to --csv at once.
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
MEASURED = ("rss_mib", "open_files", "threads", "gpu_mib", "run_folder_mib")
COLUMNS = ("hours", *MEASURED, "env_steps", "replay_full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every_n_seconds", type=float, default=10.0)
    parser.add_argument("--capacity", type=int, default=2000, help="transitions of the replay; full after minutes")
    parser.add_argument("--warm_up_hours", type=float, default=0.25, help="left out of means and slopes")
    parser.add_argument("--out", type=Path, help="figure, png or svg")
    parser.add_argument("--csv", type=Path, help="every sample")
    parser.add_argument("--from_csv", type=Path, help="report and draw these samples, without a run")
    parser.add_argument("fit_options", nargs="*", help="after --: options of plasticity-rl fit")
    options = parser.parse_args()
    if options.from_csv:
        samples = [[float(value) for value in row] for row in list(csv.reader(options.from_csv.open()))[1:]]
    else:
        with tempfile.TemporaryDirectory() as folder:
            samples = watch(Path(folder) / "run", options)
    counted = [row for row in samples if row[0] >= options.warm_up_hours and row[COLUMNS.index("replay_full")]]
    report(counted)
    if options.out:
        draw(samples, counted, options.out)


def watch(run_dir: Path, options: argparse.Namespace) -> list[list[float]]:
    """Run for the time asked for, and return a row of ``COLUMNS`` for every sample."""
    command = [sys.executable, "-m", "plasticity_rl", "fit", "--config", "configs/quickstart.yaml"]
    command += [f"--max_frames={ENDLESS_FRAMES}", f"--data.capacity={options.capacity}"]
    command += [f"--trainer.default_root_dir={run_dir}", "--trainer.enable_progress_bar=false", *options.fit_options]
    with (options.csv or Path(os.devnull)).open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        start, samples, full = time.monotonic(), [], False
        while (hours := (time.monotonic() - start) / 3600) < options.hours:
            if process.poll() is not None:
                sys.exit(f"the run ended with exit code {process.returncode} after {hours:.2f} hours")
            env_steps = steps_of_checkpoint(run_dir)
            if not full and env_steps > options.capacity:
                full = True
                print(f"replay full after {hours * 60:.1f} minutes", flush=True)
            samples.append([hours, *look_at(process.pid, run_dir), env_steps, float(full)])
            rows.writerow([round(value, 4) for value in samples[-1]])
            time.sleep(options.every_n_seconds)
    process.send_signal(signal.SIGTERM)
    print(f"asked to stop: exit code {process.wait(timeout=300)}, checkpoint there: {any(run_dir.rglob('last.ckpt'))}")
    print(f"env steps at the last checkpoint: {steps_of_checkpoint(run_dir)}")
    return samples


def steps_of_checkpoint(run_dir: Path) -> int:
    """Return the env steps of the newest checkpoint; 0 while there is none."""
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    if not checkpoint.exists():
        return 0
    import torch

    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["rl"]["env_steps"])


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


def columns_of(samples: list[list[float]]) -> dict[str, list[float]]:
    """Return the samples by name of column."""
    return dict(zip(COLUMNS, map(list, zip(*samples, strict=True)), strict=True))


def report(counted: list[list[float]]) -> None:
    """Print the first and the last quarter, and the slope, of everything that was measured."""
    if len(counted) < 8:
        sys.exit("too short: the replay was hardly full, or the warm-up hardly over")
    columns, quarter = columns_of(counted), len(counted) // 4
    hours = columns["hours"]
    print(f"{len(counted)} samples over {hours[-1] - hours[0]:.2f} hours, from {hours[0]:.2f} on\n")
    print(f"{'':16} {'first quarter':>14} {'last quarter':>14} {'per hour':>10}")
    for name in MEASURED:
        values = columns[name]
        first, last = statistics.fmean(values[:quarter]), statistics.fmean(values[-quarter:])
        slope = statistics.linear_regression(hours, values).slope
        print(f"{name:16} {first:14.1f} {last:14.1f} {slope:+10.2f}")


def draw(samples: list[list[float]], counted: list[list[float]], path: Path) -> None:
    """Draw everything that was measured over time, each from zero, with the line through what counts."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    everything, after = columns_of(samples), columns_of(counted)
    shown = [name for name in MEASURED if any(everything[name])]
    figure, axes = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 2.6), constrained_layout=True)
    for axis, name in zip(axes, shown, strict=True):
        line = statistics.linear_regression(after["hours"], after[name])
        ends = [after["hours"][0], after["hours"][-1]]
        axis.plot(everything["hours"], everything[name], linewidth=1)
        axis.plot(ends, [line.slope * hours + line.intercept for hours in ends], "--", linewidth=1.5)
        title = name.replace("_mib", " (MiB)").replace("_", " ")
        axis.set(title=title, xlabel=f"hours; slope {line.slope:+.2g} per hour", ylim=(0, None))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
