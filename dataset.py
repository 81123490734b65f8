"""What does training see? Random aligned crops of exposures from a folder of bracketed scenes."""

import hashlib
import math
import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

import metadata
import utils
from brackets import find_scenes

MAX_STACK = 5  # exposures drawn of a scene at most


class BracketedDataset(Dataset):
    """Aligned crops of some exposures of every scene in every epoch: a pair, or a longer stack.

    folders: a folder, or several, with one sub-folder a scene, which holds that scene's exposures.
    crop_size: side of the square crops, in pixels. Smaller scenes are enlarged to it, their aspect
        ratio kept.
    seed: crops depend on (seed, epoch, scene) alone, in whatever order and process they are drawn.
    cache: folder for the decoded pixels, made where it is missing. Every scene is decoded once
        into an array there and read through a memory map, by all workers and later runs alike.
    progress: a bar on stderr while scenes are decoded, where that is a terminal.
    pairs: "any" draws one under- and one over-exposed picture, "extreme" takes a scene's darkest
        and brightest.
    stacks: the share of draws that are 3 to MAX_STACK exposures of the scene, where it has them.
    zoom: crops show an area up to so many times as wide as crop_size, reduced to it.
    gamma: all exposures are raised to one power, drawn between 1/gamma and gamma.
    batch_size: how many scenes there have to be.

    Exposures brighter than the scene's mean luma, taken on a grid of pixels, are "over", the others
    "under". Scenes that cannot be used are named in a warning and left out. Raises ValueError where
    none, or fewer than batch_size, can be used, a folder has none, the crops are larger than all
    scenes or a picture of floats has pixels that are no numbers: before the cache is written, where
    the files' headers tell. OSError where a folder or the cache is not accessible.

    Item i is scene i % len(self) in epoch i // len(self): a float32 tensor (K, 3, crop_size,
    crop_size) of Y, Cb, Cr in [0, 1], the exposures from dark to bright: (under, over) of a pair.
    """

    def __init__(
        self,
        folders,
        crop_size=256,
        seed=0,
        cache="train_result/cache",
        progress=False,
        pairs="any",
        stacks=0.0,
        zoom=1.0,
        gamma=1.0,
        batch_size=1,
    ):
        if pairs not in ("any", "extreme"):
            raise ValueError(f"pairs must be 'any' or 'extreme', not {pairs!r}")
        self.crop_size = crop_size
        self.seed = seed
        self.pairs = pairs
        self.stacks = stacks
        self.zoom = zoom
        self.gamma = gamma
        folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        found = [scene for folder in folders for scene in find_scenes(folder)]
        check_before_decoding(found, crop_size, batch_size)
        os.makedirs(cache, exist_ok=True)
        with ThreadPoolExecutor(
            os.cpu_count()
        ) as pool:  # OpenCV decodes without holding the interpreter
            decoded = pool.map(lambda scene: decode_once(scene, cache), found)
            bar = tqdm(
                zip(found, decoded, strict=True),
                "reading scenes",
                total=len(found),
                unit="scene",
                leave=False,
                disable=None if progress else True,
            )
            self.scenes, self.files = [], []
            for (folder, files), (path, under, over, fault) in bar:
                if fault:
                    warnings.warn(f"{folder}: skipped, {fault}", stacklevel=2)
                else:
                    self.scenes.append((path, under, over))
                    self.files.append(files)
        if not self.scenes:
            raise ValueError(f"{', '.join(map(str, folders))}: no scene in it can be used")
        self.sizes = [np.load(path, mmap_mode="r").shape[-2:] for path, _, _ in self.scenes]
        check_plan(self.sizes, crop_size, batch_size)
        self.turn = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomApply([v2.Lambda(transpose)]),  # with the flips, all quarter turns
            ]
        )

    def __len__(self):
        return len(self.scenes)

    def fingerprint(self):
        """What the data are: {scene: "files, width x height, hash of the files"}, in order.

        Scenes of one name in several folders are told apart by a number.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = list(pool.map(hash_files, self.files))
        result = {}
        for (height, width), files, digest in zip(self.sizes, self.files, hashes, strict=True):
            name = scene = os.path.basename(os.path.dirname(files[0]))
            number = 1
            while name in result:
                number += 1
                name = f"{scene} ({number})"
            result[name] = f"{len(files)} of {width}x{height}, {digest}"
        return result

    def __getitem__(self, item):
        epoch, index = divmod(item, len(self))
        path, under, over = self.scenes[index]
        # Copy-on-write, because torch wants an array that could be written to.
        scene = torch.from_numpy(np.load(path, mmap_mode="c"))  # (K, 3, H, W) RGB
        state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[0]))
            chosen = self.choose(under, over)
            area = self.crop_size * self.zoom ** float(torch.rand(()))
            area = min(round(area), max(self.crop_size, min(scene.shape[-2:])))
            images = [tv_tensors.Image(scene[k]) for k in chosen]
            if min(scene.shape[-2:]) < area:
                images = [v2.functional.resize(image, area) for image in images]
            images = v2.RandomCrop(area)(*images)
            if area > self.crop_size:
                size = [self.crop_size] * 2
                images = [v2.functional.resize(image, size, antialias=True) for image in images]
            images = self.turn(*images)
            power = self.gamma ** (2 * float(torch.rand(())) - 1)
        pixels = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
        if power != 1:
            pixels = [(image / np.float32(255)) ** np.float32(power) for image in pixels]
        return torch.cat([utils.to_ycbcr(image) for image in pixels])

    def choose(self, under, over):
        """Indices of the exposures that are drawn, dark to bright; under and over are so sorted."""
        everything = [*under, *over]
        if len(everything) > 2 and float(torch.rand(())) < self.stacks:
            longest = min(len(everything), MAX_STACK)
            count = int(torch.randint(3, longest + 1, ()))
            positions = torch.randperm(len(everything))[:count].sort().values
            return [everything[k] for k in positions]
        if self.pairs == "extreme":
            return [everything[0], everything[-1]]
        return [group[int(torch.randint(len(group), ()))] for group in (under, over)]


def check_before_decoding(scenes, crop_size, batch_size):
    """ValueError for mistakes that would be found too late when all pictures have been decoded."""
    sizes = []
    for _, files in scenes:
        try:
            headers = [metadata.read_header(file) for file in files]
            floats = [
                (utils.read_image(file), file)
                for file, header in zip(files, headers, strict=True)
                if header and header.floats
            ]
        except (OSError, ValueError):
            continue  # Such a scene is named and left out when it is decoded.
        for image, file in floats:
            check_finite(image, file)
        if len(files) > 1:
            sizes.append(headers[0][:2] if headers[0] else (math.inf, math.inf))
    if sizes:
        check_plan(sizes, crop_size, batch_size)


def check_plan(sizes, crop_size, batch_size):
    """ValueError where scenes of sizes (H, W) are too few for batches or too small for crops."""
    if batch_size > len(sizes):
        raise ValueError(
            f"a batch of {batch_size} is more than the {len(sizes)} scenes that there are"
        )
    largest = max(map(min, sizes))
    if crop_size > largest:
        raise ValueError(
            f"crops of {crop_size} pixels are larger than all scenes, which have {largest}"
        )


def decode_once(scene, cache):
    """Decodes a scene into the cache unless it is there already.

    Returns (path of the array, indices of under, of over exposures, each dark to bright, None), or
    (None, None, None, the reason) where the scene cannot be used. The array is uint8 RGB,
    (K, 3, H, W).
    """
    folder, files = scene
    if len(files) < 2:
        return None, None, None, "it has one picture only"
    try:
        # The name changes with the sources, so that a changed scene is decoded again.
        stamp = [(os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
        digest = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
        path = os.path.join(cache, f"{os.path.basename(folder)}-{digest}.npy")
        stack = cached(path)
        if stack is None:
            stack = decode(files)
    except (OSError, ValueError) as error:
        return None, None, None, str(error)
    if not os.path.exists(path):
        with utils.replacing(path) as file:
            np.save(file, stack)
    # A grid of some thousand pixels is enough for a mean.
    step = max(1, min(stack.shape[-2:]) // 64)
    brightness = stack[:, :, ::step, ::step].mean(axis=(2, 3)) @ np.array(utils.LUMA)
    order = np.argsort(brightness, kind="stable").tolist()
    over = [k for k in order if brightness[k] > brightness.mean()]
    under = [k for k in order if k not in over]
    if not over or not under or np.ptp(brightness) == 0:
        return None, None, None, "its pictures are equally bright"
    return path, under, over, None


def hash_files(files):
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:16]


def cached(path):
    """The array of a cache file, or None where there is none or it is damaged, which removes it."""
    if not os.path.exists(path):
        return None
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        os.remove(path)
        return None


def decode(files):
    """Reads a scene's pictures as one uint8 array (K, 3, H, W); ValueError where sizes differ."""
    images = [utils.read_image(file) for file in files]
    for image, file in zip(images, files, strict=True):
        check_finite(image, file)
    images = [as_8_bit_rgb(image) for image in images]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(f"its pictures differ in size: {listed}")
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def check_finite(image, path):
    """ValueError naming the file where floats in a picture are no numbers."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"{path}: has pixels that are not finite numbers")


def as_8_bit_rgb(image):
    image = utils.to_8_bit(image)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def transpose(image):
    return image.transpose(-1, -2)


class EpochBatches:
    """Batches of dataset items, every epoch's scenes in an order drawn from (seed, epoch).

    Of several processes, each has a part of --batch_size of every batch; of an epoch's last and
    smaller one, some may have none.
    """

    def __init__(self, scenes, options, epoch, step, processes=None):
        self.scenes = scenes
        self.options = options
        self.epoch = epoch
        self.step = step
        self.rank, self.count = (processes.rank, processes.count) if processes else (0, 1)

    def __iter__(self):
        size = self.options.batch_size * self.count
        for epoch in range(self.epoch, self.options.epoch):
            order = np.random.default_rng((self.options.seed, epoch)).permutation(self.scenes)
            items = (epoch * self.scenes + order).tolist()
            skipped = self.step * size if epoch == self.epoch else 0
            for start in range(skipped, self.scenes, size):
                batch = items[start : start + size]
                yield batch[self.rank * self.options.batch_size :][: self.options.batch_size]


def make_loader(dataset, options, state, device, start_method=None, processes=None):
    """This process's batches from the state's epoch and step to the end, as one stream.

    One stream over all epochs keeps the workers busy across their boundaries. The last batch of
    an epoch may be smaller.
    """
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), options, state["epoch"], state["step"], processes),
        collate_fn=by_count,
        num_workers=options.workers,
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
        multiprocessing_context=start_method if options.workers else None,
    )


def by_count(samples):
    """A batch's samples (K, 3, H, W) as one tensor (N, K, 3, H, W) for every K that occurs."""
    counts = sorted({len(sample) for sample in samples})
    return [torch.stack([x for x in samples if len(x) == count]) for count in counts]


def ignore_signals(_worker):
    """In a worker: it leaves Ctrl-C and a cluster's SIGTERM to the main process, which saves.

    The main process's own SIGTERM ends it as ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey_parent, daemon=True).start()


def obey_parent():
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
