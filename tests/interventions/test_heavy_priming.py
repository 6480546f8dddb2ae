"""HeavyPriming: how many updates, on which transitions, and what stays as it would have been."""

from __future__ import annotations

import functools
import os
import shutil
import signal

import pytest
import torch
from helpers import fit_tiny, tiny_agent, tiny_sac
from lightning.pytorch.utilities.exceptions import SIGTERMException
from real_runs import fit_real
from run_state import fingerprint

from callbacks import UPGD, AnnealHorizon, FractionActiveUnits, HeavyPriming, Reset, ToggleAugmentation, WarmStartReplay
from plasticity_rl import DrQV2, UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.stop_signals import StopRun


class Diary(RLCallback):
    """Notes every env step, and of every update which transitions were in its batch."""

    def __init__(self) -> None:
        self.actions: list[tuple[int, float]] = []
        self.rewards: list[list[float]] = [[], []]
        self.updates: list[dict] = []
        self.started: list[dict] = []
        self.batches: list[str] = []

    def on_env_step(self, agent, step) -> None:
        for lane, (action, reward) in enumerate(zip(step["action"], step["next", "reward"], strict=True)):
            self.actions.append((lane, float(action)))
            self.rewards[lane].append(float(reward))

    def on_update_start(self, agent) -> None:
        self.started.append({"rng": fingerprint(agent.rng.state_dict()), "flag": agent.augment})

    def on_batch(self, agent, batch) -> None:
        self.batches.append(fingerprint(batch.to_dict()))

    def on_update_end(self, agent, batch, metrics) -> None:
        assert fingerprint(batch.to_dict()) == self.batches[-1]
        assert len(self.batches) == len(self.started) == len(self.updates) + 1
        numbers = [
            self._number(agent, float(a), float(r)) for a, r in zip(batch["action"], batch["reward"], strict=True)
        ]
        self.updates.append({"frame": agent.env_frames, "count": agent.num_updates, "anchors": numbers})

    def _number(self, agent, action: float, reward: float) -> tuple[int, int]:
        """The transition with this action and this n-step reward, gamma 0.99: of this very window."""
        lanes = agent.data.num_envs
        for index in [i for i, (_, known) in enumerate(self.actions) if known == action]:
            lane, number = index % lanes, index // lanes
            window = self.rewards[lane][number : number + 3]
            if reward == pytest.approx(sum(0.99**k * r for k, r in enumerate(window)), rel=1e-5):
                return lane, number
        raise AssertionError("no transition of the run")


def anchors(updates: list[dict]) -> set[tuple[int, int]]:
    return {anchor for update in updates for anchor in update["anchors"]}


@pytest.mark.parametrize(
    ("num_transitions", "last"),
    [
        (16, 13),  # in mid-episode: the window of anchor 13 is made of transitions 13, 14, 15
        (20, 17),  # exactly one episode: its last frame is a record of its own
        (18, 15),
    ],
)
def test_exactly_these_updates_on_exactly_these_transitions(num_transitions: int, last: int, tmp_path):
    diary, plain = Diary(), Diary()
    primed = fit_tiny(tmp_path / "a", callbacks=[HeavyPriming(num_transitions=num_transitions, num_updates=60), diary])
    without = fit_tiny(tmp_path / "b", callbacks=[plain])
    assert primed.num_updates == without.num_updates + 60
    assert [update["count"] for update in diary.updates] == list(range(1, primed.num_updates + 1))
    priming, rest = diary.updates[:60], diary.updates[60:]
    assert {update["frame"] for update in priming} == {plain.updates[0]["frame"]}
    assert anchors(priming) == {(0, number) for number in range(last + 1)}, "480 draws reach each of them"
    # Afterwards the run samples what it would have sampled. (Actions differ, since the policy does.)
    assert rest[0]["anchors"] == plain.updates[0]["anchors"]
    assert [update["frame"] for update in rest] == [update["frame"] for update in plain.updates]
    assert diary.started[60]["rng"] == plain.started[0]["rng"]


