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


def test_a_loaded_state_continues():
    torch.manual_seed(0)
    models = [DeepFuse(width=4) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, other = (Muon(model.parameters(), lr=1e-3) for model in models)
    for step in range(4):
        gradients = [torch.randn_like(p) for p in models[0].parameters()]
        for model, rule in zip(models, (one, other), strict=True):
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            rule.step()
        if step == 1:
            loaded = Muon(models[1].parameters(), lr=1e-3)
            loaded.load_state_dict(other.state_dict())
            other = loaded
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_weights_without_a_gradient_stay():
    model = DeepFuse(width=4)
    before = [p.detach().clone() for p in model.parameters()]
    Muon(model.parameters(), lr=1.0).step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
