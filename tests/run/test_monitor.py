"""What a run writes beside curves, read back from disk: the layout of charts, hyperparameters, other loggers."""

from __future__ import annotations

import csv
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from cli_runs import call, events, fit_tiny_cli, scalar_points
from helpers import fit_tiny, weights_hash
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers import wandb as lightning_wandb
from run_state import DieAt, Killed
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util import tensor_util

import callbacks
from callbacks import DormantUnits, FeatureRank, FractionActiveUnits, L2Init, ReDo, Reset, SRank, WeightNorm
from plasticity_rl import Probe, UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.charts import layout, summary
from plasticity_rl.run.histograms import Histograms
from plasticity_rl.run.progress import FrameProgressBar
from plasticity_rl.run.trainer import run_logger

PROBES = [cls for name in callbacks.__all__ if issubclass(cls := getattr(callbacks, name), Probe)]
START, END, EXPERIMENT = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG, metadata.EXPERIMENT_TAG


def fit(folder: Path, *given: RLCallback, **options: Any):
    """Train 200 frames with a TensorBoard logger that writes a point every 10 env steps."""
    trainer = {"logger": run_logger(folder), "log_every_n_steps": 10, **options.pop("trainer_options", {})}
    return fit_tiny(folder, callbacks=given, trainer_options=trainer, **options)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """The events of a run with every probe, two interventions that act, and a regularizer."""
    folder = tmp_path_factory.mktemp("rich")
    given = [Reset(modules=["critic"], at_frames=[100]), ReDo(every_n_updates=20), L2Init(coefficient=0.1)]
    fit(folder, *given, *(cls(**cls.example_arguments) for cls in PROBES), agent_options={"replay_ratio": 1.0})
    return events(folder)


# ---- the layout of charts --------------------------------------------------------------------------------------------


def charts(accumulator) -> dict[str, dict[str, list[str]]]:
    (written,) = accumulator.Tensors("custom_scalars__config__")
    parsed = layout_pb2.Layout.FromString(tensor_util.make_ndarray(written.tensor_proto).item())
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in parsed.category
    }


def shown(patterns: list[str], tags: list[str]) -> set[str]:
    """As TensorBoard chooses: a pattern that fits the beginning of a tag."""
    return {tag for tag in tags for pattern in patterns if re.match(pattern, tag)}


def test_no_chart_stays_empty_when_everything_is_measured(rich):
    tags = rich.Tags()["scalars"]
    empty = [
        title for of_category in charts(rich).values() for title, tag in of_category.items() if not shown(tag, tags)
    ]
    assert empty == []


def test_every_module_has_a_chart_and_the_events_another(rich):
    """Curves of one chart have one colour, and the events' 1 would flatten what lies between 0 and 0.1."""
    tags, found = rich.Tags()["scalars"], charts(rich)["Plasticity"]
    for module in ("encoder", "actor", "critic"):
        assert shown(found[f"Fraction of active units: {module}"], tags) == {f"fau/{module}"}
    assert shown(found["Events of interventions"], tags) == {"intervention/reset", "intervention/redo"}


def test_charts_by_layer_hold_the_layers_of_their_module(rich):
    chart = charts(rich)["Active units by layer"]["actor"]
    found = shown(chart, rich.Tags()["scalars"])
    assert len(found) == 2
    assert all(tag.startswith("fau/actor/policy.") for tag in found)
    ranks = charts(rich)["Ranks of the features"]
    assert shown(ranks["critic"], ["rank/srank/critic.Q1", "rank/srank/critic.Q11"]) == {"rank/srank/critic.Q1"}


def test_patterns_end_where_a_tag_ends():
    assert summary({"A": {"b": ["fau/x"]}}) == {"A": {"b": ["Multiline", ["fau/x$"]]}}


def test_what_nobody_measures_has_no_chart():
    assert list(layout()) == ["Plasticity", "Losses"]
    assert list(layout()["Plasticity"]) == ["Return", "Events of interventions", "Replay ratio"]
    assert "Terms that interventions add" in layout([L2Init()])["Losses"]
    assert layout([FractionActiveUnits(modules=["torso"])])["Active units by layer"] == {"torso": ["fau/torso/[^/]+"]}
    assert "Active units by layer" not in layout([FractionActiveUnits(per_layer=False)])