def test_the_noise_of_an_optimizer_comes_from_the_numbers_of_the_priming(tmp_path):
    """The optimizer asks the generators that it was made with."""
    diary, plain = Diary(), Diary()
    fit_tiny(tmp_path / "a", callbacks=[UPGD(), HeavyPriming(num_transitions=16, num_updates=5), diary])
    fit_tiny(tmp_path / "b", callbacks=[UPGD(), plain])
    assert diary.started[5]["rng"] == plain.started[0]["rng"]
    assert diary.started[4]["rng"] != diary.started[3]["rng"]


def test_several_environments_give_equal_shares(tmp_path):
    diary = Diary()
    options = {"data_options": {"num_envs": 2}, "agent_options": {"num_seed_frames": 80}}
    fit_tiny(tmp_path, callbacks=[HeavyPriming(num_transitions=15, num_updates=60), diary], **options)
    # 15 transitions: 8 of the first and 7 of the second environment, so anchors up to 5 and 4
    assert anchors(diary.updates[:60]) == {*((0, n) for n in range(6)), *((1, n) for n in range(5))}


class Flags(RLCallback):
    """Notes the augmentation flag inside every update."""

    def on_fit_start(self, trainer, pl_module) -> None:
        self.flags: list[bool] = []
        update = pl_module.update
        pl_module.update = lambda batch: (self.flags.append(pl_module.augment), update(batch))[1]


@pytest.mark.parametrize(
    ("augment", "toggled", "expected"),
    [
        (None, False, [True] * 5 + [True]),
        (False, False, [False] * 5 + [True]),
        (True, True, [True] * 5 + [False]),  # the switch at frame 0 falls into the priming, and holds after it
        (None, True, [False] * 5 + [False]),
    ],
)
def test_augmentation_while_priming_and_afterwards(augment, toggled: bool, expected: list[bool], tmp_path):
    flags = Flags()
    toggle = [ToggleAugmentation(at_frame=0, on=False)] if toggled else []
    fit_tiny(tmp_path, callbacks=[HeavyPriming(num_transitions=16, num_updates=5, augment=augment), *toggle, flags])
    assert flags.flags[:6] == expected
    assert set(flags.flags[6:]) == {expected[-1]}


def test_probes_and_interventions_see_every_update_of_it(tmp_path):
    probe, reset = FractionActiveUnits(every_n_updates=1), Reset(modules=["critic"], at_frames=[0])
    agent = fit_tiny(tmp_path, callbacks=[HeavyPriming(num_transitions=16, num_updates=7), probe, reset])
    assert probe.events.seen == agent.num_updates
    assert reset.events.seen == 1


class Terminate(RLCallback):
    """Sends this process SIGTERM."""

    def on_update_end(self, agent, batch, metrics) -> None:
        if agent.num_updates == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_obeyed_between_two_updates_and_the_run_primes_again(tmp_path, capsys):
    diary, priming = Diary(), HeavyPriming(num_transitions=16, num_updates=10)
    with pytest.raises(StopRun):
        fit_tiny(tmp_path, callbacks=[priming, diary, Terminate()], max_frames=60)
    assert len(diary.updates) == 3
    assert priming.state_dict() == {"done": False}
    assert "Stopped by SIGTERM at env frame 44; the last checkpoint is" in capsys.readouterr().out
    options = {"num_transitions": 16, "num_updates": 10}
    resumed = fit_tiny(tmp_path, callbacks=[HeavyPriming(**options)], max_frames=60, ckpt_path="last")
    straight = fit_tiny(tmp_path / "straight", callbacks=[HeavyPriming(**options)], max_frames=60)
    assert fingerprint(resumed.state_dict()) == fingerprint(straight.state_dict())


def test_sigterm_is_obeyed_without_a_checkpoint_too(tmp_path):
    diary = Diary()
    with pytest.raises((SIGTERMException, SystemExit)):
        fit_tiny(
            tmp_path,
            callbacks=[HeavyPriming(num_transitions=16, num_updates=10), diary, Terminate()],
            trainer_options={"enable_checkpointing": False},
        )
    assert len(diary.updates) == 3


class Frames(RLCallback):
    """Notes the frame of every update, and how many env steps there were."""

    def __init__(self) -> None:
        self.env_steps, self.updates = 0, list[int]()

    def on_env_step(self, agent, step) -> None:
        self.env_steps += 1

    def on_update_end(self, agent, batch, metrics) -> None:
        self.updates.append(agent.env_frames)


