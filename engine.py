"""How does one step run, in one process or several?"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from checkpoint import State
from model import (
    BetweenNetwork,
    DeepFuse,
    convolution_of,
    is_finite,
)
from muon import Muon
from precision import type_name
from ranks import Processes, StopOnSignal

OPTIMIZERS = {"adam": torch.optim.Adam, "muon": Muon}


class TrainingError(Exception):
    """Training cannot go on; the message says why."""


class Schedule(NamedTuple):
    """The steps of a run and their learning rates.

    scenes: samples in an epoch. batch: samples in a step, of all processes together. epochs: epochs
    in the run. lr: the highest learning rate. decay: "cosine" or "constant". warmup: steps in which
    the learning rate rises from 0.
    """

    scenes: int
    batch: int
    epochs: int
    lr: float
    decay: str = "cosine"
    warmup: int = 0

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return math.ceil(self.scenes / self.batch)

    def samples(self, step: int) -> int:
        """Returns the number of samples in a step of an epoch; the last step may have fewer."""
        return min(self.batch, self.scenes - step * self.batch)

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of a step; the run's first step is 0.

        A linear warm-up to lr, then lr or, for "cosine", a half cosine down to 0.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.lr
        progress = (step - self.warmup) / max(1, self.epochs * self.steps - self.warmup)
        return self.lr * (1 + math.cos(math.pi * progress)) / 2


class Criterion(Protocol):
    """A loss that training can use: loss.MEF_SSIM_Loss or loss.BetweenLoss."""

    def losses(
        self, network: Callable[..., Any], stack: torch.Tensor, noise: torch.Tensor | float
    ) -> torch.Tensor:
        """Returns (N,) losses of a network on exposures (N, K, 3, H, W), seen with noise."""


class Descent(NamedTuple):
    """The way in which a loss is brought down.

    ema: decay of the weights' average. noise: see exposure_noise. power: see StepLoss. optimizer: a
    name in OPTIMIZERS. centred: see centre; a BetweenNetwork is not. seed: a step's random numbers
    depend on (seed, step, rank) alone.
    """

    ema: float = 0.0
    noise: float = 0.0
    power: float = 1.0
    optimizer: str = "adam"
    centred: bool = True
    seed: int = 0


PLAIN_DESCENT = Descent()


class Learner:
    """Everything that training changes, and a step of training.

    model: the network. average: the average of its weights. optimizer, scaler: Adam or Muon, and
    the scaling of float16 gradients. state: the progress, a checkpoint.State.
    """

    def __init__(
        self,
        model: DeepFuse | BetweenNetwork,
        criterion: Criterion,
        processes: Processes,
        dtype: torch.dtype = torch.float32,
        descent: Descent = PLAIN_DESCENT,
    ) -> None:
        """Moves the network to the processes' device and, where centred, centres it.

        dtype: type of the convolutions.
        """
        self.model = model
        self.processes = processes
        self.descent = descent
        self.state = State()
        device = processes.device
        self.centre()
        model.to(device).to(memory_format=torch.channels_last)
        rule = moving_average(descent.ema)
        self.average = AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
        # Every step sets its learning rate.
        self.optimizer = OPTIMIZERS[descent.optimizer](model.parameters())
        # float16 gradients would vanish unscaled; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.dtype = dtype
        self.step_loss: nn.Module = StepLoss(model, criterion, dtype, descent.power)
        if processes.count > 1:
            cuda = device.type == "cuda"
            if cuda:
                self.step_loss = nn.SyncBatchNorm.convert_sync_batchnorm(self.step_loss)
            self.step_loss = DistributedDataParallel(
                self.step_loss, device_ids=[device] if cuda else None
            )

    @property
    def averaged(self) -> DeepFuse | BetweenNetwork:
        """The network with the averaged weights, in eval mode."""
        return cast(DeepFuse | BetweenNetwork, self.average.module.eval())

    def centre(self) -> None:
        """Centres the network's weights, where it is asked for and the network can be centred."""
        if self.descent.centred and isinstance(self.model, DeepFuse):
            centre(self.model)

    def step(
        self, stacks: Sequence[torch.Tensor], schedule: Schedule, stop: StopOnSignal | None = None
    ) -> bool:
        """Trains on this process's part of the state's next batch.

        stacks: exposures (n, K, 3, H, W), a tensor for every K, on any device; see by_count.
        stop: says whether this process has been asked to stop; the others learn it with the loss.

        Returns True where any process has been asked to stop. Raises TrainingError where the loss
        or the weights are no longer finite.
        """
        state, device = self.state, self.processes.device
        stacks = [stack.to(device, non_blocking=True) for stack in stacks]
        number = state.epoch * schedule.steps + state.step
        samples = schedule.samples(state.step)
        self.seed_step(number)
        noise = [exposure_noise(stack, self.descent.noise) for stack in stacks]
        share = self.processes.count / samples  # DistributedDataParallel divides by the count
        value = self.descend(stacks, noise, schedule.learning_rate(number), share)
        self.centre()
        self.average.n_averaged.fill_(number)  # Checkpoints do not hold it.
        self.average.update_parameters(self.model)
        requested = float(stop is not None and stop.requested)
        total, requests = self.processes.sum(value / self.processes.count, requested)
        state.step += 1
        state.loss_sum += total * samples
        if not (math.isfinite(total) and is_finite(self.model)):
            raise TrainingError(
                f"epoch {state.epoch + 1}, step {state.step}: the loss is {total} or the "
                "weights are not finite; a lower --lr may help"
            )
        return requests > 0

    def seed_step(self, number: int) -> None:
        """Seeds PyTorch for a step, so that resuming needs no generators' states."""
        sequence = np.random.SeedSequence((self.descent.seed, number, self.processes.rank))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def descend(
        self,
        stacks: Sequence[torch.Tensor],
        noise: Sequence[torch.Tensor | float],
        rate: float,
        share: float,
    ) -> float:
        """Takes one step of the optimiser at a learning rate. Returns the loss.

        stacks, noise: see StepLoss.forward. share: factor from the sum of the samples' losses to
        the loss.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = self.step_loss(stacks, noise) * share
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total.item()

    def state_dict(self) -> dict[str, Any]:
        """Returns a checkpoint's entries, see checkpoint.py, but for "options" and "run"."""
        return {
            "model": self.average.module.state_dict(),
            "network": self.model.settings,
            "trained": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "precision": type_name(self.dtype),
            **vars(self.state),
        }

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Continues from a checkpoint's entries, as load_latest returns them.

        Raises KeyError, TypeError, ValueError or RuntimeError where they do not fit.
        """
        self.average.module.load_state_dict(checkpoint["model"])
        self.model.load_state_dict(checkpoint["trained"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.scaler.is_enabled() and checkpoint["scaler"]:
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.state = State(**{name: checkpoint[name] for name in vars(self.state)})


class StepLoss(nn.Module):
    """The network and its loss as one module, which DistributedDataParallel calls once a step.

    criterion: computes the samples' losses. dtype: type of the network's convolutions. power: every
    sample's loss is raised to it; above 1, samples of a high loss have more of the gradient.
    """

    def __init__(
        self, model: nn.Module, criterion: Criterion, dtype: torch.dtype, power: float = 1.0
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.dtype = dtype
        self.power = power

    def forward(
        self, stacks: Sequence[torch.Tensor], noise: Sequence[torch.Tensor | float]
    ) -> torch.Tensor:
        """Returns the sum of the samples' losses, each to the given power, a scalar.

        stacks: a batch, grouped by the number of exposures: tensors (N, K, 3, H, W) of Y, Cb, Cr
        in [0, 1]. noise: for every group, a tensor (N, K, H, W) or 0. It is added to the luma that
        the network sees, but not to what the loss compares with.
        """
        if not stacks:  # Without samples, a process still has to exchange gradients.
            zeros = [(0 * parameter).sum() for parameter in self.model.parameters()]
            return torch.stack(zeros).sum()
        losses = [
            self.criterion.losses(self.network, stack, disturbance)
            for stack, disturbance in zip(stacks, noise, strict=True)
        ]
        # Rounding can leave a loss below 0, which has no power.
        losses = [(values.clamp(min=0) ** self.power).sum() for values in losses]
        return sum(losses[1:], losses[0])

    def network(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Calls the network, its convolutions in the type `dtype`; returns float32 or wider."""
        device = inputs[0].device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            fused = self.model(*inputs)
        return fused.to(torch.promote_types(fused.dtype, torch.float32))