def test_charts_of_dormant_units_hold_one_threshold_each():
    found = layout([DormantUnits(taus=[0.1], modules=["encoder", "actor", "critic"])])
    (pattern,) = found["Plasticity"]["Dormant units (tau 0.1): critic"]
    assert re.fullmatch(pattern, "dormant/critic/tau_0.1")
    for tag in ("dormant/critic/tau_0.25", "dormant/critic/Q1.1/tau_0.1", "dormant/critic/tau_0x1"):
        assert not re.fullmatch(pattern, tag)
    assert list(found["Dormant units by layer"])[:3] == ["encoder (tau 0.1)", "actor (tau 0.1)", "critic (tau 0.1)"]


def test_probes_share_the_charts_of_ranks_and_heads_that_of_their_module():
    found = layout([SRank(modules=["critic.Q1", "critic.Q2"]), FeatureRank(modules=["critic"], divide=False)])
    expected = [r"rank/srank/critic\.Q1", r"rank/srank/critic\.Q2", "rank/feature_rank_undivided/critic"]
    assert found["Ranks of the features"] == {"critic": expected}


def test_a_callback_of_ones_own_adds_charts():
    class Mine(RLCallback):
        def charts(self):
            return {"Mine": {"a": ["mine/x"]}, "Plasticity": {"Return": ["mine/return"]}}

    found = layout([Mine()])
    assert list(found) == ["Plasticity", "Losses", "Mine"]
    assert found["Plasticity"]["Return"] == ["eval/return", "train/return", "mine/return"]


# ---- events as a 0/1 scalar ------------------------------------------------------------------------------------------


def test_events_are_ones_between_zeros(rich):
    for name in ("reset", "redo"):
        points = scalar_points(rich, f"intervention/{name}")
        texts = {text.step for text in rich.Tensors(f"intervention/{name}/text_summary")}
        assert {frame for frame, value in points.items() if value == 1} == texts
        assert {frame for frame, value in points.items() if value == 0} == set(range(20, 201, 20)) - texts
        assert set(points.values()) == {0.0, 1.0}


# ---- hyperparameters -------------------------------------------------------------------------------------------------


def session(accumulator) -> dict[str, Any]:
    content = accumulator.SummaryMetadata(START).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}


def test_hyperparameters_name_every_callback_with_its_arguments(rich):
    found = session(rich)
    assert found["interventions"] == "L2Init + Reset + ReDo"
    assert found["interventions/L2Init/coefficient"] == 0.1
    assert found["interventions/Reset/at_frames"] == "[100]"
    assert found["interventions/ReDo/every_n_updates"] == 20
    assert found["seed"] == 1
    for cls in PROBES:
        assert any(re.match(rf"probes/{cls.__name__}(/|$)", key) for key in found), cls
    experiment = metadata.parse_experiment_plugin_data(rich.SummaryMetadata(EXPERIMENT).plugin_data.content)
    assert {info.name for info in experiment.hparam_infos} == found.keys()
    first = [info.name for info in experiment.hparam_infos if info.differs]
    assert {"interventions", "seed", "task", "interventions/Reset/at_frames"} <= set(first)
    assert not any(name.startswith(("data/", "model/", "probes/")) for name in first)
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert metrics == {tag for tag in rich.Tags()["scalars"] if tag.startswith("hparam/")}
    assert metrics == {"hparam/best_return", "hparam/last_return"} | {
        f"hparam/fau_{module}" for module in ("encoder", "actor", "critic")
    }


def test_metrics_are_written_after_every_evaluation(rich):
    returns = scalar_points(rich, "eval/return")
    assert list(returns) == [0, 100, 200]
    assert scalar_points(rich, "hparam/last_return") == {100: returns[100], 200: returns[200]}
    assert scalar_points(rich, "hparam/best_return")[200] == max(returns[100], returns[200])
    assert scalar_points(rich, "hparam/fau_critic")[200] == list(scalar_points(rich, "fau/critic").values())[-1]


class SummedUp(WeightNorm):
    """A probe of a user's own that sums modules up."""

    def headline(self):
        return "norm", "weight_norm/{}"


def test_a_probe_that_sums_modules_up_says_so_once_for_the_bar_and_the_metrics(tmp_path, capsys):
    given = [SummedUp(every_n_updates=5), FrameProgressBar(refresh_seconds=0)]
    agent = fit(tmp_path, *given, trainer_options={"enable_progress_bar": True})
    read = events(tmp_path)
    names = {tag for tag in read.Tags()["scalars"] if tag.startswith("hparam/weight_norm")}
    assert names == {f"hparam/weight_norm_{module}" for module in agent.module_names}
    said = capsys.readouterr()
    assert f"critic norm {agent.latest['weight_norm/critic']:.2f}" in said.err
    assert f"critic {agent.latest['weight_norm/critic']:.2f}" in re.search("^norm: .*", said.out, re.MULTILINE)[0]
    assert not any("fau" in tag for tag in read.Tags()["scalars"])


