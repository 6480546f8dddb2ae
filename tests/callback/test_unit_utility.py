"""Who is mature, how many are due, and who is of least use: by hand, and against a slow loop over single units."""

from __future__ import annotations

import math

import torch
from run_state import fingerprint

from plasticity_rl.callback.unit_utility import UnitUtility


def observed(utility: UnitUtility, times: int, magnitude: list[float], outgoing: list[float] | None = None) -> None:
    for _ in range(times):
        given = torch.tensor(magnitude)
        utility.observe(given, -given, torch.tensor(outgoing or [1.0] * len(magnitude)))


def test_utility_by_hand():
    """Contributions 2 * 3 = 6, then 4 * 5 = 20. Averages: 0.5 * 6 = 3, then 0.5 * 3 + 0.5 * 20 = 11.5.

    Debiased by 1 - 0.5^2 = 0.75: 15.3333. The mean output: -1, then -0.5 - 2 = -2.5, debiased -3.3333.
    """
    utility = UnitUtility(1, replacement_rate=0.1, maturity_threshold=0, decay=0.5)
    observed(utility, 1, [2.0], [3.0])
    observed(utility, 1, [4.0], [5.0])
    torch.testing.assert_close(utility.utility(), torch.tensor([11.5 / 0.75]))
    torch.testing.assert_close(utility.mean_output(), torch.tensor([-2.5 / 0.75]))


def test_two_outputs_per_unit_by_hand():
    """Of a CReLU: positive parts 1 and 2, negative parts 3 and 4, read with 10, 1 and 1, 5: 1*10+3*1 and 2*1+4*5."""
    utility = UnitUtility(2, copies=2, replacement_rate=1.0, maturity_threshold=0, decay=0.0)
    utility.observe(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.arange(4.0), torch.tensor([10.0, 1.0, 1.0, 5.0]))
    assert utility.utility().tolist() == [13.0, 22.0]
    assert utility.mean_output().tolist() == [0.0, 1.0, 2.0, 3.0]
    utility.renew(torch.tensor([1]))
    utility.observe(torch.ones(4), torch.arange(4.0), torch.ones(4))
    assert utility.mean_output().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_two_positions_of_each_channel_by_hand():
    """Means 2, 0 and 6, 8: of each position, while the utility is that of the channel. Only the first is new then."""
    utility = UnitUtility(2, positions=2, replacement_rate=1.0, maturity_threshold=0, decay=0.5)
    for _ in range(2):
        utility.observe(torch.tensor([1.0, 7.0]), torch.tensor([2.0, 0.0, 6.0, 8.0]), torch.tensor([2.0, 1.0]))
    assert utility.utility().tolist() == [2.0, 7.0]
    assert utility.mean_output().tolist() == [2.0, 0.0, 6.0, 8.0]
    utility.renew(torch.tensor([0]))
    utility.observe(torch.ones(2), torch.tensor([4.0, 5.0, 6.0, 8.0]), torch.ones(2))
    assert utility.mean_output().tolist() == [4.0, 5.0, 6.0, 8.0]
    utility.take_as_new(torch.tensor([False, True]))
    utility.observe(torch.ones(2), torch.tensor([4.0, 5.0, 1.0, 2.0]), torch.ones(2))
    assert utility.mean_output().tolist() == [4.0, 5.0, 1.0, 2.0]


def test_what_a_checkpoint_of_before_has_of_a_channel_counts_at_all_of_its_positions():
    old, utility = (
        UnitUtility(2, positions=3, replacement_rate=1.0, maturity_threshold=0, decay=0.0) for _ in range(2)
    )
    old.observe(torch.ones(2), torch.ones(6), torch.ones(2))
    utility.load_state_dict({**old.state_dict(), "mean": torch.tensor([[1.0, 4.0]])})
    assert utility.mean_output().tolist() == [1.0, 1.0, 1.0, 4.0, 4.0, 4.0]
    utility.observe(torch.ones(2), torch.arange(6.0), torch.ones(2))
    assert utility.mean_output().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_what_is_due_adds_up_by_hand():
    """Rate 1/8 of 4 units older than 2 updates: 0.5 from update 3 on, so one is due after updates 4, 6, 8, ...

    The one replaced after update 4 is mature again after update 7 (age 3), until then 3/8 are added: after update 5
    0.375, update 6 0.75, update 7 0.75 + 4/8 = 1.25.
    """
    utility = UnitUtility(4, replacement_rate=0.125, maturity_threshold=2, decay=0.5)
    owed, mature = [], []
    for update in range(1, 8):
        observed(utility, 1, [4.0, 1.0, 3.0, 2.0])
        owed.append(utility.owed)
        mature.append(utility.mature)
        if update == 4:
            assert utility.due == 1
            units = utility.least_useful(1)
            assert units.tolist() == [1]
            utility.renew(units)
            assert utility.utility().tolist() == [4.0, 0.0, 3.0, 2.0]
            assert utility.age().tolist() == [4, 0, 4, 4]
    assert owed == [0.0, 0.0, 0.5, 1.0, 0.375, 0.75, 1.25]
    assert mature == [0, 0, 4, 4, 3, 3, 4]


