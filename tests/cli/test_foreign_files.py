"""Run folders and checkpoints that somebody sent: nothing in them is imported, called or loaded as code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import call, tree

from plasticity_rl.cli.early import read
from plasticity_rl.errors import UserError

STATE = [
    "--agent=sac",
    "--data.task=cartpole_swingup",
    "--data.observation=state",
    "--data.batch_size=8",
    "--data.capacity=500",
    "--data.eval_every_n_frames=80",
    "--data.num_eval_episodes=1",
    "--model.hidden_dim=16",
    "--model.num_seed_frames=40",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that names nothing but classes of ours, with a checkpoint whose name has a slash."""
    run = tmp_path_factory.mktemp("whole") / "run"
    saving = {"filename": "{eval/return:.0f}", "every_n_epochs": 1, "save_top_k": -1}
    arguments = [
        *STATE,
        "--max_frames=80",
        f"--trainer.default_root_dir={run}",
        "--trainer.callbacks+=callbacks.Reset",
        "--trainer.callbacks.every_n_frames=40",
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        *(f"--trainer.callbacks.{name}={value}" for name, value in saving.items()),
    ]
    result = call("fit", *arguments, trust=False)
    assert result.code == 0, result.err
    return run


@pytest.fixture
def sent(whole, tmp_path, monkeypatch) -> Path:
    """A copy of it with a module ``evil``, which is on the path, in the current folder and in that of the run."""
    run = tmp_path / "sent"
    shutil.copytree(whole, run)
    source = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(*args, **options): pass\nclass Evil: pass\n"
    for folder in (run, tmp_path):
        (folder / "evil.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(run))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return run


def change(run: Path, key: str, value: object) -> None:
    """Set an option of the run's config."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    *sections, last = key.split("/")
    section = config
    for name in sections:
        section = section[name]
    section[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


LIGHTNING = "lightning.pytorch.callbacks"
HOSTILE = {
    "a class": ("trainer/callbacks", [{"class_path": "evil.Evil"}], "'evil.Evil'"),
    "a class by its name alone": ("trainer/callbacks", "evil.Evil", "'evil.Evil'"),
    "in a list": ("trainer/callbacks", ["evil.Evil"], "'evil.Evil'"),
    "a key with dots": ("trainer.logger", {"class_path": "evil.Evil"}, "'evil.Evil'"),
    "a key with dots, and its class": ("trainer.logger.class_path", "evil.Evil", "'evil.Evil'"),
    "a strategy": ("trainer/strategy", {"class_path": "evil.Evil"}, "'evil.Evil'"),
    "a plugin": ("trainer/plugins", ["evil.Evil"], "'evil.Evil'"),
    "the environment": ("data/env", "evil.make", "'evil.make'"),
    "a function of the system": (
        "trainer/callbacks",
        [{"class_path": f"{LIGHTNING}.LambdaCallback", "init_args": {"setup": "os.system"}}],
        "'os.system'",
    ),
    "an argument": (
        "trainer/callbacks",
        [{"class_path": f"{LIGHTNING}.Timer", "init_args": {"duration": {"class_path": "evil.Evil"}}}],
        "'evil.Evil'",
    ),
    "keywords": (
        "trainer/callbacks",
        [{"class_path": f"{LIGHTNING}.Timer", "dict_kwargs": {"x": "evil.make"}}],
        "evil",
    ),
    "a task": ("data/task", "torchrl:evil.make", "'torchrl:evil.make'"),
    "a task of a module": ("data/task", "gym:evil:Line-v0", "'gym:evil:Line-v0'"),
    "a task of ours": (
        "trainer/callbacks",
        [{"class_path": "callbacks.ContinualTasks", "init_args": {"tasks": ["cup_catch", "torchrl:evil.make"]}}],
        "'torchrl:evil.make'",
    ),
    "torch's loader": ("trainer/callbacks", [{"class_path": "torch.load"}], "'torch.load'"),
    "torch's hub": ("trainer/logger", {"class_path": "torch.hub.load"}, "'torch.hub.load'"),
    "a loader as environment": ("data/env", "torch.hub.load", "'torch.hub.load'"),
    "a module's module": ("trainer/logger", {"class_path": "torch.os.system"}, "'torch.os.system'"),
    "another process": ("trainer/logger", {"class_path": "torch.utils.cpp_extension.subprocess.Popen"}, "Popen"),
    "a layer that loads": ("trainer/logger", {"class_path": "torch.jit.ScriptModule"}, "ScriptModule"),
    "another file": ("trainer/logger", "other.yaml", "'other.yaml'"),
    "another config": ("config", "other.yaml", "'other.yaml'"),
    "a reference": ("trainer/callbacks", [{"class_path": "${oc.env:NAME}"}], "oc.env"),
    "a reference to a name": ("data/task", "${oc.env:HOME}", "oc.env"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_the_config_of_a_run_names_is_not_built(case, sent, tmp_path):
    key, value, named = HOSTILE[case]
    change(sent, key, value)
    before, checkpoint = tree(sent), sent / "checkpoints" / "last.ckpt"
    for command in (
        ["validate", f"--ckpt_path={checkpoint}"],
        ["probe", str(checkpoint)],
        ["fit", f"--ckpt_path={checkpoint}"],
        ["fit", f"--config={sent / 'config.yaml'}", "--ckpt_path=last"],
    ):
        result = call(*command, trust=False)
        assert (result.code, result.err.count("\n")) == (2, 1), (command, result.err)
        assert f"error: {sent / 'config.yaml'}: " in result.err
        assert named in result.err
        assert result.err.endswith("if you know who wrote it, add --trust\n")
    call("plot", str(sent), "--out", str(tmp_path / "figure.svg"))
    assert not (tmp_path / "ran").exists()
    assert tree(sent) == before


def test_doctor_says_it_as_a_finding(sent, tmp_path):
    from plasticity_rl.cli.commands.doctor import check_run

    change(sent, "data/env", "evil.make")
    (finding,) = check_run([f"--ckpt_path={sent / 'checkpoints' / 'last.ckpt'}"])
    assert "evil.make" in finding.text
    assert finding.level == "problem"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["hyper_parameters", "plasticity_rl_configuration"])
def test_what_a_checkpoint_names_is_not_built(place, sent, tmp_path):
    alone = tmp_path / "alone.ckpt"
    saved = torch.load(sent / "checkpoints" / "last.ckpt", weights_only=True)
    model = saved[place] if place == "hyper_parameters" else saved[place]["model"]
    model["augmentations"] = [{"class_path": "evil.Evil"}]
    torch.save(saved, alone)
    result = call("validate", f"--ckpt_path={alone}", trust=False)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert f"error: {alone}: model.augmentations names 'evil.Evil'" in result.err
    assert not (tmp_path / "ran").exists()


def test_the_user_may_name_and_trust_it(sent, tmp_path):
    """Named again by the user, it is the user's choice; with --trust all of the file is."""
    change(sent, "data/env", "evil.make")
    checkpoint = f"--ckpt_path={sent / 'checkpoints' / 'last.ckpt'}"
    assert read(["validate", checkpoint, "--data.env=evil.make"]).foreign
    assert read(["validate", checkpoint, "--trust"]).trusts
    own = tmp_path / "mine.yaml"
    own.write_text("data: {env: evil.make}\n")
    assert read(["fit", f"--config={own}", "--ckpt_path=last", f"--trainer.default_root_dir={sent}"]).foreign == set()
    elsewhere = tmp_path / "evil.make" / "run"  # a path is no name
    shutil.copytree(sent, elsewhere)
    with pytest.raises(UserError, match=r"data\.env names 'evil\.make'"):
        read(["validate", f"--ckpt_path={elsewhere / 'checkpoints' / 'last.ckpt'}"])
    result = call("plot", "--trust", str(sent))
    assert (
        result.err == "error: --trust belongs to fit, validate, probe, doctor: plot builds nothing that a file names\n"
    )


# ---- a checkpoint by itself ------------------------------------------------------------------------------------------


def test_a_checkpoint_that_left_its_run_is_evaluated_and_measured(sent, tmp_path):
    alone = tmp_path / "elsewhere" / "renamed.ckpt"
    alone.parent.mkdir()
    shutil.copy(sent / "checkpoints" / "last.ckpt", alone)
    ours = call("validate", f"--ckpt_path={sent / 'checkpoints' / 'last.ckpt'}", trust=False)
    assert ours.code == 0, ours.err
    theirs = call("validate", "--ckpt_path", str(alone), trust=False)
    assert theirs.code == 0, theirs.err
    assert theirs.out.splitlines()[-1] == ours.out.splitlines()[-1]

    result = call("probe", str(alone), "--probes", "WeightNorm", "--json", str(tmp_path / "found.json"), trust=False)
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["task"] == "cartpole_swingup"
    assert (found["batch"], found["num_updates"] > 0) == ("rollouts", True)

    before = tree(tmp_path)
    result = call("fit", "--ckpt_path", str(alone), trust=False)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "lies in no run folder, and its replay is not in runs/" in result.err
    assert tree(tmp_path) == before
    new = f"--trainer.default_root_dir={tmp_path / 'new'}"
    with pytest.warns(UserWarning, match="goes on with an empty one"):
        result = call("fit", f"--ckpt_path={alone}", "--data.allow_empty_replay=true", "--max_frames=160", new)
    assert result.code == 0, result.err
    assert torch.load(tmp_path / "new" / "checkpoints" / "last.ckpt", weights_only=True)["rl"]["env_frames"] == 160


def test_a_name_with_a_slash_does_not_hide_the_run(sent):
    (path,) = (sent / "checkpoints" / "eval").glob("*.ckpt")
    result = call("validate", f"--ckpt_path={path}", trust=False)
    assert result.code == 0, result.err
    result = call("fit", f"--ckpt_path={path}", "--max_frames=160", trust=False)
    assert result.code == 0, result.err
    assert f"Run folder:  {sent}" in result.out


def test_a_checkpoint_of_before_says_what_is_missing(sent, tmp_path):
    saved = torch.load(sent / "checkpoints" / "last.ckpt", weights_only=True)
    del saved["plasticity_rl_configuration"]
    torch.save(saved, tmp_path / "old.ckpt")
    for command in (["validate", "--ckpt_path"], ["probe"]):
        result = call(*command, str(tmp_path / "old.ckpt"), trust=False)
        assert (result.code, result.err.count("\n")) == (2, 1), result.err
        assert "lies in no run folder" in result.err
        assert "name the run's with --config RUN/config.yaml" in result.err
