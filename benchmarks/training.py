"""How fast is training? Crops a second of train.py beside the earlier implementation's way.

Both train the same network (C1 to C5, the same channels) on the same made-up brackets, crop and
batch. The earlier way: every picture decoded up front and kept as floats, crops cut in the training
process, NCHW float32, BatchNorm, its y_hat of the whole batch, 2-D windows. Ours: train.py's own
loader and step. A figure is the median of the steps' after the first.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from torch.nn import functional as F

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import brackets  # noqa: E402
import utils  # noqa: E402
from dataset import BracketedDataset, EpochBatches, make_loader  # noqa: E402
from engine import Learner, Schedule  # noqa: E402
from loss import MEF_SSIM_Loss  # noqa: E402
from model import build, choose_device  # noqa: E402
from opts import number  # noqa: E402
from precision import choose_precision, type_name  # noqa: E402
from ranks import Processes  # noqa: E402
from script import keep_freed_memory  # noqa: E402


def write_scenes(folder, count, height=600, width=900):
    """Brackets of three exposures, noise of all scales."""
    rng = np.random.default_rng(0)
    for i in range(count):
        radiance = torch.zeros(1, 3, height, width)
        for side in (4, 30, 200, 600):
            noise = torch.from_numpy(rng.random((1, 3, side, side), np.float32))
            radiance += F.interpolate(noise, size=(height, width), mode="bilinear")
        os.makedirs(os.path.join(folder, str(i)))
        for k, gain in enumerate((0.1, 0.3, 1.0)):
            picture = (radiance[0].permute(1, 2, 0).numpy() * gain).clip(0, 1)
            path = os.path.join(folder, str(i), f"{k}.jpg")
            utils.write_image(path, utils.quantise(picture, np.uint8))


def earlier_loss(y_1, y_2, y_f):
    """1 - SSIM's contrast-structure term with the earlier y_hat; luma in [-1, 1], (N, 1, H, W)."""
    offset = torch.arange(11.0) - 5
    window = torch.exp(-(offset**2) / (2 * 1.5**2))
    window = torch.outer(window, window)
    window = (window / window.sum()).to(y_f.device)[None, None]
    mean = (y_1 + y_2) / 2
    contrasts = [(y - mean).norm() for y in (y_1, y_2)]
    structure = sum((y - mean) / c for y, c in zip((y_1, y_2), contrasts, strict=True))
    y_hat = max(contrasts) * structure / structure.norm().clamp(min=1e-6) + (y_2 + mean) / 2

    def local(x):
        return F.conv2d(x, window, padding=5)

    mean_f, mean_hat = local(y_f), local(y_hat)
    variance_f = local(y_f * y_f) - mean_f**2
    variance_hat = local(y_hat * y_hat) - mean_hat**2
    covariance = local(y_f * y_hat) - mean_f * mean_hat
    c = 0.03**2
    return 1 - ((2 * covariance + c) / (variance_f + variance_hat + c)).mean()


def time_earlier(folder, crop, batch, steps, device):
    """Seconds of every step, those of the loader."""
    scenes = []
    for scene in sorted(os.listdir(folder)):
        paths = brackets.find_pictures(os.path.join(folder, scene))
        scenes.append(torch.from_numpy(utils.to_ycbcr(*map(utils.read_image, paths))))
    model = build(batch_norm=True).to(device)
    for layer in (model.c1, model.c2, model.c3, model.c4):
        layer[2].inplace = False
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)
    seconds, waits = [], []
    for _ in range(steps):
        start = time.perf_counter()
        crops = []
        for k in rng.integers(len(scenes), size=batch):
            scene = scenes[k]
            top, left = (int(rng.integers(side - crop + 1)) for side in scene.shape[-2:])
            crops.append(scene[[0, -1], :, top : top + crop, left : left + crop])
        stack = torch.stack(crops).to(device)
        waits.append(time.perf_counter() - start)
        y_1, y_2 = (2 * stack[:, k, :1] - 1 for k in (0, 1))
        value = earlier_loss(y_1, y_2, model(y_1, y_2))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        value.item()
        seconds.append(time.perf_counter() - start)
    return seconds, waits


def time_ours(folder, crop, batch, steps, device, precision, workers):
    """Seconds of every step, those in which it waited for the loader."""
    keep_freed_memory(keep_large=True)
    with tempfile.TemporaryDirectory() as cache:
        dataset = BracketedDataset(folder, crop, cache=cache)
        dtype = choose_precision(precision, device)
        learner = Learner(
            build(), MEF_SSIM_Loss(luminance_weight=0.1), Processes(str(device)), dtype
        )
        schedule = Schedule(scenes=len(dataset), batch=batch, epochs=steps, lr=1e-4)
        batches = EpochBatches(schedule.scenes, batch, schedule.epochs, seed=0)
        loader = iter(make_loader(dataset, batches, workers, pin_memory=device.type == "cuda"))
        seconds, waits = [], []
        for _ in range(steps):
            start = time.perf_counter()
            stacks = next(loader)
            waits.append(time.perf_counter() - start)
            learner.step(stacks, schedule)
            seconds.append(time.perf_counter() - start)
            learner.state.finish_epoch(0.0, schedule.lr, seconds[-1])  # of one batch
        del loader
    return seconds, waits


def beside(checkout, arguments):
    """Returns another checkout's crops a second by their names, {name: rate}."""
    script = os.path.join(checkout, "benchmarks", "training.py")
    done = subprocess.run(
        [sys.executable, script, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    lines = (re.match(r"(\S.*?)\s{2,}([\d.]+)\s", line) for line in done.stdout.splitlines())
    return {found[1]: float(found[2]) for found in lines if found}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=number(int, 2), default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--beside", metavar="DIR", help="another checkout of DeepFuse, to measure in the same run"
    )
    options = parser.parse_args(argv)
    device = choose_device(options.device)
    common = (options.crop_size, options.batch_size, options.steps, device)
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(folder, options.batch_size)
        methods = {"earlier way": lambda: time_earlier(folder, *common)}
        for precision in ("float32", "auto"):
            name = f"train.py, {type_name(choose_precision(precision, device))}"
            methods.setdefault(
                name,
                lambda precision=precision: time_ours(folder, *common, precision, options.workers),
            )
        rates = {}
        print(f"{'':20}{'crops/s':>10}{'ratio':>8}{'waiting':>10}")
        for name, method in methods.items():
            seconds, waits = method()
            rates[name] = options.batch_size / statistics.median(seconds[1:])
            ratio = rates[name] / rates["earlier way"]
            share = sum(waits[1:]) / sum(seconds[1:])
            print(f"{name:20}{rates[name]:10.2f}{ratio:8.2f}{share:10.1%}", flush=True)
    if options.beside:
        names = ("crop_size", "batch_size", "steps", "workers", "device")
        flags = [f"--{name}={getattr(options, name)}" for name in names]
        for name, rate in beside(options.beside, flags).items():
            print(f"{name:20}{rate:10.2f}  beside", flush=True)


if __name__ == "__main__":
    main()