def test_a_young_unit_is_safe_however_little_use_it_is():
    utility = UnitUtility(3, replacement_rate=1.0, maturity_threshold=1, decay=0.9)
    observed(utility, 2, [1.0, 2.0, 3.0])
    utility.renew(utility.least_useful(1))
    observed(utility, 1, [0.0, 2.0, 3.0])
    assert utility.least_useful(2).tolist() == [1, 2]


def test_units_with_undefined_utility_come_last():
    utility = UnitUtility(3, replacement_rate=1.0, maturity_threshold=0, decay=0.9)
    observed(utility, 1, [math.nan, 2.0, 3.0])
    assert utility.least_useful(2).tolist() == [1, 2]


def test_rate_zero_is_never_due():
    utility = UnitUtility(3, replacement_rate=0.0, maturity_threshold=0, decay=0.9)
    observed(utility, 50, [1.0, 2.0, 3.0])
    assert (utility.due, utility.mature) == (0, 3)


def test_a_whole_new_layer_starts_over():
    utility = UnitUtility(2, replacement_rate=0.4, maturity_threshold=1, decay=0.5)
    observed(utility, 3, [1.0, 2.0])
    assert utility.owed > 1
    utility.renew_all()
    assert (utility.due, utility.mature, utility.age().tolist(), utility.utility().tolist()) == (0, 0, [0, 0], [0, 0])
    observed(utility, 2, [1.0, 2.0])
    assert utility.mature == 2


def test_no_more_are_due_than_are_mature():
    """Half of four are due; another intervention replaces three, and one is mature."""
    utility = UnitUtility(4, replacement_rate=0.5, maturity_threshold=0, decay=0.9)
    observed(utility, 1, [1.0] * 4)
    assert (utility.mature, utility.due) == (4, 2)
    utility.take_as_new(torch.tensor([True, True, True, False]))
    assert (utility.mature, utility.due) == (1, 1)


class Slow:
    """The same, unit by unit, with ages that are counted and scanned.

    Args:
        size: Number of units.
        rate: Replacement rate.
        threshold: Maturity threshold.
        decay: Of the averages.
    """

    def __init__(self, size: int, rate: float, threshold: int, decay: float) -> None:
        self.rate, self.threshold, self.decay, self.owed = rate, threshold, decay, 0.0
        self.units = [{"age": 0, "u": 0.0, "f": 0.0} for _ in range(size)]

    def step(self, contribution: list[float], mean: list[float]) -> list[int]:
        for unit, value, output in zip(self.units, contribution, mean, strict=True):
            unit["age"] += 1
            unit["u"] = self.decay * unit["u"] + (1 - self.decay) * value
            unit["f"] = self.decay * unit["f"] + (1 - self.decay) * output
        mature = [i for i, unit in enumerate(self.units) if unit["age"] > self.threshold]
        self.owed += self.rate * len(mature)
        replaced = sorted(mature, key=lambda i: self.units[i]["u"] / (1 - self.decay ** self.units[i]["age"]))
        replaced = replaced[: int(self.owed)]
        self.owed -= len(replaced)
        for index in replaced:
            self.units[index] = {"age": 0, "u": 0.0, "f": 0.0}
        return replaced


def test_against_a_slow_loop():
    generator = torch.Generator().manual_seed(3)
    fast = UnitUtility(7, replacement_rate=0.06, maturity_threshold=4, decay=0.8)
    slow, events = Slow(7, 0.06, 4, 0.8), 0
    for _ in range(120):
        magnitude, mean, outgoing = torch.rand(3, 7, generator=generator)
        fast.observe(magnitude, mean, outgoing)
        assert fast.mature == int((fast.age() > 4).sum())
        units = fast.least_useful(fast.due)
        fast.renew(units)
        replaced = slow.step((magnitude * outgoing).tolist(), mean.tolist())
        assert units.tolist() == replaced
        events += len(replaced)
        for index, unit in enumerate(slow.units):
            assert int(fast.age()[index]) == unit["age"]
            if unit["age"]:
                assert math.isclose(
                    float(fast.mean_output()[index]), unit["f"] / (1 - 0.8 ** unit["age"]), rel_tol=1e-4
                )
    assert events > 30


def test_state_goes_on_where_it_stopped():
    generator = torch.Generator().manual_seed(3)
    options = {"replacement_rate": 0.06, "maturity_threshold": 4, "decay": 0.8}
    one, other = UnitUtility(7, **options), UnitUtility(7, **options)
    for update in range(60):
        given = torch.rand(3, 7, generator=generator)
        for utility in (one, other):
            utility.observe(*given)
            utility.renew(utility.least_useful(utility.due))
        if update == 30:
            other = UnitUtility(7, **options)
            state = one.state_dict()
            other.load_state_dict({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()})
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict())
