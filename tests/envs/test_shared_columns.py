"""Memory that processes share without a name."""

from __future__ import annotations

import os

import torch

from plasticity_rl.envs.shared_columns import SharedColumns

LAYOUT = {
    ("busy",): (torch.uint8, ()),
    ("next", "pixels"): (torch.uint8, (3, 5, 7)),
    ("next", "done"): (torch.bool, (1,)),
    ("next", "nothing"): (torch.float32, (0,)),
    ("action",): (torch.int64, (1,)),
}


def test_whoever_maps_the_file_sees_what_others_write():
    one = SharedColumns(LAYOUT, 3)
    assert {key: (c.dtype, tuple(c.shape)) for key, c in one.columns.items()} == {
        key: (dtype, (3, *shape)) for key, (dtype, shape) in LAYOUT.items()
    }
    assert not any(column.any() for column in one.columns.values())
    other = SharedColumns(LAYOUT, 3, os.dup(one.file))
    for number, column in enumerate(one.columns.values(), 1):
        column.fill_(number)
    for key, column in other.columns.items():
        assert torch.equal(column, one.columns[key]), key
    one.close_file()
    one.close_file()
    other.columns["action",][1] = -(2**40)
    assert one.columns["action",].flatten().tolist() == [5, -(2**40), 5]


def test_no_two_columns_lie_in_one_line_of_the_cache():
    columns = SharedColumns(LAYOUT, 3).columns
    starts = sorted(column.data_ptr() for column in columns.values() if column.numel())
    assert all(start % 64 == 0 for start in starts)
    assert len({start // 64 for start in starts}) == 4
