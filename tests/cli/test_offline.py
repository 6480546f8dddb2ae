"""``plasticity-rl probe``: the numbers of training from a checkpoint, without leaving a trace in the run folder."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from bare import BareAgent
from cli_runs import TINY_SAC, append_callbacks, call, events, fit_tiny_cli, scalar_points, tree
from helpers import fit_tiny
from run_state import fingerprint

import callbacks
from callbacks import DormantUnits, EffectiveRank, FractionActiveUnits, Reset, SRank, WeightNorm
from plasticity_rl import Probe, UserError
from plasticity_rl.callback import RLCallback, feature_batches
from plasticity_rl.cli import offline
from plasticity_rl.cli.commands.probe import show, split_tag, table
from plasticity_rl.cli.offline import measure, warn_of_few
from plasticity_rl.measures import measure_module

measure_checkpoint = functools.partial(offline.measure_checkpoint, trusts=True)  # the environment is the tests' own

PROBES = {name: cls for name in callbacks.__all__ if issubclass(cls := getattr(callbacks, name), Probe)}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """200 frames, an update after every env step; every probe with its example's arguments, also at the last update."""
    folder = tmp_path_factory.mktemp("offline")
    entries = [(f"callbacks.{name}", dict(cls.example_arguments, every_n_updates=4)) for name, cls in PROBES.items()]
    entries.append(("callbacks.Reset", {"modules": ["critic"], "at_frames": [100]}))
    fragment = append_callbacks(folder / "probes.yaml", entries)
    fit_tiny_cli(folder / "run", "--config", fragment, "--model.replay_ratio=1")
    return folder / "run"


@pytest.fixture(scope="module")
def last(run_dir) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def measured(last):
    return measure_checkpoint(last)


def test_the_numbers_equal_those_logged_in_training(run_dir, measured):
    """Every probe that looks at weights and probe batch; the last update lies at the frame of the checkpoint."""
    assert (measured.env_frames, measured.num_updates, measured.batch, measured.reason) == (200, 80, "replay", "")
    assert measured.skipped == {}
    read = events(run_dir)
    of_updates = ("fau/", "gradient_", "churn/", "effective_learning_rate/")
    watching = {tag for tag in measured.scalars if tag.startswith(of_updates)}
    compared = 0
    for tag, value in measured.scalars.items():
        logged = scalar_points(read, tag)
        if tag not in watching and not tag.startswith(("weight_change/", "dormant_overlap/")):
            assert 200 in logged, tag
            assert value == pytest.approx(logged[200], rel=1e-6, nan_ok=True), tag
            compared += 1
    assert compared > 50
    # Of an update there can be only another one, on another batch.
    assert measured.scalars["fau/critic"] == pytest.approx(scalar_points(read, "fau/critic")[200], abs=0.1)


def test_nothing_is_written(run_dir, last):
    before = tree(run_dir)
    result = call("probe", last)
    assert result.code == 0, result.err
    assert tree(run_dir) == before


def test_the_same_checkpoint_gives_the_same_numbers(last, measured):
    assert measure_checkpoint(last).scalars == measured.scalars


def test_an_agent_in_python_gives_the_numbers_of_its_checkpoint(tmp_path):
    """The functions behind the command, on the live agent, with probes that watch an update too."""
    probes = [FractionActiveUnits(), DormantUnits(batch_size=20), SRank(batch_size=20)]
    found = {}

    class AtTheEnd(RLCallback):
        def on_train_end(self, trainer, pl_module) -> None:
            generators = fingerprint(pl_module.rng.state_dict())
            weights = fingerprint(dict(pl_module.state_dict()))
            found.update(measure(pl_module, probes))
            assert fingerprint(dict(pl_module.state_dict())) == weights
            assert fingerprint(pl_module.rng.state_dict()) != generators  # the update drew its noise and shifts

    fit_tiny(tmp_path, callbacks=[AtTheEnd()])
    assert {"fau/encoder", "rank/srank/critic.Q1", "dormant/actor/tau_0.1"} <= found.keys()


