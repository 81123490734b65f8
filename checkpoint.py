"""What is in a checkpoint? A dict, as torch.save writes it.

    model       the network's weights for fusing, averaged where training averages (--ema)
    network     the settings that build it
    options     the options of train.py
    run         command, versions and machine, see run_record
    epoch, step, loss_sum, loss, lr, seconds, val, data
                the State of training
    precision   the type of the convolutions in training
    trained, optimizer, scaler
                in latest.pth and previous.pth only: what resuming needs beside the above

Fusing needs `model` alone, with the paper's network where there is no `network`. The earlier
PyTorch implementation's files, {"model", "loss"}, are read too, and so is the .npz file of the
network that the paper's authors released.
"""

import contextlib
import dataclasses
import glob
import hashlib
import os
import pickle
import platform
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import torch

import utils
from model import (
    BetweenNetwork,
    DeepFuse,
    LumaNetwork,
    ReleasedDeepFuse,
    build,
    choose_device,
    fold_batch_norm,
    is_finite,
)
from precision import precision_note

# Names of layers in the earlier PyTorch implementation (SunnerLi/DeepFuse.pytorch), and ours. Its
# layer3 is the addition, which has no parameters.
ORIGINAL_LAYERS = {"layer1": "c1", "layer2": "c2", "layer4": "c3", "layer5": "c4", "layer6": "c5"}
# Options that a resumed run must have in common with the run that it continues.
FIXED_OPTIONS = (
    "network",
    "width",
    "batch_norm",
    "uncentred",
    "pairs",
    "stacks",
    "zoom",
    "gamma",
    "widen",
    "draws",
    "degrade",
    "noise",
    "ema",
    "seed",
    "batch_size",
    "crop_size",
    "loss",
    "scales",
    "luminance_weight",
    "loss_power",
    "optimizer",
    "lr",
    "schedule",
    "warmup",
)
# Of these, the ones that earlier versions did not have, and what their runs did.
LATER_OPTIONS = {
    "widen": 0.0,
    "draws": 1,
    "degrade": False,
    "loss_power": 1.0,
    "optimizer": "adam",
}
DICTIONARIES = ("network", "options", "run", "data")  # entries that are such where they are there
FOR_TRAINING = ("trained", "optimizer", "scaler")  # entries that best.pth lacks


@dataclasses.dataclass
class State:
    """The progress of training.

    epoch: the number of finished epochs.
    step, loss_sum: steps taken in the epoch under way, and the sum of their samples' losses.
    loss, lr, seconds: every finished epoch's mean loss, learning rate in the last step, and
        duration.
    val: {epoch: validation score}.
    data: {scene: fingerprint}, see BracketedDataset.fingerprint.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss: list[float] = dataclasses.field(default_factory=list)
    lr: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    val: dict[int, float] = dataclasses.field(default_factory=dict)
    data: dict[str, str] = dataclasses.field(default_factory=dict)

    def finish_epoch(self, loss: float, lr: float, seconds: float) -> None:
        """Ends the epoch under way."""
        self.loss.append(loss)
        self.lr.append(lr)
        self.seconds.append(seconds)
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0


def save_checkpoint(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Writes a dict with torch.save so that `path` holds the old or the new file as a whole.

    Raises OSError where it cannot be written; a file already at `path` is then untouched.
    """
    try:
        with utils.replacing(path, flush=True) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        # A full disk may reach us as the RuntimeError of torch's zip writer.
        reason = short(error.__cause__ or error)
        raise OSError(f"{path}: cannot be written ({reason})") from error


