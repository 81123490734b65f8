"""How is the network trained? On random crops of exposures, by the gradient of MEF-SSIM.

Results, below --det:
    model/latest.pth  network and optimiser after every epoch; --resume continues from it
    model/best.pth    network with the best validation score, or of the last epoch without
                      --val_folder
    image/            figures: under | over | fused | y_hat
    log.csv           a line an epoch
    loss.png          loss and validation score over the epochs
    cache/            decoded training pictures; can be deleted
"""

import csv
import math
import os
import signal
import sys
import time

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

import fusion
import loss
import utils
from dataset import BracketedDataset, find_brackets
from model import (
    build,
    choose_device,
    choose_precision,
    is_finite,
    load_checkpoint,
    load_model,
    model_from_checkpoint,
    save_checkpoint,
)
from opts import TrainOptions, run

# What a resumed run must have in common with the run that it continues.
FIXED_OPTIONS = (
    "network",
    "width",
    "batch_norm",
    "uncentred",
    "pairs",
    "stacks",
    "zoom",
    "gamma",
    "noise",
    "ema",
    "seed",
    "batch_size",
    "crop_size",
    "loss",
    "scales",
    "luminance_weight",
    "lr",
    "schedule",
    "warmup",
)
LOG_FIELDS = ("epoch", "loss", "val_mef_ssim", "lr", "seconds")


class TrainingError(Exception):
    """Training cannot go on; the message says why."""


