"""How are photos fused from the command line? Files and flags around fusion.fuse.

What needs PyTorch is imported in functions: that takes a second, in which pictures are read, and
for which --help and mistaken flags do not wait.
"""

import contextlib
import functools
import gc
import os
import sys
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import align
import metadata
import utils
from brackets import find_all_brackets
from opts import TestOptions, one_line, run

FAILURES = (OSError, ValueError, RuntimeError, MemoryError, cv2.error)  # of one scene of a folder
AHEAD = 2  # scenes of a folder that are read before their turn, and that wait to be written
LARGE = 150e6  # bytes of a picture, from which those of a scene are decoded one after the other
REST = 0.7e9  # bytes of memory for PyTorch and the network's features
TYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}


def inference(options):
    """Fuses picture files, or all brackets of a folder, as a TestOptions namespace says.

    Returns the exit status: 1 where some brackets of a folder could not be fused, else 0. Raises
    OSError or ValueError naming the file where a picture or the checkpoint cannot be used or the
    result cannot be written.
    """
    if options.describe:
        from checkpoint import summary

        print("\n".join(summary(options.model)))
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
    headers = [header for header in map(metadata.read_header, files) if header]
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
    from checkpoint import load_model
    from model import choose_device, prepare

    gc.enable()
    model = load_model(options.model, choose_device(options.device))
    return prepare(model, options.precision)


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
            failure(f"{path}: not made: {one_line(error)}")

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
                failure(f"{path}: not made: {one_line(error)}")
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
    described = pictures[reference].metadata
    how = {
        "progress": progress and not options.quiet,
        "refine": options.refine,
        "chroma": options.chroma,
        "fast": options.fast,
        "strength": options.strength,
        "dtype": TYPES.get(options.depth),
    }
    try:
        fusion.check_images(images, one_size=not options.align)
        if options.align:
            images, area = aligned(images, reference, files, options)
            alpha = None if alpha is None else alpha[area]
            fusion.check_images(images)  # what could not be aligned
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
    return functools.partial(write, path, result, alpha, described, options.quality, sheet)


def write(path, result, alpha, described, quality, sheet):
    """Writes a result and, where there is one, its contact sheet beside it."""
    utils.write_image(path, result, alpha, described, quality)
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
