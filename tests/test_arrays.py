"""Formulas that serve NumPy's arrays and PyTorch's tensors: both give the same."""

import numpy as np
import pytest
import torch
from conftest import luma

import arrays
import pyramid


def both(function, *inputs):
    """Returns what a function gives for arrays and, as an array too, for tensors."""
    tensors = [torch.from_numpy(x) for x in inputs]
    found, other = function(*inputs), function(*tensors)
    assert isinstance(found, np.ndarray)
    assert isinstance(other, torch.Tensor)
    return found, other.numpy()


def planes(*shape, seed=0):
    return luma(*shape, seed=seed).double().numpy()


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (30, 41), (31, 40)])
def test_halves(shape):
    x = planes(2, 3, *shape)
    found, other = both(arrays.halve, x)
    np.testing.assert_allclose(found, other, rtol=1e-14)


@pytest.mark.parametrize("side", [1, 9, 17])
def test_local_means(side):
    found, other = both(lambda x: arrays.local_mean(x, side), planes(2, 3, 12, 31))
    np.testing.assert_allclose(found, other, atol=1e-13)


def test_softmax():
    found, other = both(arrays.softmax, 1000 * planes(2, 3, 4, 5))
    np.testing.assert_allclose(found, other, atol=1e-14)


@pytest.mark.parametrize("level", [0.2, 0.9])
def test_tilted_means(level):
    stack = level * planes(3, 1, 20, 30) * np.array([0.3, 0.6, 1]).reshape(3, 1, 1, 1)
    found, other = both(lambda x: pyramid.tilted_mean([x[:1], x[1:2], x[2:]]), stack)
    np.testing.assert_allclose(found, other, atol=1e-14)
