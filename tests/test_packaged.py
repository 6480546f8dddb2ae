"""Names on the command line find files as given, then the packaged ones; ``init`` copies those out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from cli_runs import REPOSITORY, call, printed_config, run_without_torch

from plasticity_rl import UserError
from plasticity_rl.cli.commands import doctor
from plasticity_rl.packaged import (
    config_names,
    find_config,
    find_study,
    root,
    study_names,
    with_found_configs,
)
from plasticity_rl.study.spec import read_study

CONFIGS = REPOSITORY / "configs"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkout_finds_its_own_files():
    assert root() == REPOSITORY
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("[!_]*.yaml")]
    assert sorted([*config_names(), *(f"studies/{name}" for name in study_names())]) == sorted(names)


@pytest.mark.parametrize("name", ["configs/quickstart.yaml", "./configs/quickstart.yaml", "quickstart.yaml"])
def test_a_packaged_config_by_its_path(name, here):
    assert find_config(name) == CONFIGS / "quickstart.yaml"


@pytest.mark.parametrize("name", ["configs/task/walker_run", "task/walker_run", "task/walker_run.yml", "walker_run"])
def test_a_packaged_config_by_a_short_name(name, here):
    assert find_config(name) == CONFIGS / "task" / "walker_run.yaml"


@pytest.mark.parametrize(
    "name",
    [
        *("walker_run.yaml", "other/quickstart.yaml", "/configs/quickstart.yaml", "../configs/quickstart.yaml"),
        *("", ".", "configs", "task", "studies/replay_ratio", "configs/studies/replay_ratio.yaml", "x" * 999),
    ],
)
def test_what_is_none_of_them(name, here):
    """A file is asked for by its whole path, a study is no config, and a folder is no file."""
    assert find_config(name) is None


def test_a_study_by_name(here):
    assert find_study("replay_ratio") == CONFIGS / "studies" / "replay_ratio.yaml"
    assert find_study("mini/replay_ratio") == CONFIGS / "studies" / "mini" / "replay_ratio.yaml"
    assert find_study("configs/studies/mini/replay_ratio.yaml") == CONFIGS / "studies" / "mini" / "replay_ratio.yaml"
    assert find_study("quickstart") is None


def test_no_two_configs_go_by_one_short_name(here):
    """But for the small settings: ``mini`` alone is the one at the top, games have ``atari/mini``, ``minatar/mini``."""
    last = [name.rpartition("/")[2] for name in config_names() if name not in ("atari/mini", "minatar/mini")]
    assert len(last) == len(set(last))
    assert find_config("mini") == CONFIGS / "mini.yaml"
    assert find_config("atari/mini") == CONFIGS / "atari" / "mini.yaml"


def test_a_file_as_given_comes_first_and_a_copy_second(here):
    (here / "reset").write_text("{}")
    assert find_config("reset") == Path("reset")
    copy = here / "configs" / "quickstart.yaml"
    copy.parent.mkdir()
    copy.write_text("{}")
    assert find_config("configs/quickstart.yaml") == find_config("quickstart") == Path("configs/quickstart.yaml")
    assert find_config("sac_state") == CONFIGS / "sac_state.yaml"


@pytest.mark.parametrize("given", [("--config", "mini"), ("--config=mini",), ("-c", "mini"), ("-c=mini",), ("-cmini",)])
def test_every_spelling_of_the_option(given, here):
    found = ["fit", f"--config={CONFIGS / 'mini.yaml'}", "--max_frames=9"]
    assert with_found_configs(["fit", *given, "--max_frames=9"]) == found


@pytest.mark.parametrize("args", [["fit", "--config"], ["fit", "-c", "--max_frames=9"], ["fit", "--ckpt_path", "last"]])
def test_what_names_no_file_stays_as_it_is(args, here):
    assert with_found_configs(args) == args


def test_options_written_out_stay_as_they_are(here):
    assert with_found_configs(["fit", "--config", "{max_frames: 77}"]) == ["fit", "--config={max_frames: 77}"]
    assert printed_config("--config", "{max_frames: 77}")["max_frames"] == 77


# ---- everything that reads config files agrees -----------------------------------------------------------------------


def test_fit_reads_the_packaged_file(here):
    """What decides about options before the parser (the agent, pixels or states) reads the same file as the parser."""
    config = printed_config("--config", "sac_state", "--config", "probes/weight_norm")
    assert config["agent"] == "sac"
    assert config["data"]["observation"] == "state"
    assert config == printed_config(
        "--config", CONFIGS / "sac_state.yaml", "--config", CONFIGS / "probes" / "weight_norm.yaml"
    )


def test_doctor_reads_the_packaged_file(here, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(doctor, "findings", lambda of_run: seen.extend(of_run) or [])
    assert call("doctor", "-c", "sac_state").code == 0
    assert not doctor.needs_rendering(seen)


def test_a_study_reads_packaged_files(here):
    """Its arguments keep the names, which ``fit`` resolves: commands hold on any machine with the package."""
    content = {"base": ["configs/mini_state.yaml", "task/{task}.yaml"], "max_frames": 100, "tasks": ["walker_run"]}
    content |= {"seeds": [1], "factors": {"reset": {"none": [], "often": ["configs/interventions/reset.yaml"]}}}
    (here / "small.yaml").write_text(yaml.safe_dump(content))
    (_, often) = read_study(Path("small.yaml")).runs()
    files = ("configs/mini_state.yaml", "task/walker_run.yaml", "configs/interventions/reset.yaml")
    assert often.arguments[:6] == tuple(word for file in files for word in ("--config", file))


@pytest.mark.parametrize("name", study_names())
def test_a_packaged_study_is_the_same_from_an_empty_folder(name, here, monkeypatch):
    """Also with the studies whose runs it shares."""
    runs = read_study(Path(name)).runs()
    monkeypatch.chdir(REPOSITORY)
    assert read_study(Path(f"configs/studies/{name}.yaml")).runs() == runs


def test_a_study_that_shares_itself_by_another_name(here):
    copy = here / "configs" / "studies" / "replay_ratio.yaml"
    copy.parent.mkdir(parents=True)
    published = (CONFIGS / "studies" / "replay_ratio.yaml").read_text()
    copy.write_text(re.sub(r"(?m)^shares: .*$", "shares: [replay_ratio]", published))
    with pytest.raises(UserError, match="replay_ratio shares runs with itself"):
        read_study(copy)


# ---- a missing file --------------------------------------------------------------------------------------------------

MISSING = {
    "typo": (("fit", "--config", "quikstart"), "--config quikstart: no such file", "Did you mean quickstart?"),
    "path": (("fit", "-c", "configs/reest.yaml"), "--config configs/reest.yaml: no such", "mean interventions/reset?"),
    "beside it": (("fit", "--config=runs/confg.yaml"), "--config runs/confg.yaml: ", "mean runs/config.yaml?"),
    "nothing near": (
        ("validate", "--config", "/nowhere.yaml"),
        "--config /nowhere.yaml: ",
        "plasticity-rl list configs",
    ),
    "doctor": (("doctor", "--config", "quikstart"), "--config quikstart: ", "Did you mean quickstart?"),
    "folder": (("fit", "--config", "runs"), "--config runs: this is a folder", "plasticity-rl list configs"),
    "study": (("study", "run", "mini/replay_ration"), "mini/replay_ration: no such file", "mean mini/replay_ratio"),
    "study file": (("study", "status", "none.yaml"), "none.yaml: no such file", "plasticity-rl list studies"),
}


@pytest.mark.parametrize(("args", "start", "end"), MISSING.values(), ids=MISSING)
def test_a_missing_file_is_refused_before_anything_slow(args, start, end, here):
    (here / "runs").mkdir()
    (here / "runs" / "config.yaml").write_text("{}")
    process = run_without_torch(*args)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {start}")
    assert end in process.stderr
    assert process.stderr.count("\n") == 1
    assert not process.stdout


# ---- init ------------------------------------------------------------------------------------------------------------


def test_init_copies_everything_to_edit(here):
    result = call("init", "new/folder")
    assert result.code == 0, result.err
    for kind, patterns in (("configs", ("*.yaml",)), ("examples", ("*.py", "*.ipynb"))):
        copies = {path.relative_to("new/folder"): path.read_bytes() for path in Path("new/folder", kind).rglob("*.*")}
        sources = [path for pattern in patterns for path in (REPOSITORY / kind).rglob(pattern)]
        assert copies == {path.relative_to(REPOSITORY): path.read_bytes() for path in sources}
    assert "plasticity-rl fit --config configs/quickstart.yaml" in result.out


def test_what_init_says_can_be_pasted_into_a_shell(here):
    assert "cd 'my study' && plasticity-rl fit" in call("init", "my study").out


def test_init_overwrites_nothing(here):
    mine = here / "examples" / "train_drqv2.py"
    mine.parent.mkdir()
    mine.write_text("mine")
    result = call("init", ".")
    assert result.code == 2
    assert (
        result.err
        == "error: init .: examples/train_drqv2.py exists already; nothing was written. Give another folder\n"
    )
    assert [path for path in here.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_init_twice(here):
    assert call("init", ".").code == 0
    again = call("init", ".")
    assert again.code == 2
    assert ".yaml exists already (and " in again.err


def test_init_into_a_file(here):
    (here / "file").write_text("mine")
    result = call("init", "file")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "cannot be written (Not a directory)" in result.err
    assert (here / "file").read_text() == "mine"


def test_an_edited_copy_is_what_runs(here):
    """Also by its short name."""
    assert call("init", ".").code == 0
    path = here / "configs" / "sac_state.yaml"
    path.write_text(path.read_text() + "\ndetect_nan: false\n")
    assert printed_config("--config", "sac_state")["detect_nan"] is False