def beside_a_donor(folder, num_transitions: int, *, num_seed_frames: int, **data):
    """Return what primes beside a donor of 80 transitions, four episodes of 20, and what notes updates."""
    if not (folder / "donor").exists():
        fit_tiny(folder / "donor", max_frames=160, seed=9, data_options={"eval_every_n_frames": 160})
    frames = Frames()
    given = [HeavyPriming(num_transitions=num_transitions, num_updates=3), WarmStartReplay(path=folder / "donor")]
    options = {
        "data_options": {"eval_every_n_frames": 60, "max_frames": 60, **data},
        "agent_options": {"num_seed_frames": num_seed_frames, "replay_ratio": 1.0},
    }
    return functools.partial(fit_tiny, folder / "run", callbacks=[*given, frames], **options), frames


@pytest.mark.parametrize(
    ("num_transitions", "options", "first"),
    [
        (90, {"num_seed_frames": 20}, 22),  # 80 of the donor and 10 of the seed phase
        (75, {"num_seed_frames": 30, "num_envs": 3}, 36),  # 40, 20 and 20 of the donor; five more of each environment
    ],
)
def test_donor_and_seed_phase_together_hold_every_share_at_the_first_update(num_transitions, options, first, tmp_path):
    run, frames = beside_a_donor(tmp_path, num_transitions, **options)
    agent = run()
    assert frames.updates[:3] == [first] * 3
    assert agent.last_events["heavy_priming"] == first


@pytest.mark.parametrize(
    ("num_transitions", "options", "message"),
    [
        (91, {"num_seed_frames": 20}, r"has 90 of its 91, .* use fewer, or model.num_seed_frames >= 22"),
        (81, {"num_seed_frames": 0}, r"has 80 of its 81, .* model.num_seed_frames >= 2$"),
        (75, {"num_seed_frames": 24, "num_envs": 3}, r"has 24 of its 25, .* model.num_seed_frames >= 30"),
        (75, {"num_seed_frames": 0, "num_envs": 3}, r"has 20 of its 25, .* model.num_seed_frames >= 30"),
        # 80 transitions and the last frames of four episodes, 10 of the seed phase, one that earns an update
        (
            30,
            {"num_seed_frames": 20, "capacity": 94},
            r"first 30 transitions of environment 0 are no longer in the replay",
        ),
    ],
)
def test_what_the_first_update_would_not_find_is_refused_before_training(num_transitions, options, message, tmp_path):
    """Else ordinary updates came before the priming."""
    run, frames = beside_a_donor(tmp_path, num_transitions, **options)
    with pytest.raises(UserError, match=rf"^HeavyPriming.num_transitions={num_transitions}: at the .*{message}"):
        run()
    assert (frames.env_steps, frames.updates) == (0, [])


def test_a_resumed_run_without_the_donor_s_transitions_is_refused_too(tmp_path):
    """Its replay is gone, and it has only those of another seed phase."""
    run, _ = beside_a_donor(tmp_path, 90, num_seed_frames=40, max_frames=20, eval_every_n_frames=20)
    run()
    shutil.rmtree(tmp_path / "run" / "replay")
    run, frames = beside_a_donor(tmp_path, 90, num_seed_frames=40, eval_every_n_frames=20, allow_empty_replay=True)
    with pytest.raises(UserError, match="has 20 of its 90"):
        run(ckpt_path="last")
    assert (frames.env_steps, frames.updates) == (0, [])


@pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")
def test_it_computes_in_the_precision_of_the_run_and_so_do_all_evaluations(tmp_path, monkeypatch):
    """The update and the policy alike, also where a hook asks for them."""
    found: dict[str, set[bool]] = {"update": set(), "act": set()}
    update, act = DrQV2.update, DrQV2.act

    def seen(name, method):
        def spied(*args, **options):
            found[name].add(torch.is_autocast_enabled("cpu"))
            return method(*args, **options)

        return spied

    monkeypatch.setattr(DrQV2, "update", seen("update", update))
    monkeypatch.setattr(DrQV2, "act", seen("act", act))
    options = {"data_options": {"eval_every_n_frames": 60, "final_eval_episodes": 1}}
    precise = {"trainer_options": {"precision": "bf16-mixed"}, **options}
    fit_tiny(tmp_path, callbacks=[HeavyPriming(num_transitions=16, num_updates=3)], max_frames=60, **precise)
    assert found == {"update": {True}, "act": {True}}


