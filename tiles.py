"""How is a large picture worked on in parts?"""

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from tqdm import tqdm

CPU = torch.device("cpu")
TILES = {2: 384, 4: 320}  # pixels a side on a CPU, by the bytes of a feature: its cache's size
PLAIN_TILE = 384  # those of all that is not the network
WORKERS = 4  # tiles that are worked on at a time, at most: each needs its own memory
SMALLEST_TILE = 16  # running out of memory halves tiles down to this


def tile_size(model):
    """Pixels a side of a tile that suits the device and the precision of a network."""
    weight = model.c2[0].weight
    if weight.device.type != "cuda":
        return TILES[weight.element_size()]
    free, _ = torch.cuda.mem_get_info(weight.device)
    pixels = free / WORKERS / 4096  # bytes that a pixel's features need, with much to spare
    return min(4096, 2 ** int(np.log2(max(pixels, 1)) / 2))


def in_tiles(work, shape, size, halo, device, progress=False, workers=WORKERS):
    """Calls work(outer, inner, place) for rectangles that cover a picture of a shape (H, W).

    place: the tile within the picture, of at most `size` pixels a side; outer: what it reads of the
    picture, up to `halo` pixels more on each side; inner: the tile within that; each a pair of
    slices. Several threads, `workers` at most, call `work` at a time, on a GPU each in a stream of
    its own, so that one's copies and another's arithmetic overlap. Where memory runs out in `work`,
    what is left goes on in tiles of half the size; MemoryError where SMALLEST_TILE is too large.
    """
    pending = tiles((slice(0, shape[0]), slice(0, shape[1])), size)

    def attempt(place):
        work(*with_halo(place, halo, shape), place)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()

    with (
        tqdm(
            total=shape[0] * shape[1],
            unit="px",
            unit_scale=True,
            leave=False,
            disable=None if progress else True,
        ) as bar,
        several_threads(device, min(workers, len(pending))) as start,
    ):
        while pending:
            running = {start(attempt, place): place for place in pending}
            left = []
            for done in as_completed(running):
                place = running[done]
                error = None if done.cancelled() else done.exception()
                if error and not is_out_of_memory(error):
                    raise error
                if error and size <= SMALLEST_TILE:
                    raise MemoryError(f"tiles of {size} pixels do not fit") from error
                if error or done.cancelled():
                    left.append(place)
                    for other in running:
                        other.cancel()
                else:
                    bar.update((place[0].stop - place[0].start) * (place[1].stop - place[1].start))
            size //= 2
            pending = [part for area in left for part in tiles(area, size)]


@contextlib.contextmanager
def several_threads(device, count):
    """A function as ThreadPoolExecutor.submit, for threads that share out PyTorch's among them."""
    threads = torch.get_num_threads()
    count = min(count, threads)
    inference = torch.is_inference_mode_enabled()

    def prepare_thread():
        torch.set_num_threads(threads // count)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.cuda.set_stream(torch.cuda.Stream(device))

    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what the tiles read is there for all streams
    pool = ThreadPoolExecutor(count, initializer=prepare_thread)
    try:
        yield lambda work, place: pool.submit(torch.inference_mode(inference)(work), place)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def tiles(area, size):
    """Rectangles of equal size, at most `size` a side, that make up an area: pairs of slices."""
    cuts = []
    for side in area:
        length = side.stop - side.start
        count = -(-length // size)
        edges = [side.start + length * i // count for i in range(count + 1)]
        cuts.append([slice(start, stop) for start, stop in itertools.pairwise(edges)])
    return [(row, column) for row in cuts[0] for column in cuts[1]]


def with_halo(place, halo, shape):
    """What a tile reads, with a halo that ends at the picture's borders; the tile within that."""
    outer = tuple(
        slice(max(side.start - halo, 0), min(side.stop + halo, length))
        for side, length in zip(place, shape, strict=True)
    )
    inner = tuple(
        slice(side.start - read.start, side.stop - read.start)
        for side, read in zip(place, outer, strict=True)
    )
    return outer, inner


def is_out_of_memory(error):
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error)  # torch has no type for it
    )


def to_device(tensor, device):
    """The tensor on a device, copied there, from page-locked memory, while the CPU goes on."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
