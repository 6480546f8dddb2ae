"""No two callbacks write one tag: generated for every exported callback and every one of its arguments."""

from __future__ import annotations

import re

import pytest
from callback_examples import EXPORTED, PROBES, example, names
from helpers import fit_tiny, tiny_agent, tiny_data

import callbacks
from plasticity_rl import UserError
from plasticity_rl.callback import Intervention, RLCallback
from plasticity_rl.callback.documented import documented_tags, tag_pattern

OTHER_VALUE = {"every_n_updates": 11, "batch_size": 21, "num_steps": 3, "num_vectors": 2, "num_iterations": 3}
PERIOD = {"every_n_updates": 5, "every_n_frames": 55, "every_n_episodes": 7, "log_every_n_updates": 3}


def matches(tag: str, patterns: frozenset[str]) -> bool:
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]+"), tag) for pattern in patterns)


def logged_by(folder, given: list[RLCallback], monkeypatch) -> set[str]:
    from run_state import Log

    log = Log(monkeypatch)
    fit_tiny(folder, callbacks=given, trainer_options={"enable_checkpointing": False})
    return {tag for _, tag, _ in log.take()[0]}


def test_every_probe_declares_exactly_what_it_writes(tmp_path, monkeypatch):
    bare = logged_by(tmp_path / "bare", [], monkeypatch)
    given = [example(cls) for cls in PROBES]
    found = logged_by(tmp_path / "watched", given, monkeypatch) - bare
    declared = {type(probe).__name__: probe.tags() for probe in given}
    assert all(declared.values())
    owners = {tag: [name for name, patterns in declared.items() if matches(tag, patterns)] for tag in found}
    assert {tag: own for tag, own in owners.items() if len(own) != 1} == {}


@pytest.mark.parametrize("cls", EXPORTED, ids=names(EXPORTED))
def test_what_an_instance_declares_is_in_its_docstring(cls):
    callback = example(cls)
    callback.resolve(tiny_agent(tiny_data()))
    documented = [tag_pattern(tag) for tag in documented_tags(cls)]
    declared = [tag.replace("*", "any") for tag in callback.tags()]
    assert [tag for tag in declared if not any(pattern.fullmatch(tag) for pattern in documented)] == []


@pytest.mark.parametrize("cls", PROBES, ids=names(PROBES))
def test_a_second_instance_that_differs_in_an_argument_is_refused_by_name_or_writes_elsewhere(cls):
    for option, value in OTHER_VALUE.items():
        if option not in example(cls).arguments():
            continue
        pair = [example(cls), cls(**{**cls.example_arguments, option: value})]
        with pytest.raises(UserError, match=rf"^two {cls.__name__} \(with {option}=.*\) would both write '") as error:
            tiny_agent(tiny_data()).build(pair)
        assert "\n" not in str(error.value)


WITH_NUMBERS = [cls for cls in EXPORTED if issubclass(cls, Intervention) and cls not in (callbacks.InFeR,)]


@pytest.mark.parametrize("cls", WITH_NUMBERS, ids=names(WITH_NUMBERS))
def test_a_second_intervention_does_not_write_over_the_numbers_of_the_first(cls):
    """Those that log a number of their own; the mark of an event is shared on purpose."""
    logs = re.findall(r"``(intervention/\w+/[^`]+)``", cls.__doc__ or "")
    own = [tag for tag in logs if tag != f"intervention/{example(cls).name}/loss"]
    arguments = example(cls).arguments()
    if "coefficient" in arguments:
        other = {"coefficient": 0.123}
    else:
        given = {name: value for name, value in PERIOD.items() if arguments.get(name) is not None}
        other = dict(list(given.items())[:1])
    if not own or not other:
        return
    with pytest.raises(UserError, match=r"would both write|cannot run beside"):
        tiny_agent(tiny_data()).build([example(cls), cls(**{**cls.example_arguments, **other})])


def test_two_instances_of_other_modules_thresholds_or_losses_go_together():
    agent = tiny_agent(tiny_data())
    agent.build(
        [
            callbacks.HessianTop(loss="critic"),
            callbacks.HessianTop(loss="actor"),
            callbacks.DormantUnits(taus=[0.1]),
            callbacks.DormantUnits(taus=[0.2]),
            callbacks.FeatureRank(),
            callbacks.FeatureRank(divide=False),
            callbacks.ReDo(modules=["actor"]),
            callbacks.ReDo(modules=["critic"]),
        ]
    )


def test_an_open_and_a_named_default_are_the_same_callback():
    with pytest.raises(UserError, match="WeightNorm is given twice with the same arguments"):
        tiny_agent(tiny_data()).build(
            [callbacks.WeightNorm(), callbacks.WeightNorm(modules=["encoder", "actor", "critic"])]
        )
