"""Every file under ``configs/`` parses with the real command line and composes by repeated ``--config``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_runs import REPOSITORY, callback_names, printed_config

import callbacks
from plasticity_rl.envs import task_names

CONFIGS = REPOSITORY / "configs"
BASES = [CONFIGS / "drqv2.yaml", CONFIGS / "quickstart.yaml"]
TASKS = sorted((CONFIGS / "task").glob("*.yaml"))
FRAGMENTS = sorted([*(CONFIGS / "interventions").glob("*.yaml"), *(CONFIGS / "probes").glob("*.yaml")])
GAMES = sorted([*(CONFIGS / "atari").glob("*.yaml"), *(CONFIGS / "minatar").glob("*.yaml")])
OTHERS = sorted(set(CONFIGS.glob("*.yaml")) - set(BASES)) + GAMES


def stem(path: Path) -> str:
    return path.stem


def leaves(tree: dict, prefix: str = "") -> dict[str, object]:
    """Return the values of nested dicts by dotted key."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def same(printed: object, written: object) -> bool:
    """YAML 1.1 reads 1e-4 as text; the parser makes a number of it."""
    return printed == written or str(printed) == str(written) or float(str(printed)) == float(str(written))


def without_callbacks(config: dict) -> dict:
    return {key: value for key, value in config["trainer"].items() if key != "callbacks"}


@pytest.mark.parametrize("path", [*BASES, *OTHERS], ids=stem)
def test_a_base_config_sets_what_it_says(path):
    printed = leaves(printed_config("--config", path))
    for key, value in leaves(yaml.safe_load(path.read_text())).items():
        if not isinstance(value, list):
            assert same(printed[key], value), key


@pytest.fixture(scope="module")
def drqv2() -> dict:
    return printed_config("--config", CONFIGS / "drqv2.yaml")


@pytest.mark.parametrize("path", TASKS, ids=stem)
def test_a_task_config_goes_on_top_of_the_published_agent(path, drqv2):
    """It changes what it names and nothing else, and its task exists."""
    base = leaves(drqv2)
    config = leaves(printed_config("--config", CONFIGS / "drqv2.yaml", "--config", path))
    written = leaves(yaml.safe_load(path.read_text()))
    assert all(same(config[key], value) for key, value in written.items())
    assert {key for key in config if config[key] != base[key]} <= written.keys()
    assert config["data.task"] == path.stem
    assert path.stem in task_names()


@pytest.fixture(scope="module")
def quickstart() -> dict:
    return printed_config("--config", CONFIGS / "quickstart.yaml")


@pytest.mark.parametrize("path", FRAGMENTS, ids=stem)
def test_a_fragment_appends_its_callbacks(path, quickstart):
    """The rest of the config stays as it was, and the constructors accept the arguments.

    Parsing checks names and types only; constructors check values.
    """
    config = printed_config("--config", CONFIGS / "quickstart.yaml", "--config", path)
    written = [entry["class_path"] for entry in yaml.safe_load(path.read_text())["trainer"]["callbacks+"]]
    assert written
    assert callback_names(config) == [*callback_names(quickstart), *written]
    for entry in config["trainer"]["callbacks"][-len(written) :]:
        package, name = entry["class_path"].split(".")
        assert package == "callbacks"
        getattr(callbacks, name)(**entry["init_args"])
    assert {**config, "trainer": without_callbacks(config)} == {**quickstart, "trainer": without_callbacks(quickstart)}


@pytest.mark.parametrize("base", BASES, ids=stem)
def test_all_fragments_compose_in_one_command(base):
    options = [option for path in FRAGMENTS for option in ("--config", path)]
    before = printed_config("--config", base)
    expected = callback_names(before)
    for path in FRAGMENTS:
        expected += [entry["class_path"] for entry in yaml.safe_load(path.read_text())["trainer"]["callbacks+"]]
    after = printed_config("--config", base, *options)
    assert callback_names(after) == expected
    assert {**after, "trainer": without_callbacks(after)} == {**before, "trainer": without_callbacks(before)}


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_has_a_fragment_of_its_name(name):
    cls = getattr(callbacks, name)
    (path,) = [path for path in FRAGMENTS if path.stem == cls(**cls.example_arguments).name]
    entries = yaml.safe_load(path.read_text())["trainer"]["callbacks+"]
    assert f"callbacks.{name}" in [entry["class_path"] for entry in entries]


@pytest.mark.parametrize("path", GAMES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_of_games_says_where_each_value_is_from(path):
    """Or that it is ours; and its task is a game that the folder is named after."""
    lines = path.read_text().splitlines()
    values = [line for line in lines if line.startswith("  ") and ": " in line]
    if path.stem != "mini":
        own = [line for line in values if not line.strip().startswith(("task:", "log_every_n_steps:"))]
        assert [line for line in own if "#" not in line] == []
    content = yaml.safe_load(path.read_text())
    assert content["agent"] == "dqn"
    assert content["data"]["task"].startswith(f"{path.parent.name}:")
    assert content["data"]["task"] in task_names()
