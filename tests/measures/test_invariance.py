"""What must not change a measure: order, rotation, scale, duplication. On inputs that hypothesis chooses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from plasticity_rl.measures import (
    any_input_rate,
    approximate_rank,
    condition_number,
    cosine_similarities,
    discounted_return,
    distance,
    dormancy_scores,
    dormant_mask,
    effective_rank,
    feature_rank,
    fraction_active_units,
    gradient_dormancy_scores,
    gram_matrix,
    interference,
    l0_norm,
    l1_norm,
    l2_norm,
    linearized_rate,
    loss_after_training,
    mean_absolute,
    mean_absolute_difference,
    mean_rate,
    overlap_coefficient,
    random_targets,
    spread,
    srank,
    stable_rank,
    top_eigenvalue,
)

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
RANKS = [srank, approximate_rank, feature_rank, effective_rank, stable_rank]
RELATIVE_RANKS = [srank, approximate_rank, effective_rank, stable_rank]
SEEDS = st.integers(0, 2**31)
SCALES = st.sampled_from([1e-3, 0.5, 7.0, 1e4])


@st.composite
def matrices(draw, least: int = 1, most: int = 7) -> Tensor:
    """Small float64 matrices of quarters: shapes, zeros and ties vary, rounding does not matter."""
    shape = draw(st.tuples(st.integers(least, most), st.integers(1, most)))
    quarters = draw(npst.arrays(np.int64, shape, elements=st.integers(-12, 12)))
    return torch.from_numpy(quarters / 4.0)


@st.composite
def activations(draw) -> Tensor:
    """Outputs behind a ReLU, of a hidden layer or of a convolution, with units that are always and never on."""
    shape = draw(st.sampled_from([(4, 5), (1, 3), (6, 1), (3, 4, 2, 2), (2, 3, 1, 3)]))
    quarters = draw(npst.arrays(np.int64, shape, elements=st.integers(-6, 12)))
    return torch.from_numpy(np.maximum(quarters / 4.0, 0.0))


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.from_numpy(scipy.stats.ortho_group.rvs(size, random_state=seed) if size > 1 else np.array([[-1.0]]))


def permutation(size: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(size))


# ---- ranks -----------------------------------------------------------------------------------------------------------


def by_scipy(matrix: Tensor) -> dict[str, float]:
    """All five ranks from scipy's singular values, by their definitions."""
    s = scipy.linalg.svdvals(matrix.numpy())
    if not s.any():
        return dict.fromkeys((rank.__name__ for rank in RANKS), 0.0)
    shares, squares, slack = np.cumsum(s) / s.sum(), np.cumsum(s**2) / (s**2).sum(), 1e-9
    return {
        "srank": 1.0 + np.argmax(shares >= 0.99 - slack),
        "approximate_rank": 1.0 + np.argmax(squares >= 0.99 - slack),
        "feature_rank": float((s / math.sqrt(len(matrix)) > 0.01).sum()),
        "effective_rank": float(np.exp(scipy.stats.entropy(s))),
        "stable_rank": float(np.linalg.norm(matrix.numpy()) ** 2 / np.linalg.norm(matrix.numpy(), 2) ** 2),
    }


@quick
@given(matrices())
def test_ranks_agree_with_scipy_and_lie_between_zero_and_the_smaller_side(matrix):
    expected = by_scipy(matrix)
    for rank in RANKS:
        assert rank(matrix) == pytest.approx(expected[rank.__name__], rel=1e-6)
        assert 0 <= rank(matrix) <= min(matrix.shape) + 1e-9
    if bool(matrix.any()):
        assert min(rank(matrix) for rank in RELATIVE_RANKS) >= 1 - 1e-9
        assert stable_rank(matrix) <= effective_rank(matrix) ** 2 + 1e-9


@quick
@given(matrices(), SEEDS)
def test_ranks_do_not_depend_on_the_order_of_inputs_and_units_nor_on_rotations(matrix, seed):
    rows, columns = matrix.shape
    shuffled = matrix[permutation(rows, seed)][:, permutation(columns, seed)]
    rotated = orthogonal(rows, seed) @ matrix @ orthogonal(columns, seed)
    for rank in RANKS:
        assert rank(shuffled) == pytest.approx(rank(matrix), rel=1e-6)
    for rank in (effective_rank, stable_rank):  # counts may jump where a rotation's rounding meets the threshold
        assert rank(rotated) == pytest.approx(rank(matrix), rel=1e-4)


