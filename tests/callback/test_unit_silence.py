"""Inter-firing times and how unusual a silence is: by hand, and against lists of times."""

from __future__ import annotations

import pytest
import torch

from plasticity_rl.callback.unit_silence import SilenceRecord


def observed(record: SilenceRecord, pattern: str) -> None:
    """Feed a record of one unit: ``1`` fires, ``.`` is silent."""
    for letter in pattern:
        record.observe(torch.tensor([letter == "1"]))


def test_inter_firing_times_by_hand():
    """Fires in updates 1, 2, 5 and 6: times 1, 1, 3, 1 (the first since the start); then silent for two."""
    record = SilenceRecord(1, longest=10)
    observed(record, "11..11..")
    assert record.counts[0, :5].tolist() == [0, 3, 0, 1, 0]
    assert record.silence.tolist() == [2]


def test_p_values_by_hand():
    """Times 1, 1, 3, 1. Silent for 0: (1 + 4) / 5; 1: all are >= 1; 2 and 3: (1 + 1) / 5; 4: (1 + 0) / 5."""
    record = SilenceRecord(1, longest=10)
    observed(record, "11..11")
    for silence, expected in enumerate([1.0, 1.0, 0.4, 0.4, 0.2]):
        assert record.silence.tolist() == [silence]
        assert float(record.p_values()) == pytest.approx(expected)
        observed(record, ".")


def test_suspicion_by_hand():
    """With eta 0.4 from a silence of 2 on, with eta 0.3 from 4 on, with eta 0 only at the longest, 6."""
    for eta, first in ((0.4, 2), (0.3, 4), (0.0, 6)):
        record = SilenceRecord(1, longest=6)
        observed(record, "11..11")
        seen = []
        for _ in range(8):
            seen.append(bool(record.suspicious(eta)))
            observed(record, ".")
        assert seen.index(True) == first
        assert all(seen[first:])


def test_a_unit_that_fires_is_never_suspicious():
    record = SilenceRecord(1, longest=5)
    observed(record, "1" * 50)
    assert not record.suspicious(0.99)


def test_a_short_record_proves_nothing():
    """After n times of 1, a silence of 2 has p = 1 / (n + 1): below 0.1 from nine times on."""
    for times, suspicious in ((8, False), (9, True)):
        record = SilenceRecord(1, longest=100)
        observed(record, "1" * times + "..")
        assert bool(record.suspicious(0.1)) is suspicious


def test_a_unit_that_never_fired_is_suspicious_at_the_longest():
    record = SilenceRecord(1, longest=3)
    for expected in (False, False, False, True, True):
        assert bool(record.suspicious(0.5)) is expected
        observed(record, ".")


def test_times_beyond_the_longest_count_as_long():
    """Times 5 and 7 with longest 4 are both counted at 4; a silence of 9 is compared with them."""
    record = SilenceRecord(1, longest=4)
    observed(record, "....1......1.........")
    assert record.counts[0].tolist() == [0, 0, 0, 0, 2]
    assert float(record.p_values()) == 1.0


def test_against_lists_of_times():
    generator = torch.Generator().manual_seed(0)
    rate = torch.tensor([1.0, 0.8, 0.3, 0.05, 0.0])
    record = SilenceRecord(5, longest=40)
    times: list[list[int]] = [[] for _ in rate]
    silence = [0] * 5
    for _ in range(300):
        fired = torch.rand(5, generator=generator) < rate
        record.observe(fired)
        for unit in range(5):
            silence[unit] += 1
            if fired[unit]:
                times[unit].append(min(silence[unit], 40))
                silence[unit] = 0
        p = [(1 + sum(t >= min(s, 40) for t in own)) / (1 + len(own)) for own, s in zip(times, silence, strict=True)]
        assert record.p_values().tolist() == pytest.approx(p)
        expected = [(s > 0 and value <= 0.1) or s >= 40 for value, s in zip(p, silence, strict=True)]
        assert record.suspicious(0.1).tolist() == expected


def test_forgetting_touches_the_unit_alone():
    record = SilenceRecord(3, longest=5)
    for fired in ([True, True, False], [False, True, False]):
        record.observe(torch.tensor(fired))
    before = record.counts.clone()
    record.forget(torch.tensor([0, 2]))
    assert record.silence.tolist() == [0, 0, 0]
    assert not record.counts[[0, 2]].any()
    assert torch.equal(record.counts[1], before[1])
