"""A study from Python: arms x seeds as ordinary run folders, then a table with intervals; a minute on 2 CPU cores.

Run:  python examples/run_a_study.py --max_frames 2000 --folder runs/study_from_python
Run it again and nothing is trained: finished runs are skipped, stopped ones go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from plasticity_rl.study.report import make_report
from plasticity_rl.study.runner import Runner
from plasticity_rl.study.scores import read_scores
from plasticity_rl.study.spec import Study
from plasticity_rl.study.tables import markdown

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    """Compare two replay ratios of SAC from states; the arms share seeds, first weights and evaluation episodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_frames", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/study_from_python"))
    options = parser.parse_args()

    study = Study(
        name="study_from_python",
        folder=options.folder,
        base=(str(CONFIGS / "mini_state.yaml"), "data.eval_every_n_frames=1000", "data.num_eval_episodes=2"),
        max_frames=options.max_frames,
        tasks=("cartpole_swingup",),
        seeds=(1, 2),
        factors={"replay_ratio": {"usual": (), "high": ("model.replay_ratio=2",)}},
        max_return=1000.0,
        baseline="usual",
    )
    Runner(study.max_frames, num_workers=2).run_all(study.runs())

    scores, missing = read_scores(study)
    print(markdown(make_report(study, scores, missing)))


if __name__ == "__main__":
    main()
