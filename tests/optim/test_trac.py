"""TRAC's optimizer: a step by hand, a run against the paper written out, and weights that are edited in between."""

from __future__ import annotations

import copy
import math

import pytest
import scipy.special
import torch
from torch import nn

from plasticity_rl.optim.trac import ScaledFromReference, erfi, tuned
from plasticity_rl.surgery import clear_elements, clear_state

DISCOUNTS = (0.9, 0.99, 0.999)


def trac(parameters, lr=0.1, first_scale=0.5, base=torch.optim.Adam, **options) -> ScaledFromReference:
    return ScaledFromReference(
        base(parameters, lr=lr, **options), discounts=DISCOUNTS, first_scale=first_scale, eps=1e-8
    )


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.3, 1 / math.sqrt(2), 1.0, -2.5, 7.0, 15.0, 26.0])
def test_erfi_is_that_of_scipy(x):
    found = float(erfi(torch.tensor(x, dtype=torch.float64)))
    assert found == pytest.approx(float(scipy.special.erfi(x)), rel=1e-11)


def test_erfi_overflows_without_nan():
    assert erfi(torch.tensor([27.0, -27.0], dtype=torch.float64)).tolist() == [math.inf, -math.inf]


def test_a_tuner_by_hand():
    """Sums 1 and squares 2 with discount 0.5, h = -1: 1.5 over sqrt(2 * 1.5)."""
    start = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in {"sums": [1.0], "squares": [2.0]}.items()
    }
    found = tuned(start, torch.tensor(-1.0, dtype=torch.float64), (0.5,), 0.1, 0.0)
    assert found["sums"].tolist() == [1.5]
    assert found["squares"].tolist() == [1.5]
    expected = 0.1 * scipy.special.erfi(1.5 / math.sqrt(3.0)) / scipy.special.erfi(1 / math.sqrt(2))
    assert float(found["scale"]) == pytest.approx(expected, rel=1e-12)
    falling = tuned(start, torch.tensor(9.0, dtype=torch.float64), (0.5,), 0.1, 0.0)
    assert float(falling["scale"]) == 0.0, "never below zero"


def test_a_first_step_by_hand():
    """Gradient descent at lr 1: the displacement is -g, the scale that of sums at their beginning, discounted."""
    p = nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = ScaledFromReference(torch.optim.SGD([p], lr=1.0), discounts=(0.5,), first_scale=0.1, eps=1e-8)
    p.grad = torch.tensor([3.0, -4.0])
    optimizer.step()
    scale = 0.1 * scipy.special.erfi(0.5) / scipy.special.erfi(1 / math.sqrt(2))  # 0.5e-8 / (0 + 1e-8)
    assert p.tolist() == pytest.approx([2.0 - 3.0 * scale, -1.0 + 4.0 * scale], rel=1e-6)
    assert optimizer.state[p]["displacement"].tolist() == [-3.0, 4.0]


class WrittenOut:
    """The paper's algorithm in float64, with an Adam of its own that knows nothing of scales."""

    def __init__(self, values: list[torch.Tensor], lr: float, first_scale: float) -> None:
        self.reference = [v.double().clone() for v in values]
        self.base = [nn.Parameter(v.clone()) for v in self.reference]
        self.adam = torch.optim.Adam(self.base, lr=lr)
        self.first_scale = first_scale
        self.sums, self.squares, self.scale = [1e-8] * 3, [0.0] * 3, 0.0

    def values(self) -> list[torch.Tensor]:
        return [r + self.scale * (b.detach() - r) for r, b in zip(self.reference, self.base, strict=True)]

    def step(self, gradients: list[torch.Tensor]) -> None:
        pairs = zip(gradients, self.base, self.reference, strict=True)
        h = sum(float((g.double() * (b.detach() - r)).sum()) for g, b, r in pairs)
        for b, g in zip(self.base, gradients, strict=True):
            b.grad = g.double()
        self.adam.step()
        self.scale = 0.0
        for j, beta in enumerate(DISCOUNTS):
            self.sums[j] = beta * self.sums[j] - h
            self.squares[j] = beta**2 * self.squares[j] + h * h
            x = self.sums[j] / (math.sqrt(2) * math.sqrt(self.squares[j]) + 1e-8)
            self.scale += self.first_scale * scipy.special.erfi(x) / scipy.special.erfi(1 / math.sqrt(2))
        self.scale = max(self.scale, 0.0)


def gradients(shapes, steps: int, seed: int = 0):
    """Around a direction that turns at half time, so that the scale grows and falls."""
    generator = torch.Generator().manual_seed(seed)
    mean = [torch.randn(s, generator=generator) for s in shapes]
    for step in range(steps):
        sign = 1.0 if step < steps // 2 else -1.0
        yield [sign * m + 0.5 * torch.randn(m.shape, generator=generator) for m in mean]