@quick
@given(matrices(), SCALES)
def test_relative_ranks_do_not_depend_on_scale_and_the_feature_rank_grows_with_it(matrix, scale):
    for rank in RELATIVE_RANKS:
        assert rank(matrix * scale) == pytest.approx(rank(matrix), rel=1e-6)
    for divide in (True, False):
        assert (feature_rank(matrix * scale, divide=divide) - feature_rank(matrix, divide=divide)) * (scale - 1) >= 0
    assert feature_rank(matrix, divide=False) == float((scipy.linalg.svdvals(matrix.numpy()) > 0.01).sum())


@quick
@given(matrices())
def test_every_rank_stays_when_all_inputs_are_seen_twice_and_units_without_output_are_added(matrix):
    twice = torch.cat([matrix, matrix])
    wider = torch.cat([matrix, torch.zeros(len(matrix), 3)], 1)
    for rank in RANKS:
        assert rank(twice) == pytest.approx(rank(matrix), rel=1e-6)
        assert rank(wider) == pytest.approx(rank(matrix), rel=1e-6)


# ---- hidden units ----------------------------------------------------------------------------------------------------


def units_of(activation: Tensor) -> np.ndarray:
    """``(units, inputs and positions)`` by plain loops."""
    array = activation.numpy()
    return np.array([[v for item in array for v in np.ravel(item[unit])] for unit in range(array.shape[1])])


@quick
@given(activations(), st.sampled_from([0.0, 0.025, 0.1, 1.0]))
def test_unit_measures_agree_with_numpy(activation, tau):
    units = units_of(activation)
    mean = np.abs(units).mean(axis=1)
    score = mean / (mean.mean() + 1e-9)
    assert dormancy_scores(activation).numpy() == pytest.approx(score, rel=1e-5)
    assume(np.abs(score - tau)[score > 0].min(initial=1.0) > 1e-6)
    assert dormant_mask(activation, tau).tolist() == (score <= tau).tolist()
    on = units > 0
    assert float(fraction_active_units([activation])) == pytest.approx(on.mean())
    assert float(any_input_rate([activation])) == pytest.approx(on.any(axis=1).mean())
    assert float(linearized_rate([activation])) == pytest.approx(on.all(axis=1).mean())
    assert float(mean_rate([activation], 0.4)) == pytest.approx((on.mean(axis=1) > 0.4).mean())
    gradient = mean / mean.mean() if mean.any() else mean
    assert gradient_dormancy_scores(-activation).numpy() == pytest.approx(gradient)


@quick
@given(activations(), SEEDS, SCALES)
def test_unit_measures_do_not_depend_on_scale_nor_on_the_order_of_the_inputs(activation, seed, scale):
    other = activation[permutation(len(activation), seed)] * scale
    for measure in (fraction_active_units, any_input_rate, linearized_rate, lambda h: mean_rate(h, 0.3)):
        assert float(measure([other])) == pytest.approx(float(measure([activation])))
    assert dormancy_scores(other).numpy() == pytest.approx(dormancy_scores(activation).numpy(), rel=1e-4, abs=1e-5)
    assert gradient_dormancy_scores(other).numpy() == pytest.approx(gradient_dormancy_scores(activation).numpy())


@quick
@given(activations(), SEEDS)
def test_scores_move_with_their_units_and_shares_stay(activation, seed):
    order = permutation(activation.shape[1], seed)
    other = activation[:, order]
    assert dormancy_scores(other).numpy() == pytest.approx(dormancy_scores(activation)[order].numpy(), rel=1e-5)
    assert float(any_input_rate([other])) == float(any_input_rate([activation]))
    assert float(linearized_rate([other])) == float(linearized_rate([activation]))


@quick
@given(activations())
def test_linearized_units_are_active_and_active_ones_are_not_dormant(activation):
    linearized, active = float(linearized_rate([activation])), float(any_input_rate([activation]))
    rate = float(fraction_active_units([activation]))
    assert linearized - 1e-6 <= rate <= active + 1e-6
    assert active == pytest.approx(1 - float(dormant_mask(activation, 0.0).float().mean()))


