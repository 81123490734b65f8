"""How fast is fusing? Everything side by side on the same pictures, in one run.

The pictures are made here: noise of all scales under two exposures. Every figure comes from a
process of its own, which also tells its peak memory; it loads PyTorch only where the method needs
it. Times are medians without the start of the process; whole commands are timed with it: start,
decode, fuse, encode.
"""

import argparse
import csv
import functools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import fusion  # noqa: E402
import opts  # noqa: E402
import portable  # noqa: E402
import script  # noqa: E402
import tiles  # noqa: E402
import utils  # noqa: E402

script.limit_spinning()  # as inference.py does, before PyTorch is imported

# Floating-point operations of the paper's network, for one pixel of a pair.
OPERATIONS = 2 * (2 * (25 * 16 + 49 * 16 * 32) + 49 * 32 * 32 + 25 * 32 * 16 + 25 * 16)
WHOLE = 6  # megapixels; beyond, the earlier implementation's way needs too much memory
LEAST = 2  # seconds for which short measurements are repeated
ENOUGH = 20  # seconds after which a measurement is not repeated


def pictures(megapixels):
    """Makes an under- and an over-exposed picture, uint8 (H, W, 3) with sides of 2:3."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    rng = np.random.default_rng(0)
    radiance = np.zeros((height, width, 3), np.float32)
    for side in (3, 24, 192, 1536):
        noise = rng.random((side, side * 3 // 2, 3), np.float32)
        radiance += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    radiance = np.exp(radiance - radiance.mean())
    return [np.clip(gain * radiance, 0, 255).astype(np.uint8) for gain in (25, 400)]


def network(path=opts.WEIGHTS, precision="auto"):
    """Returns a network as inference.py runs it."""
    from checkpoint import load_model
    from model import prepare

    script.keep_freed_memory()
    return prepare(load_model(path), precision)


def earlier_luma(images):
    """Returns the earlier implementation's way: NCHW, float32, BatchNorm, the whole picture."""
    import torch

    import model

    torch.manual_seed(0)
    net = model.DeepFuse(batch_norm=True, padding="zeros").eval()
    for layer in (net.c1, net.c2, net.c3, net.c4):
        layer[2].inplace = False
    pair = [torch.from_numpy(luma[None]) for luma in utils.to_luma(*images)]

    @torch.no_grad()
    def work():
        return net(*pair)

    return work


def our_luma(precision):
    """Returns a method that runs our network alone, on every pixel."""

    def setup(images):
        net = network(precision=precision)
        grey = list(utils.to_luma(*images)[:, 0])
        tile = tiles.tile_size(net)
        plan = functools.partial(fusion.plan_full, net, grey, tile)
        device = tiles.network_device(net)
        return lambda: fusion.whole_luma(plan(), grey, device)

    return setup


def ours(path=opts.WEIGHTS, precision="auto", **how):
    """Returns a method that fuses colour pictures, with options of fusion.fuse."""

    def setup(images):
        net = network(path, precision)
        return lambda: fusion.fuse(net, images, fusion.Options(**how))

    return setup


def photo(**how):
    """Returns a method that makes photos as inference.py does by default, without PyTorch."""

    def setup(images):
        script.keep_freed_memory()
        net = portable.OnnxBetween(opts.BETWEEN)
        return lambda: fusion.fuse(net, images, fusion.Options(look="photo", **how))

    return setup


def merge_mertens(images):
    """Returns what evaluate.py compares with; importing it would add PyTorch's memory."""
    return lambda: utils.quantise(cv2.createMergeMertens().process(images), np.uint8)


METHODS = {
    "luma: earlier way": earlier_luma,
    "luma: full, float32": our_luma("float32"),
    "luma: full, auto": our_luma("auto"),
    "luma: full, int8": our_luma("int8"),
    "full, float32": ours(precision="float32"),
    "full, auto": ours(),
    "full, int8": ours(precision="int8"),
    "full, auto, pyramid": ours(opts.PYRAMID),
    "fast": ours(fast=True),
    "fast, pyramid": ours(opts.PYRAMID, fast=True),
    "photo": photo(),
    "MergeMertens": merge_mertens,
}


def measure(method, path, repeat, queue):
    """Puts the median seconds of METHODS[method] and the process's peak megabytes into a queue.

    path: file of the pictures, in NumPy's format; making them here would cost memory too.
    """
    work = METHODS[method](list(np.load(path)))
    queue.put((median_seconds(work, repeat), peak_megabytes()))