def test_a_run_is_that_of_the_paper_written_out():
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 3), (4,), ()]
    start = [torch.randn(s, generator=generator) for s in shapes]
    parameters = [nn.Parameter(v.clone()) for v in start]
    optimizer, slow = trac(parameters, lr=0.01, first_scale=1e-3), WrittenOut(start, 0.01, 1e-3)
    scales = []
    for step in gradients(shapes, 40):
        for p, g in zip(parameters, step, strict=True):
            p.grad = g
        optimizer.step()
        slow.step(step)
        scales.append(slow.scale)
        for p, value in zip(parameters, slow.values(), strict=True):
            torch.testing.assert_close(p.detach(), value.float(), rtol=1e-4, atol=1e-6)
        assert float(optimizer.param_groups[0]["scale"]) == pytest.approx(slow.scale, rel=1e-3, abs=1e-9)
    assert max(scales) > 5 * scales[0]
    assert scales[-1] < 0.5 * max(scales)


def walked(steps: int = 12, **options):
    p, q = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))
    optimizer = trac([p, q], **{"first_scale": 0.01, **options})
    for step in [*gradients([(3, 2), (3,)], 2 * steps, seed=2)][:steps]:  # before it turns
        p.grad, q.grad = step
        optimizer.step()
    return optimizer, p, q


def next_step(optimizer, *parameters) -> None:
    for i, p in enumerate(parameters):
        p.grad = torch.full_like(p, 1e-3 * (i + 1))
    optimizer.step()


def test_weights_that_were_edited_stay_edited():
    """A step that follows moves every edited element by no more than it moves the others."""
    plain, edited = walked(), walked()
    with torch.no_grad():
        edited[1][0] = 100.0
        edited[1][1, 1] *= 0.25
    before = [one[1].detach().clone() for one in (plain, edited)]
    for one in (plain, edited):
        next_step(*one)
    torch.testing.assert_close(edited[1].detach() - before[1], plain[1].detach() - before[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(edited[1][2], plain[1][2]), "what was not edited goes on bit for bit"


def test_a_reset_of_everything_begins_a_run_anew():
    optimizer, p, q = walked()
    assert float(optimizer.param_groups[0]["scale"]) > 0
    with torch.no_grad():
        p.fill_(-2.0)
        q.fill_(0.5)
    clear_state(optimizer, [p, q])
    fresh_p, fresh_q = nn.Parameter(p.detach().clone()), nn.Parameter(q.detach().clone())
    fresh = trac([fresh_p, fresh_q], first_scale=0.01)
    for _ in range(5):
        next_step(optimizer, p, q)
        next_step(fresh, fresh_p, fresh_q)
        assert torch.equal(p, fresh_p)
        assert torch.equal(q, fresh_q)


def test_a_reset_of_a_part_leaves_the_scale():
    optimizer, p, q = walked()
    scale = float(optimizer.param_groups[0]["scale"])
    with torch.no_grad():
        p.fill_(-2.0)
    clear_state(optimizer, [p])
    displacement = optimizer.state[q]["displacement"].clone()
    next_step(optimizer, p, q)
    assert float(optimizer.param_groups[0]["scale"]) == pytest.approx(scale, rel=0.3)
    assert (p + 2.0).abs().max() < 0.2 * float(optimizer.param_groups[0]["scale"])
    assert torch.equal(optimizer.state[p]["reference"], torch.full_like(p, -2.0))
    assert not torch.equal(optimizer.state[q]["displacement"], displacement)


def test_single_elements_begin_again_where_they_are():
    optimizer, p, q = walked()
    mask = torch.tensor([[True], [False], [False]])
    with torch.no_grad():
        p[0] = 0.0
    clear_elements(optimizer, p, mask)
    kept = optimizer.state[p]["reference"][1:].clone()
    next_step(optimizer, p, q)
    state = optimizer.state[p]
    assert not state["reference"][0].any()
    assert torch.equal(state["reference"][1:], kept)
    assert 0 < float(p[0].abs().max()) < 0.5


@pytest.mark.parametrize("what", ["both", "moments", "step"])
def test_clearing_state_alone_moves_no_weight_far(what):
    optimizer, p, q = walked()
    clear_state(optimizer, [p, q], what)
    before = p.detach().clone()
    next_step(optimizer, p, q)
    assert (p.detach() - before).abs().max() < 0.5


def test_what_has_no_gradient_stays():
    optimizer, p, q = walked()
    before, p.grad = p.detach().clone(), None
    for _ in range(3):
        q.grad = torch.ones_like(q)
        optimizer.step()
    assert torch.equal(p, before)
    next_step(optimizer, p, q)
    assert (p.detach() - before).abs().max() < 0.5, "it goes on from where it is, at another scale"


def test_it_goes_on_from_its_state_and_as_a_copy():
    optimizer, p, q = walked()
    other = nn.Parameter(p.detach().clone()), nn.Parameter(q.detach().clone())
    restored = trac([*other], first_scale=0.01)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied, twin_p, twin_q = copy.deepcopy((optimizer, p, q))
    for _ in range(4):
        for one in ((optimizer, p, q), (restored, *other), (copied, twin_p, twin_q)):
            next_step(*one)
    for found in (other, (twin_p, twin_q)):
        assert torch.equal(found[0], p)
        assert torch.equal(found[1], q)