@quick
@given(npst.arrays(np.bool_, 9), npst.arrays(np.bool_, 9), SEEDS)
def test_overlap_is_that_of_python_sets(one, other, seed):
    first, second = ({i for i, on in enumerate(mask) if on} for mask in (one, other))
    expected = len(first & second) / min(len(first), len(second)) if first and second else 0.0
    a, b, order = torch.from_numpy(one), torch.from_numpy(other), permutation(9, seed)
    assert float(overlap_coefficient(a, b)) == pytest.approx(expected)
    assert float(overlap_coefficient(b, a)) == float(overlap_coefficient(a[order], b[order])) == pytest.approx(expected)
    assert float(overlap_coefficient(a, a)) == (1.0 if first else 0.0)
    assert float(overlap_coefficient(a, ~a)) == 0.0


# ---- weights and gradients -------------------------------------------------------------------------------------------


@quick
@given(matrices(), SEEDS, SCALES)
def test_norms_scale_and_do_not_depend_on_how_entries_are_split(matrix, seed, scale):
    flat = matrix.flatten()[permutation(matrix.numel(), seed)]
    pieces = [flat[: len(flat) // 2], flat[len(flat) // 2 :]]
    for norm, order in ((l0_norm, 0), (l1_norm, 1), (l2_norm, 2)):
        expected = np.linalg.norm(matrix.numpy().ravel(), order)
        assert float(norm([matrix])) == pytest.approx(expected)
        assert float(norm(pieces)) == pytest.approx(expected)
        assert float(norm([-matrix * scale])) == pytest.approx(expected * (scale if order else 1))


@quick
@given(matrices(), SEEDS)
def test_distance_is_a_metric(matrix, seed):
    rng = np.random.default_rng(seed)
    other, third = (torch.from_numpy(rng.normal(size=tuple(matrix.shape))) for _ in range(2))
    assert float(distance([matrix], [matrix])) == 0.0
    assert float(distance([matrix], [other])) == pytest.approx(float(distance([other], [matrix])))
    assert float(distance([matrix], [other])) == pytest.approx(np.linalg.norm(matrix.numpy() - other.numpy()))
    detour = float(distance([matrix], [third])) + float(distance([third], [other]))
    assert float(distance([matrix], [other])) <= detour + 1e-9


@quick
@given(matrices(least=2), SEEDS, SCALES)
def test_interference_does_not_depend_on_rotation_order_and_length_of_the_gradients(gradients, seed, scale):
    assume(bool((gradients.abs().sum(1) > 0).all()))
    lengths = torch.rand(len(gradients), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    other = (gradients * lengths * scale)[permutation(len(gradients), seed)]
    cosines = cosine_similarities(gram_matrix(gradients))
    assert float(cosines.abs().max()) <= 1.0
    one, two = interference(gram_matrix(gradients)), interference(gram_matrix(other))
    assert two.mean_cosine == pytest.approx(one.mean_cosine, abs=1e-6)
    rotated = cosine_similarities(gram_matrix(gradients @ orthogonal(gradients.shape[1], seed)))
    assert rotated.numpy() == pytest.approx(cosines.numpy(), abs=1e-6)
    # Cosines that are 0 exactly may round to either side; those that are clearly negative stay negative.
    clearly = float((cosines.triu(1) < -1e-6).sum()) / (len(gradients) * (len(gradients) - 1) / 2)
    assert min(one.negative_fraction, two.negative_fraction) >= clearly - 1e-9


@quick
@given(matrices(), SEEDS, SCALES)
def test_condition_numbers_do_not_depend_on_scale_order_and_rotation(rows, seed, scale):
    kernel = gram_matrix(rows)
    expected = np.linalg.cond(kernel.numpy())
    assume(expected < 1e8 or np.linalg.matrix_rank(rows.numpy()) < len(rows))
    expected = expected if expected < 1e8 else math.inf
    order = permutation(len(rows), seed)
    assert condition_number(kernel) == pytest.approx(expected, rel=1e-4) or condition_number(kernel) > 1e12
    for other in (kernel * scale, kernel[order][:, order]):
        same = condition_number(other) == pytest.approx(condition_number(kernel), rel=1e-4)
        assert same or min(condition_number(other), condition_number(kernel)) > 1e12


@quick
@given(matrices(least=2), SEEDS, SCALES)
def test_top_eigenvalues_scale_do_not_depend_on_rotation_and_agree_with_scipy(matrix, seed, scale):
    """Of a Gram matrix, whose gap is made wide enough to converge in 200 products."""
    gram = matrix.T @ matrix + torch.diag(torch.tensor([50.0] + [0.0] * (matrix.shape[1] - 1)))
    values = scipy.linalg.eigvalsh(gram.numpy())
    assume(len(values) == 1 or values[-2] < 0.9 * values[-1])
    start = torch.from_numpy(np.random.default_rng(seed).normal(size=len(values)))
    rotation = orthogonal(len(values), seed)
    for symmetric, factor in ((gram, 1.0), (gram * scale, scale), (-gram, -1.0), (rotation @ gram @ rotation.T, 1.0)):
        found = top_eigenvalue(lambda v, symmetric=symmetric: symmetric @ v, start, 200)
        assert found.value == pytest.approx(values[-1] * factor, rel=1e-5)
        assert 0 <= found.residual <= 1e-3 * abs(found.value)


@quick
@given(matrices(least=2), SEEDS, st.floats(-5, 5))
def test_random_targets_agree_with_numpy_and_move_with_their_offset(outputs, seed, shift):
    offset = torch.from_numpy(np.random.default_rng(seed).normal(size=outputs.shape[1]))
    expected = offset.numpy() + np.sin(1e5 * outputs.numpy())
    assert random_targets(outputs, offset).numpy() == pytest.approx(expected, abs=1e-6)
    moved = random_targets(outputs, offset + shift) - random_targets(outputs, offset)
    assert moved.numpy() == pytest.approx(np.full(outputs.shape, shift), abs=1e-9)


def adam_by_numpy(inputs, targets, weight, steps: int, rate: float) -> float:
    """Full-batch Adam on a linear map, by the paper's algorithm; returns the error over the targets' variance."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, steps + 1):
        gradient = 2 * inputs.T @ (inputs @ weight - targets) / targets.size
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight = weight - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return ((inputs @ weight - targets) ** 2).mean() / targets.var(axis=0).mean()


@quick
@given(matrices(least=2), SEEDS, st.integers(0, 6))
def test_training_agrees_with_numpy_and_does_not_depend_on_the_order_of_the_inputs(inputs, seed, steps):
    rng = np.random.default_rng(seed)
    targets, weight = rng.normal(size=(len(inputs), 2)), rng.normal(size=(inputs.shape[1], 2))
    expected = adam_by_numpy(inputs.numpy(), targets, weight, steps, rate=0.1)
    for order in (torch.arange(len(inputs)), permutation(len(inputs), seed)):
        found = loss_after_training(
            lambda weights, order=order: inputs[order] @ weights["w"],
            {"w": torch.from_numpy(weight)},
            torch.from_numpy(targets)[order],
            num_steps=steps,
            learning_rate=0.1,
        )
        assert float(found) == pytest.approx(expected, rel=1e-6)


# ---- outputs and returns ---------------------------------------------------------------------------------------------


@quick
@given(matrices(), SEEDS, SCALES, st.floats(-5, 5))
def test_sizes_and_changes_of_outputs(outputs, seed, scale, shift):
    order = permutation(len(outputs), seed)
    other = torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(outputs.shape)))
    assert float(mean_absolute(-outputs[order] * scale)) == pytest.approx(float(mean_absolute(outputs)) * scale)
    assert float(spread(outputs[order] * scale + shift)) == pytest.approx(float(spread(outputs)) * scale, abs=1e-6)
    assert float(spread(outputs)) == pytest.approx(np.std(outputs.numpy()))
    change = float(mean_absolute_difference(outputs, other))
    assert float(mean_absolute_difference(other[order] + shift, outputs[order] + shift)) == pytest.approx(change)
    assert float(mean_absolute_difference(outputs, outputs)) == 0.0


@quick
@given(st.lists(st.floats(-10, 10), max_size=30), st.floats(0, 1))
def test_returns_follow_the_bellman_equation(rewards, discount):
    expected = sum(reward * discount**t for t, reward in enumerate(rewards))
    assert discounted_return(rewards, discount) == pytest.approx(expected, abs=1e-9)
    for first, rest in [(rewards[0], rewards[1:])] if rewards else []:
        assert discounted_return(rewards, discount) == pytest.approx(
            first + discount * discounted_return(rest, discount), abs=1e-9
        )