def median_seconds(work, repeat):
    """Returns the median time of `repeat` runs after a first one.

    Short ones are run for LEAST seconds, and long ones no more after ENOUGH.
    """
    times = []
    while (len(times) <= repeat or sum(times) < LEAST) and sum(times) < ENOUGH:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def peak_megabytes():
    """Returns this process's peak memory; None on Windows, which does not say."""
    if sys.platform == "linux":  # There, getrusage counts the parent process's memory too.
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def in_process(function, *arguments):
    """Returns what function(*arguments, queue) puts in another process; None where that dies."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    process.join()
    return None if process.exitcode else queue.get()


def matrix_peak(queue):
    """Puts what a large matrix product, in the precision "auto", tells of the machine.

    These are its operations a second, its type and its threads.
    """
    import torch

    from precision import choose_precision, type_name

    dtype = choose_precision("auto", torch.device("cpu"))
    a = torch.randn(4096, 4096).to(dtype)
    speed = 2 * 4096**3 / median_seconds(lambda: a @ a, 5)
    queue.put((speed, type_name(dtype), torch.get_num_threads()))


def commands(folder, images, repeat):
    """Yields (name, median seconds, None) of whole commands, on JPEG files in a folder."""
    paths = [os.path.join(folder, name) for name in ("under.jpg", "over.jpg")]
    for path, image in zip(paths, images, strict=True):
        utils.write_image(path, image)
    result = os.path.join(folder, "result.jpg")
    ours = [sys.executable, os.path.join(ROOT, "inference.py"), "--quiet", "--res", result]
    ours += ["--image1", paths[0], "--image2", paths[1]]
    known = {"command: inference.py": ours}
    known["command: inference.py --look paper"] = [*ours, "--look", "paper"]
    if shutil.which("enfuse"):
        known["command: enfuse"] = ["enfuse", "-o", result, *paths]
    # The first run writes compiled modules, as every user's does.
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    run = functools.partial(subprocess.run, check=True, capture_output=True, env=environment)
    for name, command in known.items():
        seconds = median_seconds(functools.partial(run, command), repeat)
        yield name, seconds, None


def beside(checkout, megapixels, options):
    """Returns what another checkout's benchmark measures at one size, {name: seconds}."""
    benchmarks = os.path.join(checkout, "benchmarks")
    code = "import inference; print(*inference.METHODS, sep='\\n')"
    known = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": benchmarks},
        cwd=tempfile.gettempdir(),
    )
    methods = [name for name in options.methods if name in known.stdout.splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "beside.csv")
        command = [sys.executable, os.path.join(benchmarks, "inference.py"), "--csv", path]
        command += ["--sizes", str(megapixels), "--repeat", str(options.repeat)]
        subprocess.run([*command, "--methods", *methods], check=True, stdout=subprocess.DEVNULL)
        with open(path, encoding="utf-8", newline="") as file:
            return {row["method"]: float(row["seconds"]) for row in csv.DictReader(file)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 6, 12, 24], help="megapixels")
    parser.add_argument("--repeat", type=int, default=3, help="times that each is measured")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--csv", help="file to write all figures to")
    parser.add_argument(
        "--beside", metavar="DIR", help="another checkout of DeepFuse, to measure in the same run"
    )
    options = parser.parse_args(argv)

    peak, dtype, threads = in_process(matrix_peak)
    print(f"matrix product in {dtype}: {peak / 1e9:.0f} GFLOP/s; {threads} threads")
    rows = []
    for megapixels in options.sizes:
        print(f"\n{megapixels:g} megapixels")
        found = []
        with tempfile.TemporaryDirectory() as folder:
            images = pictures(megapixels)
            path = os.path.join(folder, "pictures.npy")
            np.save(path, images)
            for name in options.methods:
                if name == "luma: earlier way" and megapixels > WHOLE:
                    continue
                figures = in_process(measure, name, path, options.repeat)
                if figures:
                    found.append((name, *figures))
            found += commands(folder, images, options.repeat)
        others = beside(options.beside, megapixels, options) if options.beside else {}
        mertens = {name: seconds for name, seconds, _ in found}.get("MergeMertens")
        for name, seconds, memory in found:
            line = f"{name:40} {seconds:8.2f} s"
            if memory:
                line += f" {memory:7.0f} MB"
            if mertens and not name.startswith(("luma", "command")):
                line += f"  {seconds / mertens:6.2f} x MergeMertens"
            if name in others:
                line += f"  {seconds / others[name]:6.2f} x {options.beside}"
            if name == "luma: full, auto":
                share = OPERATIONS * megapixels * 1e6 / seconds / peak
                line += f"  {share:.0%} of the matrix product's rate"
            print(line, flush=True)
            other = f"{others[name]:.4f}" if name in others else ""
            used = f"{memory:.0f}" if memory else ""
            rows.append((megapixels, name, f"{seconds:.4f}", used, other))
    if options.csv:
        with utils.replacing(options.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("megapixels", "method", "seconds", "peak MB", "seconds beside"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
