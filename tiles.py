"""How is a large picture worked on in parts?

A tile is a rectangle of a picture, given as an Area: a pair of slices, of its rows and columns.
PyTorch is imported where its networks work on tiles.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    import torch

Area = tuple[slice, slice]
Each = Callable[..., Iterator[Any]]  # does what map does

WHOLE = (slice(None), slice(None))  # the Area of a whole picture
# Pixels a side of a tile on a CPU, by the bytes of a number, so that features fit in the cache.
NETWORK_TILES = {2: 384, 4: 320}
STRIP = 64  # rows of a picture that are changed at a time, so that memory holds no second one
PLAIN_TILE = 384  # pixels a side of a tile of everything but the network
WORKERS = 4  # tiles worked on at a time, at most; each needs memory of its own
SMALLEST_TILE = 16  # pixels a side; tiles are halved down to this where memory runs out


def tile_size(model: Any) -> int:
    """Returns the pixels a side of a tile that suits a network's device and precision."""
    device = network_device(model)
    if device is None:
        return model.tile
    if device.type != "cuda":
        return NETWORK_TILES[min(weight.element_size() for weight in model.parameters())]
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    pixels = free / WORKERS / 4096  # 4096 bytes are more than a pixel's features need.
    return min(4096, 2 ** int(np.log2(max(pixels, 1)) / 2))


def network_device(model: Any) -> "torch.device | None":
    """Returns the device of a network's weights; None for one that needs no PyTorch."""
    return next(model.parameters()).device if hasattr(model, "parameters") else None


def in_tiles(
    work: Callable[[Area, Area, Area], None],
    shape: Sequence[int],
    size: int,
    halo: int,
    device: "torch.device | None" = None,
    progress: bool = False,
    workers: int = WORKERS,
) -> None:
    """Calls work(outer, inner, place) for tiles that cover a picture.

    Several threads call `work` at a time. On a GPU each has a stream of its own, so that one
    thread's copies and another's arithmetic overlap. Where `work` runs out of memory, the tiles
    that are left are halved.

    work: takes three Areas. `place` is the tile in the picture. `outer` is the tile with its halo,
        the part of the picture that `work` may read. `inner` is the tile within `outer`.
    shape: height and width of the picture.
    size: pixels a side of a tile, at most.
    halo: pixels beyond a tile that `outer` shows on every side, within the picture.
    device: of the network of PyTorch that `work` runs, or None.
    progress: shows a bar where stderr is a terminal.
    workers: threads, at most.

    Raises MemoryError where even tiles of SMALLEST_TILE do not fit, and what `work` raises.
    """
    pending = cut(whole_area(shape), size)
    left: list[Area] = []

    def attempt(place: Area) -> int:
        """Works on a tile; returns its pixels, or 0 where it has to wait for smaller tiles."""
        try:
            if not left:
                work(*with_halo(place, halo, shape), place)
                if device is not None and device.type == "cuda":
                    import torch

                    torch.cuda.current_stream(device).synchronize()
                return (place[0].stop - place[0].start) * (place[1].stop - place[1].start)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= SMALLEST_TILE:
                raise MemoryError(f"tiles of {size} pixels do not fit") from error
        left.append(place)
        return 0

    with (
        tqdm(
            total=shape[0] * shape[1],
            unit="px",
            unit_scale=True,
            leave=False,
            disable=None if progress else True,
        ) as bar,
        several_threads(device, min(workers, len(pending))) as each,
    ):
        while pending:
            for pixels in each(attempt, pending):
                bar.update(pixels)
            size //= 2
            pending = [part for area in left for part in cut(area, size)]
            left.clear()