@pytest.mark.parametrize(
    ("capacity", "env_steps"),
    [
        (40, 0),  # 40 transitions of the seed phase, and one more until the first update
        (43, 42),  # two more at replay ratio 0.5, and the last frames of two episodes: known when they are there
    ],
)
def test_a_ring_that_went_round_is_refused(capacity: int, env_steps: int, tmp_path):
    priming, frames = HeavyPriming(num_transitions=16, num_updates=5), Frames()
    options = {"data_options": {"capacity": capacity}, "agent_options": {"num_seed_frames": 80}}
    message = r"first 16 transitions of environment 0 are no longer in the replay: raise .*capacity=...\) \(now "
    with pytest.raises(UserError, match=message + str(capacity)):
        fit_tiny(tmp_path, callbacks=[priming, frames], **options)
    assert (frames.env_steps, frames.updates) == (env_steps, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_transitions": 21}, r"num_transitions=21 are more than the 20 .* use model.num_seed_frames >= 42"),
        ({"num_transitions": 2}, r"num_transitions=2 must be at least data.n_step \* data.num_envs = 3"),
    ],
)
def test_what_the_run_cannot_hold_is_refused_before_training(arguments: dict, message: str, tmp_path):
    diary = Diary()
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[HeavyPriming(**arguments, num_updates=5), diary])
    assert diary.actions == []


def test_windows_of_the_first_updates_have_to_fit(tmp_path):
    """AnnealHorizon begins with longer ones than data.n_step, whatever the order of the two."""
    diary = Diary()
    given = [HeavyPriming(num_transitions=8, num_updates=5), AnnealHorizon(first_n_step=9), diary]
    with pytest.raises(UserError, match=r"num_transitions=8 must be .* the n-step of the first updates, 9, .* = 9"):
        fit_tiny(tmp_path, callbacks=given)
    assert diary.actions == []


def test_the_update_that_waits_for_it_is_prepared_after_it(tmp_path):
    """AnnealHorizon sets the horizon of update number five, the first after five of priming; both come in one hook."""
    horizons: list[tuple[int, tuple[int, float]]] = []

    class Horizons(RLCallback):
        def on_batch(self, agent, batch) -> None:
            horizons.append((agent.num_updates, agent.data.horizon))

    annealing = AnnealHorizon(first_n_step=None, first_discount=0.5, num_updates=10)
    given = [annealing, HeavyPriming(num_transitions=16, num_updates=5), Horizons()]
    agent = fit_tiny(tmp_path, callbacks=given, max_frames=60)
    last = agent.data.discount
    expected = [1 - 0.5 ** (1 - done / 10) * (1 - last) ** (done / 10) for done, _ in horizons]
    assert [done for done, _ in horizons] == list(range(agent.num_updates))
    assert agent.num_updates > 6
    assert [discount for _, (_, discount) in horizons] == pytest.approx(expected)


@pytest.mark.parametrize("make_agent", [tiny_agent, tiny_sac])
def test_augmentation_of_states_is_refused_before_training(make_agent, tmp_path):
    """Of DrQ-v2 it would end the run in the middle, of SAC it would do nothing."""
    diary, data = Diary(), {"observation": "state"}
    priming = HeavyPriming(num_transitions=16, num_updates=5, augment=True)
    with pytest.raises(UserError, match="HeavyPriming.augment=True: this run observes the state, and only images are"):
        fit_tiny(tmp_path, callbacks=[priming, diary], data_options=data, make_agent=make_agent)
    assert diary.actions == []


@pytest.mark.parametrize("arguments", [{"num_transitions": 0}, {"num_updates": -1}])
def test_impossible_arguments_are_refused(arguments: dict):
    with pytest.raises(UserError, match=next(iter(arguments))):
        HeavyPriming(**arguments)


def test_200_updates_on_real_pixels(tmp_path):
    priming = HeavyPriming(num_transitions=50, num_updates=200, augment=False)
    agent = fit_real(tmp_path, callbacks=[priming], data_options={"max_frames": 800, "eval_every_n_frames": 800})
    assert agent.num_updates == 200 + 2 * 50
    assert priming.done
    assert all(torch.isfinite(p).all() for p in agent.parameters())
