from __future__ import annotations

import math

import pytest
import torch

from plasticity_rl.callback.contrastive import BilinearProduct, info_nce, move_towards


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_info_nce(queries, keys, weight, first=0) -> float:
    total = 0.0
    for i in range(len(queries)):
        scores = []
        for j in range(len(keys)):
            score = 0.0
            for a in range(weight.shape[0]):
                for b in range(weight.shape[1]):
                    score += float(queries[i, a]) * float(weight[a, b]) * float(keys[j, b])
            scores.append(score)
        total += math.log(sum(math.exp(score) for score in scores)) - scores[first + i]
    return total / len(queries)


def test_a_case_by_hand():
    """q = (1, 0), (0, 2); k = (1, 1), (0, 1); W = [[1, 2], [0, 3]]; logits q W k^T = [[3, 2], [6, 6]].

    Rows: -log(e^3 / (e^3 + e^2)) = log(1 + 1/e) = 0.313262, and log 2 = 0.693147; mean 0.503204.
    """
    queries, keys = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    weight = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    assert float(info_nce(queries, keys, weight)) == pytest.approx(0.503204, abs=1e-6)
    # W transposed is another product, [[1, 0], [10, 6]]: the mean of log(1 + 1/e) and log(1 + e^4) = 4.018150
    assert float(info_nce(queries, keys, weight.T)) == pytest.approx(2.165706, abs=1e-6)


@pytest.mark.parametrize("first", [0, 3])
def test_it_equals_two_loops(first):
    queries, keys = torch.randn(4, 5, generator=generator()), torch.randn(7, 5, generator=generator(1))
    weight = torch.rand(5, 5, generator=generator(2))
    expected = slow_info_nce(queries, keys, weight, first)
    assert float(info_nce(queries, keys, weight, first)) == pytest.approx(expected, rel=1e-5)


def test_equal_keys_cannot_be_told_apart():
    queries, weight = torch.randn(6, 3, generator=generator()), torch.rand(3, 3, generator=generator(1))
    assert float(info_nce(queries, torch.ones(6, 3), weight)) == pytest.approx(math.log(6), rel=1e-6)


def test_one_pair_has_no_negatives():
    assert float(info_nce(torch.ones(1, 3), torch.ones(1, 3), torch.ones(3, 3))) == 0.0


def test_huge_products_stay_finite():
    queries = (1e4 * torch.randn(4, 3, generator=generator())).requires_grad_()
    loss = info_nce(queries, 1e4 * torch.randn(4, 3, generator=generator(1)), torch.ones(3, 3))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert torch.isfinite(queries.grad).all()


def test_gradient_descent_tells_the_pairs_apart():
    keys = torch.randn(8, 4, generator=generator())
    queries, product = torch.randn(8, 4, generator=generator(1)).requires_grad_(), BilinearProduct(4, generator(2))
    optimizer = torch.optim.Adam([queries, *product.parameters()], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = info_nce(queries, keys, product.weight)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05 < math.log(8)


def test_the_product_starts_uniform_in_0_1_from_its_generator_alone():
    before = torch.get_rng_state()
    weight = BilinearProduct(50, generator()).weight.detach()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weight, BilinearProduct(50, generator()).weight)
    assert 0 <= float(weight.min()) < 0.01
    assert 0.99 < float(weight.max()) < 1
    assert float(weight.mean()) == pytest.approx(0.5, abs=0.03)  # deviation of the mean 0.29 / 50 = 0.006


def test_the_moving_average_has_its_closed_form():
    """average_k = (1 - tau)^k a_0 + tau sum_i (1 - tau)^(k - i) v_i."""
    start, values = torch.tensor([1.0, -2.0]), [torch.tensor([float(i), 3.0 - i]) for i in range(1, 6)]
    average = {"w": start.clone()}
    identity = average["w"]
    for value in values:
        move_towards(average, {"w": value, "unused": value}, 0.2)
    expected = 0.8**5 * start + sum(0.2 * 0.8 ** (5 - i) * value for i, value in enumerate(values, start=1))
    torch.testing.assert_close(average["w"], expected)
    assert average["w"] is identity
    assert torch.equal(values[-1], torch.tensor([5.0, -2.0]))