def save_latest(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Writes latest.pth as save_checkpoint does; the former one becomes previous.pth."""
    temporary = f"{path}.old"
    with contextlib.suppress(OSError):  # A run's first save finds no latest.pth.
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        try:
            os.link(path, temporary)  # Unlike a rename, it leaves a latest.pth in place.
        except OSError:
            shutil.copy(path, temporary)  # Some file systems cannot link.
        os.replace(temporary, previous_beside(path))
    save_checkpoint(path, checkpoint)


def save_best(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Writes best.pth as save_checkpoint does, without the entries FOR_TRAINING."""
    kept = {key: value for key, value in checkpoint.items() if key not in FOR_TRAINING}
    save_checkpoint(path, kept)


def previous_beside(latest: str) -> str:
    """Returns the path of the previous.pth beside a latest.pth."""
    return os.path.join(os.path.dirname(latest), "previous.pth")


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint file, ours or the earlier implementation's, as the dict that was saved.

    The file of the released network gives a dict with `model` and `network`.

    Nothing in the file is executed (weights_only); tensors are on the CPU.
    Raises OSError where the file cannot be read, and ValueError naming the file and the reason
    where it is not a checkpoint of either.
    """
    if is_released(path):
        return {"model": read_released(path), "network": {"name": ReleasedDeepFuse.name}}
    with (
        open(path, "rb") as file,
        torch.serialization.safe_globals(numpy_scalars()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch warns of files that are refused anyway
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = "not a checkpoint, or one that would run code when loaded"
            raise ValueError(f"{path}: {reason}") from error
        except Exception as error:  # torch raises many types on damaged files
            reason = f" ({short(error)})" if str(error) else ""
            raise ValueError(f"{path}: damaged or not a checkpoint{reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise ValueError(f"{path}: not a DeepFuse checkpoint (no state_dict under the key 'model')")
    for name in DICTIONARIES:
        if not isinstance(checkpoint.get(name, {}), dict):
            raise ValueError(f"{path}: damaged: its {name} is no dictionary")
    return checkpoint


def is_released(path: str | os.PathLike[str]) -> bool:
    """Returns True for a file of NumPy's arrays, .npz, whatever its name is; OSError as open."""
    with open(path, "rb") as file:
        try:
            names = zipfile.ZipFile(file).namelist()
        except Exception:  # It raises many types on damaged files.
            return False
        return bool(names) and all(name.endswith(".npy") for name in names)


def read_released(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads the weights of a ReleasedDeepFuse from the authors' file, arrays arr_0 to arr_5.

    They are kernels of convolutions, (out, in, h, w); PyTorch's layers correlate, so they are
    flipped. Nothing in the file is executed. Raises ValueError naming the file and the array where
    one is missing, no array of numbers, or of another shape.
    """
    shapes = {f"arr_{i}": shape for i, shape in enumerate(ReleasedDeepFuse.SHAPES)}
    weights = {}
    with np.load(path, allow_pickle=False) as arrays:
        if set(arrays.files) != set(shapes):
            listed = ", ".join(sorted(arrays.files))
            raise ValueError(f"{path}: has the arrays {listed}, not {', '.join(shapes)}")
        for i, (name, shape) in enumerate(shapes.items(), start=1):
            try:
                kernel = arrays[name]
            except Exception as error:  # NumPy raises many types on damaged files.
                raise ValueError(f"{path}: {name} is damaged ({short(error)})") from error
            if kernel.shape != shape or kernel.dtype.kind != "f":
                found = f"{kernel.dtype} of shape {kernel.shape}"
                raise ValueError(f"{path}: {name} is {found}, not floats of shape {shape}")
            flipped = np.ascontiguousarray(kernel[:, :, ::-1, ::-1], np.float32)
            weights[f"c{i}.0.weight"] = torch.from_numpy(flipped)
    return weights


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> LumaNetwork:
    """Returns the network of a checkpoint file on a device, in eval mode, ready for fusing.

    A file of the earlier implementation gives a network without BatchNorm, equal to the file's
    own in eval mode. Raises OSError and ValueError as load_network does, and ValueError where the
    file holds a network of photos.
    """
    model = load_network(path, device)
    if isinstance(model, BetweenNetwork):
        raise ValueError(
            f"{path}: holds a network of photos, which fuses no luma; --look photo uses it"
        )
    return model


def load_between(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> BetweenNetwork:
    """Returns the network of photos from a checkpoint file, like load_model."""
    model = load_network(path, device)
    if not isinstance(model, BetweenNetwork):
        raise ValueError(f"{path}: holds a network that fuses luma, for --look paper or earlier")
    return model


def load_network(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> LumaNetwork | BetweenNetwork:
    """Returns the network of any kind that a checkpoint file holds, as load_model does.

    Raises OSError and ValueError as load_checkpoint does, and ValueError naming the keys where
    weights are missing, foreign or of another shape.
    """
    model = model_from_checkpoint(load_checkpoint(path), path)
    # Convolutions are faster in this order of memory.
    return model.to(device).to(memory_format=torch.channels_last)


def model_from_checkpoint(
    checkpoint: Mapping[str, Any], path: str | os.PathLike[str]
) -> LumaNetwork | BetweenNetwork:
    """Builds the network of a checkpoint dict, in eval mode on the CPU.

    Raises ValueError, naming `path`, where the weights do not fit or are not finite.
    """
    state = checkpoint["model"]
    settings: dict[str, Any]
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
    model.eval()
    folded = model
    if isinstance(model, DeepFuse) and model.settings.get("batch_norm"):
        folded = fold_batch_norm(model)  # It takes roots of variances, which may be negative.
    if not (is_finite(model) and is_finite(folded)):
        raise ValueError(f"{path}: has weights that are not finite")
    return folded if original else model


def rename_original(key: object) -> str:
    """Renames the earlier implementation's layer4.main.0.weight to c3.0.weight, for example."""
    layer, _, rest = str(key).partition(".main.")
    return f"{ORIGINAL_LAYERS[layer]}.{rest}" if layer in ORIGINAL_LAYERS else str(key)


def numpy_scalars() -> list[Any]:
    """Returns the functions that unpickling numpy scalars may call, which construct numbers.

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


def load_latest(path: str, options: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """Reads the latest.pth that a run with these options and processes is to resume from.

    Raises OSError and ValueError as load_checkpoint does; where the file is damaged, the message
    names a previous.pth that is whole. Raises ValueError too where entries are missing, where the
    network does not fit, and where the file's run had other FIXED_OPTIONS or another number of
    processes.
    """
    try:
        checkpoint = load_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{error}{advise_previous(path)}") from error
    state = (field.name for field in dataclasses.fields(State))
    needed = (*FOR_TRAINING, "options", "run", *state)
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ValueError(f"{path}: training cannot resume from it, it lacks {', '.join(missing)}")
    before = LATER_OPTIONS | checkpoint["options"]
    count = checkpoint["run"].get("processes")
    contradictions = [
        f"--{name} {before.get(name)}, not {options[name]}"
        for name in FIXED_OPTIONS
        if before.get(name) != options[name]
    ]
    if count != processes:
        contradictions.append(f"{count} process(es), not {processes}")
    if contradictions:
        raise ValueError(f"{path}: was trained with {'; '.join(contradictions)}")
    model_from_checkpoint(checkpoint, path)  # raises where the weights cannot be used
    return checkpoint


def advise_previous(damaged: str) -> str:
    """Returns the end of a message: the previous.pth to resume from, or "" without one."""
    previous = previous_beside(damaged)
    try:
        epoch = load_checkpoint(previous)["epoch"]
    except (OSError, ValueError, KeyError):
        return ""
    return f"; --resume {previous} is whole, of epoch {epoch}"


def run_record(options: Mapping[str, Any], processes: int, device: torch.device) -> dict[str, Any]:
    """Returns, for people, how a checkpoint comes about: command, code, versions, machine."""
    sources = sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "*.py")))
    code = hashlib.sha256()
    for source in sources:
        with open(source, "rb") as file:
            code.update(file.read())
    cuda = device.type == "cuda"
    return {
        "command": f"train.py {' '.join(as_flags(options))}",
        "processes": processes,
        "code": code.hexdigest()[:16],
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "machine": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU",
    }


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Returns the command-line flags for these options, quoted for a shell."""
    flags = []
    for name, value in options.items():
        if value is True:
            flags.append(f"--{name}")
        elif not (value is None or value is False or value == []):
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", shlex.join(map(str, values))]
    return flags


def summary(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields lines that say what a checkpoint is: network, training, score, command, data.

    Raises as load_model does.
    """
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
        name = "MEF-SSIM" if not isinstance(network, BetweenNetwork) else "score"
        yield f"validation {name}: {scores[epoch]:.4f}, of epoch {epoch}"
    if not isinstance(network, BetweenNetwork | ReleasedDeepFuse):
        yield f"here: {precision_note('auto', choose_device('auto'))}"
    run = checkpoint.get("run", {})
    if {"command", "versions", "code", "machine", "processes"} <= run.keys():
        versions = ", ".join(f"{name} {version}" for name, version in dict(run["versions"]).items())
        yield f"command: {run['command']}"
        yield f"versions: {versions}, code {run['code']}"
        yield f"machine: {run['machine']}, {run['processes']} process(es)"
    elif "options" in checkpoint:
        options = checkpoint["options"].items()
        yield "options: " + ", ".join(f"{name} {value}" for name, value in options)
    data = checkpoint.get("data")
    if data:
        digest = hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()[:16]
        yield f"data: {len(data)} scenes, fingerprint {digest}"
    elif "scenes" in checkpoint:
        yield f"data: {checkpoint['scenes']} scenes"


def short(error: BaseException) -> str:
    """Returns an error's message in one line, at most some 200 characters; torch's fill pages."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text if len(text) <= 200 else text[:200] + " ..."
