"""How does an exposure stack become one picture? Arrays in, fused array out.

A network fuses luma, and a formula fuses chroma (DeepFuse, ICCV 2017, eq. 6). Or a photo is made of
reduced pictures, by between.py and finish.py, and what was done to them is done to the full ones.
All that is large is done tile by tile, so that memory grows with the pictures and not with the
features of the network.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import between
import earlier
import opts
import portable
import utils
from arrays import Array, halve
from finish import Steady, finished, tone_histogram
from pyramid import is_coarsest, tilted_mean
from tiles import (
    PLAIN_TILE,
    WHOLE,
    WORKERS,
    Area,
    enlarge,
    in_tiles,
    network_device,
    on_arrays,
    tile_size,
    whole_area,
)
from upsample import (
    halve_pictures,
    mean_of_tiles,
    read_lumas,
    reduce_pictures,
    reduction,
    transferred,
)

if TYPE_CHECKING:
    import torch

Network = Any  # a network of model.py or portable.py; importing their classes would need PyTorch

LOOKS = ("paper", "photo", "earlier")
MOST_FINISH = 2
REDUCED = 1000  # pixels; approximate longer side of the pictures that fast fusion reduces to
SMALL = 500  # pixels; approximate longer side of the reduced pictures that a photo is made of
DARKEST, BRIGHTEST = 0.02, 0.98  # luma of pixels that show something
EXTENDED = (-1.0, 2.0)  # values of colours that sRGB does not have, of all profiles in use
LEAST_SHOWN = 0.005  # share of such pixels below which an exposure counts as empty


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices that can be made about a fusion, the same for all scripts and the page.

    look: "paper" for the network's luma and the paper's chroma (fuse_chroma) on the full pictures;
        "photo" for the best photo, see plan_photo; "earlier" for the network's luma with the
        earlier implementation's chroma and rounding, see earlier.py. With a ReleasedDeepFuse,
        "paper" follows the authors' program there, too.
    finish: for the photo look, the amount of tone and colour; 0 is none, 1 what people choose, 2
        twice as much, the most.
    fast: for the paper's look, runs the network on reduced pictures, see plan_fast.
    tile: pixels a side of the tiles in which the network works, by default as suits the device.
        Tiles are halved where memory runs out. They overlap by the network's receptive radius, so
        their size changes the result by rounding alone.
    steady: for the photo look, one Steady for all pictures of a sequence, against flicker.
    alike: for the photo look, what all pictures have in common that are to be stitched, see
        Alike.
    extended: floats may lie outside [0, 1], as colours that sRGB does not have, see colour.py; the
        result is of floats, and keeps them.
    dtype: type of the result; by default that of `out`, else the images' deepest.
    progress: shows a bar where stderr is a terminal.

    Raises ValueError where a value is none of these, or does not go with the look.
    """

    look: str = "paper"
    finish: float = 1.0
    fast: bool = False
    tile: int | None = None
    steady: Steady | None = None
    alike: "Alike | None" = None
    extended: bool = False
    dtype: np.dtype | type | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.look not in LOOKS:
            raise ValueError(f"look must be one of {', '.join(LOOKS)}, not {self.look!r}")
        if not 0 <= self.finish <= MOST_FINISH:
            raise ValueError(f"finish must lie in 0 to {MOST_FINISH}, not {self.finish}")
        if self.fast and self.look != "paper":
            raise ValueError(f"look {self.look!r} is not fast")
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile must be 1 or more, not {self.tile}")
        if (self.steady or self.alike) and self.look != "photo":
            raise ValueError(f"look {self.look!r} is neither steady nor alike")
        if self.dtype is not None and np.dtype(self.dtype) not in utils.DTYPES:
            raise ValueError(f"dtype must be uint8, uint16 or a float, not {np.dtype(self.dtype)}")


PAPER = Options()


