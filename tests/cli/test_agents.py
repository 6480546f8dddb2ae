"""``--agent`` and ``--data.observation state`` on the command line: choosing, resuming, evaluating, refusing."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml
from cli_runs import (
    REPOSITORY,
    TINY,
    TINY_DATA,
    TINY_DQN,
    TINY_SAC,
    assert_refused,
    call,
    checkpoint,
    events,
    printed_config,
    scalar_points,
    write_yaml,
)

from plasticity_rl.cli.app import AGENTS

TINY_DRQV2 = [*TINY, "--data.observation=state"]


def fit(run_dir, *options, max_frames: int = 200) -> None:
    result = call("fit", *options, f"--max_frames={max_frames}", f"--trainer.default_root_dir={run_dir}")
    assert result.code == 0, result.err


def refusal(*options) -> str:
    result = call("fit", *options)
    assert result.code == 2
    (line,) = result.err.strip().splitlines()
    return line


# ---- choosing --------------------------------------------------------------------------------------------------------


def test_drqv2_is_what_one_gets_and_its_options_stay():
    config = printed_config("--model.lr=0.5")
    assert config["agent"] == "drqv2"
    assert config["model"]["lr"] == 0.5
    assert config["model"]["num_channels"] == 32
    assert config["data"]["observation"] == "pixels"


@pytest.mark.parametrize("given", ["option", "file"])
def test_sac_brings_its_own_options(given, tmp_path):
    path = write_yaml(tmp_path / "c.yaml", {"agent": "sac", "data": {"observation": "state"}})
    chosen = ["--agent", "sac"] if given == "option" else ["--config", path]
    config = printed_config(*chosen, "--model.init_temperature=0.2")
    assert config["agent"] == "sac"
    assert config["model"]["init_temperature"] == 0.2
    assert "num_channels" not in config["model"]


def test_the_command_line_wins_over_a_file():
    config = printed_config("--config", REPOSITORY / "configs" / "quickstart.yaml", "--data.observation=state")
    assert config["agent"] == "drqv2"
    assert config["data"]["observation"] == "state"


@pytest.mark.parametrize("agent", ["sac", "dqn"])
def test_every_option_of_an_agent_is_explained(agent):
    text = call("fit", f"--agent={agent}", "--help=all").out
    for name in inspect.signature(AGENTS[agent]).parameters.keys() - {"obs_shape", "action_dim", "num_actions", "seed"}:
        found = re.search(rf"--model\.{name}[ +,][^\n]*\n?\s+(.+?)\s+\((?:type|required)", text, re.DOTALL)
        assert found, f"--model.{name} is not explained"


def test_refusals_are_one_line(tmp_path):
    assert "agent='sacc' is not an agent; there are ['drqv2', 'sac', 'dqn']. Did you mean sac?" in refusal(
        "--agent=sacc"
    )
    assert "unrecognized arguments: --model.num_channels" in refusal("--agent=sac", "--model.num_channels=4")
    pixels = [option for option in TINY_SAC if "observation" not in option]
    line = refusal(*pixels, f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert "SAC reads states, not images" in line
    assert "--data.observation state" in line
    line = refusal(*TINY_DRQV2, "--model.augment=true", f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert "augment=True" in line
    assert "DQN chooses among discrete actions, and this task has continuous ones" in refusal(
        *TINY_DQN, "--data.task=tiny", f"--trainer.default_root_dir={tmp_path / 'run'}"
    )
    assert "data.observation: expected one of 'pixels', 'state', got touch" in refusal(
        *TINY, "--data.observation=touch"
    )


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cls"), [(TINY_SAC, "sac"), (TINY_DRQV2, "drqv2"), (TINY_DQN, "dqn")], ids=["sac", "drqv2", "dqn"]
)
def test_a_run_from_states_is_saved_resumed_and_evaluated(options, cls, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "plasticity_rl.machine.rendering.check_rendering", lambda: pytest.fail("nothing needs to be drawn")
    )
    run_dir = tmp_path / "run"
    fit(run_dir, *options)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (config["agent"], config["data"]["observation"]) == (cls, "state")
    assert checkpoint(run_dir)["rl"]["num_updates"] == 40

    result = call("fit", f"--ckpt_path={run_dir}/checkpoints/last.ckpt", "--max_frames=300")
    assert result.code == 0, result.err
    assert checkpoint(run_dir)["rl"]["num_updates"] == 65
    result = call("fit", f"--config={run_dir}/config.yaml", "--ckpt_path=last", "--max_frames=400")
    assert result.code == 0, result.err
    assert list(scalar_points(events(run_dir), "eval/return")) == [0, 100, 200, 300, 400]

    result = call("validate", f"--ckpt_path={run_dir}/checkpoints/last.ckpt")
    assert result.code == 0, result.err
    assert "return" in result.out
    assert not (run_dir / "videos").exists()

    other = "drqv2" if cls == "sac" else "sac"
    line = refusal(f"--agent={other}", *TINY_DATA, f"--ckpt_path={run_dir}/checkpoints/last.ckpt", "--max_frames=500")
    (*_, last_start) = sorted(run_dir.glob("config_resumed_*.yaml"))
    assert line == f"error: {last_start} holds the options of agent={cls}, but the command ends up with agent={other}"


def test_validate_evaluates_with_the_options_that_are_asked_for_or_refuses_them(tmp_path):
    """Wherever they stand; what is not asked for is taken from the checkpoint."""
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    folder, wide = (
        f"--trainer.default_root_dir={run}",
        write_yaml(tmp_path / "wide.yaml", {"model": {"hidden_dim": 64}}),
    )
    assert call("fit", *TINY_DQN, "--max_frames=100", folder).code == 0
    plain = call("validate", f"--ckpt_path={last}", "--model.hidden_dim=16").out.splitlines()
    assert plain[1:] == call("validate", f"--ckpt_path={last}").out.splitlines()[1:]
    by_chance = call("validate", f"--ckpt_path={last}", "--model.eval_epsilon=1.0").out.splitlines()
    assert by_chance[1:] != plain[1:]
    assert (
        call("validate", "--ckpt_path=last", folder, "--model.eval_epsilon=1.0").out.splitlines()[1:] == by_chance[1:]
    )
    for ways in (["--model.hidden_dim=64"], [*TINY_DQN[:-3], "--config", wide]):
        for path in (last, "last"):
            result = call("validate", f"--ckpt_path={path}", folder, *ways)
            assert_refused(result, "written with model.hidden_dim=16, but this run has 64: the networks")
