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

import contextlib
import csv
import functools
import glob
import hashlib
import json
import math
import os
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
from datetime import timedelta

import cv2
import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
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
    short,
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
SHOWN = 3  # validation scenes in a figure, at most
STATE = ("epoch", "step", "loss_sum", "loss", "lr", "seconds", "val", "data")


class TrainingError(Exception):
    """Training cannot go on; the message says why."""


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


def is_newer(path, other):
    """Whether a file is there and younger than another, that is: of the run that wrote this."""
    try:
        return os.stat(path).st_mtime_ns >= os.stat(other).st_mtime_ns
    except FileNotFoundError:
        return False


def training_score(options):
    """MEF-SSIM as the options want it; MEF_SSIM_Loss would compute the picture y_hat as well."""
    return functools.partial(
        loss.mef_ssim,
        scales=options.scales,
        target=options.loss,
        luminance_weight=options.luminance_weight,
    )


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


def describe_run(options, processes):
    """How a checkpoint came about, for people: command, versions of code and packages, machine."""
    sources = sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "*.py")))
    code = hashlib.sha256()
    for source in sources:
        with open(source, "rb") as file:
            code.update(file.read())
    flags = []
    for name, value in vars(options).items():
        if value is True:
            flags.append(f"--{name}")
        elif not (value is None or value is False or value == []):
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", shlex.join(map(str, values))]
    device = processes.device
    return {
        "command": f"train.py {' '.join(flags)}",
        "processes": processes.count,
        "code": code.hexdigest()[:16],
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "machine": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU",
    }


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


def by_count(samples):
    """A batch's samples (K, 3, H, W) as one tensor (N, K, 3, H, W) for every K that occurs."""
    counts = sorted({len(sample) for sample in samples})
    return [torch.stack([x for x in samples if len(x) == count]) for count in counts]


def validation_is_due(epoch, options):
    return epoch % options.val_epoch == 0 or epoch == options.epoch


def keep_best(model, state, options, run_record):
    """Writes best.pth where the epoch's score is the best so far, or without scores at the end."""
    epoch, scores = state["epoch"], state["val"]
    best = epoch == options.epoch and not options.val_folder
    if epoch in scores:
        earlier = [score for other, score in scores.items() if other != epoch]
        best = scores[epoch] > max(earlier, default=-math.inf)
    if best:
        path = os.path.join(options.det, "model", "best.pth")
        write_checkpoint(path, {**describe(model, options, run_record), **state})


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


def validate(model, pairs, precision, quiet):
    """Multi-scale MEF-SSIM of the fused pairs, on 8-bit gray at native size, as a list.

    precision: as fusion.prepare's.
    """
    device = next(model.parameters()).device
    model = fusion.prepare(model, precision)
    scores = []
    for paths in tqdm(pairs, "validating", leave=False, disable=True if quiet else None):
        images = read_pair(paths)
        fused = fusion.fuse(model, images, fast=False, refine=0)
        gray = [utils.to_gray(image) for image in images]
        scores.append(loss.score(utils.to_gray(fused), gray, device))
    return scores


def read_pair(paths):
    """Reads a pair of picture files; ValueError naming them where they cannot be scored."""
    images = [utils.read_image(path) for path in paths]
    try:
        fusion.check(images)
        loss.check_size(*images[0].shape[:2])
    except ValueError as error:
        raise ValueError(f"{' and '.join(paths)}: {error}") from error
    return images


def make_loader(dataset, options, state, device, start_method=None, processes=None):
    """This process's batches from the state's epoch and step to the end, as one stream.

    One stream over all epochs keeps the workers busy across their boundaries. The last batch of
    an epoch may be smaller.
    """
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), options, state["epoch"], state["step"], processes),
        collate_fn=by_count,
        num_workers=options.workers,
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
        multiprocessing_context=start_method if options.workers else None,
    )


