"""What is in a checkpoint?"""

import contextlib
import glob
import hashlib
import math
import os
import pickle
import platform
import shlex
import shutil
import warnings

import cv2
import numpy as np
import torch

from model import build, fold_batch_norm, is_finite

# The earlier PyTorch implementation (SunnerLi/DeepFuse.pytorch) numbers its layers so; layer3 is
# the addition, which has no parameters.
ORIGINAL_LAYERS = {"layer1": "c1", "layer2": "c2", "layer4": "c3", "layer5": "c4", "layer6": "c5"}
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
STATE = ("epoch", "step", "loss_sum", "loss", "lr", "seconds", "val", "data")


def save_checkpoint(path, checkpoint):
    """Writes a dict with torch.save so that `path` holds the old or the new file, never half one.

    Raises OSError where it cannot be written; a file already at `path` is then untouched.
    """
    temporary = f"{path}.tmp{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        # A full disk may reach us as the RuntimeError of torch's zip writer.
        if isinstance(error, OSError | RuntimeError):
            raise OSError(f"{path}: cannot be written ({short(error)})") from error
        raise


def load_checkpoint(path):
    """Reads a checkpoint file, ours or the earlier implementation's, as the dict that was saved.

    Nothing in the file is executed (weights_only); tensors are on the CPU.
    Raises OSError where the file cannot be read, and ValueError naming the file and the reason
    where it is no such checkpoint.
    """
    with (
        open(path, "rb") as file,
        torch.serialization.safe_globals(numpy_scalars()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch's, on files that are refused anyway
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = "not a checkpoint, or one that would run code when loaded"
            raise ValueError(f"{path}: {reason}") from error
        except Exception as error:  # torch raises whatever its readers stumble over
            raise ValueError(f"{path}: damaged or not a checkpoint ({short(error)})") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise ValueError(f"{path}: not a DeepFuse checkpoint (no state_dict under the key 'model')")
    return checkpoint


def load_model(path, device="cpu"):
    """Returns the network of a checkpoint file on a device, in eval mode, ready for fusing.

    A file of the earlier implementation gives the network without BatchNorm that equals its
    network in eval mode. Raises OSError and ValueError as load_checkpoint does, and ValueError
    naming the keys where weights are missing, foreign or of another shape.
    """
    model = model_from_checkpoint(load_checkpoint(path), path)
    return model.to(device, memory_format=torch.channels_last)  # the faster order for convolutions


def model_from_checkpoint(checkpoint, path):
    """Builds the network that a checkpoint dict describes; `path` is named in errors."""
    state = checkpoint["model"]
    original = any(str(key).partition(".")[0] in ORIGINAL_LAYERS for key in state)
    if original:
        state = {rename_original(key): value for key, value in state.items()}
        settings = {"batch_norm": True, "padding": "zeros"}
    else:
        settings = checkpoint.get("network", {})
    try:
        model = build(**settings)
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: does not fit the network: {short(error)}") from error
    if not is_finite(model):
        raise ValueError(f"{path}: has weights that are not finite")
    model.eval()
    return fold_batch_norm(model) if original else model


def rename_original(key):
    """layer4.main.0.weight, the earlier implementation's name, is c3.0.weight here."""
    layer, _, rest = str(key).partition(".main.")
    return f"{ORIGINAL_LAYERS[layer]}.{rest}" if layer in ORIGINAL_LAYERS else str(key)


def numpy_scalars():
    """What unpickling a list of numpy scalars may call: the constructors of plain numbers.

    The earlier implementation's loss list holds such scalars. numpy 2 has moved the function that
    rebuilds them, so both addresses are allowed.
    """
    rebuild = np.float64(0).__reduce__()[0]
    return [
        (rebuild, "numpy.core.multiarray.scalar"),
        (rebuild, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8")),
    ]


def short(error):
    """An error of torch's, whose messages can run to pages, as part of one line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text if len(text) <= 200 else text[:200] + " ..."


def describe(model, options, run_record):
    """The part of a checkpoint that fusing needs, and how it came about."""
    return {
        "model": model.state_dict(),
        "network": model.settings,
        "options": vars(options),
        "run": run_record,
    }


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


class TrainingError(Exception):
    """Training cannot go on; the message says why."""


def summary(path):
    """What a checkpoint is, as lines: network, training, data, score. Raises as load_model does."""
    checkpoint = load_checkpoint(path)
    network = model_from_checkpoint(checkpoint, path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    settings = ", ".join(f"{name} {value}" for name, value in network.settings.items())
    yield f"file: {path}"
    yield f"network: {type(network).__name__} ({settings}), {parameters} parameters"
    scores, losses = checkpoint.get("val"), checkpoint.get("loss")
    if "epoch" in checkpoint:
        yield f"epochs: {checkpoint['epoch']}"
    if isinstance(losses, list) and losses:
        yield f"training loss of the last epoch: {float(losses[-1]):.4f}"
    if isinstance(scores, dict) and scores:
        epoch = max(scores)
        yield f"validation MEF-SSIM: {scores[epoch]:.4f}, of epoch {epoch}"
    run_record = checkpoint.get("run", {})
    if "command" in run_record:
        yield f"command: {run_record['command']}"
        versions = ", ".join(
            f"{name} {version}" for name, version in run_record["versions"].items()
        )
        yield f"versions: {versions}, code {run_record['code']}"
        yield f"machine: {run_record['machine']}, {run_record['processes']} process(es)"
    elif "options" in checkpoint:
        options = checkpoint["options"].items()
        yield "options: " + ", ".join(f"{name} {value}" for name, value in options)
    data = checkpoint.get("data")
    if data:
        digest = hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()[:16]
        yield f"data: {len(data)} scenes, fingerprint {digest}"
    elif "scenes" in checkpoint:
        yield f"data: {checkpoint['scenes']} scenes"
