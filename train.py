"""How is the network trained? On random crops of exposures, by the gradient of MEF-SSIM.

Results, below --det:
    model/latest.pth    network and optimiser after every epoch; --resume continues from it
    model/previous.pth  the one before, should that be damaged
    model/best.pth      network with the best validation score, or of the last epoch without
                        --val_folder
    image/              figures of fixed scenes: under | over | fused | y_hat
    run.json            command, options, versions, data
    log.csv             a line an epoch
    loss.png            loss and validation score over the epochs
    cache/              decoded training pictures; can be deleted

torchrun --nproc_per_node=N train.py ... trains in N processes.
"""

import csv
import glob
import json
import math
import os
import sys
import time

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import fusion
import utils
from brackets import find_brackets
from checkpoint import (
    TrainingError,
    describe_run,
    keep_best,
    load_model,
    restore,
    save_latest,
    short,
)
from dataset import BracketedDataset, make_loader
from engine import (
    Processes,
    StepLoss,
    StopOnSignal,
    centre,
    exposure_noise,
    learning_rate,
    moving_average,
    read_pair,
    take_step,
    training_score,
    validate,
)
from model import (
    build,
    choose_precision,
    is_finite,
)
from opts import TrainOptions, run

LOG_FIELDS = ("epoch", "loss", "val_mef_ssim", "lr", "seconds")
SHOWN = 3  # validation scenes in a figure, at most


def train(options):
    """Trains as a TrainOptions namespace says. Returns the epochs' mean losses.

    In a process of torchrun's it does its share of every step. Stops after the step under way,
    saved, when it receives SIGINT or SIGTERM. Raises OSError or ValueError where data, checkpoint
    or folders cannot be used, TrainingError where loss or weights are no longer finite or a
    checkpoint cannot be written; latest.pth is then that of the epoch before.
    """
    try:
        with Processes(options.device) as processes:
            return train_in(processes, options)
    except RuntimeError as error:
        if any(name in str(error) for name in ("gloo", "Gloo", "NCCL")):
            raise TrainingError(
                f"the other processes cannot be reached ({short(error)})"
            ) from error
        raise


