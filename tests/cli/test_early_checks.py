"""What is refused before the slow imports: only what the parser and the constructors refuse too, in their words."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping

import pytest
from cli_runs import TINY, TINY_DQN, TINY_SAC, run_without_torch

import callbacks
from plasticity_rl import UserError
from plasticity_rl.cli.app import AGENTS, run
from plasticity_rl.cli.declared.checks import check
from plasticity_rl.cli.declared.command import agents, groups
from plasticity_rl.cli.declared.options import constructor
from plasticity_rl.cli.declared.parts import parts
from plasticity_rl.cli.early import read
from plasticity_rl.cli.early_checks import option_names, refuse_early
from plasticity_rl.cli.parser import OneLineParser
from plasticity_rl.envs import gym_ids
from plasticity_rl.packaged import config_names, with_found_configs

CALLBACK = "--trainer.callbacks+=callbacks."
RESET = (f"{CALLBACK}Reset", "--trainer.callbacks.every_n_frames=100000")

CYCLE = (
    *(f"{CALLBACK}ContinualTasks", "--trainer.callbacks.every_n_frames=100"),
    "--trainer.callbacks.tasks=[walker_run,walker_rum]",
)


def early(*args: str) -> str:
    """Return what is refused early of ``fit ARGS``, or nothing."""
    try:
        refuse_early(read(with_found_configs(["fit", *args])))
    except UserError as error:
        return str(error)
    return ""


def test_every_packaged_config_passes():
    """By itself, or on SAC, whose temperature some name."""
    refused = {name: line for name in config_names() if (line := early("--config", name))}
    for_sac = {"interventions/bro_net", "interventions/sr_sac"}
    refused |= {name: early("--config", "sac_state", "--config", name) for name in for_sac}
    assert [line for line in refused.values() if line and "which is not installed" not in line] == []


VALID = {
    "a callback": RESET,
    "arguments with their group": (f"{CALLBACK}Reset", "--trainer.callbacks.init_args.every_n_frames=100000"),
    "callbacks as a list": ("--trainer.callbacks", "[{class_path: callbacks.ReDo, init_args: {tau: 0.1}}]"),
    "a bare name of Lightning's": ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=eval/return"),
    "a class of Lightning's": ("--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor",),
    "a class of ours": ("--trainer.callbacks+=plasticity_rl.EvalVideo",),
    "no callbacks": ("--trainer.callbacks=null",),
    "environments of one's own": ("--data.env=own.make", "--data.task=foo"),
    "tasks of one's own environments": ("--data.env=own.make", "--data.task=walker_run", *CYCLE),
    "a game of one's own environments": ("--data.env=own.make", "--data.task=atari:breakuot"),
    "a task of Gymnasium": ("--data.task=gym:Pendulum-v1",),
    "a task that a module registers": ("--data.task=gym:my_envs:Line-v0",),
    "a class of TorchRL's": ("--data.task=torchrl:my_envs.Line",),
    "a part of a module": (*RESET, "--trainer.callbacks.modules=[critic.Q1,critic.trunk.0]"),
    "a part of an encoder, which a function makes": (*RESET, "--trainer.callbacks.modules=[encoder.convnet]"),
    "a part of another agent": (
        *("--agent=sac", "--data.observation=state"),
        *(*RESET, "--trainer.callbacks.modules=[actor.policy]"),
    ),
    "a part that a callback may make": (
        *(*RESET, "--trainer.callbacks.modules=[critic.own]"),
        f"{CALLBACK}PlasticityInjection",
        "--trainer.callbacks.at_frames=[5000]",
    ),
    "a part that a callback of one's own may make": (
        *(*RESET, "--trainer.callbacks.modules=[critic.own]"),
        "--trainer.callbacks+=tiny_agent.Anything",
    ),
    "a reference": ("--data.capacity=${fit.data.batch_size}",),
    "a reference that decides": ("--data.batch_size=2000000", "--data.capacity=${fit.max_frames}"),
    "a logger with arguments": ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=x"),
    "options of the Trainer": ("--trainer.devices=[0,1]", "--trainer.precision=bf16-mixed"),
    "time": ("--trainer.max_time=00:01:00:00",),
    "another agent": ("--max_frames", "1000", "--agent", "sac", "--data.observation", "state"),
    "an option of it": ("--agent=sac", "--model.target_entropy=-3"),
    "whole number for a fraction": ("--data.discount=1", "--model.stddev_schedule=0.2"),
    "a seed by chance": ("--seed_everything=true",),
    "null where there is a default": ("--trainer.gradient_clip_val=null",),
    "augmentations": ("--model.augmentations+=plasticity_rl.augment.RandomShift", "--model.augmentations.pad=4"),
    "the last value counts": ("--data.batch_size=0", "--data.batch_size=16"),
    "a later list replaces": (f"{CALLBACK}Reset", "--trainer.callbacks=[callbacks.SRank]"),
    "YAML in place of a file": ("--config", "{data: {n_step: 5}, trainer: {callbacks+: [callbacks.SRank]}}"),
    "dotted keys": ("--config", "{data.n_step: 5, model.lr: 1.0e-3}"),
}


@pytest.mark.parametrize("args", VALID.values(), ids=VALID)
def test_what_is_valid_passes(args):
    assert early(*args) == ""


WRONG = {
    "the option for files": (("--confg=x.yaml",), "unrecognized arguments: --confg. Did you mean --config"),
    "an option cut short": (
        ("--data.batch=16",),
        "unrecognized arguments: --data.batch. Did you mean --data.batch_size",
    ),
    "an agent cut short": (("--agen=dqn",), "unrecognized arguments: --agen. Did you mean --agent"),
    "a checkpoint cut short": (("--ckpt=last",), "unrecognized arguments: --ckpt. Did you mean --ckpt_path"),
    "a run folder cut short": (("--trainer.default_root=x",), "Did you mean --trainer.default_root_dir"),
    "a file cut short": (("--conf=quickstart",), "unrecognized arguments: --conf. Did you mean --config"),
    "an option": (("--data.bach_size=3",), "unrecognized arguments: --data.bach_size. Did you mean --data.batch_size"),
    "an option of the Trainer": (("--trainer.device=2",), "--trainer.device. Did you mean --trainer.devices"),
    "a key": (("--config={data: {bach_size: 3}}",), "no option 'data.bach_size'. Did you mean --data.batch_size"),
    "a key of the Trainer": (("--config={trainer: {devcies: 2}}",), "'trainer.devcies'. Did you mean --trainer.dev"),
    "a section": (("--config={modle: {lr: 2}}",), "there is no option 'modle"),
    "an option of another agent": (("--agent=sac", "--model.num_channels=4"), "(these are of --agent sac)"),
    "a type": (("--data.batch_size=2.5",), "data.batch_size: expected int, got 2.5"),
    "a choice": (("--data.render=slow",), "data.render: expected one of 'exact', 'fast', got slow"),
    "a seed": (("--seed_everything=abc",), "seed_everything: expected bool or int, got abc"),
    "a negative seed": (("--seed_everything=-5",), "seed_everything=-5 must be"),
    "a word": (("walker_run",), "unrecognized arguments: walker_run. Write options as --name=value"),
    "an agent": (("--agent=ppo",), "agent='ppo' is not an agent; there are ['drqv2', 'sac', 'dqn']"),
    "a task": (
        ("--data.env=plasticity_rl.make_env", "--data.task=walker_rum"),
        "task='walker_rum' is not a DeepMind Control task. Did you mean walker_run",
    ),
    "a game": (
        ("--data.env=plasticity_rl.make_env", "--data.task=atari:breakuot"),
        "task='atari:breakuot' is not an Atari task. Did you mean atari:breakout",
    ),
    "an id of Gymnasium": (
        ("--data.env=plasticity_rl.make_env", "--data.task=gym:CartPole-v9"),
        "task='gym:CartPole-v9' is no environment of Gymnasium (VersionNotFound: Environment version `v9`",
    ),
    "a task among several": (
        ("--data.env=plasticity_rl.make_env", "--data.task=walker_run", "--data.render=fast", *CYCLE),
        "task='walker_rum' is not a DeepMind Control task. Did you mean walker_run",
    ),
    "a number of the environment": (("--data.action_repeat=0",), "data.action_repeat=0 must be a whole number >= 1"),
    "a number of the data": (("--data.n_step=0",), "data.n_step=0 must be a whole number >= 1"),
    "numbers that do not fit": (("--data.capacity=7", "--data.batch_size=8"), "data.capacity=7 keeps fewer"),
    "a number of the agent": (("--model.lr=-1",), "model.lr=-1.0 must be in (0, 1]"),
    "a number of all agents": (("--model.replay_ratio=0",), "replay_ratio=0.0 must be > 0"),
    "a clock": (("--trainer.max_epochs=3",), "trainer.max_epochs=3 counts evaluations here"),
    "a class": (
        (f"{CALLBACK}Resett",),
        "no class 'callbacks.Resett' (module 'callbacks' has no attribute 'Resett'). Did",
    ),
    "a class in a file": (("--config={trainer: {callbacks+: [{class_path: callbacks.Resett}]}}",), "callbacks.Reset,"),
    "a package": (
        ("--trainer.callbacks+=calbacks.Reset",),
        "(No module named 'calbacks'). Did you mean callbacks.Reset",
    ),
    "an argument": (
        (f"{CALLBACK}Reset", "--trainer.callbacks.every_n_frame=5"),
        "Reset: there is no option 'every_n_f",
    ),
    "an argument in a file": (
        ("--config={trainer: {callbacks+: [{class_path: callbacks.Reset, init_args: {every_n_frame: 5}}]}}",),
        "Reset: there is no option 'every_n_frame'. Did you mean every_n_frames",
    ),
    "an argument's type": (
        (f"{CALLBACK}Reset", "--trainer.callbacks.every_n_frames=often"),
        "every_n_frames: expected int or null, got often",
    ),
    "one value for a list": (
        (f"{CALLBACK}Reset", "--trainer.callbacks.at_frames=200"),
        "Reset: at_frames: expected list, got 200: write [200]",
    ),
    "a missing argument": ((f"{CALLBACK}ToggleAugmentation",), "ToggleAugmentation: the following arguments are requi"),
    "an argument's range": ((f"{CALLBACK}ReDo", "--trainer.callbacks.tau=1.5"), "ReDo.tau=1.5 must be in [0, 1)"),
    "a period": ((f"{CALLBACK}SRank", "--trainer.callbacks.every_n_updates=0"), "SRank.every_n_updates: the period is"),
    "a part of a module": (
        (*RESET, "--trainer.callbacks.modules=[critic.Q9]"),
        "no module 'critic.Q9' in DrQV2; there are ['critic', 'critic.trunk', 'critic.Q1', 'critic.Q2']. Did you",
    ),
    "a module": ((*RESET, "--trainer.callbacks.modules=[critc]"), "no module 'critc' in DrQV2; there are ['encoder', "),
}


@pytest.mark.parametrize(("args", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_and_the_parser_refuses_it_too(args, says, tmp_path):
    args = (*TINY, *args) if "--agent=sac" not in args else (*TINY_SAC, *args)
    assert says in early(*args)
    command = read(["fit", *args, "--max_frames=200000", f"--trainer.default_root_dir={tmp_path}"])
    with pytest.raises(UserError):
        run(command)  # parses and builds by itself; nothing was asked early


def test_a_typo_is_told_without_importing_torch(tmp_path):
    (tmp_path / "c.yaml").write_text("trainer: {callbacks+: [{class_path: callbacks.Resett}]}")
    process = run_without_torch("fit", f"--config={tmp_path / 'c.yaml'}")
    assert process.returncode == 2, process.stderr
    assert "Did you mean callbacks.Reset" in process.stderr


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("atari:breakuot", "Did you mean atari:breakout"),
        ("minatar:braekout", "Did you mean minatar:breakout"),
        ("gym:CartPole-v9", "It provides versioned environments: [ `v0`, `v1` ]"),
    ],
)
def test_a_wrong_task_is_told_without_importing_torch(task, says):
    process = run_without_torch("fit", f"--data.task={task}")
    assert process.returncode == 2, process.stderr
    assert says in process.stderr


@pytest.mark.parametrize(
    ("task", "module", "says"),
    [
        ("atari:pong", "ale_py", "atari:pong needs ale-py, which is not installed: pip install 'plasticity-rl[atari]'"),
        ("minatar:freeway", "minatar", "minatar:freeway needs minatar, which is not installed: pip install 'plast"),
        ("gym:Pendulum-v1", "gymnasium", "task=gym:Pendulum-v1 needs Gymnasium, which is not installed: pip install"),
        ("gym:my_envs:Line-v0", "gymnasium", "task=gym:my_envs:Line-v0 needs Gymnasium, which is not installed"),
    ],
)
def test_a_missing_extra_is_told_early(task, module, says, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert early(f"--data.task={task}").startswith(says)
    assert early(f"--data.task={task}", "--data.env=own.make") == ""


def test_ids_that_plugins_may_register_are_left_to_the_run(monkeypatch):
    """A plugin is imported with Gymnasium, and may import MuJoCo before the backend of rendering is chosen."""
    monkeypatch.setattr(gym_ids, "has_plugins", lambda: True)
    assert early("--data.task=gym:CartPole-v9") == ""


# ---- what is read from the source is what Python sees ----------------------------------------------------------------


def parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls).parameters


def test_signatures_are_those_of_the_classes():
    classes = {f"callbacks.{name}": getattr(callbacks, name) for name in callbacks.__all__}
    classes |= {path: AGENTS[name] for name, path in agents().items()}
    assert list(agents()) == list(AGENTS)
    for path, cls in classes.items():
        found = constructor(path)
        assert found is not None, path
        assert list(found) == list(parameters(cls)), path
        assert {name for name, one in found.items() if one.required} == {
            name for name, one in parameters(cls).items() if one.default is inspect.Parameter.empty
        }, path
        assert not [name for name, one in found.items() if not one.text], f"{path}: without a text"


def test_parts_are_those_of_the_agents():
    made = {
        "drqv2": AGENTS["drqv2"]((9, 16, 16), 1, feature_dim=4, hidden_dim=4, num_channels=2, random_shift_pad=1),
        "sac": AGENTS["sac"]((3,), 1, hidden_dim=4),
        "dqn": AGENTS["dqn"]((3,), 2, hidden_dim=4, dueling=True),
    }
    assert list(made) == list(AGENTS)
    for name, agent in made.items():
        for module in agent.module_names:
            declared = [part for part, made in parts(agents()[name], module).items() if made]
            children = [child for child, _ in getattr(agent, module).named_children()]
            assert declared in (children, []), f"{name}: {module}"
    assert parts(agents()["drqv2"], "critic")
    assert parts(agents()["sac"], "actor")


def test_options_are_those_of_the_parser(tmp_path):
    for agent in AGENTS:
        options = {"sac": TINY_SAC, "dqn": TINY_DQN}.get(agent, TINY)
        with pytest.raises(UserError):
            run(read(["fit", *options, "--nothing=1"]))
        known = {name for name in OneLineParser.known_options if not name.endswith(("+", ".help")) and name[:2] == "--"}
        known -= {"--help", "--config", "--print_config", "--data", "--model", "--trainer"}
        assert option_names(groups("fit", agent, "")) == known | {"--ckpt_path", "--weights_only"}  # of Trainer.fit


def test_checks_are_those_of_the_constructors():
    """With their examples they pass, and what they say is what the constructor says."""
    for name in callbacks.__all__:
        cls = getattr(callbacks, name)
        check(f"callbacks.{name}", dict(cls.example_arguments))
    for name, arguments in {"ReDo": {"tau": 1.5}, "InFeR": {"num_heads": 0}, "Reset": {"at_frames": [-1]}}.items():
        with pytest.raises(UserError) as real:
            getattr(callbacks, name)(**arguments)
        with pytest.raises(UserError) as found:
            check(f"callbacks.{name}", arguments)
        assert str(found.value) == str(real.value)
