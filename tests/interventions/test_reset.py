"""Reset: which weights, which optimizer state, which target, and when."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from run_state import differences, run_state
from tiny_agent import TinyAgent
from torch import nn

from callbacks import ContinualTasks, Reset, ShrinkAndPerturb
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo


class Diary(RLCallback):
    """Notes what happens at which env frame, and the weights around each reset.

    Args:
        reset: The reset to look at.
    """

    def __init__(self, reset: Reset) -> None:
        self.reset, self.act = reset, reset.act
        reset.act = self.note_act
        self.lines: list[tuple[int, str]] = []
        self.around: list[dict] = []

    def note_act(self, agent) -> str:
        self.lines.append((agent.env_frames, "reset"))
        before = snapshot(agent)
        text = self.act(agent)
        self.around.append({"before": before, "after": snapshot(agent), "updates": agent.num_updates})
        return text

    def on_env_step(self, agent, step) -> None:
        self.lines.append((agent.env_frames, "env step"))

    def on_evaluation(self, agent, episodes) -> None:
        self.lines.append((agent.env_frames, "evaluation"))

    def on_update_end(self, agent, batch, metrics) -> None:
        self.lines.append((agent.env_frames, "update"))

    def frames(self, what: str) -> list[int]:
        return [frame for frame, line in self.lines if line == what]


def snapshot(agent) -> dict:
    steps = {}
    for optimizer in agent.trainer.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = {key: value.clone() for key, value in optimizer.state.get(parameter, {}).items()}
                steps[id(parameter)] = state
    return {
        "weights": {name: p.detach().clone() for name, p in agent.named_parameters()},
        "slots": {name: steps[id(p)] for name, p in agent.named_parameters() if id(p) in steps},
        "replay": agent.data.replay.written.clone(),
        "transitions": agent.data.replay.num_transitions,
    }


def run(tmp_path, **arguments) -> tuple:
    reset = Reset(**arguments)
    diary = Diary(reset)
    agent = fit_tiny(tmp_path, callbacks=[reset, diary])
    return agent, diary


CASES = {
    "encoder": (["encoder"], ["encoder."], []),
    "head": (["critic.Q1"], ["critic.Q1."], ["critic_target.Q1."]),
    "actor": (["actor"], ["actor."], []),
    "default": (["actor", "critic"], ["actor.", "critic."], ["critic_target."]),
    "all": (["encoder", "actor", "critic"], ["encoder.", "actor.", "critic."], ["critic_target."]),
}


@pytest.mark.parametrize(("modules", "own", "targets"), CASES.values(), ids=CASES)
def test_weights_target_optimizer_and_replay(modules, own, targets, tmp_path):
    agent, diary = run(tmp_path, modules=modules, at_frames=[100])
    (around,) = diary.around
    before, after = around["before"], around["after"]
    fresh = {name for name in before["weights"] if name.startswith(tuple(own))}
    copied = {name for name in before["weights"] if name.startswith(tuple(targets))} if targets else set()
    assert fresh
    changed = {name for name, value in before["weights"].items() if not torch.equal(value, after["weights"][name])}
    assert changed == fresh | copied

    layers = dict(agent.named_modules())
    for name in fresh:
        value, layer = after["weights"][name], layers[name.rpartition(".")[0]]
        if name.endswith("bias"):
            assert not value.any()
        elif isinstance(layer, nn.LayerNorm):
            assert (value == 1).all()
        else:
            rows = value.flatten(1)
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0
            torch.testing.assert_close(gram, gain * torch.eye(len(gram)), atol=1e-5, rtol=0)
    for name in copied:
        assert torch.equal(after["weights"][name], after["weights"][name.replace("critic_target", "critic")])

    for name, slot in after["slots"].items():
        if name in fresh:
            assert not any(value.any() for value in slot.values())
        else:
            assert int(slot["step"]) == around["updates"] > 0
            assert all(torch.equal(slot[key], value) for key, value in before["slots"][name].items())
    assert torch.equal(before["replay"], after["replay"])
    assert before["transitions"] == after["transitions"] == 52  # the update after frame 100 is at frame 104


def test_default_keeps_the_encoder():
    assert Reset(at_frames=[1]).modules == ["actor", "critic"]
    assert Reset(at_frames=[1]).last_layers is None


OUTPUT, LAST_TWO = (".Q1.4.", ".Q2.4."), (".Q1.4.", ".Q2.4.", ".Q1.2.", ".Q2.2.")
HEADS = (*LAST_TWO, ".Q1.0.", ".Q2.0.")
LAST = {
    "critic 1": (["critic"], 1, OUTPUT),
    "critic 2": (["critic"], 2, LAST_TWO),
    "critic 3": (["critic"], 3, HEADS),
    "critic 4": (["critic"], 4, (*HEADS, "critic.trunk.0.", "critic.trunk.1.")),
    "one head": (["critic.Q2"], 1, (".Q2.4.",)),
    "actor and critic": (["actor", "critic"], 1, ("actor.policy.4.", *OUTPUT)),
    "encoder": (["encoder"], 2, ("encoder.convnet.4.", "encoder.convnet.6.")),
}


@pytest.mark.parametrize(("modules", "last_layers", "parts"), LAST.values(), ids=LAST)
def test_last_layers_and_nothing_else(modules, last_layers, parts, tmp_path):
    """Weights, twins in the target, moments and step counts of these layers; all others bit-equal."""
    told: list[set[str]] = []

    class Told(RLCallback):
        def on_weights_jumped(self, agent, jump) -> None:
            ids = {id(jump.live[name]) for name in jump.renewed}
            if ids:  # the twins in the target come in an event of their own
                told.append({name for name, p in agent.named_parameters() if id(p) in ids})

    reset = Reset(modules=modules, last_layers=last_layers, at_frames=[100])
    diary = Diary(reset)
    agent = fit_tiny(tmp_path, callbacks=[reset, diary, Told()])
    (around,) = diary.around
    before, after = around["before"], around["after"]
    own = {n for n in before["weights"] if any(part in n for part in parts) and not n.startswith("critic_target.")}
    twins = {n.replace("critic.", "critic_target.") for n in own if n.startswith("critic.")}
    changed = {name for name, value in before["weights"].items() if not torch.equal(value, after["weights"][name])}
    assert changed == own | twins
    assert told == [own]
    for name in twins:
        assert torch.equal(after["weights"][name], after["weights"][name.replace("critic_target", "critic")])
    for name, slot in after["slots"].items():
        if name in own:
            assert not any(value.any() for value in slot.values()), name
        else:
            assert all(torch.equal(slot[key], value) for key, value in before["slots"][name].items()), name
    for name in own:
        if name.endswith("weight") and ".trunk.1." not in name:
            rows = after["weights"][name].flatten(1).double()
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            gain = 2.0 if name.startswith("encoder.") else 1.0
            torch.testing.assert_close(gram, gain * torch.eye(len(gram), dtype=gram.dtype), atol=1e-5, rtol=0)
    assert reset.mutates(agent).parameters == own | twins
    assert reset.mutates(agent).optimizer_slots == own


def test_what_was_reset_moves_at_the_next_update_from_fresh_moments(tmp_path):
    """Adam's first step is lr * sign(gradient) up to eps: |change| = lr wherever the gradient is not tiny."""
    reset = Reset(modules=["critic"], last_layers=1, at_frames=[100])
    diary, after_update = Diary(reset), {}

    class Next(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            if diary.around and not after_update:
                after_update.update(snapshot(agent))

    fit_tiny(tmp_path, callbacks=[reset, diary, Next()])
    fresh = diary.around[0]["after"]
    for name in ("critic.Q1.4.weight", "critic.Q2.4.weight", "critic.Q1.4.bias", "critic.Q2.4.bias"):
        step = (after_update["weights"][name] - fresh["weights"][name]).abs()
        moments = after_update["slots"][name]
        assert float(moments["step"]) == 1
        torch.testing.assert_close(
            moments["exp_avg"], 0.1 * moments["exp_avg_sq"].div(0.001).sqrt() * moments["exp_avg"].sign()
        )
        large = moments["exp_avg"].abs() > 1e-5
        assert large.any()
        torch.testing.assert_close(step[large], torch.full_like(step[large], 1e-3), rtol=2e-3, atol=1e-7)
    for name, slot in after_update["slots"].items():
        if ".4." not in name or not name.startswith("critic"):
            assert float(slot["step"]) == float(fresh["slots"][name]["step"]) + 1 > 2, name


def test_due_at_an_evaluation_it_acts_after_it_and_before_the_next_update(tmp_path):
    _, diary = run(tmp_path, at_frames=[100])
    ((at, _),) = [line for line in diary.lines if line[1] == "reset"]
    index = diary.lines.index((at, "reset"))
    evaluation = diary.lines.index((100, "evaluation"))
    assert evaluation < index
    assert (at, "evaluation") not in diary.lines
    between = [line for _, line in diary.lines[evaluation + 1 : index]]
    assert set(between) == {"env step"}, "no update may come between"
    assert diary.lines[index + 1] == (at, "update")
    assert at == 104


def test_due_between_evaluations_it_acts_at_the_first_update_after_its_frame(tmp_path):
    _, diary = run(tmp_path, at_frames=[70, 71])
    assert diary.frames("reset") == [min(frame for frame in diary.frames("update") if frame > 70)]
    assert diary.frames("reset") == [72]


@pytest.mark.parametrize(
    ("due", "acts_at"),
    [
        (95, 96),  # the update of frame 96 is not right before the evaluation at 100
        (96, 104),  # that of frame 100 would be: the first after the evaluation is at 104
        (99, 104),
    ],
)
def test_it_never_acts_right_before_an_evaluation(due, acts_at, tmp_path):
    _, diary = run(tmp_path, at_frames=[due])
    assert [frame for frame in diary.frames("update") if 90 < frame < 110] == [92, 96, 100, 104, 108]
    assert diary.frames("reset") == [acts_at]


def test_nor_right_before_the_last_one(tmp_path):
    """Where a run ends, it is evaluated: at frame 130 here, which is no multiple of 100."""
    reset = Reset(every_n_frames=64)
    diary = Diary(reset)
    fit_tiny(tmp_path, callbacks=[reset, diary], max_frames=130, agent_options={"replay_ratio": 1})
    assert (130, "update") in diary.lines
    assert (130, "evaluation") in diary.lines
    assert diary.frames("reset") == [66]


def test_periodic_schedule_counts_from_zero_through_the_seed_phase(tmp_path):
    """Updates begin after frame 40: what fell due before is one reset, not several."""
    _, diary = run(tmp_path / "often", every_n_frames=15)
    updates = diary.frames("update")
    assert updates[0] == 44
    assert diary.frames("reset") == [44, *(min(u for u in updates if u > due) for due in range(45, 200, 15))]
    _, diary = run(tmp_path / "seldom", every_n_frames=60)
    assert diary.frames("reset") == [64, 124, 184]


def test_periodic_and_listed_together(tmp_path):
    _, diary = run(tmp_path, every_n_frames=80, at_frames=[130, 90])
    assert diary.frames("reset") == [84, 92, 132, 164]


def test_each_reset_draws_new_weights_and_logs(tmp_path):
    agent, diary = run(tmp_path, modules=["critic"], at_frames=[60, 120])
    first, second = (around["after"]["weights"]["critic.Q1.0.weight"] for around in diary.around)
    assert not torch.equal(first, second)
    assert not torch.equal(first, diary.around[0]["before"]["weights"]["critic.Q1.0.weight"])
    assert agent.latest["intervention/reset"] == 1.0


def test_two_resets_do_not_share_their_numbers(tmp_path):
    """The generator belongs to the instance: what one draws does not depend on the other."""
    _, alone = run(tmp_path / "alone", modules=["critic"], at_frames=[60])
    critic = Reset(modules=["critic"], at_frames=[60])
    diary = Diary(critic)
    fit_tiny(tmp_path / "both", callbacks=[Reset(modules=["actor"], at_frames=[50]), critic, diary])
    one, two = (d.around[0]["after"]["weights"] for d in (alone, diary))
    assert all(torch.equal(one[name], two[name]) for name in one if name.startswith("critic."))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Reset.every_n_frames / at_frames: no schedule given"),
        ({"every_n_frames": 0}, "the period is 0, but must be a whole number > 0"),
        ({"at_frames": [-5]}, r"moments are \[-5\], but must not be negative"),
        ({"at_frames": [5], "last_layers": 0}, "^Reset.last_layers=0 must be a whole number >= 1, or null for whole"),
        ({"at_frames": [5], "last_layers": -1}, "^Reset.last_layers=-1 must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Reset(**arguments)


@pytest.mark.parametrize(
    ("name", "suggested"), [("critc", "critic"), ("critic.Q3", "critic.Q2"), ("critic_target", "critic"), ("", None)]
)
def test_wrong_names_list_the_choices_before_training(name, suggested, tmp_path):
    choices = "'encoder', 'encoder.convnet', 'actor', 'actor.trunk', 'actor.policy', 'critic', 'critic.trunk'"
    with pytest.raises(UserError, match=f"no module '{name}' in DrQV2; there are .{choices}") as error:
        fit_tiny(tmp_path, callbacks=[Reset(modules=[name], at_frames=[50])])
    assert suggested is None or f"Did you mean {suggested}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("modules", "last_layers", "message"),
    [
        (["critic"], 5, "^Reset.last_layers=5 is more than the 4 layers of 'critic'; lower it, or leave it out"),
        (["critic", "critic.Q1"], 4, "^Reset.last_layers=4 is more than the 3 layers of 'critic.Q1'"),
    ],
)
def test_more_layers_than_there_are_are_refused_before_training(modules, last_layers, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[Reset(modules=modules, last_layers=last_layers, at_frames=[50])])


def test_second_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    reset = Reset(modules=["value", "policy"], last_layers=1, at_frames=[100])
    diary = Diary(reset)
    make_trainer(tmp_path, callbacks=[reset, diary, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    before, after = diary.around[0]["before"]["weights"], diary.around[0]["after"]["weights"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        f"{name}.{part}" for name in ("value.2", "old_value.2", "policy.2") for part in ("weight", "bias")
    }
    assert torch.equal(after["value.2.weight"], after["old_value.2.weight"])


class Counts(Reset):
    """Keeps the frame of each event."""

    def act(self, agent) -> str:
        self.acted_at = [*getattr(self, "acted_at", []), agent.env_frames]
        return super().act(agent)


TASKS = {"tasks": ["tiny", "tiny_away"], "every_n_frames": 60}


def test_it_acts_before_the_first_update_of_every_other_task(tmp_path):
    """Switches at frames 60 and 120; the first updates behind them are those of frames 64 and 124."""
    reset = Counts(modules=["encoder", "actor", "critic"], at_task_switches=True)
    agent = fit_tiny(tmp_path, callbacks=[reset, ContinualTasks(**TASKS)], max_frames=160)
    assert reset.acted_at == [64, 124]
    steps = {float(state["step"]) for optimizer in agent.trainer.optimizers for state in optimizer.state.values()}
    assert steps == {10.0}  # updates at 124, 128 ... 160


def test_a_switch_that_the_checkpoint_follows_is_not_forgotten(tmp_path):
    """Frame 62, of the checkpoint, is behind the switch and before the first update."""
    make = lambda: [Reset(modules=["critic"], at_task_switches=True), ContinualTasks(**TASKS)]  # noqa: E731
    options = {"data_options": {"eval_every_n_frames": 62}}
    whole = fit_tiny(tmp_path / "whole", callbacks=make(), max_frames=130, **options)
    fit_tiny(tmp_path / "cut", callbacks=make(), max_frames=62, **options)
    again = fit_tiny(tmp_path / "cut", callbacks=make(), max_frames=130, ckpt_path="last", **options)
    assert whole.event_counts == again.event_counts == {"reset": 2, "continual_tasks": 2}
    assert differences(run_state(whole), run_state(again)) == []


def test_without_the_option_its_random_numbers_are_those_that_they_were():
    """They go by the key."""
    assert "at_task_switches" not in Reset(at_frames=[100]).state_key
    assert "at_task_switches" in Reset(at_task_switches=True).state_key


def test_it_needs_a_schedule_or_the_switches():
    with pytest.raises(UserError, match="no schedule given"):
        Reset(modules=["critic"])


# ---- on the clock of updates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay_ratio", [0.5, 1.0])
@pytest.mark.parametrize("cls", [Reset, ShrinkAndPerturb])
def test_a_period_in_updates_scales_with_the_replay_ratio(cls, replay_ratio, tmp_path):
    reset = cls(modules=["critic"], every_n_updates=15)
    moments: list[int] = []
    act = reset.act
    reset.act = lambda agent: (moments.append(agent.num_updates), act(agent))[1]
    agent = fit_tiny(tmp_path, callbacks=[reset], agent_options={"replay_ratio": replay_ratio})
    # Due in the last env step before the evaluation at frame 100 (update 15 at ratio 0.5) it waits for the next.
    expected = range(15, agent.num_updates, 15)
    assert len(moments) == len(expected) == {0.5: 2, 1.0: 5}[replay_ratio]
    assert all(0 <= moment - due <= 2 for moment, due in zip(moments, expected, strict=True))


def test_no_reset_after_the_last_update_of_the_period(tmp_path):
    reset, moments = Reset(modules=["critic"], every_n_updates=10, until_update=25), []
    act = reset.act
    reset.act = lambda agent: (moments.append(agent.num_updates), act(agent))[1]
    agent = fit_tiny(tmp_path, callbacks=[reset], agent_options={"replay_ratio": 1.0})
    assert agent.num_updates > 50
    assert moments == [10, 20]


@pytest.mark.parametrize("cls", [Reset, ShrinkAndPerturb])
def test_schedules_that_contradict_are_refused(cls):
    with pytest.raises(UserError, match=f"{cls.__name__}.every_n_updates=5 and every_n_frames=9, .* on two clocks"):
        cls(every_n_updates=5, every_n_frames=9)
    with pytest.raises(UserError, match=f"{cls.__name__}.until_update=5 ends a period in updates"):
        cls(every_n_frames=9, until_update=5)
    with pytest.raises(UserError, match=f"{cls.__name__}.every_n_updates: the period is 0"):
        cls(every_n_updates=0)
    with pytest.raises(UserError, match=f"{cls.__name__}.every_n_frames / at_frames: no schedule"):
        cls()


@pytest.mark.parametrize("cls", [Reset, ShrinkAndPerturb])
def test_checkpoints_from_before_there_was_a_period_in_updates_still_fit(cls):
    assert "update" not in cls(every_n_frames=9).state_key
    assert "every_n_updates" in cls(every_n_updates=9).state_key