def fuse(
    model: Network,
    images: Sequence[np.ndarray],
    options: Options = PAPER,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Fuses two or more exposures of one scene, in any order.

    model: for the photo look, a network that tells exposures between others; else one that fuses
        luma. It is of model.py, in eval mode and on any device, see model.prepare, or of
        portable.py.
    images: arrays of one size, (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1].
    out: array for the result, like the `out` of NumPy's functions. It may be one of the images,
        which is then overwritten.

    Returns the fused picture, with the images' size and colour: `out` where it is given.
    Raises ValueError where there are fewer than two images, where they differ in size or colour,
    where floats lie outside [0, 1], and where `model` or `out` does not fit.
    """
    look, extended = options.look, options.extended
    if (look == "photo") != hasattr(model, "surroundings"):
        raise ValueError(f"look {look!r} is made by another network than {type(model).__name__}")
    check_images(images, extended=extended)
    fused = result_array(images, options.dtype, out)
    if look == "photo":
        factor = reduction(images, SMALL)
        reduced = reduce_pictures(images, factor)
        shown = list(range(len(images))) if options.alike else informative(reduced)
        images = [images[k] for k in shown]
        plan = plan_photo(model, [reduced[k] for k in shown], factor, options)
    else:
        plan = choose_plan(model, images, options)
        if look == "earlier" and images[0].ndim == 3:
            plan = as_earlier(plan, images)
    if extended and plan.read is utils.to_ycbcr:
        plan = plan._replace(write=functools.partial(utils.from_ycbcr, clip=False))
    if plan.halo and any(np.may_share_memory(fused, image) for image in images):
        fused = np.empty_like(fused)  # A tile would overwrite what its neighbour still reads.

    def work(outer: Area, inner: Area, place: Area) -> None:
        stack = plan.read(*(image[outer] for image in images))  # (K, 3 or 1, h, w)
        y_f = plan.fuse_luma(stack[:, :1], outer)
        cbcr = plan.fuse_chroma(stack[:, 1:], y_f, outer)
        ycbcr = np.concatenate([y_f, cbcr[None]], axis=1)[(..., *inner)]
        fused[place] = plan.write(ycbcr, fused.dtype)

    shape = images[0].shape[:2]
    device = network_device(model)
    in_tiles(work, shape, plan.tile, plan.halo, device, options.progress, plan.workers)
    if out is None or out is fused:
        return fused
    out[...] = fused
    return out


def make_photo(images: Sequence[np.ndarray], **options: Any) -> np.ndarray:
    """Returns the best photo of two or more exposures of one scene, made without PyTorch.

    images, what is returned and what is raised: as for fuse. options: of Options, such as
    finish=0.5. Raises OSError where the weights of this folder are missing.
    """
    return fuse(photographer(), images, Options(look="photo", **options))


@functools.cache
def photographer() -> portable.OnnxBetween:
    """Returns the network of photos, read once."""
    return portable.OnnxBetween(opts.BETWEEN)


def result_array(
    images: Sequence[np.ndarray], dtype: DTypeLike | None, out: np.ndarray | None
) -> np.ndarray:
    """Returns the array for the result; ValueError where `out` has another shape or type."""
    if out is None:
        return np.empty(images[0].shape, np.dtype(dtype or np.result_type(*images)))
    if out.shape != images[0].shape or (dtype is not None and out.dtype != dtype):
        raise ValueError(
            f"out must have shape {images[0].shape} and the type {np.dtype(dtype or out.dtype)}, "
            f"not {out.shape} and {out.dtype}"
        )
    return out


def fuse_chroma(chroma: np.ndarray) -> np.ndarray:
    """Fuses chroma, weighting every exposure by its distance from grey, pixel by pixel.

    DeepFuse, eq. 6: c = sum_k c_k |c_k - tau| / sum_k |c_k - tau|, and tau where all equal tau.
    Takes shape (K, ...) in [0, 1], returns shape (...).
    """
    offset = chroma - utils.NEUTRAL
    weight = np.abs(offset)
    total = np.maximum(weight.sum(axis=0), np.finfo(weight.dtype).tiny)
    return (offset * weight).sum(axis=0) / total + utils.NEUTRAL


def paper_chroma(chroma: np.ndarray, _y_f: np.ndarray, _place: Area) -> np.ndarray:
    """Returns fuse_chroma as a Plan calls it; it needs neither the fused luma nor the place."""
    return fuse_chroma(chroma)


class Plan(NamedTuple):
    """A way of fusing a picture tile by tile.

    fuse_luma: takes a tile's luma, (K, 1, h, w) in [0, 1], and its Area in the picture;
        returns the fused luma, (1, 1, h, w).
    tile, halo: pixels a side of a tile, and pixels around it that both functions need.
    workers: tiles worked on at a time, at most.
    fuse_chroma: takes a tile's chroma, (K, 2, h, w) or, of grey pictures, (K, 0, h, w), its fused
        luma and its Area; returns the fused chroma, (2 or 0, h, w).
    read, write: from pixels to YCbCr and back, see earlier.Program.
    """

    fuse_luma: Callable[[np.ndarray, Area], np.ndarray]
    tile: int
    halo: int
    workers: int = WORKERS
    fuse_chroma: Callable[[np.ndarray, np.ndarray, Area], np.ndarray] = paper_chroma
    read: Callable[..., np.ndarray] = utils.to_ycbcr
    write: Callable[[np.ndarray, np.dtype], np.ndarray] = utils.from_ycbcr


def choose_plan(model: Any, images: Sequence[np.ndarray], options: Options) -> Plan:
    """Returns the Plan of a network that fuses luma."""
    tile = options.tile or tile_size(model)
    if options.fast:
        return plan_fast(model, images, tile, options.progress)
    if model.stretches and options.look == "paper" and images[0].ndim == 3:
        return plan_released(model, images, tile, options.progress)
    return plan_full(model, images, tile, options.progress)


def plan_full(model: Any, images: Sequence[np.ndarray], tile: int, progress: bool = False) -> Plan:
    """Returns the Plan that runs the network on every pixel.

    A pyramid's coarser levels are computed here; the Plan computes the finest, tile by tile. The
    released network's luma is computed here, because the whole picture is stretched. progress:
    shows a bar meanwhile.
    """
    device = network_device(model)
    fuse_tile = on_arrays(lambda lumas, *more: model.fuse_tile(each_of(lumas), *more), device)
    if not model.coarse_to_fine:
        plan = Plan(lambda lumas, _: fuse_tile(lumas), tile, model.radius)
        return stretching(plan, images, device, progress) if model.stretches else plan

    def fuse_in_tiles(lumas: np.ndarray) -> np.ndarray:
        """Returns what the network makes of one level's lumas, and of all coarser ones."""
        fused, context = np.empty_like(lumas[:1]), context_of(lumas)

        def work(outer: Area, inner: Area, place: Area) -> None:
            part = fuse_tile(lumas[(..., *outer)], context[(..., *outer)])
            fused[(..., *place)] = part[(..., *inner)]

        in_tiles(work, lumas.shape[-2:], tile, model.radius, device)
        return fused

    def context_of(lumas: np.ndarray) -> np.ndarray:
        """Returns the luma that the next coarser level has fused, at the size of `lumas`."""
        if is_coarsest(*lumas.shape[-2:]):
            return tilted_mean(each_of(lumas))
        return enlarge(fuse_in_tiles(halve(lumas)), 2, whole_area(lumas.shape[-2:]))

    if is_coarsest(*images[0].shape[:2]):
        context = context_of(read_lumas(images, WHOLE))
        return Plan(
            lambda lumas, place: fuse_tile(lumas, context[(..., *place)]), tile, model.radius
        )
    fused = fuse_in_tiles(halve_pictures(images))
    return Plan(lambda lumas, place: fuse_tile(lumas, enlarge(fused, 2, place)), tile, model.radius)


def each_of(lumas: Array) -> list[Array]:
    """Returns K exposures' lumas, (K, 1, h, w), one by one, each (1, 1, h, w)."""
    return [lumas[k : k + 1] for k in range(len(lumas))]


def stretching(
    plan: Plan, images: Sequence[np.ndarray], device: "torch.device | None", progress: bool
) -> Plan:
    """Returns the Plan whose luma is another's, stretched to [0, 1] over the whole picture."""
    plane = whole_luma(plan, images, device, progress)
    lowest, highest = plane.min(), plane.max()
    plane = (plane - lowest) / max(highest - lowest, np.finfo(plane.dtype).tiny)
    return Plan(lambda _, place: plane[(..., *place)], PLAIN_TILE, 0)


def plan_released(model: Any, images: Sequence[np.ndarray], tile: int, progress: bool) -> Plan:
    """Returns the Plan of colour pictures that are made as the authors' program makes them.

    The luma is stretched once more. Luma and chroma (fuse_chroma) are held in 8-bit levels.
    """
    plan = plan_full(model, images, tile, progress)
    plane = earlier.adjusted(whole_luma(plan, images))
    return plan._replace(
        fuse_luma=lambda _, place: plane[(..., *place)], **earlier.RELEASED._asdict()
    )


def as_earlier(plan: Plan, images: Sequence[np.ndarray]) -> Plan:
    """Returns the Plan of colour pictures with the earlier implementation's chroma and levels."""
    read = earlier.EARLIER.read
    distances = mean_of_tiles(
        images,
        lambda place: np.abs(read(*(image[place] for image in images))[:, 1:] - utils.NEUTRAL),
    )
    return plan._replace(
        fuse_chroma=lambda chroma, *_: earlier.global_chroma(chroma, distances),
        **earlier.EARLIER._asdict(),
    )


def plan_fast(model: Any, images: Sequence[np.ndarray], tile: int, progress: bool) -> Plan:
    """Returns the Plan that applies to full pictures what the network does to reduced ones.

    Little is lost, because fused patches are weighted sums of the exposures' patches (MEF-SSIM's
    y_hat). See transferred.
    """
    factor = reduction(images, REDUCED)
    reduced = reduce_pictures(images, factor)
    plan = plan_full(model, reduced, tile)
    y_f = whole_luma(plan, reduced, network_device(model), progress)
    return Plan(transferred(read_lumas(reduced, WHOLE), y_f, factor), PLAIN_TILE, 0)


class Alike(NamedTuple):
    """The facts that several pictures of one place have in common, so that they can be stitched.

    levels: mean luma of every exposure, (K,), dark to bright; histogram: of their tone, see
    finish.tone_histogram; both over all pictures.
    """

    levels: np.ndarray
    histogram: np.ndarray

    @classmethod
    def of(cls, model: Any, stacks: Sequence[Sequence[np.ndarray]]) -> "Alike":
        """Returns what reduced pictures, K exposures of each, have in common.

        Raises ValueError where they have different numbers of exposures.
        """
        counts = sorted({len(stack) for stack in stacks})
        if len(counts) > 1:
            raise ValueError(f"brackets that are to be alike have {counts} exposures")
        planes = [with_chroma(utils.to_ycbcr(*stack)) for stack in stacks]
        each = [np.sort(stack[:, 0].mean(axis=(1, 2))) for stack in planes]
        sizes = np.array([stack.shape[-2] * stack.shape[-1] for stack in planes], float)
        levels = np.average(each, axis=0, weights=sizes)
        network = OnArrays(model)
        found = [tone_histogram(between.complete(network, stack, levels)[:, 0]) for stack in planes]
        return cls(levels, np.average(found, axis=0, weights=sizes))


def with_chroma(stack: np.ndarray) -> np.ndarray:
    """Returns planes of Y, Cb, Cr, (K, 3, h, w), of grey pictures' Y alone too."""
    if stack.shape[1] == 3:
        return stack
    grey = np.full_like(stack, utils.NEUTRAL)
    return np.concatenate([stack, grey, grey], axis=1)


def plan_photo(
    model: Any,
    reduced: Sequence[np.ndarray],
    factor: int,
    options: Options,
) -> Plan:
    """Returns the Plan of the best photo, from pictures reduced by `factor` to some SMALL pixels.

    The missing exposures between are told (between.py), all are merged and finished (finish.py),
    and what this does is applied to the full pictures.
    """
    stack = utils.to_ycbcr(*reduced)
    stack[:, 0].clip(0, 1, out=stack[:, 0])  # Colours that sRGB does not have may be outside.
    stack = with_chroma(stack)
    alike = options.alike
    if alike and len(alike.levels) != len(stack):
        raise ValueError(
            f"{len(stack)} exposures cannot be made alike brackets of {len(alike.levels)}; "
            "--deghost no leaves none out"
        )
    levels, histogram = alike or (None, None)
    complete = between.complete(OnArrays(model), stack, levels)
    photo = finished(complete, options.finish, options.steady, histogram)[None]
    fuse_luma = transferred(stack[:, :1], photo[:, :1], factor)
    half = np.float32(utils.NEUTRAL)
    tint = transferred(stack[:, 1:] - half, photo[:, 1:] - half, factor)

    def fuse_chroma(chroma: np.ndarray, _y_f: np.ndarray, place: Area) -> np.ndarray:
        # Grey pictures have no chroma.
        return tint(chroma - half, place)[0] + half if chroma.size else chroma[0]

    return Plan(
        lambda lumas, place: fuse_luma(lumas, place).clip(0, 1),
        PLAIN_TILE,
        0,
        fuse_chroma=fuse_chroma,
        write=functools.partial(utils.from_ycbcr, keep_hue=True),
    )


class OnArrays:
    """A between.Network of arrays: one of portable.py itself, or one of PyTorch on its device."""

    def __init__(self, network: Any):
        device = network_device(network)

        def calling(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
            def call(*arrays: np.ndarray, **counts: int) -> np.ndarray:
                return on_arrays(functools.partial(function, **counts), device)(*arrays)

            return call

        self.surroundings = calling(network.surroundings)
        self.factors = calling(network.factors)
        self.free = calling(network.free)


def informative(images: Sequence[np.ndarray]) -> list[int]:
    """Returns the indices of the images that are not white or black nearly everywhere.

    Such an empty exposure tells nothing of the scene, and would be taken for the brightest or the
    darkest. Where all are empty, all are returned.
    """
    shown = []
    for k, image in enumerate(images):
        luma = utils.to_luma(image)
        if ((luma > DARKEST) & (luma < BRIGHTEST)).mean() >= LEAST_SHOWN:
            shown.append(k)
    return shown or list(range(len(images)))


def whole_luma(
    plan: Plan,
    images: Sequence[np.ndarray],
    device: "torch.device | None" = None,
    progress: bool = False,
) -> np.ndarray:
    """Returns a Plan's luma of whole pictures, (1, 1, H, W)."""
    plane = np.empty((1, 1, *images[0].shape[:2]), np.float32)

    def work(outer: Area, inner: Area, place: Area) -> None:
        plane[(..., *place)] = plan.fuse_luma(read_lumas(images, outer), outer)[(..., *inner)]

    in_tiles(work, plane.shape[-2:], plan.tile, plan.halo, device, progress, plan.workers)
    return plane


def panel(
    model: Network,
    under: np.ndarray,
    over: np.ndarray,
    options: Options = PAPER,
    target: str = "patch",
) -> np.ndarray:
    """Returns under | over | fused | y_hat side by side, as one array of four times their width.

    y_hat is the picture that MEF-SSIM compares with, see loss.y_hat, with the paper's chroma. It is
    computed on the whole picture at once.

    under, over, options: as fuse takes them. target: as loss.y_hat takes it.
    Raises ValueError as fuse does, and where the pictures are smaller than MEF-SSIM's window.
    """
    import torch

    import loss
    from windows import WINDOW

    check_images([under, over])
    if min(under.shape[:2]) < WINDOW:
        raise ValueError(f"y_hat needs pictures of at least {WINDOW} pixels a side")
    stack = utils.to_ycbcr(under, over)
    fused = fuse(model, [under, over], options)
    y_hat = loss.y_hat(torch.from_numpy(stack[None, :, 0]), target).numpy()
    desired = np.concatenate([y_hat, fuse_chroma(stack[:, 1:])[None]], axis=1)
    shown = [utils.from_ycbcr(image, fused.dtype) for image in (*each_of(stack), desired)]
    return np.concatenate([*shown[:2], fused, shown[2]], axis=1)


def check_images(
    images: Sequence[np.ndarray], one_size: bool = True, extended: bool = False
) -> None:
    """Raises ValueError where pictures cannot be fused or, for one_size, differ in size.

    extended: allows floats as far outside [0, 1] as colours that sRGB does not have.
    """
    lowest, highest = EXTENDED if extended else (0, 1)
    if len(images) < 2:
        raise ValueError(f"fusion needs two or more pictures, not {len(images)}")
    shape = images[0].shape
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ValueError(f"expected pictures of shape (H, W) or (H, W, 3), not {shape}")
    for image in images:
        if one_size:
            check_same_size(image.shape[:2], shape[:2])
        if image.ndim != len(shape):
            raise ValueError("some pictures are grey and some in colour")
        if image.dtype not in utils.DTYPES:
            raise ValueError(
                f"pictures must be uint8, uint16, float32 or float64, not {image.dtype}"
            )
        # The comparison is false for NaN, too.
        if image.dtype.kind == "f" and not (image.min() >= lowest and image.max() <= highest):
            raise ValueError(f"float pictures must lie in [{lowest:g}, {highest:g}]")


def check_same_size(size: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Raises ValueError where a picture's size (H, W) is not that of a scene's first picture."""
    if size != first:
        raise ValueError(
            f"the pictures differ in size: {first[1]}x{first[0]} and {size[1]}x{size[0]}"
            f"{explain(size, first)}"
        )


def explain(size: tuple[int, ...], other: tuple[int, ...]) -> str:
    """Returns the likely reason why two sizes (H, W) differ, as the end of a message, or ""."""
    if size == other[::-1]:
        return "; one lacks the EXIF orientation that the other has"
    if nearly_fits(size, other):
        return "; pictures that nearly fit can be brought to one size by alignment (--align)"
    return ""


def nearly_fits(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Returns True where two sizes (H, W) differ by a fiftieth at most."""
    return all(abs(a - b) <= 0.02 * b for a, b in zip(size, other, strict=True))
