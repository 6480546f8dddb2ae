"""Which strategy a Trainer gets, and what is refused before any process starts. Two real ranks: tests/ddp."""

from __future__ import annotations

import pytest
import torch
from cli_runs import TINY, call
from helpers import TINY_TRAINER, fit_tiny, tiny_data

from plasticity_rl import UserError, make_trainer
from plasticity_rl.distributed.launch import MAIN_PROCESS, RUN_DIR, RankLauncher, lost_connection, same_run_dir
from plasticity_rl.distributed.ranks import add_other_ranks, digest, refuse_other_world_size, take_own_part
from plasticity_rl.distributed.strategy import GradientAveraging, asks_for_ranks, choose_strategy
from plasticity_rl.rng import NamedGenerators


@pytest.mark.parametrize(
    ("devices", "several"),
    [(1, False), ("1", False), (2, True), ("2", True), ([0], False), ([0, 1], True), ("0,", False), ("0,1", True)],
)
def test_which_devices_mean_several_processes(devices, several):
    assert asks_for_ranks(devices, 1, "cpu") == several
    assert asks_for_ranks(devices, 2, "cpu")


def test_all_devices_are_several_only_where_there_are_several(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert asks_for_ranks("auto")
    assert asks_for_ranks(-1)
    assert not asks_for_ranks("auto", 1, "cpu")


def test_strategy_is_ours_with_several_devices_or_by_the_name_ddp():
    assert choose_strategy("auto", devices=1) == "auto"
    assert choose_strategy("auto", devices=2) == choose_strategy("ddp", devices=1) == "ddp_rl"
    assert choose_strategy("fsdp", devices=2) == "fsdp"


def test_trainer_with_two_devices_averages_gradients(tmp_path):
    """Also: what is private in Lightning and overridden here still exists."""
    trainer = make_trainer(tmp_path, **TINY_TRAINER, devices=2)
    assert isinstance(trainer.strategy, GradientAveraging)
    assert trainer.world_size == 2
    trainer.strategy._configure_launcher()
    assert isinstance(trainer.strategy.launcher, RankLauncher)
    assert {"procs", "num_processes", "num_nodes", "cluster_environment"} <= vars(trainer.strategy.launcher).keys()
    assert callable(trainer.strategy.launcher._call_children_scripts)


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_find_unused_parameters_true"])
def test_another_strategy_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"trainer.strategy: DDPStrategy .* use ddp_rl"):
        make_trainer(tmp_path, **TINY_TRAINER, devices=2, strategy=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.batch_size=9"], "data.batch_size=9 must be a multiple of the 2 ranks"),
        (["--data.eval_every_n_frames=102"], "must be a multiple of action_repeat * num_envs * 2 ranks = 4"),
        (["--trainer.strategy=ddp_spawn"], "does not keep the ranks of a reinforcement-learning run equal"),
    ],
)
def test_command_line_refuses_what_ranks_cannot_share_before_it_starts_any(options, message, tmp_path, monkeypatch):
    monkeypatch.delenv(RUN_DIR, raising=False)
    result = call("fit", *TINY, "--trainer.devices=2", f"--trainer.default_root_dir={tmp_path / 'run'}", *options)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err


def test_run_folder_is_chosen_by_the_first_rank(monkeypatch, tmp_path):
    monkeypatch.setenv(RUN_DIR, "")
    assert same_run_dir(lambda: tmp_path, several=True) == tmp_path
    monkeypatch.setenv(MAIN_PROCESS, "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert same_run_dir(lambda: tmp_path / "another second", several=True) == tmp_path


def test_processes_of_another_launcher_need_a_named_run_folder(monkeypatch, tmp_path):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "1", RUN_DIR: ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(MAIN_PROCESS, raising=False)
    with pytest.raises(UserError, match=r"torchrun started .* make_trainer\(run_dir\)"):
        same_run_dir(lambda: tmp_path, several=True)
    with pytest.raises(UserError, match=r"torchrun started 2 processes, but devices=1"):
        choose_strategy("auto", devices=1)


def test_generators_of_their_own_differ_by_rank_and_named_ones_do_not():
    first, second = NamedGenerators(3), NamedGenerators(3, rank=1)
    assert torch.equal(first.get("a").get_state(), second.get("a").get_state())
    assert not torch.equal(first.get_own("b").get_state(), second.get_own("b").get_state())
    assert torch.equal(first.get_own("b").get_state(), NamedGenerators(3).get("b").get_state())  # as with one process


def test_a_checkpoint_becomes_that_of_a_rank():
    own = {"rl": {"rng": 11, "global_rng": 12}, "callbacks": {"b": 13}, "data": 14}
    whole = {"rl": {"rng": 1, "global_rng": 2, "env_steps": 3}, "callbacks": {"a": 4, "b": 5}, "RLDataModule": 6}
    checkpoint = {**whole, "other_ranks": [own]}
    take_own_part(checkpoint, "RLDataModule", rank=0)
    assert {key: checkpoint[key] for key in whole} == whole
    take_own_part(checkpoint, "RLDataModule", rank=1)
    assert checkpoint["rl"] == {"rng": 11, "global_rng": 12, "env_steps": 3}
    assert checkpoint["callbacks"] == {"a": 4, "b": 13}
    assert checkpoint["RLDataModule"] == 14
    with pytest.raises(UserError, match="written by 2 ranks, but this run has 4"):
        refuse_other_world_size(checkpoint, 4)
    with pytest.raises(UserError, match="written by 1 rank, but this run has 2"):
        refuse_other_world_size(whole, 2)


def test_one_process_adds_nothing_to_its_checkpoint():
    checkpoint = {"rl": {}}
    add_other_ranks(checkpoint, "RLDataModule")
    assert checkpoint == {"rl": {}}


def test_digest_sees_bits_types_and_nesting():
    values = [
        *(torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, -0.0])),
        *([1, [2]], [[1], 2], {"a": 1}, {"b": 1}, 1, 1.0, None, True, "1"),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": torch.ones(2)}) == digest({"a": torch.ones(2)})


def test_what_counts_as_the_loss_of_another_rank():
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711"
    assert lost_connection(RuntimeError(gloo))
    assert not lost_connection(RuntimeError("CUDA out of memory"))
    assert not lost_connection(UserError("connection reset"))


def test_evaluation_episodes_that_no_rank_has_are_not_played(tmp_path):
    data = tiny_data(num_eval_episodes=2)
    agent = fit_tiny(tmp_path, max_frames=2)
    agent.validation_step(2, 0)
    assert agent.eval_episodes == []
    assert len(data.eval_env("tiny").action_spec.shape) == 1
