"""``extends``: a study that is another one plus what is different."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from claims import SETTINGS, SMALL_OF, full_size
from cli_runs import REPOSITORY, call
from tiny_studies import tiny_study

from plasticity_rl import UserError
from plasticity_rl.study.endpoints import Endpoint
from plasticity_rl.study.extends import load, write_resolved
from plasticity_rl.study.spec import read_study

PAPER = {
    "base": ["base.yaml"],
    "max_frames": 1000,
    "tasks": ["walk", "run"],
    "seeds": [1, 2, 3],
    "measures": ["srank/critic"],
    "primary": {"tag": "eval/return", "of": "area"},
    "factors": {
        "augmentation": {"with": [], "without": ["model.augment=false"]},
        "reset": {"none": None, "often": ["reset.yaml"], "late": ["reset.yaml", "model.lr=1"]},
    },
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with the study of the paper and the files that it names, and a folder for small ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "small", "reset"):
        (tmp_path / f"{name}.yaml").write_text("{}")
    (tmp_path / "mini").mkdir()
    put(tmp_path / "paper.yaml", PAPER)
    return tmp_path


def put(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_entries_are_replaced_levels_are_merged_and_null_takes_out(here):
    """Places of levels are those of the other study; new ones come last."""
    small = put(
        here / "mini" / "paper.yaml",
        {
            "extends": "../paper.yaml",
            "base": ["small.yaml"],
            "seeds": [4],
            "measures": None,
            "primary": {"tag": "fau/critic", "at": 500},
            "factors": {"reset": {"often": ["model.lr=2"], "late": None, "early": ["model.lr=3"]}},
        },
    )
    study = read_study(small)
    assert (study.base, study.seeds, study.max_frames, study.tasks) == (("small.yaml",), (4,), 1000, ("walk", "run"))
    assert study.measures == ()
    assert study.primary == Endpoint("fau/critic", at=500), "not a mixture of two endpoints"
    assert study.factors == {
        "augmentation": {"with": (), "without": ("model.augment=false",)},
        "reset": {"none": (), "often": ("model.lr=2",), "early": ("model.lr=3",)},
    }
    assert list(study.factors["reset"]) == ["none", "often", "early"]
    assert read_study(here / "paper.yaml").name == study.name == "paper", "each of its own file"


def test_a_level_with_other_values_of_its_options(here):
    late = {"model.lr": 0.5}
    study = read_study(put(here / "one.yaml", {"extends": "paper.yaml", "factors": {"reset": {"late": late}}}))
    assert study.factors["reset"]["late"] == ("reset.yaml", "model.lr=0.5")
    without = {"model.augment": True}
    path = put(here / "two.yaml", {"extends": "paper.yaml", "factors": {"augmentation": {"without": without}}})
    assert read_study(path).factors["augmentation"]["without"] == ("model.augment=true",)
    assert read_study(here / "paper.yaml").factors["reset"]["late"] == ("reset.yaml", "model.lr=1")


def test_a_factor_is_taken_out_or_added(here):
    factors = {"reset": None, "width": {"once": [], "twice": ["model.hidden_dim=128"]}}
    study = read_study(put(here / "one.yaml", {"extends": "paper.yaml", "factors": factors}))
    assert list(study.factors) == ["augmentation", "width"]


def test_a_name_and_a_folder_are_not_taken_over(here):
    put(here / "named.yaml", {**PAPER, "name": "first", "folder": "elsewhere"})
    study = read_study(put(here / "second.yaml", {"extends": "named.yaml"}))
    assert (study.name, study.folder) == ("second", Path("runs/second"))


def test_of_several_files_later_ones_replace_earlier_ones(here):
    """A setting is no study of its own; it may stand before or behind one."""
    put(here / "mini" / "setting.yaml", {"base": ["small.yaml"], "max_frames": 10, "seeds": [7]})
    study = read_study(put(here / "mini" / "a.yaml", {"extends": ["../paper.yaml", "setting.yaml"], "seeds": [8]}))
    assert (study.base, study.max_frames, study.seeds, study.tasks) == (("small.yaml",), 10, (8,), ("walk", "run"))


def test_a_study_may_extend_one_that_extends_another(here):
    put(here / "mini" / "a.yaml", {"extends": "../paper.yaml", "seeds": [5]})
    study = read_study(put(here / "b.yaml", {"extends": "mini/a.yaml", "max_frames": 20}))
    assert (study.seeds, study.max_frames, study.tasks) == ((5,), 20, ("walk", "run"))


def test_levels_called_on_and_off(here):
    """YAML takes the words for truth values, in one file or in both."""
    (here / "switch.yaml").write_text(
        yaml.safe_dump({**PAPER, "factors": "X"}).replace("X", '{redo: {"on": [reset.yaml], off: []}}')
    )
    (here / "other.yaml").write_text("extends: switch.yaml\nfactors: {redo: {on: [model.lr=1], yes_too: []}}\n")
    assert read_study(here / "other.yaml").factors == {"redo": {"on": ("model.lr=1",), "off": (), "yes_too": ()}}


def test_a_packaged_study_goes_by_its_name(here):
    path = put(here / "mine.yaml", {"extends": "mini/augmentation_x_reset", "seeds": [9]})
    packaged = read_study(Path("mini/augmentation_x_reset"))
    study = read_study(path)
    assert (study.base, study.factors, study.seeds) == (packaged.base, packaged.factors, (9,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"extends": "papr.yaml"},
            r"small\.yaml: extends: papr\.yaml: no such file, and no packaged study of that name",
        ),
        ({"extends": "papr.yaml"}, r"paths are relative to the folder of this file"),
        ({"extends": 3}, r"small\.yaml: extends=3 must be a study file"),
        ({"extends": [["paper.yaml"]]}, r"extends=\[\['paper\.yaml'\]\] must be a study file"),
        ({"extends": "small.yaml"}, r"small\.yaml: extends: small\.yaml extends itself"),
        ({"extends": "circle.yaml"}, r"circle\.yaml: extends: small\.yaml extends itself"),
        ({"extends": "paper.yaml", "sedes": [1]}, r"small\.yaml: no entry 'sedes' in a study\. Did you mean .*seeds"),
        ({"extends": "typo.yaml"}, r"typo\.yaml: no entry 'sedes' in a study"),
        (
            {"extends": "paper.yaml", "factors": {"reset": {"oftn": None}}},
            r"factors\.reset\.oftn: null takes out what is extended, and paper\.yaml has no .*\. Did you mean often\?",
        ),
        ({"extends": "paper.yaml", "shares": None}, r"small\.yaml: shares: null takes out what is extended, and paper"),
        ({"extends": "paper.yaml", "seeds": None}, r"the entry 'seeds' is missing or empty"),
        ({"extends": "paper.yaml", "factors": {"reset": {"often": "x"}}}, r"factors\.reset\.often='x' must be a list"),
        (
            {"extends": "paper.yaml", "factors": {"reset": {"late": {"model.rl": 2}}}},
            r"factors\.reset\.late: model\.rl stands 0 times in the level .* Did you mean model\.lr\?",
        ),
        (
            {"extends": "paper.yaml", "factors": {"reset": {"new": {"model.lr": 2}}}},
            r"factors\.reset\.new: model\.lr stands 0 times in the level that is extended",
        ),
        ({"extends": "paper.yaml", "factors": ["reset"]}, r"factors=\['reset'\] must give each factor its levels"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content, message, here):
    put(here / "circle.yaml", {"extends": "small.yaml"})
    put(here / "typo.yaml", {**PAPER, "sedes": [1]})
    with pytest.raises(UserError, match=message) as caught:
        read_study(put(here / "small.yaml", content))
    assert "\n" not in str(caught.value)


def test_what_is_written_into_the_folder_needs_no_other_file(here):
    small = put(here / "mini" / "small.yaml", {"extends": "../paper.yaml", "seeds": [4], "factors": {"reset": None}})
    study = read_study(small)
    path = write_resolved(small, study.name, study.folder)
    assert path == Path("runs/small/study.yaml")
    (here / "paper.yaml").unlink()
    small.unlink()
    assert read_study(path) == study
    assert "extends" not in load(path)[0]


def test_study_run_writes_it(tmp_path, monkeypatch):
    """Before the runs; nothing is written by a dry run."""
    first = tiny_study(tmp_path, {"arm": {"a": [], "b": ["model.lr=0.1"]}})
    content = yaml.safe_load(first.read_text())
    second = put(tmp_path / "second.yaml", {"extends": "study.yaml", "folder": content["folder"], "seeds": [2]})
    assert call("study", "run", second, "--dry-run").code == 0
    resolved = Path(content["folder"]) / "study.yaml"
    assert not resolved.exists()
    monkeypatch.setattr("plasticity_rl.cli.commands.study.Runner.run_all", lambda self, runs: None)
    assert call("study", "run", second).code == 0
    assert resolved.read_text().startswith(f"# {second} as it was run last")
    assert read_study(resolved) == read_study(second)
    # Run again it is the same file; one that says something else is kept.
    before = resolved.read_text()
    assert call("study", "run", resolved).code == 0
    assert resolved.read_text() == before
    put(second, {"extends": "study.yaml", "folder": content["folder"], "seeds": [3]})
    for _ in range(2):
        assert call("study", "run", second).code == 0
    (kept,) = resolved.parent.glob("study_*.yaml")
    assert kept.read_text() == before
    assert read_study(resolved).seeds == (3,)


def test_the_help_says_it():
    text = " ".join(call("study", "--help").out.split())
    assert "extends: OTHER.yaml" in text
    assert "null takes one out" in text


# ---- the studies of the package --------------------------------------------------------------------------------------

MINI = sorted((REPOSITORY / "configs" / "studies" / "mini").glob("[!_]*.yaml"))


@pytest.mark.parametrize("path", MINI, ids=lambda path: path.stem)
def test_a_mini_study_is_the_one_of_the_paper_and_says_nothing_twice(path):
    """Neither a line of it nor an entry, nor a level, in other words."""
    content = yaml.safe_load(path.read_text())
    extended = content.pop("extends")
    extended = [extended] if isinstance(extended, str) else extended
    before = SETTINGS[-1]
    of_before = path.stem.endswith(before)
    assert extended[0] == (f"{path.stem.removesuffix(before)}.yaml" if of_before else f"../{full_size(path.stem)}.yaml")
    below, others = load(path.parent / extended[0])[0], []
    for name in extended:
        others.append((path.parent / name).read_text().splitlines())
        below |= {key: value for key, value in load(path.parent / name)[0].items() if key != "factors"}
    for key, value in content.items():
        assert value != below.get(key) or key == "name", key
    for factor, levels in content.get("factors", {}).items():
        for level, items in (levels or {}).items():
            assert items is None or items != below["factors"].get(factor, {}).get(level), f"{factor}: {level}"
    if path.stem in SMALL_OF.values():
        return  # its arms have other numbers, and a level is replaced as a whole
    lines = path.read_text().splitlines()
    for other in others:
        threes = {tuple(other[index : index + 3]) for index in range(len(other) - 2)}
        assert [
            lines[index : index + 3] for index in range(len(lines) - 2) if tuple(lines[index : index + 3]) in threes
        ] == []


def test_a_mini_study_as_it_is_read():
    study = read_study(Path("mini/plasticity_injection"))
    assert (study.name, study.folder) == ("mini_plasticity_injection", Path("runs/mini_plasticity_injection"))
    assert (study.base, study.max_frames, study.tasks, study.seeds) == (
        ("configs/mini.yaml",),
        40000,
        ("finger_spin",),
        tuple(range(1, 11)),
    )
    injection = "trainer.callbacks+=callbacks.PlasticityInjection"
    assert study.factors == {
        "augmentation": {
            "always": (),
            "from_10000": (
                "model.augment=false",
                "trainer.callbacks+=callbacks.ToggleAugmentation",
                "trainer.callbacks.at_frame=10000",
                "trainer.callbacks.on=true",
            ),
        },
        "injection": {
            "none": (),
            "actor": (injection, "trainer.callbacks.modules=[actor]", "trainer.callbacks.at_frames=[10000]"),
            "critic": (injection, "trainer.callbacks.modules=[critic]", "trainer.callbacks.at_frames=[10000]"),
        },
    }
    assert study.baseline == "from_10000+none"
    assert study.primary == Endpoint("eval/return", "last_third")
    assert study.secondary == (Endpoint("eval/return", "final"), Endpoint("fau/critic", "final"))
    assert study.max_return == 1000
