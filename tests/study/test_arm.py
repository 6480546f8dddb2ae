"""An arm of a study on the command line: the published agent, several fragments, real pixels."""

from __future__ import annotations

import torch
import yaml
from cli_runs import REPOSITORY, TINY, call, callback_names, checkpoint, events

CONFIGS = REPOSITORY / "configs"
SMALL = [
    "--data.task=cartpole_swingup",
    "--data.action_repeat=8",
    "--data.image_size=24",
    "--data.render=fast",
    "--data.batch_size=16",
    "--data.capacity=2000",
    "--data.eval_every_n_frames=800",
    "--data.num_eval_episodes=1",
    "--model.feature_dim=8",
    "--model.hidden_dim=16",
    "--model.num_channels=4",
    "--model.num_seed_frames=400",
    "--model.replay_ratio=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=10",
    "--max_frames=800",
    "--seed_everything=3",
]
"""50 updates in some seconds."""
OFTEN = ["--model.replay_ratio=1", "--trainer.log_every_n_steps=1"]
MODULES = ["encoder", "actor", "critic"]


def test_two_fragments_make_an_arm_that_says_so_everywhere(tmp_path, monkeypatch):
    """The period of the last callback is made short enough to act."""
    monkeypatch.chdir(tmp_path)
    fragments = [CONFIGS / "drqv2.yaml", CONFIGS / "interventions/layer_norm.yaml", CONFIGS / "interventions/redo.yaml"]
    options = [option for path in fragments for option in ("--config", path)]
    result = call("fit", *options, *SMALL, "--trainer.callbacks.every_n_updates=20", "--trainer.callbacks.tau=0.5")
    assert result.code == 0, result.err

    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith("cartpole_swingup_layer_norm+redo-tau=0.5-every_n_updates=20_seed3_")
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert callback_names(config) == ["callbacks.LayerNorm", "callbacks.ReDo"]
    saved = checkpoint(run_dir)
    assert saved["rl"]["num_updates"] == 50
    redo = {"modules": MODULES, "tau": 0.5, "every_n_updates": 20, "batch_size": 64}
    assert saved["rl"]["callbacks"] == [
        {"class": "callbacks.LayerNorm", "arguments": {"modules": MODULES}},
        {"class": "callbacks.ReDo", "arguments": redo},
    ]
    assert {"encoder.convnet.0_norm.weight", "actor.policy.0_norm.weight", "critic_target.Q2.2_norm.bias"} <= (
        saved["state_dict"].keys()
    )
    moved = saved["state_dict"]["critic.Q1.0_norm.weight"]
    assert not torch.equal(moved, torch.ones_like(moved)), "the norms are trained"
    acted = [point.value for point in events(run_dir).Scalars("intervention/redo") if point.value == 1]
    assert acted == [1, 1], "before updates 21 and 41"


def test_the_order_of_fragments_does_not_matter(tmp_path):
    """On the tiny env: which callbacks there are, and in which order, has nothing to do with pixels."""
    runs = []
    for number, order in enumerate((["redo", "layer_norm"], ["layer_norm", "redo"])):
        options = [option for name in order for option in ("--config", CONFIGS / f"interventions/{name}.yaml")]
        folder = tmp_path / str(number)
        base = ["--config", CONFIGS / "drqv2.yaml", *options, *TINY, f"--trainer.default_root_dir={folder}"]
        assert call("fit", *base, *OFTEN, "--max_frames=100").code == 0
        runs.append(checkpoint(folder))
    one, two = (run["state_dict"] for run in runs)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert events(tmp_path / "0").Scalars("intervention/redo")
    assert runs[0]["rl"]["callbacks"] == runs[1]["rl"]["callbacks"]