def test_a_run_that_came_to_its_end_says_so(rich):
    end = metadata.parse_session_end_info_plugin_data(rich.SummaryMetadata(END).plugin_data.content)
    assert end.status == api_pb2.Status.Value("STATUS_SUCCESS")


def test_a_run_that_failed_keeps_its_metrics(tmp_path):
    with pytest.raises(Killed):
        fit(tmp_path, FractionActiveUnits(every_n_updates=1), DieAt(170))
    read = events(tmp_path)
    assert list(scalar_points(read, "hparam/last_return")) == [100, 170]
    assert session(read)["probes"] == "FractionActiveUnits"
    with pytest.raises(KeyError):
        read.SummaryMetadata(END)


def test_a_resumed_run_writes_every_frame_once(tmp_path):
    fit(tmp_path, Reset(modules=["critic"], at_frames=[100]))
    again = Reset(modules=["critic"], at_frames=[100])
    fit(tmp_path, again, max_frames=300, ckpt_path="last")
    read = events(tmp_path)
    assert list(scalar_points(read, "hparam/last_return")) == [100, 200, 300]
    points = scalar_points(read, "intervention/reset")
    assert {frame for frame, value in points.items() if value == 1} == {104}
    assert {frame for frame, value in points.items() if value == 0} == set(range(20, 301, 20))


def test_a_run_that_goes_on_otherwise_gives_up_what_lay_beyond_its_checkpoint(tmp_path):
    """Checkpoint at 100, killed at 170; from there without the probe."""
    with pytest.raises(Killed):
        fit(tmp_path, FractionActiveUnits(every_n_updates=1), DieAt(170))
    assert max(scalar_points(events(tmp_path), "fau/critic")) > 150
    fit(tmp_path, ckpt_path="last", max_frames=300)
    read = events(tmp_path)
    assert 90 < max(scalar_points(read, "fau/critic")) <= 100
    assert read.Scalars("eval/return")[-1].step == 300


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_the_tensorboard_command_is_printed_at_start_and_end(tmp_path):
    result = fit_tiny_cli(tmp_path, max_frames=100)
    lines = result.out.splitlines()
    assert lines[0] == f"Run folder:  {tmp_path}"
    assert lines.count(f"TensorBoard: tensorboard --logdir {tmp_path}") == 2
    assert lines.index(f"TensorBoard: tensorboard --logdir {tmp_path}") == 1
    # 50 env steps x (3 x 16 x 16 pixels + a few numbers) and the records of slack
    assert re.fullmatch(r"Replay:      \d+\.\d kB of memory, and as much on disk once it is full", lines[2])


# ---- histograms ------------------------------------------------------------------------------------------------------


def test_histograms_on_demand(tmp_path):
    agent = fit(tmp_path / "with", Histograms(every_n_evals=2, batch_size=8), max_frames=200)
    read = events(tmp_path / "with")
    tags = set(read.Tags()["histograms"])
    assert {f"weights/{name}" for name, _ in agent.named_parameters() if "target" not in name} == {
        tag.replace("/", "*", 1).replace("/", ".").replace("*", "/") for tag in tags if tag.startswith("weights/")
    }
    layers = {f"activations/{name}/{layer}" for name in agent.module_names for layer in agent.activation_layers(name)}
    assert {tag for tag in tags if tag.startswith("activations/")} == layers
    # Evaluations at frames 0, 100, 200, of which every second is due; at frame 0 there is nothing to draw from.
    assert [point.step for point in read.Histograms("weights/actor/policy.0.weight")] == [0, 200]
    assert [point.step for point in read.Histograms(sorted(layers)[0])] == [200]
    weights = agent.actor.policy[0].weight.detach()
    last = read.Histograms("weights/actor/policy.0.weight")[-1].histogram_value
    assert (last.num, last.max) == (weights.numel(), pytest.approx(weights.max().item()))
    assert weights_hash(agent) == weights_hash(fit(tmp_path / "without"))


def test_histograms_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"Histograms.every_n_evals=0 must be"):
        Histograms(every_n_evals=0)