def train_in(processes, options):
    if options.loss == "global" and options.stacks:
        raise ValueError("--loss global is defined for pairs, not with --stacks")
    device = processes.device
    if options.batch_norm and processes.count > 1 and device.type != "cuda":
        # PyTorch's SyncBatchNorm is CUDA's; without it N processes would not train as one.
        raise ValueError("--batch_norm: in several processes on GPUs only")
    dtype = choose_precision(options.precision, device)
    writer = tensorboard(options) if processes.first else None
    latest = os.path.join(options.det, "model", "latest.pth")
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if again and is_newer(latest, os.path.join(options.det, "run.json")):
        options.resume = latest  # torchrun has started us again with the same command
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
    state = {"epoch": 0, "step": 0, "loss_sum": 0.0}
    state |= {"loss": [], "lr": [], "seconds": [], "val": {}}
    if options.resume:
        state = restore(options, model, average, optimizer, scaler, processes)
    size = options.batch_size * processes.count
    with processes.first_alone():  # who fills the cache
        dataset = BracketedDataset(
            options.folder,
            options.crop_size,
            options.seed,
            cache=options.cache or os.path.join(options.det, "cache"),
            progress=not options.quiet and processes.first,
            pairs=options.pairs,
            stacks=options.stacks,
            zoom=options.zoom,
            gamma=options.gamma,
            batch_size=size,
        )
    data = dataset.fingerprint()
    check_data(state.setdefault("data", data), data, options.resume)
    for name in ("model", "image"):
        os.makedirs(os.path.join(options.det, name), exist_ok=True)
    run_record = describe_run(options, processes)
    if processes.first:
        for unfinished in glob.glob(os.path.join(glob.escape(options.det), "model", "*.tmp*")):
            os.remove(unfinished)  # of a run that was killed while writing
        if not again:
            with utils.replacing(os.path.join(options.det, "run.json"), "w") as file:
                json.dump({**run_record, "options": vars(options), "data": data}, file, indent=1)
        if not options.quiet:
            print(run_record["command"], flush=True)
    step_loss = StepLoss(model, training_score(options), dtype)
    if processes.count > 1:
        if device.type == "cuda":
            step_loss = nn.SyncBatchNorm.convert_sync_batchnorm(step_loss)
        step_loss = DistributedDataParallel(
            step_loss, device_ids=[device] if device.type == "cuda" else None
        )

    steps = math.ceil(len(dataset) / size)  # an epoch
    average.n_averaged.fill_(state["epoch"] * steps + state["step"])
    batches = iter(make_loader(dataset, options, state, device, processes=processes))
    log = Log(os.path.join(options.det, "log.csv"), state) if processes.first else None
    figures = figure_pairs(validation, dataset, options) if processes.first else []
    stop = StopOnSignal()
    bar = tqdm(
        total=options.epoch * steps,
        initial=state["epoch"] * steps + state["step"],
        unit="step",
        disable=True if options.quiet or not processes.first else None,
    )

    def save():
        if processes.first:
            save_latest(latest, model, average, optimizer, scaler, state, options, run_record)

    stopped = False
    with stop, bar:
        while state["epoch"] < options.epoch and not stopped:
            epoch, started = state["epoch"], time.monotonic()
            while state["step"] < steps and not stopped:
                stacks = [crops.to(device, non_blocking=True) for crops in next(batches)]
                step = epoch * steps + state["step"]
                rate = learning_rate(step, options.epoch * steps, options)
                # What the step draws depends on it alone, so that resuming needs no generators.
                state_of_step = np.random.SeedSequence((options.seed, step, processes.rank))
                torch.manual_seed(int(state_of_step.generate_state(1, np.uint64)[0]))
                noise = [exposure_noise(stack, options.noise) for stack in stacks]
                samples = min(size, len(dataset) - state["step"] * size)
                share = processes.count / samples  # DistributedDataParallel divides by the former
                value = take_step(step_loss, optimizer, scaler, stacks, noise, rate, share)
                if not options.uncentred:
                    centre(model)
                average.update_parameters(model)
                total, asked = processes.sum(value / processes.count, float(stop.requested))
                stopped = asked > 0
                state["step"] += 1
                state["loss_sum"] += total * samples
                if not (math.isfinite(total) and is_finite(model)):
                    raise TrainingError(
                        f"epoch {epoch + 1}, step {state['step']}: the loss is {total} or the "
                        "weights are not finite; a lower --lr may help"
                    )
                bar.update()
            finished = state["step"] == steps
            if finished:
                if validation and validation_is_due(epoch + 1, options):
                    save()  # should validating be cut short
                    scores = validate(
                        average.module.eval(),
                        validation[processes.rank :: processes.count],
                        options.precision,
                        options.quiet or not processes.first,
                    )
                    scores = processes.gather(scores)
                    state["val"][epoch + 1] = sum(scores) / len(scores)
                state["loss"].append(state["loss_sum"] / len(dataset))
                rate = learning_rate((epoch + 1) * steps - 1, options.epoch * steps, options)
                state["lr"].append(rate)
                state["seconds"].append(round(time.monotonic() - started, 2))
                state.update(epoch=epoch + 1, step=0, loss_sum=0.0)
                if processes.first:
                    keep_best(average.module, state, options, run_record)
                    record(average.module, figures, state, options)
            save()
            if processes.first and finished:
                log.write(state)
                if writer:
                    show(writer, state)
            # A signal while validating; all processes have to agree.
            stopped = stopped or processes.sum(float(stop.requested))[0] > 0
            bar.set_postfix(progress_values(state))
    if processes.first:
        plot(os.path.join(options.det, "loss.png"), state)
        if state["epoch"] < options.epoch:
            print(f"stopped in epoch {state['epoch'] + 1}; --resume {latest} continues", flush=True)
    return state["loss"]


