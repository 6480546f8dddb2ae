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
SETTINGS = ("", "_cartpole")
"""What stands behind the name of a small study in each setting of which runs are kept, today's first."""
NONE = "none, no runs are kept"
WORDS_OF_A_JUDGE = ("confirmed", "contradicted", "undecided")


class Claimed(NamedTuple):
    """What a study claims; by name of a study whose runs are kept the verdict, and a link to them."""

    study: str
    claim: str
    found: dict[str, tuple[str, str]]

    def line(self) -> str:
        """Return an item of a list."""
        verdicts = [f"{verdict.rstrip('.')}; {runs}" for verdict, runs in self.found.values()] or [NONE]
        return f"- `{self.study}`: {self.claim}\n" + "".join(f"    *Verdict*: {one}.\n" for one in verdicts)


def full_size(small: str) -> str:
    """Return the name of the study that a small one, of any setting, is of."""
    name = small.removesuffix(SETTINGS[-1])
    return {mini: study for study, mini in SMALL_OF.items()}.get(name, name)


def claims() -> Iterator[tuple[str, list[Claimed]]]:
    """Yield the parts, with what is claimed in each."""
    kept = {evidence.name_of(file): file for file in evidence.kept_files()}
    for part, names in PARTS.items():
        found = []
        for name in names:
            small = [f"mini/{SMALL_OF.get(name, name)}{setting}" for setting in SETTINGS]
            claim = dict(read_study(Path("configs", "studies", f"{name}.yaml")).claim.named)[WORDS["claim"]]
            found.append(Claimed(name, claim, {one: _found(one, kept[one]) for one in (name, *small) if one in kept}))
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
    """Return the verdict of kept runs, and a link to their section with their number."""
    report = evidence.report_of(file)
    section = re.sub(r"[^\w-]", "", name.lower())
    seeds = len({score.run.seed for score in report.scores})
    verdict = f"{judged(file)}. {verdict_in_words(report).removesuffix(LEFT_TO_THE_READER)}"
    return verdict, f"[{len(report.scores)} runs of `{name}`, {seeds} seeds](#{section})"


def page(text: str, found: Sequence[tuple[str, Sequence[Claimed]]]) -> str:
    """Return a page with the list made anew, of what :func:`claims` says."""
    assert PART.search(text), "the comments of the generated part are gone"
    made = "\n".join(f"**{part}**\n\n{''.join(one.line() for one in own)}" for part, own in found)
    return PART.sub(lambda match: match[1] + made + match[2], text)


if __name__ == "__main__":
    os.chdir(evidence.ROOT)
    evidence.PAGE.write_text(page(evidence.PAGE.read_text(encoding="utf-8"), list(claims())), encoding="utf-8")
