"""How is the network trained? On random crops of exposures, by the gradient of MEF-SSIM.

Results, below --det:
    model/latest.pth    network and optimiser after every epoch; --resume continues from it
    model/previous.pth  the former latest.pth, in case the new one is damaged
    model/best.pth      network with the best validation score; without --val_folder, that of the
                        last epoch
    image/              figures of fixed scenes: under | over | fused | y_hat, for --network
                        between darkest | brightest | told | the middle exposure
    run.json            command, options, versions, data
    log.csv             a line an epoch
    loss.png            loss and validation score over the epochs
    tensorboard/        the same values for TensorBoard, with --tensorboard
    cache/              decoded training pictures; can be deleted

torchrun --nproc_per_node=N train.py ... trains in N processes.
"""

from opts import TrainOptions
from script import need_torch

if __name__ == "__main__":  # before the imports below, which take seconds
    need_torch("train.py", TrainOptions().parse)


import argparse
import copy
import csv
import glob
import hashlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import utils
from brackets import find_brackets
from checkpoint import (
    State,
    load_latest,
    load_network,
    run_record,
    save_best,
    save_latest,
    short,
)
from dataset import BracketedDataset, Draws, EpochBatches, as_8_bit_rgb, make_loader
from engine import Descent, Learner, Schedule, TrainingError
from precision import PRECISIONS, choose_precision, type_name
from ranks import Processes, StopOnSignal
from script import run
from task import TASKS, Task, read_exposures
from tiles import is_out_of_memory

LOG_FIELDS = ("epoch", "loss", "val_score", "lr", "seconds")
RECORD = "run.json"  # below --det
LATER = "finished epochs are in latest.pth, from which --resume goes on"
FIGURE_SCENES = 3  # validation scenes in a figure, at most


def train(options: argparse.Namespace) -> list[float]:
    """Trains with the options of train.py. Returns the epochs' mean losses.

    A process that torchrun has started does its share of every step. On SIGINT or SIGTERM, training
    saves and stops after the step under way. Raises OSError or ValueError where data, checkpoint
    or folders cannot be used. Raises TrainingError where loss or weights are no longer finite or a
    checkpoint cannot be written; latest.pth then stays as it was last written.
    """
    try:
        with Processes(options.device) as processes:
            return train_in(processes, options)
    except Exception as error:
        # PyTorch's signal handler tells of a dead worker in the midst of anything, so that another
        # error may follow; or the connection to the worker ends first.
        ended = (ConnectionResetError, ConnectionRefusedError, EOFError)
        if any(
            "DataLoader worker" in str(cause) or isinstance(cause, ended) for cause in causes(error)
        ):
            reason = f"a process that prepares crops has ended, perhaps for lack of memory; {LATER}"
            raise TrainingError(reason) from error
        if not isinstance(error, RuntimeError):
            raise
        if any(name in str(error) for name in ("gloo", "Gloo", "NCCL")):
            raise TrainingError(
                f"the other processes cannot be reached ({short(error)})"
            ) from error
        if is_out_of_memory(error):
            raise MemoryError(f"{short(error)}; {LATER}") from error
        raise


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, and those in whose handling it arose."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def train_in(processes: Processes, options: argparse.Namespace) -> list[float]:
    """Trains as `train` does, in one of the processes."""
    check_options(options, processes)
    options = with_restart(options, processes)
    validation = find_validation(options.val_folder, TASKS[options.network])
    learner = make_learner(options, processes)
    dataset = make_dataset(options, processes)
    note_data(learner.state, dataset.fingerprint(), options.resume)
    warn_of_training_data(validation, [file for scene in dataset.scenes for file in scene.files])
    schedule = make_schedule(options, processes, len(dataset))
    figures = figure_scenes(validation, dataset, options.crop_size)
    outputs = Outputs(options, processes, learner.state, figures)
    batches = make_batches(options, processes, learner.state, dataset)
    state, stopped = learner.state, False
    with StopOnSignal() as stop, progress_bar(schedule, state, outputs.quiet) as bar:
        while state.epoch < schedule.epochs and not stopped:
            started = time.monotonic()
            while state.step < schedule.steps and not stopped:
                stopped = learner.step(next(batches), schedule, stop)
                bar.update()
            finished = state.step == schedule.steps
            if finished:
                if validation and is_due(state.epoch + 1, options.val_epoch, schedule.epochs):
                    outputs.save(learner)  # Validation may be killed; the epoch is safe.
                    score = mean_score(learner, validation, options, outputs.quiet)
                    state.val[state.epoch + 1] = score
                rate = schedule.learning_rate((state.epoch + 1) * schedule.steps - 1)
                seconds = round(time.monotonic() - started, 2)
                state.finish_epoch(state.loss_sum / schedule.scenes, rate, seconds)
            outputs.write(learner, finished)
            # A signal may have come since the last step; all processes have to agree.
            stopped = stopped or processes.any(stop.requested)
            bar.set_postfix(progress_values(state))
    del batches  # Its workers end now, not when the garbage collector finds them.
    outputs.finish(state)
    return state.loss


