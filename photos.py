"""How do the photo files of one scene become a result file? Read, aligned, fused, written.

Functions import what needs PyTorch, because that takes a second: pictures are read meanwhile.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np

import align
import colour
import fusion
import gain_map
import ghosts
import metadata
import portable
import raw
import upsample
import utils
from carried import carried, is_full_circle
from decoders import LARGE
from headers import Header, tiff_place
from machine import available_memory

DEVELOPING = 4  # pictures' worth of memory that LibRaw needs for two RAW files at a time
REST = 0.15e9  # bytes of memory for all but the pictures, without PyTorch
EACH = 0.04e9  # more of them for every exposure
TORCH = 0.5e9  # more of them where PyTorch runs the networks, beside its libraries
TYPES = {"8": np.uint8, "16": np.uint16, "float": np.float32}  # the result's type by --depth
RING = 8  # a full circle continues by its width over this at either edge
MOSTLY = 0.5  # share of an exposure; where more of it is replaced, it is left out of a stack


class Recipe(NamedTuple):
    """The way from a scene's pictures to a result, as the flags say.

    size: (height, width) to resize to, or None. align, deghost, wrap: "auto", "yes" or "no".
    crop: the opposite of --no_crop. headroom: of the gain map in stops, None without one. portable:
    True for a network without PyTorch. Other fields are the flags of these names.
    """

    size: tuple[int, int] | None
    align: str
    crop: bool
    deghost: str
    reference: int | None
    panel: bool
    preview: bool
    headroom: float | None
    wrap: str
    quality: int
    verbose: bool
    portable: bool
    fusion: fusion.Options

    @property
    def copies(self) -> int:
        """Pictures in memory for every exposure, beside the one that is decoded or encoded."""
        return 1 if self.align == self.deghost == "no" else 2

    def rest(self, count: int) -> float:
        """Returns the bytes of memory for all but the pictures, of `count` exposures."""
        return REST + EACH * count + (0 if self.portable else TORCH)


def with_options(recipe: Recipe, **changes: Any) -> Recipe:
    """Returns a Recipe with other options of fusion."""
    return recipe._replace(fusion=dataclasses.replace(recipe.fusion, **changes))


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
        headroom=options.headroom if options.gain_map else None,
        wrap=options.wrap,
        quality=options.quality,
        verbose=options.verbose,
        portable=options.portable,
        fusion=fusion.Options(
            look=options.look,
            finish=options.finish,
            fast=options.fast,
            dtype=dtype,
            progress=not options.quiet and options.folder is None,
        ),
    )


def network_for(options: argparse.Namespace) -> fusion.Network:
    """Returns the network that the options of inference.py ask for, ready for fusing.

    Raises OSError and ValueError where its file cannot be used.
    """
    if options.portable:
        return portable.OnnxBetween(options.model)
    gc.disable()  # The garbage collector only slows the import of PyTorch.
    try:
        from checkpoint import load_between, load_model
        from model import choose_device, prepare
        from precision import precision_note
    finally:
        gc.freeze()  # Nothing of PyTorch is garbage; searching it would take 0.07 s.
        gc.enable()
    device = choose_device(options.device)
    if options.look == "photo":
        return prepare(load_between(options.model, device), options.precision)
    network = prepare(load_model(options.model, device), options.precision)
    if options.verbose:
        print(f"{options.model}: {precision_note(options.precision, device)}", file=sys.stderr)
    return network


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
    dtype = recipe.fusion.dtype or np.result_type(np.uint8, *(header.dtype for header in headers))
    grey = bool(headers) and headers[0].grey
    alpha = bool(headers) and headers[0].channels == 4 and not recipe.panel
    size = recipe.size or (headers[0][:2] if headers else None)
    if size and recipe.panel:
        height, width = recipe.size or utils.upright_size(files[0]) or size
        size = height, 4 * width
    utils.check_picture_writable(path, dtype, grey, alpha, size)
    extension = os.path.splitext(path)[1].lower()
    asked = recipe.fusion.dtype
    if asked and utils.as_storable(np.zeros((1, 1), asked), extension).dtype != asked:
        warnings.warn(f"{path}: {extension} cannot hold the asked --depth", stacklevel=2)
    if recipe.headroom is not None and extension not in gain_map.FORMATS:
        raise ValueError(f"{path}: {extension} has no --gain_map here; {gain_map.FORMATS[0]} has")
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
    development = raw.common_development(files)
    half = all(shows_half(header, recipe.size) for header in headers)  # counts for RAW alone

    def read(file: str) -> utils.Picture:
        return in_srgb(file, utils.read_picture(file, development, half))

    few = 2 if any(map(raw.is_raw, files)) else None
    # A decoder can need memory for another picture of the same size.
    with ThreadPoolExecutor(1 if largest > LARGE else few) as pool:
        pictures = on_one_canvas(files, list(pool.map(read, files)))
    if recipe.align == "no":
        warn_of_shifts(files, [picture.pixels for picture in pictures])
    return pictures


def in_srgb(file: str, picture: utils.Picture) -> utils.Picture:
    """Returns a picture in sRGB's numbers, as floats where its file has another colour space.

    A profile of tables needs imagecodecs; without it, a warning says that colours are taken as they
    are. Raises ValueError naming the file where its floats lie outside [0, 1].
    """
    pixels, profile = picture.pixels, picture.metadata.get("ICC", b"")
    if picture.space is not None:
        try:
            fusion.check_images([pixels, pixels])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        converted = colour.to_srgb(pixels, picture.space)
        return picture._replace(pixels=converted, dtype=pixels.dtype)
    if profile and colour.needs_library(profile):
        if not colour.has_library():
            need = (
                "its profile needs imagecodecs (pip install -r requirements-colour.txt); without it"
            )
            warnings.warn(f"{file}: {need}, its colours are taken as they are", stacklevel=2)
            return picture
        held = {name: chunk for name, chunk in picture.metadata.items() if name != "ICC"}
        return picture._replace(pixels=colour.by_library(pixels, profile), metadata=held)
    return picture


def on_one_canvas(files: Sequence[str], pictures: list[utils.Picture]) -> list[utils.Picture]:
    """Returns pictures of one size, transparent elsewhere, of TIFF files that lie on a canvas.

    Other pictures are returned as they are.
    """
    places = [tiff_place(file) for file in files]
    known = [place for place in places if place is not None]
    if len(known) < len(files) or len(set(known)) < 2:
        return pictures
    left, top = np.min(known, axis=0)
    sizes = np.array([picture.pixels.shape[1::-1] for picture in pictures])
    width, height = (known + sizes).max(axis=0) - (left, top)
    result = []
    for (x, y), picture in zip(known, pictures, strict=True):
        pixels, alpha = picture.pixels, picture.alpha
        white = utils.white_level(pixels.dtype)
        if alpha is None:
            alpha = np.full(pixels.shape[:2], white, pixels.dtype)
        area = (
            slice(y - top, y - top + pixels.shape[0]),
            slice(x - left, x - left + pixels.shape[1]),
        )
        canvas = np.zeros((height, width, *pixels.shape[2:]), pixels.dtype)
        seen = np.zeros((height, width), alpha.dtype)
        canvas[area], seen[area] = pixels, alpha
        result.append(picture._replace(pixels=canvas, alpha=seen))
    return result


def reduced_scene(files: Sequence[str]) -> list[np.ndarray]:
    """Reads a scene's files, reduced to the size that a photo's tone is made of.

    Raises as read_scene does, and ValueError where they cannot be fused.
    """
    check_memory(files, known_headers(files))
    development = raw.common_development(files)
    pictures = [in_srgb(file, utils.read_picture(file, development, half=True)) for file in files]
    images = [utils.as_type(p.pixels, p.dtype or p.pixels.dtype) for p in pictures]
    fusion.check_images(images, one_size=False)
    factor = upsample.reduction(images, fusion.SMALL)
    return [upsample.reduce_pictures([image], factor)[0] for image in images]


def warn_of_shifts(files: Sequence[str], images: Sequence[np.ndarray]) -> None:
    """Warns of a scene whose exposures seem to need --align."""
    reference = ghosts.telling_exposure(images)
    shape = images[reference].shape[:2]
    if any(image.shape[:2] != shape for image in images):
        return  # Fusing says so.
    outcomes = align.register_all(images, reference, needed=True)
    for file, outcome in zip(files, outcomes, strict=True):
        if not isinstance(outcome, str) and not outcome.still:
            apart = align.distance_moved(outcome.homography, shape)
            warnings.warn(
                f"{file} and {files[reference]}: seem to lie {apart:.0f} pixels apart; --align "
                "brings exposures into register",
                stacklevel=2,
            )
            return


def known_headers(files: Sequence[str]) -> list[Header]:
    """Returns the Headers of files, as far as they are known; OSError where one is missing.

    Of files in other colour spaces than sRGB, the type is that of their pixels in sRGB.
    """
    known = []
    for file in files:
        header = utils.header_of(file)
        if header and utils.space_of_file(file, header) is not None:
            header = header._replace(dtype=np.dtype(np.float32))
        if header:
            known.append(header)
    return known


def check_memory(
    files: Sequence[str], headers: Sequence[Header], recipe: Recipe | None = None
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
    files: Sequence[str], headers: Sequence[Header], recipe: Recipe | None = None
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
        dtype = recipe.fusion.dtype
        results = [h._replace(dtype=np.dtype(dtype or h.dtype)).size for h in shown]
        spare = max([spare, *results])
    return rest + held + spare


def shows_half(header: Header, size: tuple[int, int] | None) -> bool:
    """Returns True where a picture is to be resized to half of its size or less, either way up."""
    if size is None:
        return False
    sides = sorted((header.height, header.width))
    return all(2 * short <= side for short, side in zip(sorted(size), sides, strict=True))


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
    alphas = [picture.alpha for picture in pictures]
    if recipe.size:
        images = [resize(image, *recipe.size) for image in images]
        alphas = [None if alpha is None else resize(alpha, *recipe.size) for alpha in alphas]
    reference = choose_reference(images, recipe)
    described = pictures[reference].metadata
    dtype = recipe.fusion.dtype or np.result_type(*(p.dtype or p.pixels.dtype for p in pictures))
    converted = any(picture.space is not None for picture in pictures)
    if converted:
        images, recipe = as_floats(images, recipe)
    ring = ring_width(images[reference].shape[1], described, recipe)
    if ring:
        images = [in_a_ring(image, ring) for image in images]
        alphas = [None if alpha is None else in_a_ring(alpha, ring) for alpha in alphas]
        recipe = recipe._replace(crop=False)
    try:
        images, alpha, files = prepared(files, images, alphas, reference, recipe)
        # The result may overwrite an exposure.
        light = None if recipe.headroom is None else gain_map.light_of(images)
        result = fuse_images(network, images, recipe)
    except (ValueError, cv2.error) as error:
        reason = error.err if isinstance(error, cv2.error) else error
        raise ValueError(f"{' and '.join(map(str, files))}: {reason}") from error
    gain = None
    if light is not None and recipe.headroom is not None:
        gain = out_of_ring(gain_map.gain_of(light, result, recipe.headroom), ring, result.shape[1])
    if ring:
        images = [out_of_ring(image, ring) for image in images]
        alpha = None if alpha is None else out_of_ring(alpha, ring)
        result = out_of_ring(result, ring)
    if recipe.verbose:
        print(f"{path}: fused from {', '.join(map(os.path.basename, files))}", file=sys.stderr)
    sheet = None
    if recipe.preview:
        captions = [os.path.basename(file) for file in files]
        sheet = utils.contact_sheet_row([*images, result], [*captions, "fused"], width=480)
    if converted:
        space = pictures[reference].space
        if space is not None and not (space.profile and metadata.holds_profile(path)):
            space = None  # The result is in sRGB.
            described = {name: chunk for name, chunk in described.items() if name != "ICC"}
        result = colour.from_srgb(result, space, dtype)
    whole = result.shape[:2] == pictures[reference].pixels.shape[:2]
    described = carried(described, result.shape, whole)
    alpha = None if alpha is None or recipe.panel else utils.as_type(alpha, result.dtype)
    return functools.partial(
        write_result, path, result, alpha, described, recipe.quality, sheet, gain
    )


def as_floats(images: list[np.ndarray], recipe: Recipe) -> tuple[list[np.ndarray], Recipe]:
    """Returns pictures, some of them converted to sRGB, and the recipe that fuses them as floats.

    Only where a picture has colours that sRGB does not have are such colours made; so one scene
    gives one photo, whatever the spaces of its files.
    """
    extended = any(map(colour.exceeds_srgb, images))
    if not extended:
        images = [image.clip(0, 1) if image.dtype.kind == "f" else image for image in images]
    return images, with_options(recipe, dtype=np.float32, extended=extended)


def ring_width(width: int, described: dict[str, bytes], recipe: Recipe) -> int:
    """Returns by how many columns a full circle continues at either edge; 0 for other pictures."""
    circle = recipe.wrap == "yes" or (
        recipe.wrap == "auto" and is_full_circle(described.get("XMP", b""))
    )
    return math.ceil(width / RING) if circle and not recipe.panel else 0


def in_a_ring(image: np.ndarray, ring: int) -> np.ndarray:
    """Returns a full circle with `ring` more columns at either edge, which show the other edge.

    So windows, blurs and pyramids see at an edge what they see at the other.
    """
    return np.concatenate([image[:, -ring:], image, image[:, :ring]], axis=1)


def out_of_ring(image: np.ndarray, ring: int, width: int | None = None) -> np.ndarray:
    """Returns a picture of in_a_ring without the columns that it added.

    width: of the whole picture, where this one is reduced.
    """
    left = round(ring * image.shape[1] / (width or image.shape[1]))
    return np.ascontiguousarray(image[:, left : image.shape[1] - left])


def choose_reference(images: Sequence[np.ndarray], recipe: Recipe) -> int:
    """Returns the index of the exposure whose view, scene and metadata the result has.

    It is that of --reference, 1 being the darkest, or else the one that tells most, or the middle
    one where exposures are neither registered nor freed of ghosts. Raises ValueError where there
    are fewer exposures.
    """
    number = recipe.reference
    if number is None:
        asked = recipe.align != "no" or recipe.deghost != "no"
        return ghosts.telling_exposure(images) if asked else ghosts.middle_exposure(images)
    if number > len(images):
        raise ValueError(f"--reference {number}: there are {len(images)} exposures")
    return ghosts.by_brightness(images)[number - 1]


def prepared(
    files: Sequence[str],
    images: list[np.ndarray],
    alphas: Sequence[np.ndarray | None],
    reference: int,
    recipe: Recipe,
) -> tuple[list[np.ndarray], np.ndarray | None, list[str]]:
    """Returns the pictures of one scene, ready for fusing, their alpha, and the files left.

    Transparent pixels are filled, exposures are brought into register, and what moved is replaced,
    as the recipe says; exposures that do not go with the reference are left out, with a warning.
    Raises ValueError where the pictures do not go together or cannot be aligned.
    """
    files = list(files)
    extended = recipe.fusion.extended
    one_size = recipe.align == "no" or not nearly_one_size(images)
    fusion.check_images(images, one_size, extended)
    images, alpha = without_holes(images, alphas, reference)
    kept = list(range(len(images)))
    if recipe.align != "no":
        images, reference, kept, area = registered(files, images, reference, recipe)
        files = [files[k] for k in kept]
        alpha = None if alpha is None else alpha[area]
    fusion.check_images(images, extended=extended)
    if recipe.deghost != "no":
        images, kept = freed_of_ghosts(files, images, reference, recipe)
        files = [files[k] for k in kept]
    return images, alpha, files


def nearly_one_size(images: Sequence[np.ndarray]) -> bool:
    """Returns True where pictures' sizes differ so little that registration can bring them to one.

    Pictures that lie on their sides are none of these.
    """
    return all(fusion.nearly_fits(i.shape[:2], images[0].shape[:2]) for i in images)


def registered(
    files: Sequence[str], images: list[np.ndarray], reference: int, recipe: Recipe
) -> tuple[list[np.ndarray], int, list[int], tuple[slice, slice]]:
    """Returns pictures in register, the reference's new index, those left, and what they show.

    Of those left, the indices; of what they show, rows and columns of the reference. Raises
    ValueError as prepared does.
    """
    if recipe.align == "yes":
        aligned, found, area = align.align(images, reference, recipe.crop, files)
        kept = list(range(len(images)))
    else:
        outcomes = align.register_all(images, reference, needed=True)
        turned = [k for k, found in enumerate(outcomes) if is_turned(found)]
        if len(turned) > len(images) / 2:  # It is the reference that lies upside down.
            reference = turned[ghosts.telling_exposure([images[k] for k in turned])]
            outcomes = align.register_all(images, reference, needed=True)
        kept = left(
            files,
            {
                k: f"does not go with {files[reference]} ({outcome})"
                for k, outcome in enumerate(outcomes)
                if isinstance(outcome, str)
            },
        )
        found = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        aligned, area = [images[k] for k in kept], (slice(None), slice(None))
        if not all(place.still for place in found):
            aligned, area = align.lay_on(aligned, found, kept.index(reference), recipe.crop)
    for k, place in zip(kept, found, strict=True):
        if is_turned(place):
            text = f"{files[k]}: is turned, since it lies upside down beside {files[reference]}"
            warnings.warn(text, stacklevel=2)
    if recipe.verbose:
        tell_movement([files[k] for k in kept], found, kept.index(reference))
    return aligned, kept.index(reference), kept, area


def is_turned(found: align.Registration | str) -> bool:
    """Returns True of an exposure that lies upside down on the reference."""
    return not isinstance(found, str) and abs(found.rotation) > 90


def left(files: Sequence[str], reasons: dict[int, str]) -> list[int]:
    """Returns the indices of files without some, and warns of these; reasons: by their indices.

    Raises ValueError where fewer than two would be left.
    """
    kept = [k for k in range(len(files)) if k not in reasons]
    for k, reason in reasons.items():
        if len(kept) < 2:
            raise ValueError(f"{files[k]} {reason}; --align no --deghost no fuses it all the same")
        warnings.warn(f"{files[k]}: left out: it {reason}", stacklevel=2)
    return kept


def tell_movement(
    files: Sequence[str], found: Sequence[align.Registration], reference: int
) -> None:
    """Says on stderr how far exposures were moved."""
    for k, (file, place) in enumerate(zip(files, found, strict=True)):
        text = "the reference"
        if k != reference:
            text = (
                f"moved by {place.shift[0]:.2f}, {place.shift[1]:.2f} pixels and "
                f"{place.rotation:.3f} degrees; correlation {place.correlation:.2f}"
            )
            if place.still:
                text = "in register"
        print(f"{file}: {text}", file=sys.stderr)


def freed_of_ghosts(
    files: Sequence[str], images: list[np.ndarray], reference: int, recipe: Recipe
) -> tuple[list[np.ndarray], list[int]]:
    """Returns pictures in register without what moved, and the indices of those that are left."""
    # Only aligned pictures tell which exposure shows what stays.
    asked = None if recipe.reference is None else reference
    images, shares = ghosts.deghost(images, asked)
    if recipe.verbose and any(shares):
        for file, share in zip(files, shares, strict=True):
            print(f"{file}: {share:.1%} replaced as moved", file=sys.stderr)
    reasons = {
        k: f"shows something else than the others in {share:.0%} of the picture"
        for k, share in enumerate(shares)
        if share > MOSTLY
    }
    if recipe.deghost == "auto" and len(images) - len(reasons) >= 2:
        kept = left(files, reasons)
        return [images[k] for k in kept], kept
    for k, reason in reasons.items():
        warnings.warn(f"{files[k]}: {reason}; is it of this scene?", stacklevel=2)
    return images, list(range(len(images)))


def fuse_images(network: fusion.Network, images: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """Fuses a scene's pictures, or makes their panel; raises ValueError as fusion.fuse does.

    The result may overwrite the first exposure, unless a preview needs it afterwards.
    """
    if recipe.panel:
        if len(images) != 2:
            raise ValueError(f"--panel is for two exposures, not {len(images)}")
        under, over = sorted(images, key=lambda image: image.mean())
        return fusion.panel(network, under, over, recipe.fusion)
    dtype = recipe.fusion.dtype or np.result_type(*images)
    reuse = not recipe.preview and images[0].dtype == dtype
    out = images[0] if reuse else None
    return fusion.fuse(network, images, recipe.fusion, out)


def write_result(
    path: str,
    result: np.ndarray,
    alpha: np.ndarray | None,
    described: dict[str, bytes],
    quality: int,
    sheet: np.ndarray | None,
    gain: np.ndarray | None,
) -> None:
    """Writes a result after its contact sheet, so that a result that is there is complete.

    gain: of its gain map, None without one.
    """
    if sheet is not None:
        utils.write_image(preview_path(path), sheet)
    if gain is None:
        utils.write_image(path, result, alpha, described, quality)
        return
    behind = gain_map.encoded(gain)
    xmp = gain_map.container_xmp(described.get("XMP", b""), len(behind))
    photo = utils.file_of(path, result, alpha, {**described, "XMP": xmp}, quality)
    utils.write_file(path, gain_map.one_file(bytes(photo), behind))


def without_holes(
    images: list[np.ndarray], alphas: Sequence[np.ndarray | None], reference: int
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Returns pictures without transparent areas, and the alpha of their result, None if opaque.

    Where a picture is transparent, it gets what another one shows there, in its own brightness:
    the reference, or else one that is not transparent. An alpha that all pictures have is kept.
    """
    first, *others = alphas
    if first is not None and all(a is not None and np.array_equal(a, first) for a in others):
        return images, first
    if all(alpha is None for alpha in alphas):
        return images, None
    seen = [
        np.ones(image.shape[:2], bool) if alpha is None else alpha >= utils.white_level(alpha.dtype)
        for image, alpha in zip(images, alphas, strict=True)
    ]
    order = sorted(range(len(images)), key=lambda k: k != reference)
    filled = []
    for k, image in enumerate(images):
        hidden = ~seen[k]
        for source in order:
            if source != k and (hidden & seen[source]).any():
                known = seen[k] & seen[source]
                place = hidden & seen[source]
                image = ghosts.show_elsewhere(image, images[source], place, known)
                hidden &= ~place
        filled.append(image)
    anywhere = np.any(seen, axis=0)
    if anywhere.all():
        return filled, None
    return filled, utils.as_type(anywhere.astype(np.float32), images[reference].dtype)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a picture; raises ValueError naming the flags where OpenCV cannot."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    try:
        return cv2.resize(image, (width, height), interpolation=interpolation)
    except cv2.error as error:
        raise ValueError(f"--H {height} --W {width}: {error.err}") from error
