"""One step of training: its gradient, its noise, its learning rate, and what it leaves behind."""

import copy
import itertools
import math
import os
import signal

import pytest
import torch

import engine
import loss
from dataset import BracketedDataset, Draws, by_count
from engine import Descent, Learner, Schedule, StepLoss, TrainingError
from model import DeepFuse
from ranks import Processes, StopOnSignal

ENTRIES = ["model", "network", "trained", "optimizer", "scaler", "precision"]
STATE = ["epoch", "step", "loss_sum", "loss", "lr", "seconds", "val", "data"]


def make_learner(model=None, **settings):
    torch.manual_seed(0)
    dtype = settings.pop("dtype", torch.float32)
    model, criterion = model or DeepFuse(width=4), loss.MEF_SSIM_Loss()
    return Learner(model, criterion, Processes("cpu"), dtype, Descent(**settings))


def made_up_batches(count, seed=0):
    """Batches of two pairs and a stack of three: [(2, 2, 3, 48, 48), (1, 3, 3, 48, 48)] each."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 2, 3, 48, 48), (1, 3, 3, 48, 48)]
    return [[torch.rand(shape, generator=generator) for shape in shapes] for _ in range(count)]


def test_a_batch_of_pairs_and_stacks_is_one_step(brackets, tmp_path):
    """A step on the groups of a batch has the loss and the gradient of its samples' mean."""
    dataset = BracketedDataset(str(brackets), 48, cache=str(tmp_path), draws=Draws(stacks=0.5))
    samples = [dataset[item] for item in range(8)]
    groups = by_count(samples)
    assert [group.shape[1] for group in groups] == [2, 3]
    assert sum(map(len, groups)) == 8

    torch.manual_seed(0)
    model, criterion = DeepFuse(), loss.MEF_SSIM_Loss()
    losses = []
    for sample in samples:
        y_1, y_2, *more = sample[None, :, 0].split(1, dim=1)
        losses.append(criterion(y_1, y_2, model(y_1, y_2, *more), *more)[0])
    mean = sum(losses) / 8
    expected = torch.autograd.grad(mean, list(model.parameters()))
    learner = Learner(model, criterion, Processes("cpu"), descent=Descent(centred=False))
    learner.step(groups, Schedule(scenes=8, batch=8, epochs=1, lr=0.0))
    assert learner.state.loss_sum == pytest.approx(8 * mean.item(), abs=8e-6)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)


def test_a_step_does_not_draw_the_picture_y_hat(monkeypatch):
    """Which MEF_SSIM_Loss.forward returns besides the loss."""
    monkeypatch.delattr(loss, "y_hat")
    make_learner().step(made_up_batches(1)[0], Schedule(scenes=3, batch=3, epochs=1, lr=1e-3))


def test_noise_is_seen_by_the_network_and_not_by_the_loss():
    torch.manual_seed(0)
    stacks = [torch.full((40, 2, 3, 48, 48), 0.5), torch.full((3, 4, 3, 48, 48), 0.5)]
    assert engine.exposure_noise(stacks[0], 0.0) == 0
    noise = [engine.exposure_noise(stack, 0.1) for stack in stacks]
    assert [n.shape for n in noise] == [(40, 2, 48, 48), (3, 4, 48, 48)]
    deviations = noise[0].flatten(1).std(dim=1)
    assert 0 < deviations.min() < 0.02  # of 40 between 0 and 0.1
    assert 0.08 < deviations.max() < 0.105

    seen = []
    model = DeepFuse()
    model.register_forward_pre_hook(lambda _, lumas: seen.append(torch.cat(lumas, dim=1)))
    total = StepLoss(model, loss.MEF_SSIM_Loss(), torch.float32)(stacks, noise)
    total.backward()
    expected = 0.0
    for stack, n, network in zip(stacks, noise, list(seen), strict=True):
        assert torch.equal(network, stack[:, :, 0] + n)
        y_f = model(*network.split(1, dim=1))
        expected += loss.MEF_SSIM_Loss().sample_losses(y_f, stack[:, :, 0]).sum().item()
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_loss_power_weights_hard_samples():
    torch.manual_seed(0)
    stack = torch.rand(4, 2, 3, 48, 48) * torch.tensor([0.02, 0.2, 0.5, 1]).view(4, 1, 1, 1, 1)
    model, criterion = DeepFuse(width=4), loss.MEF_SSIM_Loss()
    plain = criterion.losses(model, stack, 0.0)
    total = StepLoss(model, criterion, torch.float32, power=2.0)([stack], [0.0])
    assert total.item() == pytest.approx((plain**2).sum().item(), rel=1e-5)