def train(options):
    """Trains as a TrainOptions namespace says. Returns the epochs' mean losses.

    Stops after the step under way, saved, when it receives SIGINT. Raises OSError or ValueError
    where data, checkpoint or folders cannot be used, TrainingError where loss or weights are no
    longer finite; latest.pth is then that of the epoch before.
    """
    if options.loss == "global" and options.stacks:
        raise ValueError("--loss global is defined for pairs, not with --stacks")
    device = choose_device(options.device)
    dtype = choose_precision(options.precision, device)
    validation = [pair for folder in options.val_folder for pair in find_brackets(folder).values()]
    for paths in validation:
        read_pair(paths)  # a picture that cannot be used is found now, not after hours
    torch.manual_seed(options.seed)
    model = build(options.network, batch_norm=options.batch_norm, width=options.width)
    if options.init and not options.resume:
        start_from(model, options.init)
    if not options.uncentred:
        centre(model)
    model.to(device, memory_format=torch.channels_last)
    average = AveragedModel(model, multi_avg_fn=moving_average(options.ema), use_buffers=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    # float16 gradients would vanish unscaled; bfloat16 has float32's range.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    state = {"epoch": 0, "step": 0, "loss_sum": 0.0, "loss": [], "val": {}}
    if options.resume:
        state = restore(options, model, average, optimizer, scaler)
    dataset = BracketedDataset(
        options.folder,
        options.crop_size,
        options.seed,
        cache=options.cache or os.path.join(options.det, "cache"),
        progress=not options.quiet,
        pairs=options.pairs,
        stacks=options.stacks,
        zoom=options.zoom,
        gamma=options.gamma,
    )
    if state.setdefault("scenes", len(dataset)) != len(dataset):
        raise ValueError(
            f"{options.resume}: was trained on {state['scenes']} scenes, not {len(dataset)}"
        )
    for name in ("model", "image"):
        os.makedirs(os.path.join(options.det, name), exist_ok=True)
    criterion = loss.MEF_SSIM_Loss(options.scales, options.loss, options.luminance_weight)

    steps = math.ceil(len(dataset) / options.batch_size)  # an epoch
    average.n_averaged.fill_(state["epoch"] * steps + state["step"])
    batches = iter(make_loader(dataset, options, state, device))
    log = Log(os.path.join(options.det, "log.csv"), state["epoch"])
    stop = StopOnInterrupt()
    bar = tqdm(
        total=options.epoch * steps,
        initial=state["epoch"] * steps + state["step"],
        unit="step",
        disable=True if options.quiet else None,
    )
    with stop, bar:
        while state["epoch"] < options.epoch and not stop.requested:
            epoch, started = state["epoch"], time.monotonic()
            while state["step"] < steps and not stop.requested:
                stacks = [crops.to(device, non_blocking=True) for crops in next(batches)]
                step = epoch * steps + state["step"]
                rate = learning_rate(step, options.epoch * steps, options)
                # What the step draws depends on it alone, so that resuming needs no generators.
                state_of_step = np.random.SeedSequence((options.seed, step))
                torch.manual_seed(int(state_of_step.generate_state(1, np.uint64)[0]))
                noise = [exposure_noise(stack, options.noise) for stack in stacks]
                value = take_step(model, criterion, optimizer, scaler, stacks, noise, rate, dtype)
                if not options.uncentred:
                    centre(model)
                average.update_parameters(model)
                state["step"] += 1
                state["loss_sum"] += value * sum(map(len, stacks))
                if not (math.isfinite(value) and is_finite(model)):
                    raise TrainingError(
                        f"epoch {epoch + 1}, step {state['step']}: the loss is {value} or the "
                        "weights are not finite; a lower --lr may help"
                    )
                bar.update()
            if state["step"] == steps:
                state["loss"].append(state["loss_sum"] / len(dataset))
                state.update(epoch=epoch + 1, step=0, loss_sum=0.0)
                save_latest(model, average, optimizer, scaler, state, options)
                record(average.module, stacks[0][0], validation, state, options, dtype)
                log.write(
                    epoch=epoch + 1,
                    loss=state["loss"][-1],
                    val_mef_ssim=state["val"].get(epoch + 1, ""),
                    lr=rate,
                    seconds=round(time.monotonic() - started, 2),
                )
            if stop.requested or state["epoch"] in state["val"]:
                save_latest(model, average, optimizer, scaler, state, options)
            bar.set_postfix(progress_values(state))
    plot(os.path.join(options.det, "loss.png"), state)
    if state["epoch"] < options.epoch:
        latest = os.path.join(options.det, "model", "latest.pth")
        print(f"stopped in epoch {state['epoch'] + 1}; --resume {latest} continues", flush=True)
    return state["loss"]


def start_from(model, path):
    """Copies a checkpoint's weights; ValueError where they are those of another network."""
    try:
        model.load_state_dict(load_model(path).state_dict())
    except RuntimeError as error:
        raise ValueError(f"{path}: holds another network than the one to train") from error


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


def take_step(model, criterion, optimizer, scaler, stacks, noise, rate, dtype):
    """One optimiser step at the given learning rate; returns the batch's mean loss.

    stacks: the batch, grouped by the number of exposures: tensors (N, K, 3, H, W).
    noise: what is added to the luma that the network sees, a tensor (N, K, H, W) or 0 a group.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    samples = sum(map(len, stacks))
    total = 0.0
    for stack, disturbance in zip(stacks, noise, strict=True):
        y = stack[:, :, 0]  # (N, K, H, W)
        with torch.autocast(y.device.type, dtype, enabled=dtype != torch.float32):
            y_f = model(*(y + disturbance).split(1, dim=1))
        y_1, y_2, *more = y.split(1, dim=1)
        value, _ = criterion(y_1, y_2, y_f.float(), *more)
        total = total + value * (len(stack) / samples)
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


def by_count(samples):
    """A batch's samples (K, 3, H, W) as one tensor (N, K, 3, H, W) for every K that occurs."""
    counts = sorted({len(sample) for sample in samples})
    return [torch.stack([x for x in samples if len(x) == count]) for count in counts]


def record(model, stack, validation, state, options, dtype):
    """What an epoch's end may be due: figure, validation score, best.pth.

    stack: a sample, (K, 3, H, W); the figure shows its darkest and its brightest exposure.
    """
    epoch = state["epoch"]
    last = epoch == options.epoch
    model.eval()
    if epoch % options.record_epoch == 0 or last:
        figure = [utils.from_ycbcr(crop[None], np.uint8) for crop in (stack[0], stack[-1])]
        path = os.path.join(options.det, "image", f"{epoch}.png")
        utils.write_image(path, fusion.panel(model, *figure, target=options.loss))
    best = last and not validation
    if validation and (epoch % options.val_epoch == 0 or last):
        score = validate(model, validation, dtype, options.quiet)
        best = score > max(state["val"].values(), default=-math.inf)
        state["val"][epoch] = score
    if best:
        path = os.path.join(options.det, "model", "best.pth")
        save_checkpoint(path, {**describe(model, options), **state})


def validate(model, pairs, dtype, quiet):
    """Mean multi-scale MEF-SSIM of the fused pairs, on 8-bit gray at native size.

    The layers compute in `dtype`, as in training.
    """
    device = next(model.parameters()).device
    scores = []
    for paths in tqdm(pairs, "validating", leave=False, disable=True if quiet else None):
        images = read_pair(paths)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            fused = fusion.fuse(model, images)
        gray = [utils.to_gray(image) for image in images]
        scores.append(loss.score(utils.to_gray(fused), gray, device))
    return sum(scores) / len(scores)


def read_pair(paths):
    """Reads a pair of picture files; ValueError naming them where they cannot be scored."""
    images = [utils.read_image(path) for path in paths]
    try:
        fusion.check(images)
        loss.check_size(*images[0].shape[:2])
    except ValueError as error:
        raise ValueError(f"{' and '.join(paths)}: {error}") from error
    return images


def make_loader(dataset, options, state, device, start_method=None):
    """Batches from the state's epoch and step to the end of training, as one stream.

    One stream over all epochs keeps the workers busy across their boundaries. The last batch of
    an epoch may be smaller.
    """
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), options, state["epoch"], state["step"]),
        collate_fn=by_count,
        num_workers=options.workers,
        worker_init_fn=ignore_interrupt,
        pin_memory=device.type == "cuda",
        multiprocessing_context=start_method if options.workers else None,
    )