def check_options(options: argparse.Namespace, processes: Processes) -> None:
    """Raises ValueError where options contradict each other or do not suit this machine."""
    default = TrainOptions().parser.get_default
    for name in TASKS[options.network].without:
        if getattr(options, name) != default(name):
            raise ValueError(f"--{name}: not for --network {options.network}")
    if options.loss == "global" and options.stacks:
        raise ValueError("--loss global is defined for pairs, not with --stacks")
    if options.batch_norm and processes.count > 1 and processes.device.type != "cuda":
        # SyncBatchNorm needs CUDA; without it, N processes would not train as one.
        raise ValueError("--batch_norm: in several processes on GPUs only")
    if options.tensorboard and processes.first:
        summary_writer()


def with_restart(options: argparse.Namespace, processes: Processes) -> argparse.Namespace:
    """Returns the options, with --resume set where torchrun has restarted the run.

    A restart repeats the command that started the run.
    """
    latest, record = (os.path.join(options.det, *x) for x in (("model", "latest.pth"), (RECORD,)))
    # A record of another launcher, or a latest.pth older than it, is of an earlier run.
    ours = processes.first and launcher_of(record) == os.getppid() and is_newer(latest, record)
    if processes.attempt > 0 and processes.any(ours):
        options = copy.copy(options)
        options.resume = latest
    return options


def launcher_of(record: str) -> int | None:
    """Returns the process that started the run of a run.json, by its number; None if unknown."""
    try:
        with open(record) as file:
            return json.load(file).get("launcher")
    except (OSError, ValueError, AttributeError):
        return None


def is_newer(path: str, other: str) -> bool:
    """Returns True where both files are there and `path` is not the older one."""
    try:
        return os.stat(path).st_mtime_ns >= os.stat(other).st_mtime_ns
    except FileNotFoundError:
        return False


def find_validation(folders: Sequence[str], task: Task[Any]) -> list[list[str]]:
    """Returns the picture files to validate on: pairs, or whole scenes.

    Reads them all: a picture that cannot be used is found now, not after hours. Scenes of fewer
    exposures than the task needs are left out.
    """
    scenes = [files for folder in folders for files in find_brackets(folder, task.whole).values()]
    scenes = [files for files in scenes if len(files) >= task.exposures]
    if folders and not scenes:
        raise ValueError(f"{', '.join(folders)}: no scene has {task.exposures} exposures")
    for files in scenes:
        read_exposures(files)
    return scenes


def warn_of_training_data(validation: Sequence[Sequence[str]], files: Sequence[str]) -> None:
    """Warns of validation scenes that hold a picture of the training scenes, or a copy of one."""
    sizes = {os.path.getsize(file) for file in files}
    known: set[bytes] = set()
    for scene in validation:
        if not any(os.path.getsize(file) in sizes for file in scene):
            continue
        known = known or {digest_of(file) for file in files}
        if any(digest_of(file) in known for file in scene):
            text = "is trained on as well; its score says nothing of other scenes"
            warnings.warn(f"{os.path.dirname(scene[0])}: {text}", stacklevel=2)


def digest_of(file: str) -> bytes:
    """Returns the SHA-256 digest of a file."""
    with open(file, "rb") as opened:
        return hashlib.sha256(opened.read()).digest()