def is_newer(path, other):
    """Whether a file is there and younger than another, that is: of the run that wrote this."""
    try:
        return os.stat(path).st_mtime_ns >= os.stat(other).st_mtime_ns
    except FileNotFoundError:
        return False


def tensorboard(options):
    """TensorBoard's writer where --tensorboard asks for one, else None."""
    if not options.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard: the package tensorboard is not installed") from error
    return SummaryWriter(os.path.join(options.det, "tensorboard"))


def show(writer, state):
    epoch = state["epoch"]
    writer.add_scalar("loss", state["loss"][-1], epoch)
    writer.add_scalar("learning rate", state["lr"][-1], epoch)
    if epoch in state["val"]:
        writer.add_scalar("validation MEF-SSIM", state["val"][epoch], epoch)
    writer.flush()


def check_data(before, now, path):
    """ValueError naming a scene in which the data differ from those that a run began with."""
    if before == now:
        return
    changed = [name for name in before if now.get(name) != before[name]]
    changed += [name for name in now if name not in before]
    raise ValueError(
        f"{path}: was trained on {len(before)} scenes, now there are {len(now)}; "
        f"{len(changed)} differ, the first of them {changed[0]}"
    )


def start_from(model, path):
    """Copies a checkpoint's weights; ValueError where they are those of another network."""
    try:
        model.load_state_dict(load_model(path).state_dict())
    except RuntimeError as error:
        raise ValueError(f"{path}: holds another network than the one to train") from error


def validation_is_due(epoch, options):
    return epoch % options.val_epoch == 0 or epoch == options.epoch


def record(model, figures, state, options):
    """What an epoch's end may be due to be looked at: a figure and the curves."""
    epoch = state["epoch"]
    last = epoch == options.epoch
    if epoch % options.record_epoch == 0 or last:
        panels = [fusion.panel(model.eval(), *pair, target=options.loss) for pair in figures]
        path = os.path.join(options.det, "image", f"{epoch}.png")
        utils.write_image(path, np.concatenate(panels))
    if epoch % options.record_epoch == 0 or epoch in state["val"]:
        plot(os.path.join(options.det, "loss.png"), state)


def figure_pairs(validation, dataset, options):
    """Pairs of 8-bit RGB squares, --crop_size wide, that figures show: the same in every epoch.

    The middle of the first validation scenes or, without these, a training crop.
    """
    side = options.crop_size
    pairs = []
    for paths in validation[:SHOWN]:
        pair = []
        for image in map(utils.to_8_bit, map(utils.read_image, paths)):
            square = min(image.shape[:2])
            top, left = ((length - square) // 2 for length in image.shape[:2])
            image = image[top : top + square, left : left + square]
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            pair.append(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
        pairs.append(pair)
    if not pairs:
        stack = dataset[0]
        pairs = [[utils.from_ycbcr(crop[None], np.uint8) for crop in (stack[0], stack[-1])]]
    return pairs


class Log:
    """log.csv: a line an epoch. What a run that is resumed had logged is written from its state."""

    def __init__(self, path, state):
        self.path = path
        with utils.replacing(path, "w", newline="") as file:
            writer = csv.DictWriter(file, LOG_FIELDS)
            writer.writeheader()
            writer.writerows(self.line(state, epoch) for epoch in range(1, state["epoch"] + 1))

    def line(self, state, epoch):
        return {
            "epoch": epoch,
            "loss": state["loss"][epoch - 1],
            "val_mef_ssim": state["val"].get(epoch, ""),
            "lr": state["lr"][epoch - 1],
            "seconds": state["seconds"][epoch - 1],
        }

    def write(self, state):
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, LOG_FIELDS).writerow(self.line(state, state["epoch"]))


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