@contextlib.contextmanager
def several_threads(device: "torch.device | None", count: int) -> Iterator[Each]:
    """Gives a function each(work, *items) that does what map does, in `count` threads at a time.

    There are at most as many as OpenCV has. device: of tensors that `work` takes, or None; PyTorch
    has threads of its own, see threads_of_torch.
    """
    if device is not None:
        with threads_of_torch(device, count) as each:
            yield each
        return
    count = min(count, cv2.getNumThreads())
    if count <= 1:
        yield map
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def threads_of_torch(device: "torch.device", count: int) -> Iterator[Each]:
    """Gives the function that several_threads does, among whose threads PyTorch's are shared out.

    One thread is this one: beside another thread's, PyTorch's threads would sleep between any two
    operations, and waking them takes longer than most of the operations.
    """
    import torch

    torch_threads = torch.get_num_threads()
    count = min(count, torch_threads)
    if count <= 1:
        yield map
        return

    def prepare_thread() -> None:
        torch.set_num_threads(torch_threads // count)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.cuda.set_stream(torch.cuda.Stream(device))

    if device.type == "cuda":
        torch.cuda.synchronize(device)  # All streams then see what the tiles read.
    pool = ThreadPoolExecutor(count, initializer=prepare_thread)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)


def whole_area(shape: Sequence[int]) -> Area:
    """Returns the Area of all of a picture, of its height and width."""
    return slice(0, shape[0]), slice(0, shape[1])


def cut(area: Area, size: int) -> list[Area]:
    """Returns tiles of equal size, at most `size` pixels a side, that make up an area."""
    cuts = []
    for side in area:
        length = side.stop - side.start
        count = -(-length // size)
        edges = [side.start + length * i // count for i in range(count + 1)]
        cuts.append([slice(start, stop) for start, stop in itertools.pairwise(edges)])
    return [(row, column) for row in cuts[0] for column in cuts[1]]


def with_halo(place: Area, halo: int, shape: Sequence[int]) -> tuple[Area, Area]:
    """Returns a tile with its halo, which ends at the picture's border, and the tile within it."""
    (top, left), (bottom, right) = ((side.start for side in place), (side.stop for side in place))
    first = max(top - halo, 0), max(left - halo, 0)
    last = min(bottom + halo, shape[0]), min(right + halo, shape[1])
    outer = slice(first[0], last[0]), slice(first[1], last[1])
    inner = slice(top - first[0], bottom - first[0]), slice(left - first[1], right - first[1])
    return outer, inner


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True where an error says that memory, a GPU's or the machine's, has run out."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch.cuda's
        or "DefaultCPUAllocator" in str(error)  # PyTorch has no type for it.
        or (isinstance(error, cv2.error) and "(-4:" in str(error))  # StsNoMem
    )


def on_arrays(
    function: Callable[..., Any], device: "torch.device | None"
) -> Callable[..., np.ndarray]:
    """Returns a function of tensors on a device as one of arrays, without gradients.

    device: None for a function of arrays, which is returned itself.
    """
    if device is None:
        return function
    import torch

    def on_device(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.pin_memory()  # Only page-locked memory is copied meanwhile.
        return tensor.to(device, non_blocking=True)

    @torch.inference_mode()
    def call(*arrays: np.ndarray) -> np.ndarray:
        return function(*map(on_device, arrays)).cpu().numpy()

    return call


def enlarge(image: np.ndarray, factor: int, area: Area) -> np.ndarray:
    """Returns one part of a bilinearly enlarged image.

    image: (1, C, h, w); factor: a whole number; area: the part, in enlarged pixels.
    """
    outer, inner = [], []
    for side, length in zip(area, image.shape[-2:], strict=True):
        # Neighbouring pixels are read too: without them, the part's edges would differ.
        first = max(side.start // factor - 1, 0)
        outer.append(slice(first, min(-(-side.stop // factor) + 1, length)))
        inner.append(slice(side.start - first * factor, side.stop - first * factor))
    small = image[0, :, outer[0], outer[1]]
    height, width = (factor * side for side in small.shape[1:])
    planes = np.empty((len(small), height, width), small.dtype)
    for plane, out in zip(small, planes, strict=True):
        cv2.resize(plane, (width, height), dst=out)
    return planes[(None, ..., *inner)]