def make_learner(options: argparse.Namespace, processes: Processes) -> Learner:
    """Builds the Learner, new or continued from the checkpoint of --resume."""
    torch.manual_seed(options.seed)
    task = TASKS[options.network]
    model = task.build(options)
    if options.init and not options.resume:
        start_from(model, options.init)
    before = load_latest(options.resume, vars(options), processes.count) if options.resume else {}
    learner = Learner(
        model,
        task.criterion(options),
        processes,
        training_precision(options, before, processes),
        Descent(
            ema=options.ema,
            noise=options.noise,
            power=options.loss_power,
            optimizer=options.optimizer,
            centred=not options.uncentred,
            seed=options.seed,
        ),
    )
    if before:
        try:
            learner.load_state_dict(before)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{options.resume}: its state of training does not fit") from error
    return learner


def training_precision(
    options: argparse.Namespace, before: Mapping[str, Any], processes: Processes
) -> torch.dtype:
    """Returns the type of the convolutions; "auto" is that of the checkpoint that is resumed from.

    So a run goes on exactly, also on a machine that is faster in another type. All processes take
    the type that the first one finds fast.
    """
    name = options.precision
    if name == "auto" and before.get("precision") in PRECISIONS:
        name = before["precision"]
    chosen = type_name(choose_precision(name, processes.device))
    (number,) = processes.sum(PRECISIONS.index(chosen) if processes.first else 0)
    return getattr(torch, PRECISIONS[int(number)])


def start_from(model: nn.Module, path: str) -> None:
    """Copies a checkpoint's weights to a network; ValueError where they belong to another one."""
    try:
        model.load_state_dict(load_network(path).state_dict())
    except RuntimeError as error:
        raise ValueError(f"{path}: holds another network than the one to train") from error


def make_dataset(options: argparse.Namespace, processes: Processes) -> BracketedDataset:
    """Opens the training data; the first process decodes what the cache lacks."""
    with processes.first_alone():
        return BracketedDataset(
            options.folder,
            options.crop_size,
            options.seed,
            cache=options.cache or os.path.join(options.det, "cache"),
            progress=not options.quiet and processes.first,
            batch_size=options.batch_size * processes.count,
            draws=Draws(
                pairs=options.pairs,
                stacks=options.stacks,
                zoom=options.zoom,
                gamma=options.gamma,
                widen=options.widen,
                degrade=options.degrade,
                each=options.draws,
                exposures=TASKS[options.network].exposures,
            ),
        )


def note_data(state: State, data: dict[str, str], resumed: str | None) -> None:
    """Notes a new run's data in its state; checks that a resumed run's are unchanged.

    data: see BracketedDataset.fingerprint. resumed: the checkpoint to resume from, or None. Raises
    ValueError where the data have changed.
    """
    if not resumed:
        state.data = data
    before = state.data
    if before == data:
        return
    changed = [name for name in before if data.get(name) != before[name]]
    changed += [name for name in data if name not in before]
    raise ValueError(
        f"{resumed}: was trained on {len(before)} scenes, now there are {len(data)}; "
        f"{len(changed)} differ, the first of them {changed[0]}"
    )


def make_schedule(options: argparse.Namespace, processes: Processes, scenes: int) -> Schedule:
    """Returns the steps of the run."""
    batch = options.batch_size * processes.count
    return Schedule(scenes, batch, options.epoch, options.lr, options.schedule, options.warmup)


def make_batches(
    options: argparse.Namespace, processes: Processes, state: State, dataset: BracketedDataset
) -> Iterator[list[torch.Tensor]]:
    """Starts to load this process's batches, from the state's epoch and step to the end."""
    batches = EpochBatches(
        len(dataset),
        options.batch_size,
        options.epoch,
        options.seed,
        start=(state.epoch, state.step),
        rank=processes.rank,
        count=processes.count,
    )
    cuda = processes.device.type == "cuda"
    return iter(make_loader(dataset, batches, options.workers, pin_memory=cuda))


def is_due(epoch: int, every: int, last: int) -> bool:
    """Returns True in every `every`-th epoch and in the last."""
    return epoch % every == 0 or epoch == last


def mean_score(
    learner: Learner, scenes: Sequence[Sequence[str]], options: argparse.Namespace, quiet: bool
) -> float:
    """Returns the averaged weights' mean score; every process scores a share of the scenes."""
    processes, model = learner.processes, learner.averaged
    share = scenes[processes.rank :: processes.count]
    scores = TASKS[options.network].scores(model, share, options.precision, quiet)
    scores = processes.gather(scores)
    return sum(scores) / len(scores)


