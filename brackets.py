"""Which files make one scene? Folders of scenes, pairs that are scored, photos grouped by EXIF."""

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import headers
import raw
from opts import one_line

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".ppm"),
    *(".jp2", ".heic", ".heif", ".hif", ".jxl"),
)
PAUSE = 30.0  # seconds without a photo, after which the next one starts another bracket
TIME, BIAS = 0x9003, 0x9204  # EXIF's tags DateTimeOriginal and ExposureBiasValue
SETTINGS = (0x829A, 0x829D, 0x8827)  # EXIF's tags of exposure time, aperture and ISO


def find_scenes(folder: str | os.PathLike) -> list[tuple[str, list[str]]]:
    """Finds the scene folders in `folder`: (path, picture files), both in natural order.

    Hidden sub-folders and those without pictures are not scenes. Raises OSError where the folder
    cannot be listed, ValueError where it has no scene.
    """
    scenes = [(path, find_pictures(path)) for path in find_folders(folder)]
    scenes = [(path, files) for path, files in scenes if files]
    if not scenes:
        raise ValueError(f"{folder}: has no sub-folder with pictures (one folder a scene)")
    return scenes


def find_folders(folder: str | os.PathLike) -> list[str]:
    """Finds the sub-folders of a folder, in natural order, but no hidden ones."""
    names = sorted(os.listdir(folder), key=natural)
    paths = [os.path.join(folder, name) for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.isdir(path)]


def find_pictures(folder: str | os.PathLike) -> list[str]:
    """Finds a folder's files with a picture's extension, in natural order, but no hidden ones.

    Of a RAW file and the camera's picture of the same name, only the RAW file counts or, where it
    could not be developed, only the picture.
    """
    files = [
        file
        for file in sorted(os.listdir(folder), key=natural)
        if file.lower().endswith((*EXTENSIONS, *raw.RAW_EXTENSIONS))
        and not file.startswith(".")
        and not os.path.isdir(os.path.join(folder, file))
    ]
    stems = [os.path.splitext(file)[0].lower() for file in files]
    raws = {stem for stem, file in zip(stems, files, strict=True) if raw.is_raw(file)}
    doubled = raws & {stem for stem, file in zip(stems, files, strict=True) if not raw.is_raw(file)}
    left_out = not raw.can_develop() if doubled else False
    return [
        os.path.join(folder, file)
        for stem, file in zip(stems, files, strict=True)
        if stem not in doubled or raw.is_raw(file) != left_out
    ]


def natural(name: str) -> list:
    """Returns the key that sorts file names in natural order, 2.jpg before 10.jpg."""
    parts = re.split(r"([0-9]+)", name.lower())  # Every second part is a number.
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def find_brackets(folder: str | os.PathLike, whole: bool = False) -> dict[str, list[str]]:
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


def find_all_brackets(
    folder: str | os.PathLike, group: int | None, results: str | os.PathLike
) -> tuple[dict[str, list[str]], list[str]]:
    """Finds the brackets of a folder: {scene: picture files}.

    Every sub-folder with pictures is a scene, except hidden ones and the folder of the results. The
    folder's own pictures make scenes of `group` files each or, where `group` is None, the groups of
    group_by_exif; such a scene has the name of its first file. Returns the scenes, and a message
    for each file or folder that cannot be used. Raises ValueError where there is nothing to fuse or
    two scenes have one name.
    """
    scenes: dict[str, list[str]] = {}
    problems: list[str] = []

    def add(name: str, files: list[str]) -> None:
        if name in scenes:
            raise ValueError(f"{folder}: two brackets have the name {name}")
        scenes[name] = files

    flat = find_pictures(folder)
    if group:
        parts = [flat[start : start + group] for start in range(0, len(flat), group)]
    else:
        parts, problems = group_by_exif(flat)
    for files in parts:
        add(os.path.splitext(os.path.basename(files[0]))[0], files)
    for path in find_folders(folder):
        if not (os.path.isdir(results) and os.path.samefile(path, results)):
            try:
                files = find_pictures(path)
            except OSError as error:
                problems.append(one_line(error))
                continue
            if files:
                add(os.path.basename(path), files)
    if not scenes:
        reason = problems[0] if problems else f"{folder}: holds no pictures, nor do its sub-folders"
        raise ValueError(reason)
    return scenes, problems


class Shot(NamedTuple):
    """A photo and how it was taken, as its EXIF says.

    start: seconds since 1970, by the camera's clock. seconds: exposure time, 0 where EXIF lacks it.
    settings: exposure time, aperture, ISO. bias: exposure bias in EV. Settings and bias that EXIF
    lacks are None.
    """

    file: str
    start: float
    seconds: float
    settings: tuple
    bias: float | None


def group_by_exif(files: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """Groups the photos of one folder into brackets, lists of files in the order of their times.

    A bracket ends where the camera pauses, and before an exposure that it already has. Exposures
    are compared by bias or, in a bracket of one bias, by settings. Returns the brackets, and a
    message for each file that cannot be read, or whose EXIF lacks the time or the exposure.
    """
    shots, problems = [], []
    for file in files:
        try:
            exif = raw.read_exif_values(file)
        except OSError as error:
            problems.append(one_line(error))
            continue
        start = to_seconds(exif.get(TIME))
        values = (exif.get(tag) for tag in (*SETTINGS, BIAS))
        *settings, bias = (value if isinstance(value, int | float) else None for value in values)
        header = None if exif or raw.is_raw(file) else headers.read_header(file)
        if header and header.refusal:
            problems.append(f"{file}: {header.refusal}")
        elif not exif and not raw.is_raw(file) and header is None:
            problems.append(f"{file}: not a picture that can be read, or damaged or cut short")
        elif start is None or (settings[0] is None and bias is None):
            problems.append(
                f"{file}: does not say when and how it was exposed; --group N takes N files each"
            )
        else:
            shots.append(Shot(file, start, settings[0] or 0.0, tuple(settings), bias))
    shots.sort(key=lambda shot: shot.start)  # The sort is stable: by name within a second.
    brackets: list[list[Shot]] = []
    for shot in shots:
        if not brackets or starts_another(shot, brackets[-1]):
            brackets.append([])
        brackets[-1].append(shot)
    return [[shot.file for shot in bracket] for bracket in brackets], problems


def starts_another(shot: Shot, bracket: Sequence[Shot]) -> bool:
    """Returns True where a shot starts a new bracket instead of continuing `bracket`."""
    last = bracket[-1]
    if shot.start - last.start - last.seconds > PAUSE:
        return True
    if len({other.bias for other in bracket}) > 1:
        return shot.bias in {other.bias for other in bracket}
    return (shot.settings, shot.bias) in {(other.settings, other.bias) for other in bracket}


def to_seconds(time) -> float | None:
    """Converts EXIF's time, YYYY:MM:DD hh:mm:ss, to seconds since 1970; None for anything else."""
    try:
        moment = datetime.strptime(time[:19], "%Y:%m:%d %H:%M:%S")
    except (TypeError, ValueError):
        return None
    return (moment - datetime(1970, 1, 1)).total_seconds()
