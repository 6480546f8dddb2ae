"""Write the list of claims on ``docs/results.md``, in the order of the source: ``make evidence``.

What each study of ``configs/studies`` claims, and what the runs kept in ``docs/evidence`` say of it: confirmed,
contradicted or undecided by the study's criterion, as somebody judged who read the report
(``docs/evidence/judged.yaml``), and the verdicts that this rests on. Nothing is trained.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import evidence
import yaml

from plasticity_rl.study.claims import WORDS
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.words import LEFT_TO_THE_READER, verdict_in_words

PART = re.compile(r"(<!-- table: claims -->\n).*?(<!-- end of table -->)", re.DOTALL)
PARTS: dict[str, tuple[str, ...]] = {
    "Data": (
        "augmentation_x_reset",
        "augmentation_against_interventions",
        "frozen_encoder_x_augmentation",
        "curl_x_augmentation",
    ),
    "Modules": ("fau_per_module", "plasticity_injection", "heavy_priming_pixels"),
    "Training stages": ("augmentation_switch",),
    "Replay ratio": ("replay_ratio", "adaptive_replay_ratio", "atari_adaptive_replay_ratio"),
    "Related phenomena": (
        "feature_ranks",
        "dormant_units",
        "wider_network",
        "heavy_priming_state",
        "failed_replay",
        "optimizer_reset",
        "continual_tasks",
        "atari_cycle",
        "atari_redo",
        "atari_infer",
    ),
    "Methods side by side": ("newer_methods", "interventions"),
    "This framework": ("bfloat16",),
}
"""Studies at full size by part, in the order of Ma et al. 2024 (arXiv 2310.07418); other papers follow."""
SMALL_OF = {"atari_adaptive_replay_ratio": "atari_road_runner", "atari_cycle": "minatar_cycle"}
"""Studies whose small one is called after its game."""
NONE = "none, no runs are kept"
WORDS_OF_A_JUDGE = ("confirmed", "contradicted", "undecided")


class Claimed(NamedTuple):
    """What a study claims, and what the kept runs say: a link to these with their number, and the verdict."""

    study: str
    claim: str
    runs: str
    verdict: str

    def line(self) -> str:
        """Return an item of a list."""
        runs = f"; {self.runs}" if self.runs else ""
        return f"- `{self.study}`: {self.claim}\n    *Verdict*: {self.verdict.rstrip('.')}{runs}.\n"


def claims() -> Iterator[tuple[str, list[Claimed]]]:
    """Yield the parts, with what is claimed in each."""
    kept = {evidence.name_of(file): file for file in evidence.kept_files()}
    for part, names in PARTS.items():
        found = []
        for name in names:
            runs, verdict = "", NONE
            for one in (name, f"mini/{SMALL_OF.get(name, name)}"):
                if one in kept:
                    runs, verdict = _found(one, kept[one])
            claim = dict(read_study(Path("configs", "studies", f"{name}.yaml")).claim.named)[WORDS["claim"]]
            found.append(Claimed(name, claim, runs, verdict))
        yield part, found


def judged(file: Path) -> str:
    """Return what was judged of a kept file, and why.

    Raises:
        ValueError: Nothing was, or another file.
    """
    name, digest = evidence.name_of(file), hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    entry = yaml.safe_load((evidence.ROOT / "docs" / "evidence" / "judged.yaml").read_text(encoding="utf-8")).get(name)
    if entry is None or entry["sha256"] != digest or entry["verdict"] not in WORDS_OF_A_JUDGE:
        raise ValueError(
            f"{file}: docs/evidence/judged.yaml needs {name} with sha256: {digest} and verdict: one of "
            f"{', '.join(WORDS_OF_A_JUDGE)}"
        )
    return f"**{entry['verdict']}**, {entry['why']}"


def _found(name: str, file: Path) -> tuple[str, str]:
    """Return a link to the section of kept runs with their number, and the verdict."""
    report = evidence.report_of(file)
    section = re.sub(r"[^\w-]", "", name.lower())
    seeds = len({score.run.seed for score in report.scores})
    verdict = f"{judged(file)}. {verdict_in_words(report).removesuffix(LEFT_TO_THE_READER)}"
    return f"[{len(report.scores)} runs of `{name}`, {seeds} seeds](#{section})", verdict


def page(text: str, found: Sequence[tuple[str, Sequence[Claimed]]]) -> str:
    """Return a page with the list made anew, of what :func:`claims` says."""
    assert PART.search(text), "the comments of the generated part are gone"
    made = "\n".join(f"**{part}**\n\n{''.join(one.line() for one in own)}" for part, own in found)
    return PART.sub(lambda match: match[1] + made + match[2], text)


if __name__ == "__main__":
    os.chdir(evidence.ROOT)
    evidence.PAGE.write_text(page(evidence.PAGE.read_text(encoding="utf-8"), list(claims())), encoding="utf-8")
