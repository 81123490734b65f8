"""What does training see? Random aligned crops of exposures from a folder of bracketed scenes."""

import hashlib
import math
import os
import signal
import threading
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

import utils
from brackets import find_scenes

PAIRS = ("any", "extreme", "far")
MAX_STACK = 5  # exposures drawn from one scene, at most
DEGRADED_SHIFT = 0.3  # pixels by which degraded pictures are moved, at most
DEGRADED_NOISE = 0.02  # standard deviation of their noise, at most
DEGRADED_QUALITY = (40, 98)  # range of the JPEG quality at which they are
ENCODING = 2.2  # sRGB's power, nearly: light doubles where a level grows by 2^(1/2.2)


class TrainingScene(NamedTuple):
    """A scene that training can use.

    files: its pictures. path: the cache file with the decoded pixels, uint8 RGB (K, 3, H, W).
    size: (H, W). under, over: indices of the under- and the over-exposed pictures, dark to bright.
    """

    files: list[str]
    path: str
    size: tuple[int, int]
    under: list[int]
    over: list[int]


class Draws(NamedTuple):
    """The way in which training draws samples from a scene.

    pairs: "any" draws one under- and one over-exposed picture, "extreme" takes a scene's darkest
        and brightest.
    stacks: the share of draws that are more exposures of the scene than a pair, MAX_STACK at most,
        where it has them.
    zoom: a crop shows an area of up to zoom x crop_size pixels a side, reduced to crop_size.
    gamma: an item's exposures are all raised to one power, drawn between 1/gamma and gamma.
    widen: an item's darkest exposure is made darker and its brightest brighter, each by up to this
        many stops, as if the camera had bracketed wider.
    degrade: an item's darkest and brightest exposure are seen as hand-held, noisy files would show
        them, see `degraded`.
    each: items that an epoch draws from every scene.
    exposures: pictures that a scene needs at least, and a draw has. Where it is 3 or more, draws
        are of any of them or, for pairs "extreme", of the darkest, the brightest and some between;
        for "far", of either kind, half of the draws each. `stacks` is then the share of draws of
        more than `exposures`.
    """

    pairs: str = "any"
    stacks: float = 0.0
    zoom: float = 1.0
    gamma: float = 1.0
    widen: float = 0.0
    degrade: bool = False
    each: int = 1
    exposures: int = 2


PLAIN = Draws()


