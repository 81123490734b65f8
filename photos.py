"""How do the photo files of one scene become a result file? Read, aligned, fused, written.

Functions import what needs PyTorch, because that takes a second: pictures are read meanwhile.
"""

import argparse
import contextlib
import functools
import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

import align
import fusion
import ghosts
import metadata
import portable
import raw
import utils

DEVELOPING = 4  # pictures' worth of memory that LibRaw needs for two RAW files at a time
REST = 0.15e9  # bytes of memory for all but the pictures, without PyTorch
EACH = 0.04e9  # more of them for every exposure
TORCH = 0.5e9  # more of them where PyTorch runs the networks, beside its libraries
TYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}  # the result's type by --depth
SHIFTED = 0.0025  # of the longer side; exposures that seem to lie farther apart need --align
CGROUP = "/sys/fs/cgroup"  # where Linux reports a container's memory (cgroup v2)


class Recipe(NamedTuple):
    """The way from a scene's pictures to a result, as the flags say.

    size: (height, width) to resize to, or None. align: None, "yes" or "try". crop: the opposite of
    --no_crop. portable: True for a network without PyTorch. fuse: arguments for fusion.fuse by
    their names, but for the network. Other fields are the flags of these names.
    """

    size: tuple[int, int] | None
    align: str | None
    crop: bool
    deghost: bool
    reference: int | None
    panel: bool
    preview: bool
    quality: int
    verbose: bool
    portable: bool
    fuse: dict[str, Any]

    @property
    def copies(self) -> int:
        """Pictures in memory for every exposure, beside the one that is decoded or encoded."""
        return 2 if self.align or self.deghost else 1

    def rest(self, count: int) -> float:
        """Returns the bytes of memory for all but the pictures, of `count` exposures."""
        return REST + EACH * count + (0 if self.portable else TORCH)


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Returns the Recipe that the options of inference.py ask for."""
    result = options.res if options.folder is None else options.name
    dtype = TYPES.get(options.depth)
    if dtype is None and result.lower().endswith(utils.FLOATS_ALONE):
        dtype = np.float32
    return Recipe(
        size=(options.H, options.W) if options.H else None,
        align=options.align,
        crop=not options.no_crop,
        deghost=options.deghost,
        reference=options.reference,
        panel=options.panel,
        preview=options.preview,
        quality=options.quality,
        verbose=options.verbose,
        portable=options.portable,
        fuse={
            "progress": not options.quiet and options.folder is None,
            "look": options.look,
            "finish": options.finish,
            "fast": options.fast,
            "dtype": dtype,
        },
    )


def network_for(options: argparse.Namespace) -> fusion.Network:
    """Returns the network that the options of inference.py ask for, ready for fusing.

    Raises OSError and ValueError where its file cannot be used.
    """
    if options.portable:
        return portable.OnnxBetween(options.model)
    gc.disable()  # The garbage collector only slows the import of PyTorch.
    from checkpoint import load_between, load_model
    from model import choose_device, prepare

    gc.freeze()  # Nothing of PyTorch is garbage; searching it would take 0.07 s.
    gc.enable()
    device = choose_device(options.device)
    if options.look == "photo":
        return prepare(load_between(options.model, device), options.precision)
    return prepare(load_model(options.model, device), options.precision)


def check_results(path: str, files: Sequence[str], recipe: Recipe) -> None:
    """Raises OSError or ValueError where a scene's result, or its preview, could not be written.

    The headers of the scene's files tell the result's type. Files may have none, because reading
    will refuse them or Pillow does not know them; without any header, 8-bit colour is assumed.
    """
    headers = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # Reading says which file is unusable.
            header = utils.header_of(file)
            if header and header.dtype in utils.DTYPES:
                headers.append(header)
    dtype = recipe.fuse["dtype"] or np.result_type(np.uint8, *(header.dtype for header in headers))
    grey = bool(headers) and headers[0].grey
    alpha = bool(headers) and headers[0].channels == 4 and not recipe.panel
    utils.check_picture_writable(path, dtype, grey, alpha)
    extension = os.path.splitext(path)[1].lower()
    asked = recipe.fuse["dtype"]
    if asked and utils.as_storable(np.zeros((1, 1), asked), extension).dtype != asked:
        warnings.warn(f"{path}: {extension} cannot hold the asked --depth", stacklevel=2)
    if recipe.preview:
        utils.check_picture_writable(preview_path(path))


def preview_path(path: str) -> str:
    """Returns the path of the contact sheet beside a result."""
    return f"{os.path.splitext(path)[0]}_preview.jpg"


def read_scene(files: Sequence[str], recipe: Recipe) -> list[utils.Picture]:
    """Reads a scene's files.

    Raises ValueError, before any file is decoded, where memory is too small, and as read_picture.
    """
    headers = known_headers(files)
    check_memory(files, headers, recipe)
    largest = max((header.size for header in headers), default=0)
    balance = raw.common_white_balance(files)
    half = all(shows_half(header, recipe.size) for header in headers)  # counts for RAW alone
    read = functools.partial(utils.read_picture, balance=balance, half=half)
    few = 2 if any(map(raw.is_raw, files)) else None
    # A decoder can need memory for another picture of the same size.
    with ThreadPoolExecutor(1 if largest > utils.LARGE else few) as pool:
        pictures = list(pool.map(read, files))
    if not recipe.align:
        warn_of_shifts(files, [picture.pixels for picture in pictures])
    return pictures


def warn_of_shifts(files: Sequence[str], images: Sequence[np.ndarray]) -> None:
    """Warns of a scene whose exposures seem to need --align."""
    order = ghosts.by_brightness(images)
    shifts = align.apparent_shifts([images[k] for k in order])
    if max(shifts, default=0) > SHIFTED:
        place = shifts.index(max(shifts))
        one, other = (files[k] for k in order[place : place + 2])
        warnings.warn(
            f"{one} and {other}: seem to lie {max(shifts) * max(images[0].shape):.0f} "
            "pixels apart; --align brings exposures into register",
            stacklevel=2,
        )


def known_headers(files: Sequence[str]) -> list[metadata.Header]:
    """Returns the Headers of files, as far as they are known; OSError where one is missing."""
    return [header for header in map(utils.header_of, files) if header]


def check_memory(
    files: Sequence[str], headers: Sequence[metadata.Header], recipe: Recipe | None = None
) -> None:
    """Raises ValueError where files of these Headers could not be fused in the free memory."""
    needed, free = needed_memory(files, headers, recipe), available_memory()
    if free is not None and needed > free and headers:
        pictures = f"pictures of {headers[0].width}x{headers[0].height} pixels"
        if recipe and recipe.size:
            pictures += f", resized to {recipe.size[1]}x{recipe.size[0]},"
        raise ValueError(
            f"{' and '.join(map(str, files))}: {pictures} need some {needed / 1e9:.1f} GB of "
            f"memory, {free / 1e9:.1f} GB are free"
        )


def needed_memory(
    files: Sequence[str], headers: Sequence[metadata.Header], recipe: Recipe | None = None
) -> float:
    """Returns the bytes of memory that it takes to read files and to fuse them.

    headers: of the files. recipe: None where the pictures are only held.
    """
    sizes = [header.size for header in headers]
    held, spare, rest = sum(sizes), max(sizes, default=0), REST
    if any(map(raw.is_raw, files)):
        spare *= DEVELOPING
    if recipe:
        shown = headers
        if recipe.size:
            height, width = recipe.size
            shown = [header._replace(height=height, width=width) for header in headers]
        held = sum(header.size for header in shown) * recipe.copies
        rest = recipe.rest(len(files))
        if recipe.size:
            held += sum(sizes)
        dtype = recipe.fuse["dtype"]
        results = [h._replace(dtype=np.dtype(dtype or h.dtype)).size for h in shown]
        spare = max([spare, *results])
    return rest + held + spare


def shows_half(header: metadata.Header, size: tuple[int, int] | None) -> bool:
    """Returns True where a picture is to be resized to half of its size or less, either way up."""
    if size is None:
        return False
    sides = sorted((header.height, header.width))
    return all(2 * short <= side for short, side in zip(sorted(size), sides, strict=True))


def available_memory(cgroup: str | os.PathLike = CGROUP) -> int | None:
    """Returns the bytes of memory that this process can still have; None where unknown.

    cgroup: the folder of a container's memory.* files.
    """
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        free.append(1024 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError):
        limit, used = (
            int(Path(cgroup, f"memory.{name}").read_text()) for name in ("max", "current")
        )
        with contextlib.suppress(OSError, ValueError, KeyError):
            # Linux caches files that were read, but frees that memory for whoever needs it.
            statistics = Path(cgroup, "memory.stat").read_text().splitlines()
            used -= int(dict(line.split(" ", 1) for line in statistics)["inactive_file"])
        free.append(limit - used)
    return min(free, default=None)


def fuse_scene(
    network: fusion.Network,
    files: Sequence[str],
    pictures: Sequence[utils.Picture],
    path: str,
    recipe: Recipe,
) -> Callable[[], None]:
    """Fuses the Pictures of one scene; returns a function that writes the result to `path`.

    Raises ValueError naming the files where they cannot be fused, or the flag that does not fit.
    """
    images = [picture.pixels for picture in pictures]
    alpha = common_alpha(pictures, path)
    if recipe.size:
        images = [resize(image, *recipe.size) for image in images]
        alpha = None if alpha is None else resize(alpha, *recipe.size)
    reference = choose_reference(images, recipe.reference)
    described = pictures[reference].metadata
    try:
        images, alpha = align_and_deghost(files, images, alpha, reference, recipe)
        result = fuse_images(network, images, recipe)
    except (ValueError, cv2.error) as error:
        reason = error.err if isinstance(error, cv2.error) else error
        raise ValueError(f"{' and '.join(map(str, files))}: {reason}") from error
    if recipe.verbose:
        print(f"{path}: fused from {', '.join(map(os.path.basename, files))}", file=sys.stderr)
    sheet = None
    if recipe.preview:
        captions = [os.path.basename(file) for file in files]
        sheet = utils.contact_sheet_row([*images, result], [*captions, "fused"], width=480)
    alpha = None if alpha is None or recipe.panel else utils.as_type(alpha, result.dtype)
    return functools.partial(write_result, path, result, alpha, described, recipe.quality, sheet)


def choose_reference(images: Sequence[np.ndarray], number: int | None) -> int:
    """Returns the index of the exposure that --reference means, by default the middle one.

    number: 1 for the darkest. Raises ValueError where there are fewer exposures.
    """
    if number is None:
        return ghosts.middle_exposure(images)
    if number > len(images):
        raise ValueError(f"--reference {number}: there are {len(images)} exposures")
    return ghosts.by_brightness(images)[number - 1]


def align_and_deghost(
    files: Sequence[str],
    images: list[np.ndarray],
    alpha: np.ndarray | None,
    reference: int,
    recipe: Recipe,
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Returns the pictures of one scene, ready for fusing, and their alpha.

    Raises ValueError where the pictures do not go together or cannot be aligned.
    """
    fusion.check_images(images, one_size=not recipe.align)
    if recipe.align:
        images, area = aligned(files, images, reference, recipe)
        alpha = None if alpha is None else alpha[area]
        fusion.check_images(images)  # With --align=try, they may be unaligned and differ in size.
    if recipe.deghost:
        # Only aligned pictures tell which exposure shows what stays.
        shown = ghosts.best_reference(images) if recipe.reference is None else reference
        images, shares = ghosts.deghost(images, shown)
        if recipe.verbose:
            print(f"{files[shown]}: its scene is shown", file=sys.stderr)
        for file, share in zip(files, shares, strict=True):
            if share > 0.5:
                text = f"{file}: {share:.0%} of it replaced as moved; is it of this scene?"
                warnings.warn(text, stacklevel=2)
            if recipe.verbose:
                print(f"{file}: {share:.1%} replaced as moved", file=sys.stderr)
    return images, alpha