class EpochBatches:
    """Batches of dataset items, every epoch's scenes in an order drawn from (seed, epoch)."""

    def __init__(self, scenes, options, epoch, step):
        self.scenes = scenes
        self.options = options
        self.epoch = epoch
        self.step = step

    def __iter__(self):
        size = self.options.batch_size
        for epoch in range(self.epoch, self.options.epoch):
            order = np.random.default_rng((self.options.seed, epoch)).permutation(self.scenes)
            items = (epoch * self.scenes + order).tolist()
            skipped = self.step * size if epoch == self.epoch else 0
            for start in range(skipped, self.scenes, size):
                yield items[start : start + size]


def ignore_interrupt(_worker):
    """Ctrl-C reaches the workers too; the main process ends them once it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopOnInterrupt:
    """Context in which the first SIGINT asks to stop and a second one interrupts."""

    def __enter__(self):
        self.requested = False
        self.previous = signal.signal(signal.SIGINT, self.request)
        return self

    def request(self, _signal, _frame):
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_error):
        signal.signal(signal.SIGINT, self.previous)


def learning_rate(step, steps, options):
    """Linear warm-up to --lr, then a half cosine to 0 or constant."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup) / max(1, steps - options.warmup)
    return options.lr * (1 + math.cos(math.pi * progress)) / 2


def describe(model, options):
    """The part of a checkpoint that fusing needs, and how it came about."""
    return {
        "model": model.state_dict(),
        "network": model.settings,
        "options": vars(options),
    }


def save_latest(model, average, optimizer, scaler, state, options):
    """Writes latest.pth: the averaged weights, which fusing takes, and all that training needs."""
    path = os.path.join(options.det, "model", "latest.pth")
    training = {
        "trained": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }
    save_checkpoint(path, {**describe(average.module, options), **training, **state})


def restore(options, model, average, optimizer, scaler):
    """Loads the latest.pth to resume from; returns the training state.

    Raises ValueError where it lacks something or was made with other options; only those of the
    machine, of the output and --epoch may differ.
    """
    path = options.resume
    checkpoint = load_checkpoint(path)
    state = ("epoch", "step", "loss_sum", "loss", "val", "scenes")
    needed = ("trained", "optimizer", "scaler", "options", *state)
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ValueError(f"{path}: training cannot resume from it, it lacks {', '.join(missing)}")
    for name in FIXED_OPTIONS:
        before, now = checkpoint["options"].get(name), getattr(options, name)
        if before != now:
            raise ValueError(f"{path}: was trained with --{name} {before}, not {now}")
    average.module.load_state_dict(model_from_checkpoint(checkpoint, path).state_dict())
    try:
        model.load_state_dict(checkpoint["trained"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        if scaler.is_enabled() and checkpoint["scaler"]:
            scaler.load_state_dict(checkpoint["scaler"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: its state of training does not fit") from error
    return {key: checkpoint[key] for key in state}


class Log:
    """log.csv: a line an epoch. Lines after the epoch that training resumes from are dropped."""

    def __init__(self, path, epoch):
        self.path = path
        lines = []
        if epoch and os.path.exists(path):
            with open(path, newline="") as file:
                lines = [line for line in csv.DictReader(file) if int(line["epoch"]) <= epoch]
        with utils.replacing(path, "w", newline="") as file:
            writer = csv.DictWriter(file, LOG_FIELDS)
            writer.writeheader()
            writer.writerows(lines)

    def write(self, **values):
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, LOG_FIELDS).writerow(values)


def progress_values(state):
    values = {"epoch": state["epoch"]}
    if state["loss"]:
        values["loss"] = f"{state['loss'][-1]:.4f}"
    if state["val"]:
        values["val"] = f"{list(state['val'].values())[-1]:.4f}"
    return values


def plot(path, state):
    """The loss, and the validation score where there is one, over the epochs as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    axes.plot(range(1, len(state["loss"]) + 1), state["loss"], label="training loss")
    axes.set(xlabel="epoch", ylabel="1 - MEF-SSIM")
    if state["val"]:
        losses = [1 - score for score in state["val"].values()]
        axes.plot(list(state["val"]), losses, "o-", label="1 - validation MEF-SSIM")
    axes.set_yscale("log")
    axes.legend()
    with utils.replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)
    plt.close(figure)


def command(options):
    train(options)  # whose losses are no exit status


def main(argv=None):
    try:
        return run("train.py", command, TrainOptions().parse(argv))
    except TrainingError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
