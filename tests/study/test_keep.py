"""``study keep`` and ``study report --from``: one file in place of run folders, the same report, and no trust in it."""

from __future__ import annotations

import io
import lzma
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from cli_runs import call
from made_studies import flat, study_of
from run_folders import write_events
from tiny_studies import tiny_env_can_be_imported, tiny_study  # noqa: F401

from plasticity_rl import UserError
from plasticity_rl.cli.study_reports import make_report_of
from plasticity_rl.files.packing import packed, unpacked
from plasticity_rl.results.runs import read_run
from plasticity_rl.study.kept import changes, opened
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.words import missing_rows

FILES = ("report.md", "report.tex", "index.html", "curves.svg", "scores.svg", "profiles.svg")
CLIP = re.compile(rb"\bp[0-9a-f]{10}\b")
"""A clip path: a hash of where a panel lies, to the last bit, which matplotlib does not lay out the same twice."""


def files_in(file: Path) -> dict[str, bytes]:
    return dict(unpacked(file))


def kept(study: Path, *more: str) -> Path:
    file = study.parent / "evidence" / "kept.tar.xz"
    result = call("study", "keep", study, "--out", file, *more)
    assert result.code == 0, result.err
    assert f"bytes in {file}" in result.out
    return file


def reports(study: Path, file: Path) -> tuple[Path, Path]:
    """Return the folders of the report from the runs, and of that from the file once the runs are gone."""
    one, two = study.parent / "from_runs", study.parent / "from_file"
    folder = read_study(study).folder
    assert call("study", "report", study, "--out", one).code == 0
    folder.rename(folder.with_name("away"))
    result = call("study", "report", study, "--from", file, "--out", two)
    assert result.code == 0, result.err
    return one, two


def assert_equal(one: Path, two: Path, names=FILES) -> None:
    for name in names:
        assert CLIP.sub(b"", (one / name).read_bytes()) == CLIP.sub(b"", (two / name).read_bytes()), name


# ---- the same report -------------------------------------------------------------------------------------------------


def test_of_trained_runs_the_report_from_the_file_is_that_from_the_runs(tmp_path):
    """Two arms of tiny runs through the real command line, one with events, one run that went on; text and figures."""
    fau = ["trainer.callbacks+=callbacks.FractionActiveUnits", "trainer.callbacks.every_n_updates=5"]
    reset = ["trainer.callbacks+=callbacks.Reset", "trainer.callbacks.modules=[critic]"]
    study = tiny_study(
        tmp_path,
        {"reset": {"never": fau, "at_50": [*fau, *reset, "trainer.callbacks.at_frames=[50]"]}},
        measures=["loss/critic"],
        secondary=[{"tag": "fau/critic", "of": "final"}],
    )
    assert call("study", "run", study).code == 0
    runs = read_study(study).runs()
    last = runs[-1].folder
    shutil.copy(last / "config.yaml", last / "config_resumed_20260101-000000.yaml")
    file = kept(study)
    assert file.stat().st_size < 20_000
    one, two = reports(study, file)
    assert_equal(one, two)
    assert "FAU critic" in (one / "report.md").read_text()
    assert "reset critic at frame" in (one / "index.html").read_text()
    # Only what a report reads is in it, of every run the same kinds of files.
    names = sorted(files_in(file))
    assert [name for name in names if "/" not in name] == ["kept.yaml", "study.yaml"]
    assert {name.rpartition("/")[2] for name in names if "/" in name} == {
        "config.yaml",
        "config_resumed_20260101-000000.yaml",
        "events.out.tfevents.kept",
        "finished.yaml",
        "starts.yaml",
    }
    assert all(b"command" not in text for name, text in files_in(file).items() if name.endswith("starts.yaml"))


def curves_of(seed: int) -> dict[str, dict[int, float]]:
    return {"eval/return": {0: 0.0, 100: 100.0 + seed}, "fau/critic": {10: 0.5, 100: 0.25}, "train/return": {100: 1.0}}