def progress_bar(schedule: Schedule, state: State, quiet: bool) -> tqdm:
    """Returns a bar of all the run's steps, shown where stderr is a terminal."""
    return tqdm(
        total=schedule.epochs * schedule.steps,
        initial=state.epoch * schedule.steps + state.step,
        unit="step",
        disable=True if quiet else None,
    )


def progress_values(state: State) -> dict[str, int | str]:
    """Returns the last epoch's values for the progress bar."""
    values: dict[str, int | str] = {"epoch": state.epoch}
    if state.loss:
        values["loss"] = f"{state.loss[-1]:.4f}"
    if state.val:
        values["val"] = f"{list(state.val.values())[-1]:.4f}"
    return values


class Outputs:
    """The files that a run leaves below --det; only the first process writes them.

    scenes: the pictures of the figures. quiet: True to hide progress bars.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        processes: Processes,
        state: State,
        scenes: Sequence[Sequence[np.ndarray]],
    ) -> None:
        """Makes the folders, run.json and log.csv, and prints the command unless --quiet."""
        self.options = options
        self.enabled = processes.first
        self.quiet = options.quiet or not processes.first
        self.scenes = scenes
        self.record = run_record(vars(options), processes.count, processes.device)
        if not self.enabled:
            return
        for name in ("model", "image"):
            os.makedirs(self.path(name), exist_ok=True)
        self.keep_former()
        for unfinished in glob.glob(os.path.join(glob.escape(self.path("model")), "*.tmp*")):
            os.remove(unfinished)  # left by a run that was killed
        if processes.attempt == 0 or not options.resume:
            with utils.replacing(self.path(RECORD), "w") as file:
                launcher = {"launcher": os.getppid()}
                record = {**self.record, **launcher, "options": vars(options), "data": state.data}
                json.dump(record, file, indent=1)
        if not options.quiet:
            print(self.record["command"], flush=True)
        self.log = Log(self.path("log.csv"), state)
        self.tensorboard = None
        if options.tensorboard:
            self.tensorboard = summary_writer()(self.path("tensorboard"))

    def keep_former(self) -> None:
        """Renames the checkpoints of another run in --det, which a new one would overwrite."""
        if self.options.resume:
            return
        for name in ("latest.pth", "best.pth"):
            path, kept = self.path("model", name), self.path("model", f"former_{name}")
            if os.path.exists(path):
                os.replace(path, kept)
                warnings.warn(f"{path}: of another run; kept as {kept}", stacklevel=2)

    def path(self, *names: str) -> str:
        """Returns a path below --det."""
        return os.path.join(self.options.det, *names)

    def write(self, learner: Learner, finished: bool) -> None:
        """Writes latest.pth and, at the end of an epoch, all other files that are due."""
        if not self.enabled:
            return
        state = learner.state
        if finished and is_best(state, self.options.epoch, bool(self.options.val_folder)):
            self.store(save_best, "best.pth", learner)
        # Resuming repeats an epoch that is not in latest.pth, so that what is due is made.
        try:
            if finished:
                self.draw(learner)
        finally:
            self.save(learner)
        if finished:
            self.log.write(state)
            if self.tensorboard:
                write_scalars(self.tensorboard, state)

    def save(self, learner: Learner) -> None:
        """Writes latest.pth; TrainingError where it cannot be written."""
        if self.enabled:
            self.store(save_latest, "latest.pth", learner)

    def store(
        self, save: Callable[[str, Mapping[str, Any]], None], name: str, learner: Learner
    ) -> None:
        """Saves a checkpoint; TrainingError where it cannot be written."""
        entries = {**learner.state_dict(), "options": vars(self.options), "run": self.record}
        try:
            save(self.path("model", name), entries)
        except OSError as error:
            raise TrainingError(f"{error}; the checkpoint of before is still there") from error

    def draw(self, learner: Learner) -> None:
        """Draws the figure and the curves of the epoch just finished, where they are due."""
        options, state, model = self.options, learner.state, learner.averaged
        if is_due(state.epoch, options.record_epoch, options.epoch):
            panel = TASKS[options.network].panel
            panels = [panel(model, scene, options) for scene in self.scenes]
            utils.write_image(self.path("image", f"{state.epoch}.png"), np.concatenate(panels))
        if state.epoch % options.record_epoch == 0 or state.epoch in state.val:
            draw_curves(self.path("loss.png"), state)

    def finish(self, state: State) -> None:
        """Draws the final curves; tells the last scores, or how a stopped run continues."""
        if not self.enabled:
            return
        draw_curves(self.path("loss.png"), state)
        latest, best = self.path("model", "latest.pth"), self.path("model", "best.pth")
        if state.epoch < self.options.epoch:
            print(f"stopped in epoch {state.epoch + 1}; --resume {latest} continues", flush=True)
        elif not self.quiet and state.loss:
            text = f"epoch {state.epoch}: loss {state.loss[-1]:.4f}"
            if state.val:
                scored = max(state.val, key=lambda epoch: state.val[epoch])
                text += f", best validation score {state.val[scored]:.4f} (epoch {scored})"
            print(f"{text}; {best if os.path.exists(best) else latest}", flush=True)


def is_best(state: State, last: int, validated: bool) -> bool:
    """Returns True where the epoch just finished has the best validation score so far.

    last: the run's last epoch, which counts as the best in a run without validation. validated:
    True where the run has pictures to validate on.
    """
    if state.epoch not in state.val:
        return state.epoch == last and not validated
    earlier = [score for epoch, score in state.val.items() if epoch != state.epoch]
    return state.val[state.epoch] > max(earlier, default=-math.inf)


class Log:
    """The file log.csv, a line an epoch; a resumed run's earlier lines come from its state."""

    def __init__(self, path: str, state: State) -> None:
        self.path = path
        with utils.replacing(path, "w", newline="") as file:
            writer = csv.DictWriter(file, LOG_FIELDS)
            writer.writeheader()
            writer.writerows(self.line(state, epoch) for epoch in range(1, state.epoch + 1))

    def line(self, state: State, epoch: int) -> dict[str, object]:
        """Returns an epoch's line, {field: value} for LOG_FIELDS."""
        return {
            "epoch": epoch,
            "loss": state.loss[epoch - 1],
            "val_score": state.val.get(epoch, ""),
            "lr": state.lr[epoch - 1],
            "seconds": state.seconds[epoch - 1],
        }

    def write(self, state: State) -> None:
        """Adds the line of the epoch just finished."""
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, LOG_FIELDS).writerow(self.line(state, state.epoch))


