"""What does training see? Random aligned under/over crops from a folder of bracketed scenes."""

import hashlib
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

import utils

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".ppm")


class BracketedDataset(Dataset):
    """One under/over pair of aligned crops from every scene in every epoch.

    folders: a folder, or several, with one sub-folder a scene, which holds that scene's exposures.
    crop_size: side of the square crops, in pixels. Smaller scenes are enlarged to it, their aspect
        ratio kept.
    seed: crops depend on (seed, epoch, scene) alone, in whatever order and process they are drawn.
    cache: folder for the decoded pixels, made where it is missing. Every scene is decoded once
        into an array there and read through a memory map, by all workers and later runs alike.
    progress: a bar on stderr while scenes are decoded, where that is a terminal.

    Exposures brighter than the scene's mean luma, taken on a grid of pixels, are "over", the others
    "under". Scenes that cannot be used are named in a warning and left out. Raises ValueError where
    none can be used or a folder has none, OSError where a folder or the cache is not accessible.

    Item i is scene i % len(self) in epoch i // len(self): (under, over), float32 tensors
    (3, crop_size, crop_size) of Y, Cb, Cr in [0, 1].
    """

    def __init__(self, folders, crop_size=256, seed=0, cache="train_result/cache", progress=False):
        self.crop_size = crop_size
        self.seed = seed
        folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        found = [scene for folder in folders for scene in find_scenes(folder)]
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
            self.scenes = []
            for (folder, _), (path, under, over, fault) in bar:
                if fault:
                    warnings.warn(f"{folder}: skipped, {fault}", stacklevel=2)
                else:
                    self.scenes.append((path, under, over))
        if not self.scenes:
            raise ValueError(f"{', '.join(map(str, folders))}: no scene in it can be used")
        self.transform = v2.Compose(
            [
                v2.RandomCrop(crop_size),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomApply([v2.Lambda(transpose)]),  # with the flips, all quarter turns
            ]
        )

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, item):
        epoch, index = divmod(item, len(self))
        path, under, over = self.scenes[index]
        # Copy-on-write, because torch wants an array that could be written to.
        stack = torch.from_numpy(np.load(path, mmap_mode="c"))  # (K, 3, H, W) RGB
        state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[0]))
            chosen = [group[int(torch.randint(len(group), ()))] for group in (under, over)]
            pair = [tv_tensors.Image(stack[k]) for k in chosen]
            if min(stack.shape[-2:]) < self.crop_size:
                pair = [v2.functional.resize(image, self.crop_size) for image in pair]
            pair = self.transform(*pair)
        return tuple(
            utils.to_ycbcr(image.permute(1, 2, 0).contiguous().numpy())[0] for image in pair
        )


def find_scenes(folder):
    """Scene folders below `folder`: a list of (path, picture files), both in natural order.

    A scene's files are all with a picture's extension, hidden ones aside; sub-folders without any
    are not scenes. Raises OSError where the folder cannot be listed, ValueError where it has no
    scene.
    """
    scenes = []
    for name in sorted(os.listdir(folder), key=natural):
        scene = os.path.join(folder, name)
        if os.path.isdir(scene):
            files = [
                os.path.join(scene, file)
                for file in sorted(os.listdir(scene), key=natural)
                if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
            ]
            if files:
                scenes.append((scene, files))
    if not scenes:
        raise ValueError(f"{folder}: has no sub-folder with pictures (one folder a scene)")
    return scenes


def find_pairs(folder):
    """The pair that a scene is scored by: {path of the scene: (first, last picture file)}.

    Scenes of one picture are left out. Raises as find_scenes does, and ValueError where no scene
    has two pictures.
    """
    pairs = {scene: (files[0], files[-1]) for scene, files in find_scenes(folder) if files[1:]}
    if not pairs:
        raise ValueError(f"{folder}: no scene in it has two pictures")
    return pairs


def decode_once(scene, cache):
    """Decodes a scene into the cache unless it is there already.

    Returns (path of the array, indices of under, of over exposures, None), or (None, None, None,
    the reason) where the scene cannot be used. The array is uint8 (K, 3, H, W) RGB.
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
    over = np.flatnonzero(brightness > brightness.mean()).tolist()
    under = [k for k in range(len(files)) if k not in over]
    if not over or not under or np.ptp(brightness) == 0:
        return None, None, None, "its pictures are equally bright"
    return path, under, over, None


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
    images = [as_8_bit_rgb(utils.read_image(file)) for file in files]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(f"its pictures differ in size: {listed}")
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def as_8_bit_rgb(image):
    image = utils.to_8_bit(image)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def transpose(image):
    return image.transpose(-1, -2)


def natural(name):
    """Sort key by which 2.jpg comes before 10.jpg."""
    parts = re.split(r"([0-9]+)", name.lower())  # every second part is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