@pytest.fixture
def made(tmp_path, monkeypatch) -> Path:
    """Two factors, two tasks, a run that was killed, one that is not finished, and one made with other options."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # figures take most of the time
    factors = {
        "augmentation": {"with": ["model.augment=true"], "without": ["model.augment=false"]},
        "lr": {"low": ["model.lr=0.1"], "high": ["model.lr=0.2"]},
    }
    study = study_of(tmp_path, lambda run: curves_of(run.seed), tasks=["walk", "run"], seeds=2, factors=factors)
    runs = read_study(study).runs()
    with next(runs[0].folder.glob("events*")).open("ab") as events:
        events.write(b"half a record")
    (runs[1].folder / "finished.yaml").unlink()
    (runs[2].folder / "config.yaml").write_text(
        (runs[2].folder / "config.yaml").read_text().replace("augment: false", "augment: true")
    )
    (runs[3].folder / "checkpoints").mkdir()
    (runs[3].folder / "checkpoints" / "last.ckpt").touch()
    (runs[3].folder / "finished.yaml").unlink()
    return study


def test_what_is_missing_stale_or_lost_is_said_as_it_was(made):
    file = kept(made)
    one, two = reports(made, file)
    assert_equal(one, two, ["report.md", "report.tex"])
    text = (two / "report.md").read_text()
    names = [run.name for run in read_study(made).runs()]
    assert f"Left out, stale: {names[2]}: model.augment is True in the run, False in the study" in text
    assert f"Not finished, left out: {names[1]}, {names[2]}, {names[3]}." in text
    assert f"{names[0]}: " in text
    assert "13 bytes behind its last whole record cannot be read" in text


def test_missing_runs_are_as_far_as_they_were(made):
    study, file = read_study(made), kept(made)
    rows = missing_rows(make_report_of(study))
    assert [row[1].partition(",")[0].partition(" in the run")[0] for row in rows[1:]] == [
        "never finished",
        "stale: model.augment is True",
        "stopped; goes on from its last checkpoint",
    ]
    study.folder.rename(study.folder.with_name("away"))
    with opened(file, study) as found:
        assert missing_rows(make_report_of(study, found)) == rows


def test_values_are_kept_exactly_and_what_a_lost_session_wrote_is_not(tmp_path):
    values = {0: 0.1, 40: float("nan"), 60: 1e-30, 80: 7.0}
    study = study_of(tmp_path, lambda run: {"eval/return": values, "train/return": flat(1.0)}, seeds=1)
    run = read_study(study).runs()[0]
    write_events(run.folder, {"eval/return": {60: 3.0, 100: 1 / 3}}, {40: "reset"})
    place = tmp_path / "unpacked"
    for name, content in files_in(kept(study)).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    before, after = read_run(run.folder), read_run(place / run.name)
    assert list(after.curves) == ["eval/return"]
    assert after.curves["eval/return"].values.tobytes() == before.curves["eval/return"].values.tobytes()
    assert after.curves["eval/return"].frames.tolist() == [0, 40, 60, 100]
    assert after.events == before.events != []
    assert call("plot", place, "--out", tmp_path / "figure.svg").code == 0


def test_the_same_runs_give_the_same_bytes(made):
    file = kept(made)
    folder = read_study(made).folder
    other = folder.with_name("copied")
    shutil.copytree(folder, other)  # with other times
    shutil.rmtree(folder)
    other.rename(folder)
    again = made.parent / "again.tar.xz"
    assert call("study", "keep", made, "--out", again).code == 0
    assert again.read_bytes() == file.read_bytes()


def test_further_curves_on_demand(tmp_path):
    curves = {"eval/return": flat(1.0), "train/return": flat(2.0), "train/q[0]": flat(3.0), "loss/critic": flat(0.0)}
    study = study_of(tmp_path, lambda run: curves, seeds=1)
    content = files_in(kept(study, "--tags", "train/*"))
    events = content["walk/plain/seed1/events.out.tfevents.kept"]
    assert [tag for tag in curves if tag.encode() in events] == ["eval/return", "train/return", "train/q[0]"]
    result = call("study", "keep", study, "--out", tmp_path / "x.tar.xz", "--tags", "nothing/*")
    assert (result.code, result.err) == (2, "error: --tags nothing/*: no finished run of made has such a curve\n")
    assert not (tmp_path / "x.tar.xz").exists()


def test_runs_shared_with_another_study_are_kept_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    first = study_of(tmp_path, lambda run: {"eval/return": flat(float(run.seed))}, seeds=2)
    content = yaml.safe_load(first.read_text())
    levels = content["factors"]["arm"]
    content |= {"factors": {"arm": {"old": levels["plain"], "newer": levels["new"]}}, "shares": [str(first)]}
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump({**content, "folder": str(tmp_path / "more")}, sort_keys=False))
    (tmp_path / "more").mkdir()
    one = call("study", "report", second)
    file = kept(second)
    (tmp_path / "runs").rename(tmp_path / "away")
    two = call("study", "report", second, "--from", file)
    assert one.code == two.code == 0
    assert one.out == two.out
    assert "4 finished runs" in two.out
    assert "Runs of runs as well: old (2), newer (2)." in two.out


def test_a_report_without_a_folder_is_printed_only(tmp_path):
    study = study_of(tmp_path, lambda run: {"eval/return": flat(1.0)}, seeds=1)
    before = set(tmp_path.rglob("*"))
    result = call("study", "report", study)
    assert result.code == 0
    assert result.out.startswith("# made\n")
    assert set(tmp_path.rglob("*")) == before


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(*args) -> str:
    result = call(*args)
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, ""), result.err
    return result.err


def test_nothing_is_overwritten_and_the_name_says_what_it_is(tmp_path):
    study = study_of(tmp_path, lambda run: {"eval/return": flat(1.0)}, seeds=1)
    file = kept(study)
    before = file.read_bytes()
    assert "exists already, and is not overwritten" in refused("study", "keep", study, "--out", file)
    assert file.read_bytes() == before
    assert "must end in .tar.xz" in refused("study", "keep", study, "--out", tmp_path / "evidence.zip")
    assert "there is no such file" in refused("study", "report", study, "--from", tmp_path / "none.tar.xz")


def test_a_study_without_a_finished_run_is_refused(tmp_path):
    study = study_of(tmp_path, lambda run: None, seeds=1)
    assert "no run of made is finished in" in refused("study", "keep", study, "--out", tmp_path / "a.tar.xz")


def test_passwords_are_not_kept(tmp_path):
    study = study_of(tmp_path, lambda run: {"eval/return": flat(1.0)}, seeds=1)
    config = read_study(study).runs()[0].folder / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["trainer"]["logger"] = {"class_path": "wandb", "init_args": {"api_key": "precious-0123456789"}}
    config.write_text(yaml.safe_dump(content))
    files = files_in(kept(study))
    assert all(b"precious" not in text for text in files.values())
    assert b"***" in files["walk/plain/seed1/config.yaml"]
    content = yaml.safe_load(study.read_text())
    content["base"] += ["trainer.logger.init_args.api_key=precious-0123456789"]
    study.write_text(yaml.safe_dump(content))
    assert "looks like a password or a key" in refused("study", "keep", study, "--out", tmp_path / "b.tar.xz")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evidence")
    study = study_of(folder, lambda run: {"eval/return": flat(float(run.seed))}, seeds=2)
    return study, kept(study)


def test_a_file_of_another_study_is_refused(evidence, tmp_path):
    study, file = evidence
    other = tmp_path / "other.yaml"
    other.write_text(study.read_text())
    assert "holds runs of the study made, not of other" in refused("study", "report", other, "--from", file)


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "text", "empty", "folder"])
def test_a_damaged_file_is_refused(evidence, tmp_path, damage):
    study, file = evidence
    content = file.read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut": content[:-20],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "longer": content + b"more",
        "text": b"no archive at all",
        "empty": b"",
        "folder": packed([("a/b/seed1/config.yaml", b"{}")]),
    }[damage]
    path = tmp_path / "damaged.tar.xz"
    path.write_bytes(damaged)
    error = refused("study", "report", study, "--from", path)
    assert "is damaged, or no .tar.xz file" in error or "holds no readable kept.yaml" in error
    assert error.startswith(f"error: {path} ")


def with_changes(file: Path, where: Path, change) -> Path:
    files = files_in(file)
    change(files)
    where.write_bytes(packed(files.items()))
    return where


@pytest.mark.parametrize(
    "name",
    [
        "../outside.yaml",
        "/tmp/outside.yaml",
        "walk/../../seed1/config.yaml",
        "walk/plain/seed1/evil.py",
        "walk/plain/seed1/checkpoints/last.ckpt",
        "./walk/plain/seed1/config.yaml",
        "walk/plain/seed1/config.yaml\n",
    ],
)
def test_a_name_that_keep_does_not_write_is_refused_and_nothing_is_written(evidence, tmp_path, name):
    study, file = evidence
    path = with_changes(file, tmp_path / "evil.tar.xz", lambda files: files.update({name: b"x"}))
    assert "does not write: do not trust it" in refused(
        "study", "report", study, "--from", path, "--out", tmp_path / "o"
    )
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_refused(evidence, tmp_path, kind):
    study, _ = evidence
    member = tarfile.TarInfo("walk/plain/seed1/config.yaml")
    member.type, member.linkname = kind, "/etc/passwd"
    path = tmp_path / "evil.tar.xz"
    with lzma.open(path, "w") as file, tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(member)
    assert "which is no plain file" in refused("study", "report", study, "--from", path)


def test_a_file_twice_and_a_bomb_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "twice.tar.xz"
    with lzma.open(path, "w") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("kept.yaml"), io.BytesIO())
    with pytest.raises(UserError, match="'kept.yaml', twice"):
        files_in(path)
    many = [(name, bytes(60_000)) for name in "abcd"]
    path.write_bytes(packed(many))
    assert path.stat().st_size < 1000
    for limit, number in {"MOST_BYTES": 100_000, "MOST_BYTES_OF_A_FILE": 50_000}.items():
        with monkeypatch.context() as patched:
            patched.setattr(f"plasticity_rl.files.packing.{limit}", number)
            with pytest.raises(UserError, match=f"over .*{number:,}.* are not packed or read"):
                files_in(path)
            with pytest.raises(UserError, match="too much to keep"):  # what cannot be read back is not written
                packed(many)
    assert files_in(path) == dict(many)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, and this version reads 1"),
        ({"runs": {"a": 1}}, "kept.yaml is not as plasticity-rl study keep writes it"),
        ({"missing": [1]}, "kept.yaml is not as plasticity-rl study keep writes it"),
        ({"study": None}, "kept.yaml is not as plasticity-rl study keep writes it"),
        ({"runs": ["walk/plain/seed1", "walk/plain/seed7"]}, "lacks walk/plain/seed7/config.yaml"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(evidence, tmp_path, change, message):
    study, file = evidence

    def changed(files):
        files["kept.yaml"] = yaml.safe_dump({**yaml.safe_load(files["kept.yaml"]), **change}).encode()

    assert message in refused("study", "report", study, "--from", with_changes(file, tmp_path / "x.tar.xz", changed))


# ---- a study that has changed since ----------------------------------------------------------------------------------


def test_what_has_changed_in_the_study_is_named(evidence, tmp_path):
    """A new seed and arm are missing, a gone arm is left out, another primary endpoint is told."""
    study, file = evidence
    content = yaml.safe_load(study.read_text())
    content["seeds"], content["primary"] = [1, 2, 3], {"tag": "eval/return", "of": "final"}
    arms = content["factors"]["arm"]
    content["factors"]["arm"] = {"plain": arms["plain"], "third": ["model.lr=0.3"]}
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    result = call("study", "report", path, "--from", file)
    assert result.code == 0, result.err
    assert (
        "**The file kept.tar.xz was kept from an older version of the study: seeds were 1, 2, are 1, 2, 3; arm = third "
        "is new; arm = new is gone; primary was not given, is {tag: eval/return, of: final}.**" in result.out
    )
    assert "2 finished runs of 100 env frames" in result.out
    names = "all runs of seed 3, walk/third/seed1, walk/third/seed2"
    assert f"Not finished, left out: {names}." in result.out


def test_a_level_with_other_options_makes_its_runs_stale(evidence, tmp_path):
    study, file = evidence
    path = tmp_path / "made.yaml"
    path.write_text(study.read_text().replace("model.lr=0.2", "model.lr=0.5"))
    text = call("study", "report", path, "--from", file).out
    assert "older version of the study: arm = new adds other options" in text
    assert "Left out, stale: walk/new/seed1: model.lr is 0.2 in the run, 0.5 in the study" in text
    path.write_text(study.read_text().replace("model.lr=0.", "model.lr=0.0"))
    error = refused("study", "report", path, "--from", file)
    assert "4 are stale (walk/plain/seed1: model.lr is 0.1 in the run, 0.01 in the study): report on the study" in error


def test_a_longer_study_has_no_run_in_the_file(evidence, tmp_path):
    study, file = evidence
    path = tmp_path / "made.yaml"
    path.write_text(study.read_text().replace("max_frames: 100", "max_frames: 200"))
    error = refused("study", "report", path, "--from", file)
    assert (
        "holds no finished run of made as the study is now, which has changed since (max_frames was 100, is 200)"
        in error
    )


def test_changes_by_hand():
    was = {"name": "a", "folder": "b", "base": ["x=1"], "factors": {"f": {"a": [], "b": ["y=1"]}, "g": {"c": []}}}
    now = {"name": "c", "folder": "d", "base": ["x=2"], "factors": {"f": {"a": [], "b": ["y=2"]}}, "max_return": 10}
    assert list(changes(was, was)) == []
    assert list(changes(was, now)) == [
        "base has other options",
        "f = b adds other options",
        "factor g is gone",
        "max_return was not given, is 10",
    ]