class BracketedDataset(Dataset[torch.Tensor]):
    """Random crops of scenes, each of one area in a pair, or a longer stack, of exposures.

    folders: a folder, or several, with one sub-folder a scene, which holds that scene's exposures.
    crop_size: side of the square crops, in pixels. Smaller scenes are enlarged to it, their aspect
        ratio kept.
    seed: crops depend on (seed, epoch, scene) alone, in whatever order and process they are drawn.
    cache: folder for the decoded pixels, made where it is missing. Every scene is decoded once
        into an array there, which all workers and later runs read through a memory map.
    progress: shows a bar while scenes are decoded, where stderr is a terminal.
    draws: how samples are drawn.
    batch_size: items that an epoch needs at least.

    Exposures brighter than the scene's mean luma, taken on a grid of pixels, are "over", the others
    "under". Scenes that cannot be used are named in a warning and left out.

    Raises OSError where a folder or the cache is not accessible. Raises ValueError where a folder
    has no scenes, none can be used or too few for batch_size, the crops are larger than all scenes,
    or a picture of floats has pixels that are not finite. Mistakes that the files' headers show are
    raised before the cache is written.

    Item i is of scene i % len(self.scenes), in epoch i // len(self): a float32 tensor (K, 3,
    crop_size, crop_size) of Y, Cb, Cr in [0, 1], the exposures from dark to bright; a pair is
    (under, over).
    """

    def __init__(
        self,
        folders: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        crop_size: int = 256,
        seed: int = 0,
        cache: str = "train_result/cache",
        progress: bool = False,
        batch_size: int = 1,
        draws: Draws = PLAIN,
    ) -> None:
        if draws.pairs not in PAIRS:
            raise ValueError(f"pairs must be one of {', '.join(PAIRS)}, not {draws.pairs!r}")
        self.crop_size = crop_size
        self.seed = seed
        self.draws = draws
        folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        found = [scene for folder in folders for scene in find_scenes(folder)]
        needed = math.ceil(batch_size / draws.each)
        check_before_decoding(found, crop_size, needed, draws.exposures)
        self.scenes = decode_all(found, cache, progress, draws.exposures)
        if not self.scenes:
            raise ValueError(f"{', '.join(map(str, folders))}: no scene in it can be used")
        check_crops([scene.size for scene in self.scenes], crop_size, needed)
        self.turn = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomApply([v2.Lambda(transpose)]),  # With flips: turns by 90 degrees.
            ]
        )

    def __len__(self) -> int:
        return len(self.scenes) * self.draws.each

    def fingerprint(self) -> dict[str, str]:
        """Identifies the data, in order: {scene: "<files> of <width>x<height>, <hash of files>"}.

        Scenes of one name in several folders are told apart by a number.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = list(pool.map(hash_files, [scene.files for scene in self.scenes]))
        result: dict[str, str] = {}
        for scene, digest in zip(self.scenes, hashes, strict=True):
            name = folder = os.path.basename(os.path.dirname(scene.files[0]))
            number = 1
            while name in result:
                number += 1
                name = f"{folder} ({number})"
            height, width = scene.size
            result[name] = f"{len(scene.files)} of {width}x{height}, {digest}"
        return result

    def __getitem__(self, item: int) -> torch.Tensor:
        epoch, index = divmod(item, len(self))
        scene = self.scenes[index % len(self.scenes)]
        # Copy-on-write, because torch wants an array that could be written to.
        stack = torch.from_numpy(np.load(scene.path, mmap_mode="c"))  # (K, 3, H, W) RGB
        state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds the GPUs too: that is slow.
            torch.default_generator.manual_seed(int(state[0]))
            chosen = self.choose(scene.under, scene.over)
            images = self.crop([tv_tensors.Image(stack[k]) for k in chosen])
            images = self.turn(*images)
            power = self.draws.gamma ** (2 * float(torch.rand(())) - 1)
            darker, brighter = (self.draws.widen * torch.rand(2)).tolist()
            seeds = torch.randint(2**31, (2,)).tolist() if self.draws.degrade else []
        pixels = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
        if self.draws.widen:
            pixels[0], pixels[-1] = expose(pixels[0], -darker), expose(pixels[-1], brighter)
        for place, seed in zip((0, -1), seeds, strict=False):
            pixels[place] = degraded(pixels[place], np.random.default_rng(seed))
        if power != 1:
            pixels = [(image / np.float32(255)) ** np.float32(power) for image in pixels]
        return torch.from_numpy(utils.to_ycbcr(*pixels))

    def crop(self, images: list[tv_tensors.Image]) -> list[tv_tensors.Image]:
        """Cuts the same random square out of all images (3, H, W), and resizes it to crop_size."""
        shorter = min(images[0].shape[-2:])
        area = self.crop_size * self.draws.zoom ** float(torch.rand(()))
        area = min(round(area), max(self.crop_size, shorter))
        if shorter < area:
            images = [v2.functional.resize(image, area) for image in images]
        images = v2.RandomCrop(area)(*images)
        if area > self.crop_size:
            size = [self.crop_size] * 2
            images = [v2.functional.resize(image, size, antialias=True) for image in images]
        return images

    def choose(self, under: list[int], over: list[int]) -> list[int]:
        """Draws exposures; returns their indices, dark to bright, as both arguments are sorted."""
        everything, longer = [*under, *over], self.draws.exposures + 1
        ends = self.draws.pairs == "extreme" or (
            self.draws.pairs == "far" and bool(torch.rand(()) < 0.5)
        )
        if len(everything) >= longer and float(torch.rand(())) < self.draws.stacks:
            longest = min(len(everything), MAX_STACK)
            return self.draw(everything, int(torch.randint(longer, longest + 1, ())), ends)
        if self.draws.exposures > 2:
            return self.draw(everything, self.draws.exposures, ends)
        if ends:
            return [everything[0], everything[-1]]
        return [group[int(torch.randint(len(group), ()))] for group in (under, over)]

    def draw(self, everything: list[int], count: int, ends: bool) -> list[int]:
        """Draws `count` of a scene's exposures, in order; see `pairs` and `exposures`.

        ends: True where the darkest and the brightest are among them.
        """
        if self.draws.exposures > 2 and ends:
            between = torch.randperm(len(everything) - 2)[: count - 2].sort().values + 1
            return [everything[0], *(everything[k] for k in between), everything[-1]]
        positions = torch.randperm(len(everything))[:count].sort().values
        return [everything[k] for k in positions]


def check_before_decoding(
    scenes: list[tuple[str, list[str]]], crop_size: int, needed: int, exposures: int = 2
) -> None:
    """Raises ValueError for mistakes that would otherwise show only after all decoding.

    scenes: (folder, files) each. needed: how many of them training needs.
    """
    sizes = []
    for _, files in scenes:
        try:
            headers = [utils.header_of(file) for file in files]
            floats = [
                (utils.read_image(file), file)
                for file, header in zip(files, headers, strict=True)
                if header and header.floats
            ]
        except (OSError, ValueError):
            continue  # Such a scene is named and left out when it is decoded.
        for image, file in floats:
            check_finite(image, file)
        if len(files) >= exposures:
            sizes.append(headers[0][:2] if headers[0] else (math.inf, math.inf))
    if sizes:
        check_crops(sizes, crop_size, needed)


def check_crops(sizes: Sequence[tuple[float, float]], crop_size: int, needed: int) -> None:
    """Raises ValueError where sizes (H, W) of scenes are too few for a batch or all too small."""
    if needed > len(sizes):
        raise ValueError(f"a batch needs {needed} scenes, and there are {len(sizes)}")
    largest = max(map(min, sizes))
    if crop_size > largest:
        raise ValueError(
            f"crops of {crop_size} pixels are larger than all scenes, which have {largest}"
        )


def decode_all(
    found: list[tuple[str, list[str]]], cache: str, progress: bool, exposures: int = 2
) -> list[TrainingScene]:
    """Decodes scenes, (folder, files) each, into the cache. Returns the usable ones.

    The others, also those of fewer than `exposures` pictures, are named in a warning.
    """
    os.makedirs(cache, exist_ok=True)
    scenes = []
    # Threads are enough: OpenCV decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(lambda scene: decode_once(scene, cache, exposures), found),
            "reading scenes",
            total=len(found),
            unit="scene",
            leave=False,
            disable=None if progress else True,
        )
        for (folder, _), scene in zip(found, bar, strict=True):
            if isinstance(scene, str):
                warnings.warn(f"{folder}: skipped, {scene}", stacklevel=3)
            else:
                scenes.append(scene)
    return scenes


def decode_once(
    scene: tuple[str, list[str]], cache: str, exposures: int = 2
) -> TrainingScene | str:
    """Decodes a scene, (folder, files), into the cache unless it is there already.

    Returns the TrainingScene, or the reason why the scene cannot be used: it may have fewer than
    `exposures` pictures. Raises OSError where the cache cannot be written.
    """
    folder, files = scene
    if len(files) < exposures:
        return (
            "it has one picture only" if len(files) == 1 else f"it has {len(files)} pictures only"
        )
    try:
        path = cache_path(folder, files, cache)
        stack = cached(path)
        if stack is None:
            stack = read_stack(files)
    except (OSError, ValueError) as error:
        return str(error)
    if not os.path.exists(path):
        with utils.replacing(path) as file:
            np.save(file, stack)
    under, over = split_by_brightness(stack)
    if not over or not under:
        return "its pictures are equally bright"
    return TrainingScene(files, path, stack.shape[-2:], under, over)


def cache_path(folder: str, files: list[str], cache: str) -> str:
    """Returns the path of a scene's cache file, another one after its pictures have changed."""
    stamp = [(os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
    digest = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
    return os.path.join(cache, f"{os.path.basename(folder)}-{digest}.npy")


def split_by_brightness(stack: np.ndarray) -> tuple[list[int], list[int]]:
    """Returns the indices of the under- and over-exposed pictures of (K, 3, H, W), dark to bright.

    Where all are equally bright, `over` is empty.
    """
    # A grid of some thousand pixels is enough for a mean.
    step = max(1, min(stack.shape[-2:]) // 64)
    brightness = stack[:, :, ::step, ::step].mean(axis=(2, 3)) @ np.array(utils.LUMA)
    if np.ptp(brightness) == 0:  # Their mean, rounded, may lie below all.
        return list(range(len(stack))), []
    order = np.argsort(brightness, kind="stable").tolist()
    over = [k for k in order if brightness[k] > brightness.mean()]
    return [k for k in order if k not in over], over


def hash_files(files: Iterable[str]) -> str:
    """Returns a hash of the files' contents."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:16]


def cached(path: str) -> np.ndarray | None:
    """Opens a cache file; removes a damaged one. Returns None where there is none to open."""
    if not os.path.exists(path):
        return None
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError, zipfile.BadZipFile):
        os.remove(path)
        return None


def read_stack(files: list[str]) -> np.ndarray:
    """Reads a scene's pictures as one uint8 array (K, 3, H, W); ValueError where sizes differ."""
    images = utils.read_images(files)
    for image, file in zip(images, files, strict=True):
        check_finite(image, file)
    images = [as_8_bit_rgb(image) for image in images]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(f"its pictures differ in size: {listed}")
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def check_finite(image: np.ndarray, path: str) -> None:
    """Raises ValueError naming the file where pixels of a float picture are not finite."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"{path}: has pixels that are not finite numbers")


def as_8_bit_rgb(image: np.ndarray) -> np.ndarray:
    """Converts a picture of any depth, in colour or grey, to uint8 (H, W, 3)."""
    image = utils.to_8_bit(image)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def expose(image: np.ndarray, stops: float) -> np.ndarray:
    """Returns a uint8 picture as if it had been exposed by so many stops more, clipped at 255."""
    levels = np.arange(256) * 2 ** (stops / ENCODING)
    return cv2.LUT(image, levels.round().clip(0, 255).astype(np.uint8))


def degraded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a uint8 picture as a hand-held camera's noisy JPEG file might show it.

    It is moved by a part of a pixel, gets noise of single pixels and of squares of 2x2, which is
    stronger where it is dark, and is compressed.
    """
    height, width = image.shape[:2]
    right, down = rng.uniform(-DEGRADED_SHIFT, DEGRADED_SHIFT, 2)
    move = np.array([[1, 0, right], [0, 1, down]])
    image = cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    noise = rng.standard_normal((height, width, 3), np.float32)
    half = rng.standard_normal((-(-height // 2), -(-width // 2), 3), np.float32)
    noise += cv2.resize(half, (width, height), interpolation=cv2.INTER_NEAREST)
    levels = np.arange(256, dtype=np.float32)
    strength = np.float32(DEGRADED_NOISE * rng.random() ** 2) * (1.25 * 255 - levels)
    amplitude = cv2.multiply(noise, cv2.LUT(image, strength))
    noisy = cv2.add(image, amplitude, dtype=cv2.CV_8U)  # rounded, and clipped to [0, 255]
    quality = int(rng.integers(*DEGRADED_QUALITY))
    _, data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def transpose(image: torch.Tensor) -> torch.Tensor:
    """Exchanges rows and columns. Workers pickle it, so it cannot be a lambda."""
    return image.transpose(-1, -2)


class EpochBatches:
    """Batches of dataset items: every epoch's, in an order drawn from (seed, epoch).

    items: number of items in an epoch. batch_size: items of a batch in each process. start: epoch
    of the first batch, and its step in that epoch. rank, count: this process's number, and the
    number of processes.

    Every process has its part of every batch. An epoch's last batch may be smaller, and some
    processes' part of it empty.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        epochs: int,
        seed: int,
        start: tuple[int, int] = (0, 0),
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.items = items
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.start = start
        self.rank = rank
        self.count = count

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size * self.count
        first, step = self.start
        for epoch in range(first, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.items)
            items = (epoch * self.items + order).tolist()
            skipped = step * size if epoch == first else 0
            for start in range(skipped, self.items, size):
                batch = items[start : start + size]
                yield batch[self.rank * self.batch_size :][: self.batch_size]


def make_loader(
    dataset: BracketedDataset,
    batches: EpochBatches,
    workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DataLoader[Any]:
    """Returns a loader of these batches, each grouped by by_count.

    The loader is one stream over all epochs, so that workers do not idle where one epoch ends.

    workers: processes that prepare crops. start_method: one of multiprocessing's; None for the
    system's default.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=by_count,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=pin_memory,
        multiprocessing_context=start_method if workers else None,
    )


def by_count(samples: list[torch.Tensor]) -> list[torch.Tensor]:
    """Stacks samples (K, 3, H, W) into one tensor (N, K, 3, H, W) for every K that occurs."""
    counts = sorted({len(sample) for sample in samples})
    return [torch.stack([x for x in samples if len(x) == count]) for count in counts]


def ignore_signals(_worker: int) -> None:
    """Makes a worker leave Ctrl-C, SIGHUP and a cluster's SIGTERM to the main process, which saves.

    A SIGTERM that the main process sends still ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey_parent, daemon=True).start()


def obey_parent() -> None:
    """Ends this process at the first SIGTERM that its parent sends."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