def aligned(
    files: Sequence[str], images: list[np.ndarray], reference: int, recipe: Recipe
) -> tuple[list[np.ndarray], tuple[slice, slice]]:
    """Returns aligned pictures of one scene and the area of the reference that they show.

    With "try", pictures that cannot be aligned are returned as they are, with a warning. Raises
    ValueError as align.align does.
    """
    try:
        images, registrations, area = align.align(images, reference, recipe.crop)
    except ValueError as error:
        if recipe.align != "try":
            raise
        listed = " and ".join(map(str, files))
        warnings.warn(f"{listed}: fused unaligned: {error}", stacklevel=2)
        return images, (slice(None), slice(None))
    if recipe.verbose:
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


def fuse_images(network: fusion.Network, images: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """Fuses a scene's pictures, or makes their panel; raises ValueError as fusion.fuse does.

    The result may overwrite the first exposure, unless a preview needs it afterwards.
    """
    if recipe.panel:
        if len(images) != 2:
            raise ValueError(f"--panel is for two exposures, not {len(images)}")
        under, over = sorted(images, key=lambda image: image.mean())
        return fusion.panel(network, under, over, **recipe.fuse)
    dtype = recipe.fuse["dtype"] or np.result_type(*images)
    reuse = not recipe.preview and images[0].dtype == dtype
    out = images[0] if reuse else None
    return fusion.fuse(network, images, **recipe.fuse, out=out)


def write_result(
    path: str,
    result: np.ndarray,
    alpha: np.ndarray | None,
    described: dict[str, bytes],
    quality: int,
    sheet: np.ndarray | None,
) -> None:
    """Writes a result after its contact sheet, so that a result that is there is complete."""
    if sheet is not None:
        utils.write_image(preview_path(path), sheet)
    utils.write_image(path, result, alpha, described, quality)


def common_alpha(pictures: Sequence[utils.Picture], path: str) -> np.ndarray | None:
    """Returns the alpha that all Pictures have; None, with a warning, where they differ in it."""
    first, *others = (picture.alpha for picture in pictures)
    if first is None and all(alpha is None for alpha in others):
        return None
    if first is None or any(a is None or not np.array_equal(a, first) for a in others):
        warnings.warn(f"{path}: without alpha, in which the pictures differ", stacklevel=2)
        return None
    return first


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a picture; raises ValueError naming the flags where OpenCV cannot."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    try:
        return cv2.resize(image, (width, height), interpolation=interpolation)
    except cv2.error as error:
        raise ValueError(f"--H {height} --W {width}: {error.err}") from error
