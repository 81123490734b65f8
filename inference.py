"""How are photos fused from the command line? Files and flags around fusion.fuse.

What needs PyTorch is imported in functions: that takes a second, in which pictures are read, and
for which --help and mistaken flags do not wait.
"""

import contextlib
import functools
import gc
import hashlib
import os
import sys
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

import align
import utils
from opts import TestOptions, describe, run

FAILURES = (OSError, ValueError, RuntimeError, MemoryError, cv2.error)  # of one scene of a folder
AHEAD = 2  # scenes of a folder that are read before their turn, and that wait to be written
LARGE = 150e6  # bytes of a picture, from which those of a scene are decoded one after the other
REST = 0.7e9  # bytes of memory for PyTorch and the network's features
PAUSE = 30.0  # seconds without a photo, after which the next one begins another bracket
TYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}
TIME, BIAS = 0x9003, 0x9204  # tags of EXIF
SETTINGS = (0x829A, 0x829D, 0x8827)  # those of exposure time, aperture, ISO


def inference(options):
    """Fuses picture files, or all brackets of a folder, as a TestOptions namespace says.

    Returns the exit status: 1 where some brackets of a folder could not be fused, else 0. Raises
    OSError or ValueError naming the file where a picture or the checkpoint cannot be used or the
    result cannot be written.
    """
    if options.describe:
        print("\n".join(describe_checkpoint(options.model)))
        return 0
    if options.folder:
        return fuse_folder(options)
    for path in [options.res] + [preview_path(options.res)] * options.preview:
        utils.check_picture_writable(path)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_scene, options.images, options)
        model = load_network(options)
        pictures = reading.result()
    write = fuse_scene(model, options.images, pictures, options.res, options)
    del pictures, reading  # whose memory encoding may need
    write()
    return 0


