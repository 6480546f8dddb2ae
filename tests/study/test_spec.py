"""Study files: which runs they mean, and what is wrong with them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import yaml
from claims import SMALL_OF, full_size
from cli_runs import REPOSITORY, call, printed_config
from helpers import TINY_DISCRETE, tiny_agent, tiny_data, tiny_dqn, tiny_sac
from side_by_side import callbacks_of

import callbacks
from plasticity_rl import Intervention, UserError
from plasticity_rl.cli.catalogue import first_sentence, leading_comment
from plasticity_rl.cli.commands.study import what_it_cannot_say
from plasticity_rl.envs import task_names
from plasticity_rl.run.callback_checks import late_events
from plasticity_rl.study.endpoints import Endpoint
from plasticity_rl.study.evaluations import fewest_evaluations
from plasticity_rl.study.extends import load
from plasticity_rl.study.spec import count_states, read_study, state_of
from plasticity_rl.study.study_run import needed_by

SMALL = {
    "base": ["base.yaml", "tasks/{task}.yaml", "model.lr=0.001"],
    "max_frames": 100,
    "tasks": ["walk", "run"],
    "seeds": [1, 2],
    "factors": {
        "augmentation": {"with": [], "without": ["model.augment=false"]},
        "reset": {"none": None, "often": ["reset.yaml", "trainer.callbacks+=callbacks.ReDo"]},
    },
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with the files that the small study names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    for name in ("base", "reset", "tasks/walk", "tasks/run"):
        (tmp_path / f"{name}.yaml").write_text("{}")
    return tmp_path


def written(where: Path, **changes) -> Path:
    path = where / "small.yaml"
    content = {key: value for key, value in {**SMALL, **changes}.items() if value != "absent"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_every_arm_on_every_task_with_every_seed(here):
    """2 x 2 levels, 2 tasks, 2 seeds; the first seed of everything comes first."""
    runs = read_study(written(here)).runs()
    assert len(runs) == 16
    assert [run.seed for run in runs] == [1] * 8 + [2] * 8
    assert len({run.folder for run in runs}) == 16
    last = runs[-1]
    assert dict(last.levels) == {"augmentation": "without", "reset": "often"}
    assert last.name == "run/without+often/seed2"
    assert last.arguments == (
        *("--config", "base.yaml", "--config", "tasks/run.yaml", "--model.lr=0.001"),
        *("--model.augment=false", "--config", "reset.yaml", "--trainer.callbacks+=callbacks.ReDo"),
        *("--data.task=run", "--seed_everything=2", "--max_frames=100"),
        "--trainer.default_root_dir=runs/small/run/without+often/seed2",
    )


def test_packaged_configs_go_by_name(here):
    """A name has no ``=``, which every option has."""
    name, changes = "interventions/reset", {"base": ["mini_state", "task/{task}"], "tasks": ["walker_run"]}
    study = read_study(written(here, factors={"reset": {"without": [], "with": [name, "model.lr=1"]}}, **changes))
    words = [*("--config", "mini_state", "--config", "task/walker_run"), *("--config", name, "--model.lr=1")]
    assert list(study.runs()[1].arguments[:7]) == words


def test_levels_called_on_and_off(here):
    """YAML takes the words for truth values."""
    (here / "small.yaml").write_text(
        yaml.safe_dump({**SMALL, "factors": "X"}).replace("X", "{redo: {on: [reset.yaml], off: []}}")
    )
    assert list(read_study(here / "small.yaml").factors["redo"]) == ["on", "off"]


def test_the_baseline(here):
    """The first level of every factor unless the file names another arm, as in a folder or as in a report."""
    assert read_study(written(here)).baseline == "with+none"
    for name in ("without+often", "without + often"):
        study = read_study(written(here, baseline=name))
        assert study.base_levels == {"augmentation": "without", "reset": "often"}
    factors = {"redo": {"off": [], "on": ["reset.yaml"]}}
    (here / "small.yaml").write_text(
        yaml.safe_dump({**SMALL, "factors": factors}).replace("'on'", "on") + "baseline: on\n"
    )
    assert read_study(here / "small.yaml").base_levels == {"redo": "on"}


def test_endpoints_are_read(here):
    study = read_study(written(here))
    assert (study.primary, study.secondary) == (Endpoint("eval/return", "area"), ())
    study = read_study(
        written(here, primary={"tag": "fau/critic", "of": "last_third"}, secondary=[{"tag": "eval/return", "at": 50}])
    )
    assert (study.primary, study.secondary) == (Endpoint("fau/critic", "last_third"), (Endpoint("eval/return", at=50),))


def test_an_endpoint_is_there_once(here):
    """Also where two entries only look different; and the primary one has no place among the others."""
    with pytest.raises(UserError, match="secondary: .*is the primary endpoint"):
        read_study(written(here, secondary=[{"tag": "eval/return", "of": "area"}]))
    with pytest.raises(UserError, match="secondary: .*there twice"):
        read_study(written(here, secondary=[{"tag": "fau/critic"}, {"tag": "fau/critic", "of": "area"}]))


def test_the_number_of_comparisons(here):
    """Three arms with the baseline, and one interaction; of one factor no interaction."""
    assert read_study(written(here)).num_comparisons == 4
    one = {"arm": {"a": [], "b": ["reset.yaml"], "c": ["model.augment=false"]}}
    assert read_study(written(here, factors=one)).num_comparisons == 2


def test_a_run_says_what_its_report_cannot_say(here):
    """2 tasks with 2 seeds are 4 pairs; 0.05 / 4 needs 2 ** -7 of 8 pairs."""
    assert what_it_cannot_say(read_study(written(here))) == [
        "2 seeds per arm; the report draws no verdict below 5",
        "2 seeds on 2 tasks are 4 pairs of runs; a verdict on 4 comparisons by an exact test needs 8",
    ]
    assert what_it_cannot_say(read_study(written(here, seeds=[1, 2, 3, 4, 5]))) == []


def test_a_run_says_how_few_evaluations_its_endpoint_averages(here, monkeypatch):
    """Of 100 frames the last third begins at 66.7: of a period of 40 there are 80 and 100, of 10 four."""
    (here / "base.yaml").write_text("data: {eval_every_n_frames: 40}")
    last_third = {"tag": "eval/return", "of": "last_third"}
    enough = {"seeds": [1, 2, 3, 4, 5]}
    assert what_it_cannot_say(read_study(written(here, primary=last_third, **enough))) == [
        "eval/return, last third averages 2 evaluations of a run; for 3 or more choose a smaller "
        "data.eval_every_n_frames, or of: area"
    ]
    study = read_study(written(here, secondary=[last_third], **enough))
    reads: list[str] = []
    text_of = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **given: reads.append(path.name) or text_of(path, **given))
    assert fewest_evaluations(study, study.secondary[0]) == 2
    assert sorted(reads) == ["base.yaml", "reset.yaml", "run.yaml", "walk.yaml"], "once each, not once for each arm"
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert [fewest_evaluations(study, one) for one in (study.primary, *study.secondary)] == [None, 2]
    assert len(what_it_cannot_say(study)) == 1
    (here / "tasks" / "run.yaml").write_text("data: {eval_every_n_frames: 10}")
    (here / "tasks" / "walk.yaml").write_text("data: {eval_every_n_frames: 10}")
    assert what_it_cannot_say(read_study(written(here, primary=last_third, **enough))) == []
    base = [*SMALL["base"], "data.eval_every_n_frames=100"]
    study = read_study(written(here, primary={"tag": "eval/return", "of": "final"}, base=base, **enough))
    assert fewest_evaluations(study, study.primary) == 1, "an option comes after the files"
    assert fewest_evaluations(study, Endpoint("fau/critic", "final")) is None


def test_states(here):
    study = read_study(written(here, folder=str(here / "out")))
    finished, longer, stopped, *_ = runs = study.runs()
    for run, frames in ((finished, 100), (longer, 60)):
        run.folder.mkdir(parents=True)
        (run.folder / "finished.yaml").write_text(f"env_frames: {frames}\n")
    for run in (longer, stopped):
        (run.folder / "checkpoints").mkdir(parents=True)
        (run.folder / "checkpoints" / "last.ckpt").touch()
    assert [state_of(run, 100) for run in runs[:4]] == ["finished", "stopped", "stopped", "new"]
    assert count_states(runs, 100) == {"finished": 1, "stopped": 2, "new": 13}
    assert state_of(longer, 60) == "finished", "a study with a smaller budget"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "absent"}, "'seeds' is missing or empty"),
        ({"seed": [1]}, r"no entry 'seed' in a study\. Did you mean .*seeds"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\] must be a list without repetitions"),
        ({"seeds": [-1]}, "seeds: -1 must be a whole number >= 0"),
        ({"seeds": 3}, "seeds=3 must be a list"),
        ({"max_frames": 1e6}, r"max_frames: 1000000\.0 must be a whole number >= 1"),
        ({"max_frames": 0}, "'max_frames' is missing or empty"),
        ({"tasks": ["../walk"]}, r"tasks: '\.\./walk' must consist of letters"),
        ({"name": "a/b"}, "name: 'a/b' must consist of letters"),
        ({"tasks": ["fly"]}, r"base: no file tasks/fly\.yaml"),
        ({"base": ["base.yaml", "nothing.yaml"]}, r"base: no file nothing\.yaml"),
        ({"base": ["mini_stat"]}, r"base: no file mini_stat: .* Did you mean mini_state.*options are written name=val"),
        ({"base": "base.yaml"}, "base='base.yaml' must be a list"),
        ({"factors": ["redo"]}, r"factors=\['redo'\] must give each factor its levels"),
        ({"factors": {"redo": ["reset.yaml"]}}, r"factors\.redo=\['reset.yaml'\] must give each level a list"),
        ({"factors": {"redo": {"on": "reset.yaml"}}}, r"factors\.redo\.on='reset.yaml' must be a list"),
        ({"factors": {"redo": {"on": ["--model.lr=1"]}}}, r"'--model\.lr=1' must be .* without dashes"),
        (
            {"factors": {"redo": {"on": ["model.lr"]}}},
            r"factors\.redo\.on: no file model\.lr: .* are written name=value",
        ),
        ({"measures": "srank/critic"}, "measures='srank/critic' must be a list"),
        ({"measures": [1]}, "measures: 1 must be the name of a curve"),
        (
            {"baseline": "with+nona"},
            r"baseline: no arm 'with\+nona'\. Did you mean with\+none.* The first is with\+none",
        ),
        ({"baseline": ["with"]}, r"baseline: no arm \['with'\]"),
        ({"primary": "area"}, "primary: 'area' must name a curve"),
        ({"primary": {"tag": "eval/return", "of": "end"}}, "primary: of='end' must be one of area, last_third, final"),
        ({"primary": {"tag": "fau/critic", "at": 101}}, "primary: at=101 must be .* up to max_frames=100"),
        ({"secondary": {"tag": "a"}}, "secondary={'tag': 'a'} must be a list"),
        ({"secondary": [{"tag": "a"}, {"tga": "a"}]}, "secondary: {'tga': 'a'} must name a curve"),
        ({"max_return": 0}, "max_return: 0 must be a number > 0"),
        ({"effect": 0}, "effect: 0 must be a number > 0"),
        ({"shares": ["none.yaml"]}, r"none\.yaml: no such file"),
        ({"shares": "first.yaml"}, r"shares='first\.yaml' must be a list"),
        ({"folder": 5}, "folder: 5 must be the path of a folder; put it in quotes"),
        ({"folder": ["a"]}, r"folder: \['a'\] must be the path"),
        ({"folder": ""}, "folder: '' must be the path"),
        ({"folder": "a\0b"}, r"folder: 'a\\x00b' must be the path"),
        ({"factors": {"lr": {"a": ["model.lr=1", "model.lr=2"]}}}, "factors.lr.a: model.lr is given twice, model.lr=1"),
        ({"factors": {"lr": {1: [], "1": ["model.lr=2"]}}}, "factors.lr: 1 is there twice"),
        ({"factors": {"seed": {"a": ["seed_everything=3"]}}}, "seed_everything is set by the study itself"),
        ({"factors": {"task": {"a": ["data.task=walk"]}}}, r"data\.task is set by the study itself"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(changes, message, here):
    with pytest.raises(UserError, match=message) as caught:
        read_study(written(here, **changes))
    assert "\n" not in str(caught.value)
    assert "small.yaml" in str(caught.value)


def test_no_file_and_no_yaml(here):
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        read_study(here / "none.yaml")
    (here / "bad.yaml").write_text("a: [")
    result = call("study", "run", here / "bad.yaml")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "bad.yaml is no YAML" in result.err
    (here / "bad.yaml").write_text("seeds: [1]\nseeds: [2]\n")
    assert "bad.yaml is no YAML: 'seeds' twice in one section, line 2" in call("study", "status", "bad.yaml").err


def test_a_run_that_another_study_has_is_that_run(here):
    """Equal arguments, whatever the arm is called; other seeds and budgets are other runs."""
    first = written(here)
    first = first.rename(here / "first.yaml")
    factors = {"arm": {"plain": [], "usual": ["model.augment=false"], "curl": ["trainer.callbacks+=callbacks.CURL"]}}
    second = read_study(written(here, name="second", shares=["first.yaml"], factors=factors, seeds=[1, 3]))
    folders = {run.name: run.folder for run in second.runs()}
    assert folders["walk/plain/seed1"] == Path("runs/first/walk/with+none/seed1")
    assert folders["run/usual/seed1"] == Path("runs/first/run/without+none/seed1")
    assert folders["walk/curl/seed1"] == Path("runs/second/walk/curl/seed1")
    assert folders["walk/plain/seed3"] == Path("runs/second/walk/plain/seed3")
    assert second.runs()[0].arguments == read_study(first).runs()[0].arguments
    longer = read_study(written(here, name="second", shares=["first.yaml"], factors=factors, max_frames=101))
    assert all(run.folder.is_relative_to("runs/second") for run in longer.runs())


def test_studies_that_share_in_a_circle_are_refused(here):
    written(here, shares=["other.yaml"]).rename(here / "first.yaml")
    written(here, shares=["first.yaml"]).rename(here / "other.yaml")
    with pytest.raises(UserError, match=r"shares: first\.yaml shares runs with itself"):
        read_study(Path("first.yaml"))


def test_a_run_that_reads_another_one_names_its_folder(here):
    path = "trainer.callbacks.path={folder}/{task}/failed/seed{seed}"
    factors = {"agent": {"fresh": ["trainer.callbacks+=callbacks.WarmStartReplay", path], "failed": []}}
    runs = read_study(written(here, factors=factors, seeds=[1, 11])).runs()
    fresh, failed = runs[0], runs[1]
    assert "--trainer.callbacks.path=runs/small/walk/failed/seed1" in fresh.arguments
    assert needed_by(fresh, runs) == [failed]
    assert needed_by(failed, runs) == []


HEIRS = {
    "agent": {
        "heir": ["init_weights={folder}/{task}/base/seed{seed}/checkpoints/last.ckpt"],
        "base": [],
        "second": ["trainer.callbacks.path={folder}/{task}/heir/seed{seed}"],
    }
}


def test_a_run_that_reads_a_file_of_another_one_waits_for_it_whatever_the_task_is_called(here):
    """The folder of a task has no colon; seed 1 is not seed 11."""
    runs = read_study(
        written(here, base=["base.yaml"], factors=HEIRS, tasks=["minatar:breakout"], seeds=[1, 11])
    ).runs()
    heir, base, second = runs[:3]
    assert "--data.task=minatar:breakout" in heir.arguments
    assert f"--init_weights={base.folder}/checkpoints/last.ckpt" in heir.arguments
    assert [needed_by(run, runs) for run in (heir, base, second)] == [[base], [], [heir]]


def test_what_starts_from_a_shared_run_looks_for_it_where_it_is(here):
    """And is shared itself where the other study has it; one that it does not have lies in this study."""
    first = read_study(written(here, factors=HEIRS).rename(here / "first.yaml"))
    third = {"third": ["model.lr=1", *HEIRS["agent"]["heir"]]}
    factors = {"agent": {**HEIRS["agent"], **third}}
    runs = {run.name: run for run in read_study(written(here, shares=["first.yaml"], factors=factors)).runs()}
    for run in first.runs():
        assert (runs[run.name].folder, runs[run.name].arguments) == (run.folder, run.arguments)
    heir, base = runs["walk/third/seed1"], runs["walk/base/seed1"]
    assert heir.folder == Path("runs/small/walk/third/seed1")
    assert heir.arguments[-1] == f"--trainer.default_root_dir={heir.folder}"
    assert needed_by(heir, runs.values()) == [base]
    assert base.folder == Path("runs/first/walk/base/seed1")


@functools.cache
def config_of(*arguments: str) -> dict:
    """Studies share arms; each is parsed once."""
    return printed_config(*arguments)


FOLDER = REPOSITORY / "configs" / "studies"
PAPER, MINI = sorted(FOLDER.glob("*.yaml")), sorted((FOLDER / "mini").glob("[!_]*.yaml"))
STUDIES = sorted(FOLDER.rglob("[!_]*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_arm_of_the_studies_is_a_run_that_fit_accepts(path, monkeypatch):
    """On its first task, and every callback takes its arguments; parsing alone checks names and types only."""
    monkeypatch.chdir(REPOSITORY)
    study = read_study(path.relative_to(REPOSITORY))
    arms = {run.arm: run for run in reversed(study.runs())}
    configs = {arm: config_of(*run.arguments[:-1]) for arm, run in arms.items()}
    assert len({repr(config) for config in configs.values()}) == len(arms), "no two arms are equal"
    assert {config["max_frames"] for config in configs.values()} == {study.max_frames}
    for config in configs.values():
        built = [
            getattr(callbacks, entry["class_path"].removeprefix("callbacks."))(**entry["init_args"])
            for entry in config["trainer"]["callbacks"]
        ]
        assert late_events(built, study.max_frames, config["data"]["action_repeat"]) == []
        for one in built:
            if isinstance(one, callbacks.HLGaussCritic) and ":" not in study.tasks[0]:  # rewards up to 1 a frame there
                assert one.v_max >= 0.99 * config["data"]["action_repeat"] / (1 - config["data"]["discount"])
    assert set(study.tasks) <= set(task_names())
    assert len(study.seeds) >= (3 if path.parent.name == "mini" else 5)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_study_names_its_baseline_and_endpoints(path, monkeypatch):
    """And outside of mini/ its seeds are enough for a verdict on all of its comparisons."""
    monkeypatch.chdir(REPOSITORY)
    content, _ = load(path)
    assert {"baseline", "primary", "secondary"} <= set(content)
    study = read_study(path.relative_to(REPOSITORY))
    for endpoint in (study.primary, *study.secondary):
        assert endpoint.of != "last_third" or fewest_evaluations(study, endpoint) >= 3
    if path.parent.name != "mini":
        assert what_it_cannot_say(study) == []


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_every_study_says_what_is_claimed_where_and_what_would_contradict_it(path):
    text = path.read_text()
    words = ["# Claim: ", "# Source: ", "# Confirmed if ", "# Contradicted if ", "plasticity-rl study run "]
    assert [word for word in words if word not in text] == []
    assert f"study run {path.relative_to(REPOSITORY)}" in text
    assert (path.parent / "mini" / f"{SMALL_OF.get(path.stem, path.stem)}.yaml").is_file()


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_study_decides_by_what_its_report_computes(path):
    """By verdicts, p (Holm) and the ends of intervals, of comparisons and endpoints that the study has."""
    study = read_study(path)
    comment = " ".join(line.removeprefix("#").strip() for line in path.read_text().splitlines() if line[0] == "#")
    criteria = re.search(r"(Confirmed if .*?)(?: Note:| plasticity-rl study run)", comment)[1]
    assert "verdict" in criteria or "interval" in criteria
    assert not re.search(r"intervals? apart|(?:holds?|contains?) 0", criteria)
    arms = [" + ".join(levels.values()) for levels in study.arms]
    for name in re.findall(r"`([^`]+)`", criteria):
        assert any(re.fullmatch(name.replace("+", r"\+").replace("_N", r"_\d+"), arm) for arm in arms), name
    tags = {study.primary.tag, *(one.tag for one in study.secondary), *study.measures}
    for tag in re.findall(r"\b[\w.]+/[\w./]*\w", criteria):
        assert tag in tags, tag
    for text in re.findall(r"interaction of (\w+) and (\w+)", criteria):
        assert all(level in levels for level, levels in zip(text, study.factors.values(), strict=True)), text


@functools.cache
def networks_with_features() -> dict[str, list[str]]:
    """Every value head by itself: ``critic.Q1``, not ``critic``."""
    states, pixels, discrete = tiny_data(observation="state"), tiny_data(), tiny_data(**TINY_DISCRETE)
    agents = {"sac": tiny_sac(states), "drqv2": tiny_agent(pixels), "dqn": tiny_dqn(discrete)}
    return {kind: agent.feature_networks() for kind, agent in agents.items()}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_curve_of_a_rank_is_one_that_a_run_has(path):
    """Else the report of a finished study has a note instead of a column."""
    study = read_study(path)
    games = re.search("atari|minatar", study.base[0])
    kind = "dqn" if games else "sac" if "state" in study.base[0] else "drqv2"
    for tag in {study.primary.tag, *(one.tag for one in study.secondary), *study.measures}:
        if tag.startswith("rank/"):
            assert tag.split("/")[2] in networks_with_features()[kind], tag


def test_every_intervention_is_compared_or_said_to_be_left_out():
    """Of those from states; the small study has the same arms, with as many seeds as a verdict needs."""
    path = FOLDER / "interventions.yaml"
    study, small = read_study(path), read_study(FOLDER / "mini" / "interventions.yaml")
    (levels,) = study.factors.values()
    there = {name for items in levels.values() for name in callbacks_of(items)}
    left_out = set(re.findall(r"\b[A-Z]\w+\b", leading_comment(path).partition("Left out:")[2]))
    everything = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Intervention)}
    assert there | left_out >= everything
    assert not there & left_out
    assert list(small.factors["method"]) == list(levels)
    assert what_it_cannot_say(small) == []


@pytest.mark.parametrize("path", MINI, ids=lambda path: path.stem)
def test_a_mini_study_says_what_is_small(path):
    assert "on 2 CPU cores" in first_sentence(leading_comment(path))
    assert (path.parent.parent / f"{full_size(path.stem)}.yaml").is_file()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_commands_of_a_dry_run(path, monkeypatch):
    """One for each run that is not finished, none twice."""
    monkeypatch.chdir(REPOSITORY)
    study = read_study(path.relative_to(REPOSITORY))
    result = call("study", "run", path.relative_to(REPOSITORY), "--dry-run")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    waiting = [run for run in study.runs() if state_of(run, study.max_frames) != "finished"]
    assert len(lines) == len(waiting) == len(set(lines))
    assert all(line.startswith("plasticity-rl fit --config configs/") for line in lines)
