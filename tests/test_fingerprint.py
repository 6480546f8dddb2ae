"""The hashes of ``make fingerprint``: what changes them and what does not, and one real configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import REPOSITORY


@pytest.fixture
def prints(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    import benchmarks.fingerprint

    return benchmarks.fingerprint


def test_one_bit_changes_the_values_and_not_the_keys(prints):
    one, two = {"a": torch.tensor([0.0, 1.0])}, {"a": torch.tensor([-0.0, 1.0])}  # equal numbers, another sign bit
    assert torch.equal(one["a"], two["a"])
    assert prints.hash_values(one) != prints.hash_values(two)
    assert prints.hash_keys(one) == prints.hash_keys(two)


def test_a_new_name_changes_the_keys_and_not_the_values(prints):
    one, two = {"a": {"old": 1.5}, "b": [2]}, {"a": {"new": 1.5}, "b": [2]}
    assert prints.hash_values(one) == prints.hash_values(two)
    assert prints.hash_keys(one) != prints.hash_keys(two)


def test_the_order_of_a_dict_does_not_count_and_that_of_a_list_does(prints):
    assert prints.hash_values({"a": 1, "b": 2}) == prints.hash_values({"b": 2, "a": 1})
    assert prints.hash_values([1, 2]) != prints.hash_values([2, 1])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, 1.0),
        (1, True),
        (None, "None"),
        ({}, None),
        ([], {}),
        ([[1], 2], [1, [2]]),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(1, dtype=torch.int32), torch.zeros(1)),
        (torch.zeros(0), torch.zeros(0, 1)),
    ],
)
def test_values_that_look_alike_have_hashes_of_their_own(prints, one, two):
    assert prints.hash_values({"a": one}) != prints.hash_values({"a": two})


def test_types_that_torch_keeps_and_numpy_does_not_are_hashed_too(prints):
    one, two = torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    assert prints.hash_values(one) != prints.hash_values(two)
    assert prints.hash_values(torch.tensor(3.0)) == prints.hash_values(torch.tensor(3.0))


def test_classes_may_be_renamed_and_moved_in_the_order(prints):
    """The second callback's name sorts before the first one's after the renaming."""
    before = {"old.A{'x': 1}": {"seen": 1}, "old.B{'x': 1}": {"seen": 2}}
    after = {"new.Z{'x': 1}": {"seen": 1}, "new.C{'x': 1}": {"seen": 2}}
    assert prints.hash_named(before) == prints.hash_named(after)
    assert prints.hash_named(before) != prints.hash_named({**after, "new.C{'x': 1}": {"seen": 3}})


def test_the_run_folder_and_the_random_name_of_a_replay_do_not_count(prints):
    one = {"path": "/a/run/best.ckpt", "run": "7f", "session": 0, "written": 3}
    two = {"path": "/b/run/best.ckpt", "run": "81", "session": 1, "written": 3}
    assert prints.hash_values(one, folder="/a/run") == prints.hash_values(two, folder="/b/run")
    assert prints.hash_values(one, folder="/a/run") != prints.hash_values({**two, "written": 4}, folder="/b/run")


def test_files_count_by_name_and_content(prints, tmp_path):
    (tmp_path / "reward.memmap").write_bytes(b"12")
    first = prints.hash_files(tmp_path)
    (tmp_path / "reward.memmap").write_bytes(b"13")
    second = prints.hash_files(tmp_path)
    (tmp_path / "reward.memmap").rename(tmp_path / "action.memmap")
    assert len({first, second, prints.hash_files(tmp_path)}) == 3


def test_a_difference_names_the_line_and_its_part(prints):
    before = ["# a comment", "sac  weights=aa clocks=bb", "pixels weights=cc clocks=dd"]
    assert prints.differences(before, ["sac weights=aa clocks=bb"]) == []
    assert prints.differences([*before, "differs: sac: weights", "# of then", ""], ["sac weights=aa clocks=bb"]) == []
    assert prints.differences(before, ["pixels weights=c0 clocks=dd", "ranks weights=ee"]) == [
        "pixels: weights=cc -> c0",
        "ranks: not in the file",
    ]


def test_lines_of_another_version_of_the_command_are_a_difference(prints):
    (text,) = prints.differences(["sac weights=aa"], ["sac weights=aa clocks=bb"])
    assert text == "sac: other parts in the file (weights), now weights clocks"


def test_a_resumed_run_that_differs_is_an_error(prints, monkeypatch, capsys):
    values = {"interventions": {"weights": "aa", "clocks": "bb"}, "resumed": {"weights": "a0", "clocks": "bb"}}
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(prints, "RUNS", dict.fromkeys(prints.RUNS, lambda run, seed: None))
    monkeypatch.setattr(prints, "fingerprint", lambda run: values[run.name])
    assert prints.main(["--only=resumed"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["interventions weights=aa clocks=bb", "resumed       weights=a0 clocks=bb"]
    assert err == "differs: resumed: weights=aa -> a0 (from interventions, which it must equal)\n"
    values["resumed"] = values["interventions"]
    assert prints.main(["--only=resumed"]) == 0


def sac(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.fingerprint", "--only=sac", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_equal_twice_and_different_with_another_seed(tmp_path):
    kept = tmp_path / "before.txt"
    first = sac("--out", kept)
    assert first.returncode == 0, first.stderr
    assert kept.read_text() == first.stdout
    again = sac("--compare", kept)
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    other = sac("--compare", kept, "--seed=2")
    assert other.returncode == 1
    assert other.stderr.startswith("differs: sac: weights=")
    before, after = (dict(part.split("=") for part in text.split()[1:]) for text in (first.stdout, other.stdout))
    equal = {name for name in before if before[name] == after[name]}
    assert equal <= {"clocks", "cursor", "callbacks", "keys", "frames", "updates"}