def test_a_loss_that_rounding_left_below_zero_has_a_gradient():
    """A power of a negative number is not a number, nor is its gradient."""

    class Rounded:
        def losses(self, network, stack, noise):
            return network(*stack[:, :, 0].split(1, dim=1)).mean(dim=(1, 2, 3)) * 0 - 1e-7

    model = DeepFuse(width=4)
    total = StepLoss(model, Rounded(), torch.float32, power=1.5)([torch.rand(2, 2, 3, 9, 9)], [0.0])
    total.backward()
    assert total.item() == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_process_without_samples_has_no_gradient():
    """It takes part in the step all the same."""
    model = DeepFuse(width=4)
    total = StepLoss(model, loss.MEF_SSIM_Loss(), torch.float32)([], [])
    total.backward()
    assert total.item() == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_learning_rate():
    schedule = Schedule(scenes=20, batch=2, epochs=11, lr=1.0, decay="cosine", warmup=10)
    rates = [schedule.learning_rate(step) for step in range(110)]
    assert rates[:10] == [(step + 1) / 10 for step in range(10)]
    assert rates[10] == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[109] == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)
    assert schedule._replace(decay="constant").learning_rate(109) == 1


def test_the_last_step_of_an_epoch_may_have_fewer_samples():
    schedule = Schedule(scenes=10, batch=4, epochs=3, lr=1.0)
    assert schedule.steps == 3
    assert [schedule.samples(step) for step in range(3)] == [4, 4, 2]
    assert Schedule(scenes=8, batch=4, epochs=3, lr=1.0).steps == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_learner_that_is_saved_and_loaded_goes_on_as_before(dtype):
    schedule = Schedule(scenes=12, batch=3, epochs=2, lr=1e-3, warmup=2)
    settings = {"dtype": dtype, "ema": 0.9, "noise": 0.02, "seed": 5}
    batches = made_up_batches(4)
    one = make_learner(**settings)
    assert list(one.state_dict()) == ENTRIES + STATE
    for batch in batches[:2]:
        one.step(batch, schedule)
    saved = copy.deepcopy(one.state_dict())  # as a file is: it shares no tensors
    other = make_learner(DeepFuse(width=4), **settings)
    other.load_state_dict(saved)
    assert other.state == one.state
    assert other.state.step == 2
    for batch in batches[2:]:
        one.step(batch, schedule)
        other.step(batch, schedule)
    assert one.state.loss_sum == other.state.loss_sum
    for name in ("model", "trained"):
        pairs = zip(one.state_dict()[name].values(), other.state_dict()[name].values(), strict=True)
        assert all(itertools.starmap(torch.equal, pairs)), name


def test_what_does_not_fit_a_learner_is_refused():
    saved = make_learner().state_dict()
    for key, value in [("optimizer", {}), ("trained", {}), ("epoch", None)]:
        broken = {**saved, key: value}
        if value is None:
            del broken[key]
        with pytest.raises((KeyError, ValueError, RuntimeError)):
            make_learner().load_state_dict(broken)


def test_weights_that_are_not_finite_stop_training():
    schedule = Schedule(scenes=9, batch=3, epochs=1, lr=1e30)
    learner = make_learner()
    batches = made_up_batches(2)
    learner.step(batches[0], schedule)
    with pytest.raises(TrainingError, match=r"epoch 1, step 2: the loss is .*a lower --lr"):
        learner.step(batches[1], schedule)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_step_stops_after_it(number):
    schedule = Schedule(scenes=9, batch=3, epochs=1, lr=1e-3)
    learner = make_learner()
    batch = made_up_batches(1)[0]
    with StopOnSignal() as stop:
        assert not learner.step(batch, schedule, stop)
        learner.optimizer.register_step_pre_hook(lambda *_: os.kill(os.getpid(), number))
        assert learner.step(batch, schedule, stop)
    assert learner.state.step == 2
