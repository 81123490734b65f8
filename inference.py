"""How are photos fused from the command line? Files and flags around fusion.fuse."""

import functools
import hashlib
import os
import sys
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from tqdm import tqdm

import align
import fusion
import utils
from model import choose_device, load_checkpoint, load_model
from opts import TestOptions, describe, run

AHEAD = 2  # scenes of a folder that are read before their turn, and that wait to be written
PAUSE = 30.0  # seconds without a photo, after which the next one begins another bracket
TYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}
TIME, EXPOSURE, BIAS = 0x9003, 0x829A, 0x9204  # tags of EXIF


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
    utils.check_picture_writable(options.res)
    with ThreadPoolExecutor() as pool:
        decoding = pool.map(utils.read_picture, options.images)
        model = load_model(options.model, choose_device(options.device))
        pictures = list(decoding)
    model = fusion.prepare(model, options.precision)
    write = fuse_scene(model, options.images, pictures, options.res, options)
    del pictures  # whose memory encoding may need
    write()
    return 0


def describe_checkpoint(path):
    """What a checkpoint is, as lines: network, training, data, score. Raises as load_model does."""
    network = load_model(path)
    checkpoint = load_checkpoint(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    settings = ", ".join(f"{name} {value}" for name, value in network.settings.items())
    yield f"file: {path}"
    yield f"network: {type(network).__name__} ({settings}), {parameters} parameters"
    scores, losses = checkpoint.get("val"), checkpoint.get("loss")
    if "epoch" in checkpoint:
        yield f"epochs: {checkpoint['epoch']}"
    if losses:
        yield f"training loss of the last epoch: {float(losses[-1]):.4f}"
    if scores:
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
    results = options.res
    scenes = find_all_brackets(options.folder, options.group, results)
    os.makedirs(results, exist_ok=True)
    work = []
    for scene, files in scenes.items():
        path = os.path.join(results, options.name.replace("{scene}", scene))
        utils.check_picture_writable(path)
        if not (options.skip_existing and os.path.exists(path)):
            work.append((files, path))
    if len({path for _, path in work}) < len(work):
        raise ValueError(f"--name {options.name}: gives several scenes one name")
    model = fusion.prepare(
        load_model(options.model, choose_device(options.device)), options.precision
    )
    failed = 0

    def failure(path, error):
        nonlocal failed
        failed += 1
        with tqdm.external_write_mode():
            print(f"inference.py: {path}: not made: {describe(error)}", file=sys.stderr)

    def finish(path, written):
        try:
            written.result()
        except (OSError, ValueError) as error:
            failure(path, error)

    reading, writing = deque(), deque()
    with ThreadPoolExecutor() as readers, ThreadPoolExecutor(1) as writer:
        bar = tqdm(total=len(work), unit="scene", disable=True if options.quiet else None)
        todo = iter(work)
        for _ in work:
            while len(reading) < AHEAD and (ahead := next(todo, None)):
                files, path = ahead
                reads = [readers.submit(utils.read_picture, file) for file in files]
                reading.append((files, path, reads))
            files, path, reads = reading.popleft()
            try:
                pictures = [read.result() for read in reads]
                write = fuse_scene(model, files, pictures, path, options, progress=False)
                writing.append((path, writer.submit(write)))
            except (OSError, ValueError) as error:
                failure(path, error)
            while len(writing) > AHEAD:
                finish(*writing.popleft())
            bar.update()
        for path, written in writing:
            finish(path, written)
        bar.close()
    if failed:
        print(f"inference.py: {failed} of {len(work)} scenes were not fused", file=sys.stderr)
    return 1 if failed else 0


def fuse_scene(model, files, pictures, path, options, progress=True):
    """Fuses the Pictures of one scene; returns a function that writes the result under a path.

    Raises ValueError naming the files where they cannot be fused.
    """
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
        if options.align:
            images, area = aligned(images, reference, files, options)
            alpha = None if alpha is None else alpha[area]
        fusion.check(images)
        if options.deghost:
            images, shares = align.deghost(images, reference)
            if options.verbose:
                for file, share in zip(files, shares, strict=True):
                    print(f"{file}: {share:.1%} replaced as moved", file=sys.stderr)
        if options.panel:
            under, over = sorted(images, key=lambda image: image.mean())
            result = fusion.panel(model, under, over, **how)
            alpha = None
        else:
            result = fusion.fuse(model, images, **how)
    except ValueError as error:
        raise ValueError(f"{listed}: {error}") from error
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
        utils.write_image(f"{os.path.splitext(path)[0]}_preview.jpg", sheet)


def aligned(images, reference, files, options):
    """align.align as the options say: (pictures, the area of the reference that they show)."""
    everything = (slice(None), slice(None))
    try:
        images, registrations, area = align.align(images, reference, not options.no_crop)
    except ValueError as error:
        if options.align != "try":
            raise
        warnings.warn(f"fused unaligned: {error}", stacklevel=2)
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
    """The brackets of a folder: {scene: picture files}.

    Every sub-folder with pictures, but that of the results, is a scene. The folder's own pictures
    are scenes of `group` files each or, where that is None, as their EXIF data group them; such a
    scene has the name of its first file. Raises ValueError where there is nothing to fuse.
    """
    scenes = {}
    flat = utils.find_pictures(folder)
    if group:
        parts = [flat[start : start + group] for start in range(0, len(flat), group)]
    else:
        parts = group_by_exif(flat) if flat else []
    for files in parts:
        scenes[os.path.splitext(os.path.basename(files[0]))[0]] = files
    for name in sorted(os.listdir(folder), key=utils.natural):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not (os.path.isdir(results) and os.path.samefile(path, results)):
            files = utils.find_pictures(path)
            if files and name in scenes:
                raise ValueError(f"{folder}: {name} is the name of a bracket and of a sub-folder")
            if files:
                scenes[name] = files
    if not scenes:
        raise ValueError(f"{folder}: holds no pictures, nor a sub-folder with pictures")
    return scenes


def group_by_exif(files):
    """Photos of one folder as brackets: lists of files in the order in which they were taken.

    A bracket ends before an exposure that it has already, and where the camera pauses. Raises
    ValueError naming a file that does not say when it was taken and how it was exposed.
    """
    shots = []
    for file in files:
        exif = utils.read_exif(file)
        taken = seconds(utils.exif_value(exif, TIME))
        exposure = (utils.exif_value(exif, EXPOSURE), utils.exif_value(exif, BIAS))
        if taken is None or exposure == (None, None):
            raise ValueError(
                f"{file}: does not say when and how it was exposed; --group N takes N files each"
            )
        shots.append((taken, file, exposure))
    shots.sort(key=lambda shot: shot[0])  # stable: by name within a second
    brackets, used, before = [], set(), None
    for taken, file, exposure in shots:
        if before is None or taken - before > PAUSE or exposure in used:
            brackets.append([])
            used = set()
        brackets[-1].append(file)
        used.add(exposure)
        before = taken
    return brackets


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
