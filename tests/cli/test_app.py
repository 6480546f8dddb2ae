"""``plasticity-rl fit`` and ``validate`` as a user calls them: what they write, how they go on, how they refuse."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import (
    REPOSITORY,
    TINY,
    append_callbacks,
    assert_refused,
    call,
    callback_names,
    checkpoint,
    events,
    fit_tiny_cli,
    printed_config,
    scalar_points,
    tree,
    write_yaml,
)

from plasticity_rl import DrQV2, RLDataModule, __version__


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = checkpoint(one)["state_dict"], checkpoint(other)["state_dict"]
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def python(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(REPOSITORY / "tests" / "support"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
        env={**os.environ, "PYTHONPATH": paths.rstrip(os.pathsep), **environment},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of 400 frames; read only."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    fit_tiny_cli(run_dir, max_frames=400)
    return run_dir


@pytest.fixture
def short(tmp_path) -> Path:
    """A run of 200 frames that a test may continue."""
    fit_tiny_cli(tmp_path / "short", max_frames=200)
    return tmp_path / "short"


# ---- a light front ---------------------------------------------------------------------------------------------------


def test_help_version_and_typos_answer_without_importing_torch():
    code = (
        "import sys; from plasticity_rl.__main__ import main\n"
        "codes = [main([]), main(['--help']), main(['--version']), main(['fti'])]\n"
        "heavy = {'torch', 'lightning', 'torchrl', 'mujoco', 'dm_control'} & sys.modules.keys()\n"
        "print(codes, heavy)"
    )
    process = python("-c", code)
    assert process.stdout.splitlines()[-1] == "[0, 0, 0, 2] set()", process.stderr
    assert f"plasticity-rl {__version__}" in process.stdout
    assert "fit" in process.stdout
    assert "validate" in process.stdout
    commands = "fit, validate, probe, doctor, study, plot, list, init, completion"
    assert process.stderr.strip() == f"error: no command 'fti'; there are {commands}. Did you mean fit?"


def test_a_module_run_on_real_pixels(tmp_path):
    """``python -m plasticity_rl fit`` on cartpole: exit code, bar on stderr, result on stdout, files."""
    options = ["--data.task=cartpole_swingup", "--data.image_size=32", "--data.render=fast", "--data.action_repeat=8"]
    options += ["--data.eval_every_n_frames=800", "--max_frames=800", "--data.num_eval_episodes=1"]
    options += [
        "--data.batch_size=8",
        "--data.capacity=500",
        "--model.num_seed_frames=400",
        "--trainer.accelerator=cpu",
    ]
    options += ["--model.hidden_dim=16", "--model.num_channels=4", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    process = python("-m", "plasticity_rl", "fit", *options)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Return before training" in process.stdout
    assert "Return after training" in process.stdout
    assert "(frame 800)" in process.stdout
    assert "Traceback" not in process.stderr
    assert re.search(r"^100%.* 800/800 return -?\d+", process.stderr, re.MULTILINE)
    saved = checkpoint(tmp_path / "run")
    assert (saved["rl"]["env_frames"], saved["rl"]["env_steps"], saved["rl"]["num_updates"]) == (800, 100, 25)
    assert list((tmp_path / "run" / "videos").glob("*.mp4"))


def test_rendering_that_cannot_start_is_one_line(tmp_path):
    command = ["-m", "plasticity_rl", "fit", "--trainer.default_root_dir", tmp_path / "run"]
    process = python(*command, MUJOCO_GL="nonsense", PYOPENGL_PLATFORM="")
    assert process.returncode == 2
    loading, *lines = process.stderr.strip().splitlines()
    assert loading.endswith("...")
    assert len(lines) == 1, process.stderr
    assert "MUJOCO_GL=nonsense" in process.stderr
    assert "apt-get install" in process.stderr
    assert not (tmp_path / "run").exists()


# ---- help ------------------------------------------------------------------------------------------------------------


def test_every_option_of_agent_and_data_is_explained():
    text = call("fit", "--help=all").out
    for group, cls in (("model", DrQV2), ("data", RLDataModule)):
        linked = {"obs_shape", "action_dim", "seed", "max_frames"}
        for name in inspect.signature(cls).parameters.keys() - linked:
            found = re.search(rf"--{group}\.{name}[ +,][^\n]*\n?\s+(.+?)\s+\((?:type|required)", text, re.DOTALL)
            assert found, f"--{group}.{name} is not explained"
    for words in ("Env frames (simulator frames, action repeat included)", "Gradient updates per env step"):
        assert words in " ".join(text.split())


def test_a_callback_explains_itself():
    result = call("fit", "--trainer.callbacks.help=callbacks.Reset")
    assert result.code == 0
    assert "--trainer.callbacks.every_n_frames" in result.out
    assert "Period in env frames" in " ".join(result.out.split())


# ---- composing -------------------------------------------------------------------------------------------------------


def test_a_printed_config_parses_again_to_itself(tmp_path):
    fragment = append_callbacks(tmp_path / "fragment.yaml", [("callbacks.Reset", {"every_n_frames": 50})])
    first = printed_config("--config", REPOSITORY / "configs" / "quickstart.yaml", "--config", fragment)
    assert first["data"]["task"] == "cartpole_swingup"
    assert printed_config("--config", write_yaml(tmp_path / "all.yaml", first)) == first


def test_fragments_append_callbacks(tmp_path):
    one = append_callbacks(tmp_path / "one.yaml", [("callbacks.Reset", {"every_n_frames": 50})])
    two = append_callbacks(tmp_path / "two.yaml", [("callbacks.L2Init", {}), ("callbacks.FractionActiveUnits", {})])
    assert callback_names(printed_config("--config", one, "--config", two)) == [
        "callbacks.Reset",
        "callbacks.L2Init",
        "callbacks.FractionActiveUnits",
    ]


def test_command_line_appends_callbacks(tmp_path):
    fragment = append_callbacks(tmp_path / "fragment.yaml", [("callbacks.FractionActiveUnits", {})])
    appended = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.every_n_frames=123"]
    appended += ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[7]"]
    config = printed_config("--config", fragment, *appended)
    assert callback_names(config) == ["callbacks.FractionActiveUnits", "callbacks.Reset", "callbacks.Reset"]
    arguments = [callback["init_args"] for callback in config["trainer"]["callbacks"]]
    assert (arguments[1]["every_n_frames"], arguments[2]["at_frames"]) == (123, [7])


def test_a_callback_of_lightning_whose_default_is_a_member_of_an_enum(tmp_path):
    """``Timer(interval: str = Interval.step)``: neither the checks nor the saved config.yaml know Lightning's Enum."""
    timer = ["--trainer.callbacks+=lightning.pytorch.callbacks.Timer", "--trainer.callbacks.duration=01:00:00:00"]
    result = call("fit", *TINY, *timer, "--max_frames=100", f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["trainer"]["callbacks"][-1]["init_args"]["interval"] == "step"


def test_interpolation_follows_a_command_line_override(tmp_path):
    config = write_yaml(tmp_path / "linked.yaml", {"data": {"capacity": "${fit.data.batch_size}", "batch_size": 12}})
    assert printed_config("--config", config)["data"]["capacity"] == 12
    assert printed_config("--config", config, "--data.batch_size=34")["data"]["capacity"] == 34


# ---- the run folder --------------------------------------------------------------------------------------------------


def test_fit_writes_a_run_folder(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert (config["data"]["batch_size"], config["model"]["hidden_dim"], config["max_frames"]) == (8, 16, 400)
    assert config["model"]["lr"] == 1e-4  # defaults are written out too
    (start,) = yaml.safe_load((finished / "starts.yaml").read_text())
    assert start["versions"]["torch"] == metadata.version("torch")  # pip's name; torch adds the build, "+cu130"
    assert start["versions"]["plasticity-rl"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", start["git_revision"])
    assert checkpoint(finished)["rl"]["env_frames"] == 400
    assert len(list((finished / "checkpoints").glob("best_*_frames.ckpt"))) == 1
    assert list(finished.glob("events.out.tfevents.*"))
    assert list((finished / "videos").glob("eval_*.mp4"))


def test_best_checkpoint_is_of_the_frame_with_the_highest_return(finished):
    (best,) = (finished / "checkpoints").glob("best_*_frames.ckpt")
    returns = dict(checkpoint(finished)["rl"]["eval_returns"])
    frame = int(re.search(r"best_(\d+)_frames", best.name)[1])
    assert returns[frame] == max(value for at, value in returns.items() if at > 0)
    assert checkpoint(finished, best.stem)["rl"]["env_frames"] == frame


def test_the_saved_config_alone_repeats_the_run(finished, tmp_path):
    other = tmp_path / "again"
    result = call("fit", "--config", finished / "config.yaml", f"--trainer.default_root_dir={other}")
    assert result.code == 0, result.err
    assert same_weights(finished, other)


def test_another_seed_gives_another_run(finished, tmp_path):
    fit_tiny_cli(tmp_path / "seed2", "--seed_everything=2", max_frames=200)
    assert not same_weights(finished, tmp_path / "seed2")


def test_a_random_seed_is_written_down(tmp_path):
    """``--seed_everything true`` draws a seed; the saved config repeats the run with it."""
    fit_tiny_cli(tmp_path / "one", "--seed_everything=true", max_frames=100)
    again = call("fit", "--config", tmp_path / "one" / "config.yaml", f"--trainer.default_root_dir={tmp_path / 'two'}")
    assert again.code == 0, again.err
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_a_folder_that_holds_a_run_is_refused_untouched(finished):
    before = tree(finished)
    result = call("fit", *TINY, "--max_frames=800", f"--trainer.default_root_dir={finished}")
    assert result.code == 2
    assert "already holds a run: continue it with --ckpt_path last" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert tree(finished) == before


def test_a_run_without_a_folder_gets_one_by_task_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("fit", *TINY, "--max_frames=100", "--seed_everything=5").code == 0
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tiny_seed5_\d{8}-\d{6}", run_dir.name)
    resumed = call("fit", *TINY, "--max_frames=200", "--seed_everything=5", "--ckpt_path=last")
    assert resumed.code == 0, resumed.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run_dir.name]
    assert checkpoint(run_dir)["rl"]["env_frames"] == 200


def test_a_refused_start_leaves_no_config_behind(tmp_path):
    """Else the config of the mistake would stay beside the run that follows it."""
    wrong = ["--trainer.callbacks+=callbacks.L2Init", "--trainer.callbacks.modules=[critc]"]
    result = call("fit", *TINY, *wrong, f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 2
    fit_tiny_cli(tmp_path, max_frames=100)
    assert not yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"].get("callbacks")


# ---- going on --------------------------------------------------------------------------------------------------------


def test_resuming_equals_the_run_that_was_not_stopped(short, finished):
    config = (short / "config.yaml").read_text()
    fit_tiny_cli(short, "--ckpt_path=last", max_frames=400)
    assert same_weights(short, finished)
    assert checkpoint(short)["rl"]["eval_returns"] == checkpoint(finished)["rl"]["eval_returns"]
    assert (short / "config.yaml").read_text() == config
    assert len(list(short.glob("config_resumed_*.yaml"))) == 1
    assert [start["at_env_frames"] for start in yaml.safe_load((short / "starts.yaml").read_text())] == [0, 200]
    assert list(scalar_points(events(short), "eval/return")) == [0, 100, 200, 300, 400]


def test_resuming_needs_nothing_but_the_checkpoint_file(short, finished, tmp_path, monkeypatch):
    """Also after the folder was moved: its config names the old place."""
    moved = short.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    result = call("fit", "--ckpt_path=moved/checkpoints/last.ckpt", "--max_frames=400")
    assert result.code == 0, result.err
    assert same_weights(moved, finished)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(["--data.task=other"], "data.task=tiny, but this run has other", id="task"),
        pytest.param(["--seed_everything=9"], "data.seed=1, but this run has 9", id="seed"),
        pytest.param(["--model.hidden_dim=32"], "written with model.hidden_dim=16, but this run has 32", id="network"),
        pytest.param(["--data.image_size=20"], "data.image_size=16, but this run has 20", id="image size"),
        pytest.param(["--data.frame_stack=2"], "data.frame_stack=3, but this run has 2", id="frame stack"),
    ],
)
@pytest.mark.parametrize("by", ["last", "file"])
def test_resuming_another_run_is_refused(finished, options, expected, by):
    before = tree(finished)
    path = "last" if by == "last" else finished / "checkpoints" / "last.ckpt"
    folder = f"--trainer.default_root_dir={finished}"
    result = call("fit", *TINY, "--max_frames=800", folder, f"--ckpt_path={path}", *options)
    assert_refused(result, expected)
    assert tree(finished) == before


@pytest.fixture(scope="module")
def damaged(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "text.ckpt").write_text("not a checkpoint\n")
    (folder / "empty.ckpt").write_bytes(b"")
    content = (finished / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "truncated.ckpt").write_bytes(content[: len(content) // 2])
    torch.save({"state_dict": {}}, folder / "foreign.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    torch.save({"rl": Path("a")}, folder / "pickled.ckpt")
    return folder


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("name", ["text", "empty", "truncated", "foreign", "list", "pickled", "absent"])
def test_a_file_that_is_no_checkpoint_is_refused(damaged, tmp_path, command, name):
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    path = damaged / f"{name}.ckpt"
    others = {"absent": "no such file", "pickled": "is not damaged, but holds what may not be loaded"}
    expected = others.get(name, "is not a checkpoint")
    assert_refused(call(command, *TINY, folder, f"--ckpt_path={path}"), f"{path}", expected)
    assert not tree(tmp_path)


def test_a_damaged_last_checkpoint_is_refused(short):
    last = short / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    before = tree(short)
    result = call("fit", *TINY, f"--trainer.default_root_dir={short}", "--ckpt_path=last")
    assert_refused(result, "last.ckpt is not a checkpoint, or is damaged")
    assert tree(short) == before


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("path", ["last", "best"])
def test_without_a_checkpoint_there_is_nothing_to_continue(tmp_path, command, path):
    result = call(command, *TINY, f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={path}")
    assert_refused(result, f"--ckpt_path {path}: no")


# ---- validate --------------------------------------------------------------------------------------------------------


def printed_return(result) -> tuple[float, int]:
    match = re.search(r"Evaluation at frame ([\d,]+).*\n.*\ntiny +1 +(\S+) ", result.out)
    assert match, result.out + result.err
    return float(match[2]), int(match[1].replace(",", ""))


def test_validate_repeats_the_logged_return_of_any_checkpoint(finished, monkeypatch):
    """Without ``--config``: the run's own is used. Nothing is written."""
    before = tree(finished)
    logged = scalar_points(events(finished), "eval/return")
    names = [path.stem for path in (finished / "checkpoints").glob("*.ckpt")]
    assert len(names) == 2
    for name in names:
        value, frame = printed_return(call("validate", f"--ckpt_path={finished}/checkpoints/{name}.ckpt"))
        assert frame == checkpoint(finished, name)["rl"]["env_frames"]
        assert value == pytest.approx(logged[frame], abs=1e-3)
    by_folder = call("validate", "--ckpt_path=last", f"--trainer.default_root_dir={finished}")
    assert printed_return(by_folder) == (pytest.approx(logged[400], abs=1e-3), 400)
    assert tree(finished) == before


def test_validate_takes_the_network_from_a_checkpoint_without_its_run(finished, tmp_path):
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    data = [option for option in TINY if not option.startswith("--model")]
    value, frame = printed_return(call("validate", *data, f"--ckpt_path={alone}"))
    assert frame == 400
    assert value == pytest.approx(dict(checkpoint(finished)["rl"]["eval_returns"])[400], abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["alone.ckpt"]


# ---- the name of a run -----------------------------------------------------------------------------------------------


def test_a_run_is_named_after_its_interventions(tmp_path, monkeypatch):
    """Not after its probes; and ``--ckpt_path last`` finds the run with the same interventions."""
    monkeypatch.chdir(tmp_path)
    probe = ["--trainer.callbacks+=callbacks.FractionActiveUnits"]
    reset = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[50]"]
    reset += ["--trainer.callbacks.modules=[critic]"]
    assert call("fit", *TINY, "--max_frames=100", *probe, *reset).code == 0
    assert call("fit", *TINY, "--max_frames=100", *probe).code == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [re.sub(r"\d{8}-\d{6}", "TIME", name) for name in names] == [
        "tiny_reset-modules=critic-at_frames=50_seed1_TIME",
        "tiny_seed1_TIME",
    ]
    assert call("fit", *TINY, "--max_frames=200", *probe, *reset, "--ckpt_path=last").code == 0
    frames = [checkpoint(tmp_path / "runs" / name)["rl"]["env_frames"] for name in names]
    assert frames == [200, 100]