def centre(model: DeepFuse) -> None:
    """Subtracts from every kernel of C2 to C5 its mean, in place.

    The layers' inputs are mostly positive, and large beside their variation. Without centring, the
    first steps push most channels of C3 and C4 below zero everywhere, and they stay there. After
    L. Huang et al., "Centered Weight Normalization in Accelerating Training of Deep Neural
    Networks", ICCV 2017.
    """
    with torch.no_grad():
        for layer in (model.c2, model.c3, model.c4, model.c5):
            kernels = convolution_of(layer).weight  # (out, in, height, width)
            kernels -= kernels.mean(dim=(1, 2, 3), keepdim=True)


def moving_average(decay: float) -> Callable[..., Any]:
    """Returns AveragedModel's rule: w <- d w + (1 - d) trained, where d rises to `decay`.

    At step n, d is at most n/(n + 9), so that the first steps' weights are soon forgotten.
    """

    def update(averaged: Any, trained: Any, count: Any) -> None:
        step = int(count)
        get_ema_multi_avg_fn(min(decay, step / (step + 9)))(averaged, trained, count)

    return update


def exposure_noise(stack: torch.Tensor, largest: float) -> torch.Tensor | float:
    """Draws Gaussian noise (N, K, H, W) for exposures (N, K, 3, H, W); 0 where `largest` is 0.

    Every sample's standard deviation is drawn between 0 and `largest`.
    """
    if not largest:
        return 0
    y = stack[:, :, 0]
    return largest * torch.rand_like(y[:, :1, :1, :1]) * torch.randn_like(y)