def read_scene(files, options):
    """The Pictures of a scene's files; ValueError before any is decoded if memory is too small."""
    headers = [header for header in map(utils.read_header, files) if header]
    sizes = [header.height * header.width * header.size for header in headers]
    largest = max(sizes, default=0)
    # Besides the pictures: a second one while decoding and encoding, and copies of all.
    needed = REST + sum(sizes) * (2 if options.align or options.deghost else 1) + largest
    free = available_memory()
    if free is not None and needed > free and headers:
        raise ValueError(
            f"{' and '.join(map(str, files))}: pictures of {headers[0].width}x{headers[0].height} "
            f"pixels need some {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        )
    with ThreadPoolExecutor(1 if largest > LARGE else None) as pool:
        return list(pool.map(utils.read_picture, files))


def available_memory():
    """Bytes of memory that this process can still have; None where the system does not say."""
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        free.append(1024 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError):  # a container's share of it
        limit, used = (
            int(Path("/sys/fs/cgroup", f"memory.{name}").read_text()) for name in ("max", "current")
        )
        free.append(limit - used)
    return min(free, default=None)


def load_network(options):
    """The network of --model, ready for fusing on --device. Raises as load_model does."""
    gc.disable()  # Garbage looked for while PyTorch is imported is time lost.
    import fusion
    from model import choose_device, load_model

    gc.enable()
    model = load_model(options.model, choose_device(options.device))
    return fusion.prepare(model, options.precision)


def describe_checkpoint(path):
    """What a checkpoint is, as lines: network, training, data, score. Raises as load_model does."""
    from model import load_checkpoint, model_from_checkpoint

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


def fuse_folder(options):
    """Fuses every bracket of a folder; reading, fusing and writing overlap. Returns the status."""
    scenes, problems = find_all_brackets(options.folder, options.group, options.res)
    work = plan_results(scenes, options)
    model = load_network(options)
    failed = 0

    def failure(message):
        nonlocal failed
        failed += 1
        with tqdm.external_write_mode():
            print(f"inference.py: {message}", file=sys.stderr)

    def finish(path, written):
        try:
            written.result()
        except FAILURES as error:
            failure(f"{path}: not made: {describe(error)}")

    for problem in problems:
        failure(problem)

    reading, writing = deque(), deque()
    with ThreadPoolExecutor(AHEAD) as readers, ThreadPoolExecutor(1) as writer:
        bar = tqdm(total=len(work), unit="scene", disable=True if options.quiet else None)
        todo = iter(work)
        for _ in work:
            while len(reading) < AHEAD and (ahead := next(todo, None)):
                files, path = ahead
                reading.append((files, path, readers.submit(read_scene, files, options)))
            files, path, read = reading.popleft()
            try:
                pictures = read.result()
                write = fuse_scene(model, files, pictures, path, options, progress=False)
                writing.append((path, writer.submit(write)))
            except FAILURES as error:
                failure(f"{path}: not made: {describe(error)}")
            while len(writing) > AHEAD:
                finish(*writing.popleft())
            bar.update()
        for path, written in writing:
            finish(path, written)
        bar.close()
    if failed:
        total = len(work) + len(problems)
        print(f"inference.py: {failed} of {total} scenes were not fused", file=sys.stderr)
    return 1 if failed else 0


def plan_results(scenes, options):
    """What is to be made of the scenes {name: files}: a list of (files, path of the result).

    Makes the folder of the results. Raises ValueError where two scenes would have one result, or a
    result would overwrite a photo.
    """
    if os.path.isdir(options.res) and os.path.samefile(options.res, options.folder):
        raise ValueError(f"{options.res}: results need a folder other than that of the photos")
    os.makedirs(options.res, exist_ok=True)
    photos = {os.path.realpath(file) for files in scenes.values() for file in files}
    work, taken = [], set()
    for scene, files in scenes.items():
        path = os.path.join(options.res, options.name.replace("{scene}", scene))
        written = [path, preview_path(path)] if options.preview else [path]
        for name in written:
            utils.check_picture_writable(name)
            if os.path.realpath(name) in photos:
                raise ValueError(f"{name}: is one of the photos")
        if taken.intersection(written):
            raise ValueError(f"{path}: would be the result of several scenes; see --name")
        taken.update(written)
        if not (options.skip_existing and os.path.exists(path)):
            work.append((files, path))
    return work


def preview_path(path):
    return f"{os.path.splitext(path)[0]}_preview.jpg"


def fuse_scene(model, files, pictures, path, options, progress=True):
    """Fuses the Pictures of one scene; returns a function that writes the result under a path.

    Raises ValueError naming the files where they cannot be fused.
    """
    import fusion

    listed = " and ".join(map(str, files))
    images = [picture.pixels for picture in pictures]
    alpha = common_alpha(pictures, path)
    if options.H:
        images = [resize(image, options.W, options.H) for image in images]
        alpha = None if alpha is None else resize(alpha, options.W, options.H)
    reference = align.middle_exposure(images)
    metadata = pictures[reference].metadata
    how = {
        "progress": progress and not options.quiet,
        "refine": options.refine,
        "chroma": options.chroma,
        "fast": options.fast,
        "strength": options.strength,
        "dtype": TYPES.get(options.depth),
    }
    try:
        fusion.check(images, one_size=not options.align)
        if options.align:
            images, area = aligned(images, reference, files, options)
            alpha = None if alpha is None else alpha[area]
            fusion.check(images)  # what could not be aligned
        if options.deghost:
            images, shares = align.deghost(images, reference)
            for file, share in zip(files, shares, strict=True):
                if share > 0.5:
                    text = f"{file}: {share:.0%} of it replaced as moved; is it of this scene?"
                    warnings.warn(text, stacklevel=2)
            if options.verbose:
                for file, share in zip(files, shares, strict=True):
                    print(f"{file}: {share:.1%} replaced as moved", file=sys.stderr)
        if options.panel and len(images) != 2:
            raise ValueError(f"--panel is for two exposures, not {len(images)}")
        if options.panel:
            under, over = sorted(images, key=lambda image: image.mean())
            result = fusion.panel(model, under, over, **how)
            alpha = None
        else:
            result = fusion.fuse(model, images, **how, overwrite=not options.preview)
    except (ValueError, cv2.error) as error:
        reason = error.err if isinstance(error, cv2.error) else error
        raise ValueError(f"{listed}: {reason}") from error
    sheet = None
    if options.preview:
        captions = [os.path.basename(file) for file in files]
        sheet = utils.contact_sheet_row([*images, result], [*captions, "fused"], width=480)
    if alpha is not None:
        alpha = utils.as_type(alpha, result.dtype)
    return functools.partial(write, path, result, alpha, metadata, options.quality, sheet)


def write(path, result, alpha, metadata, quality, sheet):
    """Writes a result and, where there is one, its contact sheet beside it."""
    utils.write_image(path, result, alpha, metadata, quality)
    if sheet is not None:
        utils.write_image(preview_path(path), sheet)


def aligned(images, reference, files, options):
    """align.align as the options say: (pictures, the area of the reference that they show)."""
    everything = (slice(None), slice(None))
    try:
        images, registrations, area = align.align(images, reference, not options.no_crop)
    except ValueError as error:
        if options.align != "try":
            raise
        listed = " and ".join(map(str, files))
        warnings.warn(f"{listed}: fused unaligned: {error}", stacklevel=2)
        return images, everything
    if options.verbose:
        for k, (file, found) in enumerate(zip(files, registrations, strict=True)):
            if k == reference:
                print(f"{file}: the reference", file=sys.stderr)
                continue
            print(
                f"{file}: moved by {found.shift[0]:.2f}, {found.shift[1]:.2f} pixels and "
                f"{found.rotation:.3f} degrees; {found.patches} places fit, the median one to "
                f"{found.residual:.2f} pixels",
                file=sys.stderr,
            )
    return images, area


def common_alpha(pictures, path):
    """The alpha that all Pictures have, or None, with a warning where they differ in it."""
    first, *others = (picture.alpha for picture in pictures)
    if first is None and all(alpha is None for alpha in others):
        return None
    if first is None or not all(np.array_equal(alpha, first) for alpha in others):
        warnings.warn(f"{path}: without alpha, in which the pictures differ", stacklevel=2)
        return None
    return first


def find_all_brackets(folder, group, results):
    """The brackets of a folder: {scene: picture files}, and what cannot be used, as messages.

    Every sub-folder with pictures, but that of the results, is a scene. The folder's own pictures
    are scenes of `group` files each or, where that is None, as their EXIF data group them; such a
    scene has the name of its first file. Raises ValueError where there is nothing to fuse or two
    scenes have one name.
    """
    scenes, problems = {}, []

    def add(name, files):
        if name in scenes:
            raise ValueError(f"{folder}: two brackets have the name {name}")
        scenes[name] = files

    flat = utils.find_pictures(folder)
    if group:
        parts = [flat[start : start + group] for start in range(0, len(flat), group)]
    else:
        parts, problems = group_by_exif(flat)
    for files in parts:
        add(os.path.splitext(os.path.basename(files[0]))[0], files)
    for name in sorted(os.listdir(folder), key=utils.natural):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not (os.path.isdir(results) and os.path.samefile(path, results)):
            try:
                files = utils.find_pictures(path)
            except OSError as error:
                problems.append(describe(error))
                continue
            if files:
                add(name, files)
    if not scenes:
        reason = problems[0] if problems else f"{folder}: holds no pictures, nor do its sub-folders"
        raise ValueError(reason)
    return scenes, problems


class Shot(NamedTuple):
    """A photo and what its EXIF says: seconds at its start, exposure time, settings, bias."""

    file: str
    start: float
    seconds: float
    settings: tuple
    bias: float | None


def group_by_exif(files):
    """Photos of one folder as brackets: lists of files in the order in which they were taken.

    A bracket ends where the camera pauses, and before an exposure that it has already: a bias in
    brackets made by bias, else settings (exposure time, aperture, ISO). Returns the brackets and,
    as messages, which files do not say when they were taken and how exposed.
    """
    shots, problems = [], []
    for file in files:
        exif = utils.read_exif(file)
        start = seconds(utils.exif_value(exif, TIME))
        settings = tuple(utils.exif_value(exif, tag) for tag in SETTINGS)
        bias = utils.exif_value(exif, BIAS)
        if start is None or (settings[0] is None and bias is None):
            problems.append(
                f"{file}: does not say when and how it was exposed; --group N takes N files each"
            )
        else:
            shots.append(Shot(file, start, settings[0] or 0.0, settings, bias))
    shots.sort(key=lambda shot: shot.start)  # stable: by name within a second
    brackets = []
    for shot in shots:
        if not brackets or begins_another(shot, brackets[-1]):
            brackets.append([])
        brackets[-1].append(shot)
    return [[shot.file for shot in bracket] for bracket in brackets], problems


def begins_another(shot, bracket):
    """Whether a Shot is not of the bracket, a list of Shots, that the one before it is of."""
    last = bracket[-1]
    if shot.start - last.start - last.seconds > PAUSE:
        return True
    if len({other.bias for other in bracket}) > 1:
        return shot.bias in {other.bias for other in bracket}
    return (shot.settings, shot.bias) in {(other.settings, other.bias) for other in bracket}


def seconds(time):
    """EXIF's time, YYYY:MM:DD hh:mm:ss, in seconds since some day; None where it is not one."""
    try:
        moment = np.datetime64("{}-{}-{}T{}:{}:{}".format(*time.replace(" ", ":").split(":")[:6]))
    except (AttributeError, IndexError, ValueError):
        return None
    return float(moment.astype("datetime64[s]").astype(np.int64))


def resize(image, width, height):
    shrinks = width * height < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    try:
        return cv2.resize(image, (width, height), interpolation=interpolation)
    except cv2.error as error:
        raise ValueError(f"--H {height} --W {width}: {error.err}") from error


def main(argv=None):
    return run("inference.py", inference, TestOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
