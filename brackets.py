"""Which files make one scene? Folders of scenes, and pairs that are scored."""

import os
import re
from collections.abc import Sequence
from typing import Any

import raw

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".ppm"),
    *(".jp2", ".heic", ".heif", ".hif", ".jxl"),
)


def find_scenes(folder: str | os.PathLike[str]) -> list[tuple[str, list[str]]]:
    """Finds the scene folders in `folder`: (path, picture files), both in natural order.

    Hidden sub-folders and those without pictures are not scenes. Raises OSError where the folder
    cannot be listed, ValueError where it has no scene.
    """
    scenes = [(path, find_pictures(path)) for path in find_folders(folder)]
    scenes = [(path, files) for path, files in scenes if files]
    if not scenes:
        raise ValueError(f"{folder}: has no sub-folder with pictures (one folder a scene)")
    return scenes


def find_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Finds the sub-folders of a folder, in natural order, but no hidden ones."""
    names = sorted(os.listdir(folder), key=natural)
    paths = [os.path.join(folder, name) for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.isdir(path)]


def find_pictures(folder: str | os.PathLike[str]) -> list[str]:
    """Finds the pictures in a folder, see pictures_among, in natural order."""
    names = sorted(os.listdir(folder), key=natural)
    return pictures_among([os.path.join(folder, name) for name in names])


def pictures_among(paths: Sequence[str]) -> list[str]:
    """Returns the files with a picture's extension, but no hidden ones, in their order.

    Of a RAW file and the camera's picture of the same name, only the RAW file counts or, where it
    could not be developed, only the picture.
    """
    files = [
        path
        for path in paths
        if path.lower().endswith((*EXTENSIONS, *raw.RAW_EXTENSIONS))
        and not os.path.basename(path).startswith(".")
        and not os.path.isdir(path)
    ]
    stems = [os.path.splitext(os.path.basename(file))[0].lower() for file in files]
    raws = {stem for stem, file in zip(stems, files, strict=True) if raw.is_raw(file)}
    doubled = raws & {stem for stem, file in zip(stems, files, strict=True) if not raw.is_raw(file)}
    left_out = not raw.can_develop() if doubled else False
    return [
        file
        for stem, file in zip(stems, files, strict=True)
        if stem not in doubled or raw.is_raw(file) != left_out
    ]


def natural(name: str) -> list[Any]:
    """Returns the key that sorts file names in natural order, 2.jpg before 10.jpg."""
    parts = re.split(r"([0-9]+)", name.lower())  # Every second part is a number.
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def find_brackets(folder: str | os.PathLike[str], whole: bool = False) -> dict[str, list[str]]:
    """Finds the pictures of every scene for scoring or validation: {scene's path: picture files}.

    They are the scene's first and last file, or all with `whole`. In the layout of the MEFB
    benchmark, they are <scene>_A.* and <scene>_B.* in either letter case, and other files are left
    out. Scenes of one picture are left out. Raises as find_scenes does, and ValueError where no
    scene has two pictures.
    """
    brackets = {}
    for scene, files in find_scenes(folder):
        name = os.path.basename(scene).lower()
        stems = [os.path.splitext(os.path.basename(file))[0].lower() for file in files]
        mefb = [f"{name}_a", f"{name}_b"]
        if all(stems.count(stem) == 1 for stem in mefb):
            brackets[scene] = [files[stems.index(stem)] for stem in mefb]
        elif len(files) > 1:
            brackets[scene] = files if whole else [files[0], files[-1]]
    if not brackets:
        raise ValueError(f"{folder}: no scene in it has two pictures")
    return brackets