def test_probes_that_the_run_did_not_have_are_measured_with_their_defaults(tmp_path):
    fit_tiny_cli(tmp_path, max_frames=100)
    found = measure_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert "DistanceFromInit" in found.skipped
    assert set(found.scalars) >= {
        "fau/encoder",
        "weight_norm/actor",
        "rank/srank/critic.Q2",
        "dormant/critic/tau_0.025",
    }


def test_chosen_probes_alone(last):
    found = measure_checkpoint(last, ["WeightNorm", "SRank"])
    assert {tag.split("/")[0] for tag in found.scalars} == {"weight_norm", "rank"}


def test_without_its_replay_new_rollouts_are_taken(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    shutil.rmtree(copy / "replay")
    before = tree(copy)
    found = measure_checkpoint(copy / "checkpoints" / "last.ckpt", ["WeightNorm", "FractionActiveUnits"])
    assert found.batch == "rollouts"
    assert "which is not there" in found.reason
    assert (found.env_frames, found.num_updates) == (200, 80)
    original = measure_checkpoint(run_dir / "checkpoints" / "last.ckpt", ["WeightNorm", "FractionActiveUnits"])
    assert found.scalars["weight_norm/critic"] == original.scalars["weight_norm/critic"]
    assert found.scalars["fau/critic"] != original.scalars["fau/critic"]
    assert tree(copy) == before
    result = call("probe", copy / "checkpoints" / "last.ckpt", "--probes", "WeightNorm", "--rollout_frames=40")
    assert "batch from new rollouts" in result.out


def test_rollouts_of_fewer_transitions_than_ranks_ask_for_are_named_with_the_numbers(monkeypatch):
    """A unit asks for 30 transitions here, so that 12 of them ask for 360; 200 frames held 97."""
    monkeypatch.setattr(feature_batches, "PER_UNIT", 30)
    agent, probes = BareAgent(), [SRank(modules=["actor"]), EffectiveRank(modules=["actor"])]
    agent.data.action_dim, agent.data.capacity, agent.data.replay.num_windows = 2, 10**6, 97
    with pytest.warns(UserWarning, match="ranks of wide layers") as warned:
        warn_of_few(agent, probes, 200)
    warn_of_few(agent, probes, 200)  # a second warning would be an error
    assert [str(one.message) for one in warned] == [
        "ranks of wide layers are taken of the 97 transitions that the replay holds, where 360 are asked for (four for "
        "every unit): they come out lower than of a fuller replay, and cannot be compared with those; "
        "give --rollout_frames 1000"
    ]
    agent = BareAgent()
    agent.data.action_dim, agent.data.capacity, agent.data.replay.num_windows = 2, 10**6, 360
    warn_of_few(agent, probes, 1000)


def test_new_rollouts_of_states(tmp_path):
    run = tmp_path / "run"
    result = call("fit", *TINY_SAC, "--max_frames=200", f"--trainer.default_root_dir={run}")
    assert result.code == 0, result.err
    shutil.rmtree(run / "replay")
    found = measure_checkpoint(run / "checkpoints" / "last.ckpt", ["WeightNorm"], rollout_frames=80)
    assert (found.batch, found.env_frames) == ("rollouts", 200)
    assert found.scalars["weight_norm/critic"] > 0


def test_too_few_rollouts_are_refused(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    shutil.rmtree(copy / "replay")
    with pytest.raises(UserError, match="--rollout_frames 2 are too few"):
        measure_checkpoint(copy / "checkpoints" / "last.ckpt", ["WeightNorm"], rollout_frames=2)


def test_a_checkpoint_of_a_changed_architecture_is_rebuilt_with_its_callbacks(tmp_path):
    fragment = append_callbacks(tmp_path / "norm.yaml", [("callbacks.LayerNorm", {})])
    fit_tiny_cli(tmp_path / "run", "--config", fragment, max_frames=100)
    found = measure_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", ["WeightNorm"])
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    actor = [value for name, value in saved.items() if name.startswith("actor.")]
    assert found.scalars["weight_norm/actor"] == pytest.approx(float(sum(v.square().sum() for v in actor)) ** 0.5)


def test_any_module_gives_what_the_probes_log(tmp_path):
    """The agent's actor on the features of its probe batch."""
    probes = [DormantUnits(taus=[0.025], batch_size=20), SRank(batch_size=20), WeightNorm()]
    compared = []

    class AtTheEnd(RLCallback):
        def on_train_end(self, trainer, pl_module) -> None:
            found = measure(pl_module, probes)
            with torch.no_grad():
                features = pl_module.encoder(pl_module.probe_batch(20)["pixels"])
            alone = measure_module(pl_module.actor, features)
            for ours, theirs in {
                "dormant/tau_0.025": "dormant/actor/tau_0.025",
                "rank/srank": "rank/srank/actor",
                "weight_norm": "weight_norm/actor",
            }.items():
                assert alone[ours] == pytest.approx(found[theirs])
                compared.append(ours)

    fit_tiny(tmp_path, callbacks=[AtTheEnd(), Reset(modules=["critic"], at_frames=[100])])
    assert len(compared) == 3


def test_a_checkpoint_of_sac_leaves_out_no_probe_that_applies(tmp_path):
    """And ``--modules`` chooses where all of them look."""
    result = call("fit", *TINY_SAC, "--max_frames=100", f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    found = measure_checkpoint(checkpoint)
    needs_the_start = {"DistanceFromInit", "WeightChange"}
    assert found.skipped.keys() == needs_the_start, found.skipped
    names = {"fau/critic", "rank/srank/critic.Q2", "dormant/actor/tau_0.1", "policy_saturation/actor", "churn/actor"}
    names |= {"hessian_top/critic/eigenvalue", "ntk/critic/critic/srank", "target/td_error"}
    assert names <= set(found.scalars)
    out = tmp_path / "out.json"
    chosen = call("probe", checkpoint, "--modules", "critic.Q1", "--probes", "SRank", "WeightNorm", "--json", out)
    assert chosen.code == 0, chosen.err
    scalars = json.loads(out.read_text())["scalars"]
    assert {tag for tag in scalars if tag.count("/") < 3} >= {"rank/srank/critic.Q1", "weight_norm/critic.Q1"}
    assert not any("actor" in tag or "Q2" in tag for tag in scalars)
    wrong = call("probe", checkpoint, "--modules", "encoder")
    assert wrong.code == 2
    assert "no module 'encoder' in SAC; there are" in wrong.err


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_table_and_the_file(last, measured, tmp_path):
    out = tmp_path / "out.json"
    result = call("probe", last, "--json", out)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == str(last)
    assert lines[1] == "  tiny, frame 200, 80 updates; batch from its replay"
    assert [line for line in lines[3:] if re.match(r"\w", line)][:3] == ["encoder", "actor", "critic"]
    row = next(line for line in lines if line.startswith("  weight_norm "))
    assert row.split()[1] == f"{measured.scalars['weight_norm/encoder']:.4g}"
    assert not any("policy." in line for line in lines)
    assert any(line.startswith("  ntk/encoder+critic/srank ") for line in lines)
    assert any(line.startswith("  random_target_fit/encoder+critic/gap ") for line in lines)
    content = json.loads(out.read_text())
    assert (content["task"], content["env_frames"], content["batch"]) == ("tiny", 200, "replay")
    assert content["scalars"]["weight_norm/encoder"] == measured.scalars["weight_norm/encoder"]
    assert content["scalars"].keys() == measured.scalars.keys()
    assert content["modules"] == ["encoder", "actor", "critic"]
    with_layers = call("probe", last, "--probes", "WeightNorm", "--layers")
    assert "weight_norm/policy.0" in with_layers.out


def test_two_checkpoints_side_by_side(run_dir, last, tmp_path):
    (best,) = (run_dir / "checkpoints").glob("best_*.ckpt")
    out = tmp_path / "out.json"
    result = call("probe", "--compare", best, last, "--probes", "WeightNorm", "--json", out)
    assert result.code == 0, result.err
    content = json.loads(out.read_text())
    one, two = (content[name]["scalars"]["weight_norm/actor"] for name in "AB")
    assert content["difference"]["weight_norm/actor"] == two - one
    assert content["A"]["checkpoint"] == str(best)
    heads = [line for line in result.out.splitlines() if line.endswith("B - A")]
    assert [head.split() for head in heads] == [[m, "A", "B", "B", "-", "A"] for m in ("encoder", "actor", "critic")]
    row = result.out.splitlines()[result.out.splitlines().index(heads[1]) + 1]
    assert row.split() == ["weight_norm", f"{one:.4g}", f"{two:.4g}", f"{two - one:.4g}"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "give one CHECKPOINT, or two after --compare"),
        (["{last}", "--compare", "{last}", "{last}"], "give one CHECKPOINT, or two after --compare"),
        (["nowhere.ckpt"], "nowhere.ckpt: no such file; give a checkpoint"),
        (["."], "is a folder; give a checkpoint, RUN/checkpoints/last.ckpt"),
        (["{run}/config.yaml"], "is not a checkpoint"),
        (["{last}", "--probes", "SRnak"], "no such probe; there are"),
        (["{last}", "--probes", "Reset"], "--probes Reset: no such probe"),
        (["{last}", "--rollout_frames=0"], "'0' must be a whole number >= 1"),
        (["{last}", "--json", "nowhere/out.json"], "there is no folder nowhere"),
        (["{last}", "--layer_names"], "unrecognized arguments: --layer_names"),
    ],
)
def test_bad_input_is_one_line(run_dir, last, args, expected):
    result = call("probe", *(arg.format(run=run_dir, last=last) for arg in args))
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert expected in result.err


def test_a_probe_that_needs_the_start_of_the_run_is_refused_when_named(tmp_path):
    fit_tiny_cli(tmp_path, max_frames=100)
    result = call("probe", tmp_path / "checkpoints" / "last.ckpt", "--probes", "DistanceFromInit")
    assert result.code == 2
    assert (
        "--probes DistanceFromInit: compares with weights that it keeps from the start of training on, and the run did"
        in result.err
    )


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("fau/encoder", ("encoder", "fau", False)),
        ("fau/encoder/convnet.1", ("encoder", "fau/convnet.1", True)),
        ("dormant/critic/tau_0.1", ("critic", "dormant/tau_0.1", False)),
        ("dormant/critic/Q1.1/tau_0.1", ("critic", "dormant/Q1.1/tau_0.1", True)),
        ("rank/srank/critic.Q1", ("critic", "rank/srank/Q1", False)),
        ("dormant/critic.Q1/1/tau_0.1", ("critic", "dormant/Q1/1/tau_0.1", True)),
        ("ntk/critic/encoder+critic/srank", ("critic", "ntk/encoder+critic/srank", False)),
        ("random_target_fit/critic/critic/gap", ("critic", "random_target_fit/critic/gap", False)),
        ("hessian_top/critic.Q1/eigenvalue", ("critic", "hessian_top/Q1/eigenvalue", False)),
        ("largest_weight", ("", "largest_weight", False)),
        ("critic/x", ("", "critic/x", False)),
    ],
)
def test_tags_by_module(tag, expected):
    assert split_tag(tag, {"encoder": ["convnet", "convnet.1"], "critic": ["Q1", "Q1.1"]}) == expected


def test_columns_line_up():
    columns = {"A": {"fau/actor": 0.5, "x": 12345.0}, "B": {"fau/actor": 0.25}}
    assert table(columns, {"actor": []}, layers=False, titles=True).splitlines() == [
        "actor          A     B",
        "  fau        0.5  0.25",
        "",
        "agent          A     B",
        "  x    1.234e+04     -",
    ]
    assert (show(None), show(0.123456), show(3.0), show(float("nan"))) == ("-", "0.1235", "3", "nan")