class EpochBatches:
    """Batches of dataset items, every epoch's scenes in an order drawn from (seed, epoch).

    Of several processes, each has a part of --batch_size of every batch; of an epoch's last and
    smaller one, some may have none.
    """

    def __init__(self, scenes, options, epoch, step, processes=None):
        self.scenes = scenes
        self.options = options
        self.epoch = epoch
        self.step = step
        self.rank, self.count = (processes.rank, processes.count) if processes else (0, 1)

    def __iter__(self):
        size = self.options.batch_size * self.count
        for epoch in range(self.epoch, self.options.epoch):
            order = np.random.default_rng((self.options.seed, epoch)).permutation(self.scenes)
            items = (epoch * self.scenes + order).tolist()
            skipped = self.step * size if epoch == self.epoch else 0
            for start in range(skipped, self.scenes, size):
                batch = items[start : start + size]
                yield batch[self.rank * self.options.batch_size :][: self.options.batch_size]


def ignore_signals(_worker):
    """In a worker: it leaves Ctrl-C and a cluster's SIGTERM to the main process, which saves.

    The main process's own SIGTERM ends it as ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey_parent, daemon=True).start()


def obey_parent():
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


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


def learning_rate(step, steps, options):
    """Linear warm-up to --lr, then a half cosine to 0 or constant."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup) / max(1, steps - options.warmup)
    return options.lr * (1 + math.cos(math.pi * progress)) / 2


def describe(model, options, run_record):
    """The part of a checkpoint that fusing needs, and how it came about."""
    return {
        "model": model.state_dict(),
        "network": model.settings,
        "options": vars(options),
        "run": run_record,
    }


def write_checkpoint(path, checkpoint):
    """save_checkpoint; TrainingError where it cannot be written, whatever was there being whole."""
    try:
        save_checkpoint(path, checkpoint)
    except OSError as error:
        raise TrainingError(f"{error}; the checkpoint of before is still there") from error


def save_latest(path, model, average, optimizer, scaler, state, options, run_record):
    """Writes latest.pth: the averaged weights, which fusing takes, and all that training needs.

    The latest.pth of before becomes previous.pth.
    """
    training = {
        "trained": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }
    with contextlib.suppress(OSError):  # A link, so that there is a latest.pth at any moment.
        temporary = f"{path}.old"
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        try:
            os.link(path, temporary)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copy(path, temporary)  # where files cannot be linked
        os.replace(temporary, os.path.join(os.path.dirname(path), "previous.pth"))
    write_checkpoint(path, {**describe(average.module, options, run_record), **training, **state})


def restore(options, model, average, optimizer, scaler, processes):
    """Loads the latest.pth to resume from; returns the training state.

    Raises ValueError where it lacks something or was made with other options; only those of the
    machine, of the output and --epoch may differ.
    """
    path = options.resume
    try:
        checkpoint = load_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{error}{whole_checkpoint_beside(path)}") from error
    needed = ("trained", "optimizer", "scaler", "options", "run", *STATE)
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ValueError(f"{path}: training cannot resume from it, it lacks {', '.join(missing)}")
    contradictions = [
        f"--{name} {checkpoint['options'].get(name)}, not {getattr(options, name)}"
        for name in FIXED_OPTIONS
        if checkpoint["options"].get(name) != getattr(options, name)
    ]
    if checkpoint["run"]["processes"] != processes.count:
        contradictions.append(
            f"{checkpoint['run']['processes']} process(es), not {processes.count}"
        )
    if contradictions:
        raise ValueError(f"{path}: was trained with {'; '.join(contradictions)}")
    average.module.load_state_dict(model_from_checkpoint(checkpoint, path).state_dict())
    try:
        model.load_state_dict(checkpoint["trained"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        if scaler.is_enabled() and checkpoint["scaler"]:
            scaler.load_state_dict(checkpoint["scaler"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: its state of training does not fit") from error
    return {key: checkpoint[key] for key in STATE}


def whole_checkpoint_beside(path):
    """What to resume from instead of a damaged checkpoint, as the end of a message."""
    previous = os.path.join(os.path.dirname(path), "previous.pth")
    try:
        epoch = load_checkpoint(previous)["epoch"]
    except (OSError, ValueError, KeyError):
        return ""
    return f"; --resume {previous} is whole, of epoch {epoch}"


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