def summary_writer() -> Callable[..., Any]:
    """Returns TensorBoard's SummaryWriter; ValueError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard: the package tensorboard is not installed") from error
    return SummaryWriter


def write_scalars(writer: Any, state: State) -> None:
    """Writes the values of the epoch just finished to TensorBoard's writer."""
    writer.add_scalar("loss", state.loss[-1], state.epoch)
    writer.add_scalar("learning rate", state.lr[-1], state.epoch)
    if state.epoch in state.val:
        writer.add_scalar("validation score", state.val[state.epoch], state.epoch)
    writer.flush()


def figure_scenes(
    validation: Sequence[Sequence[str]], dataset: BracketedDataset, side: int
) -> list[list[np.ndarray]]:
    """Returns the exposures that the figures of all epochs show: 8-bit RGB squares (side, side, 3).

    They show the middle of the first validation scenes or, without these, a training crop.
    """
    scenes = [
        [middle_square(image, side) for image in utils.read_images(paths)]
        for paths in validation[:FIGURE_SCENES]
    ]
    return scenes or [[utils.from_ycbcr(crop[None].numpy(), np.uint8) for crop in dataset[0]]]


def middle_square(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the largest square in the middle of a picture as 8-bit RGB, (side, side, 3)."""
    image = as_8_bit_rgb(image)
    square = min(image.shape[:2])
    top, left = ((length - square) // 2 for length in image.shape[:2])
    image = image[top : top + square, left : left + square]
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def draw_curves(path: str, state: State) -> None:
    """Draws the loss, and the validation score where there is one, over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    axes.plot(range(1, len(state.loss) + 1), state.loss, label="training loss")
    axes.set(xlabel="epoch", ylabel="loss")
    if state.val:
        losses = [1 - score for score in state.val.values()]
        axes.plot(list(state.val), losses, "o-", label="1 - validation score")
    axes.set_yscale("log")
    axes.legend()
    with utils.replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)
    plt.close(figure)


def command(options: argparse.Namespace) -> None:
    """Trains and returns None, because `run` would take the losses for an exit status."""
    train(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    try:
        return run("train.py", command, TrainOptions().parse(argv), keep_large=True)
    except TrainingError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