# ---- other loggers ---------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_logger_from_the_command_line(tmp_path):
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'csv'}"]
    added = ["--trainer.callbacks+=callbacks.Reset", "--trainer.callbacks.at_frames=[100]"]
    result = fit_tiny_cli(tmp_path / "run", *logger, *added, "--trainer.callbacks.modules=[critic]", max_frames=200)
    (path,) = (tmp_path / "csv").rglob("metrics.csv")
    table = rows(path)
    returns = {int(row["step"]): float(row["eval/return"]) for row in table if row["eval/return"]}
    assert list(returns) == [0, 100, 200]
    assert {int(row["step"]) for row in table if row["intervention/reset"] == "1.0"} == {104}
    assert max(int(row["step"]) for row in table if row["loss/critic"]) == 200
    assert "at_frames" in path.with_name("hparams.yaml").read_text()
    assert "TensorBoard" not in result.out
    assert not list((tmp_path / "run").glob("events*"))


def test_a_csv_file_is_complete_at_every_checkpoint(tmp_path):
    """The logger itself writes at steps 99, 199, ..., which even frames never hit: a kill would lose everything."""

    class Look(RLCallback):
        def on_env_step(self, agent, step) -> None:
            if agent.env_frames == 102:
                self.found = rows(next(tmp_path.rglob("metrics.csv")))

    look = Look()
    fit(tmp_path, look, trainer_options={"logger": CSVLogger(tmp_path)})
    assert max(int(row["step"]) for row in look.found if row["eval/return"]) == 100


class ApiOnly(Logger):
    """A logger with nothing but what Lightning promises of every logger."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.chosen: dict[str, Any] = {}
        self.finalized = ""

    name = "api"
    version = "0"

    def log_metrics(self, metrics, step=None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        self.chosen.update(params)

    def finalize(self, status) -> None:
        self.finalized = status

    experiment = None
    """Lightning makes sure that it exists; nothing else is known of it."""


def test_any_logger_will_do(tmp_path):
    logger = ApiOnly()
    given = [FractionActiveUnits(every_n_updates=1), Reset(modules=["critic"], at_frames=[100]), Histograms()]
    fit(tmp_path, *given, trainer_options={"logger": logger})
    frames = [frame for frame, _ in logger.metrics]
    assert frames == sorted(frames)
    assert frames[-1] == 200
    tags = {tag for _, metrics in logger.metrics for tag in metrics}
    assert {"eval/return", "fau/critic", "intervention/reset", "loss/critic", "hparam/best_return"} <= tags
    assert logger.chosen["interventions/Reset/at_frames"] == "[100]"
    assert logger.finalized == "success"


@pytest.fixture
def wandb_run(monkeypatch):
    """A stand-in for the package ``wandb``, which needs an account or a server: what Lightning's logger calls of it."""

    class Config(dict):
        def update(self, values, allow_val_change=False):
            json.dumps(values)  # what cannot be sent is an error there too
            super().update(values)

    class Run:
        def __init__(self) -> None:
            self.config, self.logged, self.axes = Config(), [], {}
            self.name, self.id, self._label = "name", "id", None

        def log(self, values):
            self.logged.append(json.loads(json.dumps(values)))

        def define_metric(self, name, step_metric=None, step_sync=None):
            self.axes[name] = step_metric

        def project_name(self):
            return "project"

    run = Run()
    package = types.ModuleType("wandb")
    package.run, package.init, package.require = None, lambda **options: run, lambda name: None
    package.wandb_run = types.ModuleType("wandb.wandb_run")
    package.wandb_run.Run = Run
    package.sdk, library = types.ModuleType("wandb.sdk"), types.ModuleType("wandb.sdk.lib")
    library.RunDisabled = type("RunDisabled", (), {})
    modules = {"wandb": package, "wandb.wandb_run": package.wandb_run, "wandb.sdk": package.sdk}
    for name, module in {**modules, "wandb.sdk.lib": library}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", True)
    return run


def test_lightnings_wandb_logger_gets_frames_as_its_x_axis(wandb_run, tmp_path):
    logger = WandbLogger(project="p", save_dir=tmp_path, offline=False)
    fit(tmp_path, Reset(modules=["critic"], at_frames=[100]), trainer_options={"logger": logger})
    assert wandb_run.axes["*"] == "trainer/global_step"
    returns = {row["trainer/global_step"]: row["eval/return"] for row in wandb_run.logged if "eval/return" in row}
    assert list(returns) == [0, 100, 200]
    assert wandb_run.config["interventions"] == "Reset"


def test_an_unknown_logger_is_refused_in_one_line(tmp_path):
    result = call("fit", "--trainer.logger=Nothing", f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
