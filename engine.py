"""How does one step run, in one process or several?"""

import contextlib
import functools
import math
import os
import signal
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

import fusion
import loss
import utils
from model import choose_device, prepare
from scores import mefb_score, to_gray


class Processes:
    """The processes that train together: torchrun's, or this one alone.

    rank, count: this one's number among them and how many they are. device: where it computes.
    """

    def __init__(self, device):
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        if self.count > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device = choose_device(device)
        self.first = self.rank == 0

    def __enter__(self):
        if self.count > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            # Of its own for every restart: addresses of processes that have died must not be found.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = distributed.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            )
            distributed.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo",
                store=distributed.PrefixStore(f"attempt {attempt}", store),
                rank=self.rank,
                world_size=self.count,
                timeout=timedelta(hours=12),  # in which the first may decode; torchrun sees deaths
            )
        return self

    def __exit__(self, *_error):
        if self.count > 1:
            distributed.destroy_process_group()

    def sum(self, *values):
        """The sums of numbers over all processes."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def gather(self, values):
        """The lists of all processes, dealt out as values[rank::count], as one list again."""
        if self.count == 1:
            return values
        parts = [None] * self.count
        distributed.all_gather_object(parts, values)
        total = sum(map(len, parts))
        return [parts[i % self.count][i // self.count] for i in range(total)]

    @contextlib.contextmanager
    def first_alone(self):
        """The first process does what is in the context before the others do."""
        if self.count > 1 and not self.first:
            distributed.barrier()
        yield
        if self.count > 1 and self.first:
            distributed.barrier()


class StepLoss(nn.Module):
    """The network and its loss as one module, which DistributedDataParallel calls once a step.

    forward takes a batch, grouped by the number of exposures, tensors (N, K, 3, H, W), and what is
    added to the luma that the network sees, a tensor (N, K, H, W) or 0 a group. It returns the sum
    of the samples' losses, which are 1 less the score of fused luma (N, 1, H, W) and sources
    (N, K, H, W).
    """

    def __init__(self, model, score, dtype):
        super().__init__()
        self.model = model
        self.score = score
        self.dtype = dtype

    def forward(self, stacks, noise):
        total = 0.0
        for stack, disturbance in zip(stacks, noise, strict=True):
            y = stack[:, :, 0]  # (N, K, H, W)
            with torch.autocast(y.device.type, self.dtype, enabled=self.dtype != torch.float32):
                y_f = self.model(*(y + disturbance).split(1, dim=1))
            total = total + (1 - self.score(y_f.float(), y)).sum()
        if not stacks:  # a process may go away empty-handed from an epoch's last batch
            total = sum((0 * parameter).sum() for parameter in self.model.parameters())
        return total


def training_score(options):
    """MEF-SSIM as the options want it; MEF_SSIM_Loss would compute the picture y_hat as well."""
    return functools.partial(
        loss.mef_ssim,
        scales=options.scales,
        target=options.loss,
        luminance_weight=options.luminance_weight,
    )


def centre(model):
    """Takes the mean of every kernel of C2 to C5 away from it.

    Their inputs are positive and large beside their variation: without this, the first steps push
    most of C3's and C4's channels below zero everywhere, where they stay. After L. Huang et al.,
    "Centered Weight Normalization in Accelerating Training of Deep Neural Networks", ICCV 2017.
    """
    with torch.no_grad():
        for layer in (model.c2, model.c3, model.c4, model.c5):
            kernels = layer[0].weight  # (out, in, height, width)
            kernels -= kernels.mean(dim=(1, 2, 3), keepdim=True)


def moving_average(decay):
    """AveragedModel's rule: w <- d w + (1 - d) trained, d rising to `decay`.

    At step n, d is at most n/(n + 9), so that the first steps' weights are soon forgotten.
    """

    def update(averaged, trained, count):
        step = int(count)
        get_ema_multi_avg_fn(min(decay, step / (step + 9)))(averaged, trained, count)

    return update


def take_step(step_loss, optimizer, scaler, stacks, noise, rate, share):
    """One optimiser step at the given learning rate, on a StepLoss and what it takes.

    share: what the sum of the samples' losses is multiplied by to make the loss. Returns that.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    total = step_loss(stacks, noise) * share
    optimizer.zero_grad()
    scaler.scale(total).backward()
    scaler.step(optimizer)
    scaler.update()
    return total.item()


def exposure_noise(stack, highest):
    """Gaussian noise (N, K, H, W) for exposures (N, K, 3, H, W), or 0 where `highest` is 0.

    Every sample's standard deviation is drawn between 0 and `highest`.
    """
    if not highest:
        return 0
    y = stack[:, :, 0]
    return highest * torch.rand_like(y[:, :1, :1, :1]) * torch.randn_like(y)


def learning_rate(step, steps, options):
    """Linear warm-up to --lr, then a half cosine to 0 or constant."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup) / max(1, steps - options.warmup)
    return options.lr * (1 + math.cos(math.pi * progress)) / 2


class StopOnSignal:
    """Context in which a SIGTERM or the first SIGINT asks to stop; a second SIGINT interrupts."""

    def __enter__(self):
        self.requested = False
        self.previous = {
            number: signal.signal(number, self.request)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def request(self, number, _frame):
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def validate(model, pairs, precision, quiet):
    """Multi-scale MEF-SSIM of the fused pairs, on 8-bit gray at native size, as a list.

    precision: as prepare's.
    """
    device = next(model.parameters()).device
    model = prepare(model, precision)
    scores = []
    for paths in tqdm(pairs, "validating", leave=False, disable=True if quiet else None):
        images = read_pair(paths)
        fused = fusion.fuse(model, images, fast=False, refine=0)
        gray = [to_gray(image) for image in images]
        scores.append(mefb_score(to_gray(fused), gray, device))
    return scores


def read_pair(paths):
    """Reads a pair of picture files; ValueError naming them where they cannot be scored."""
    images = [utils.read_image(path) for path in paths]
    try:
        fusion.check_images(images)
        loss.check_size(*images[0].shape[:2])
    except ValueError as error:
        raise ValueError(f"{' and '.join(paths)}: {error}") from error
    return images
