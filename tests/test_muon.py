"""Does Muon update kernels along orthogonal matrices, and everything else as Adam does?"""

import pytest
import torch

from model import DeepFuse
from muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 25), (40, 8), (8, 8)])
def test_orthogonal_keeps_directions_and_evens_out_their_lengths(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.logspace(0, -2, len(v))
    values = u.T @ orthogonal(u @ torch.diag(s) @ v) @ v.T
    assert 0.6 < values.diag().min() <= values.diag().max() < 1.3
    assert (values - torch.diag(values.diag())).abs().max() < 1e-4


def test_kernels_move_by_the_learning_rate_and_the_rest_by_adam():
    """An update's elements have a root mean square of a fifth of the learning rate."""
    torch.manual_seed(0)
    model, other = DeepFuse(), DeepFuse()
    other.load_state_dict(model.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    for network, rule in ((model, Muon), (other, torch.optim.Adam)):
        torch.manual_seed(1)
        for p in network.parameters():
            p.grad = torch.randn_like(p)
        rule(network.parameters(), lr=1e-3).step()
    for p, adams, start in zip(model.parameters(), other.parameters(), before, strict=True):
        if p.ndim == 4 and len(p) > 1:
            size = (p - start).square().mean().sqrt().item()
            assert size == pytest.approx(2e-4, rel=0.3)
        else:
            assert torch.equal(p, adams)


def test_a_repeated_gradient_has_momentum():
    kernel = torch.nn.Parameter(torch.zeros(2, 1, 1, 2))
    optimizer = Muon([kernel], lr=1.0)
    gradients = torch.tensor([[[1.0, 0], [0, 1]], [[-1, 0], [0, 1]]]).view(2, 2, 1, 1, 2)
    for gradient in gradients:
        kernel.grad = gradient.clone()
        optimizer.step()
    # Of the second gradients' sums with 0.95 of the first, one row has all but cancelled out.
    momentum = optimizer.state[kernel]["momentum"].flatten(1)
    assert torch.allclose(momentum, torch.tensor([[-0.05, 0], [0, 1.95]]))


def test_weights_without_a_gradient_stay():
    model = DeepFuse(width=4)
    before = [p.detach().clone() for p in model.parameters()]
    Muon(model.parameters(), lr=1.0).step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
