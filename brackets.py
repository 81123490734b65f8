"""Which files make one scene? Folders of scenes, pairs that are scored, photos grouped by EXIF."""

import os
import re
from typing import NamedTuple

import numpy as np

import metadata
from opts import one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".ppm")
PAUSE = 30.0  # seconds without a photo, after which the next one begins another bracket
TIME, BIAS = 0x9003, 0x9204  # tags of EXIF
SETTINGS = (0x829A, 0x829D, 0x8827)  # those of exposure time, aperture, ISO


def find_scenes(folder):
    """Scene folders below `folder`: a list of (path, picture files), both in natural order.

    Sub-folders without pictures are not scenes. Raises OSError where the folder cannot be listed,
    ValueError where it has no scene.
    """
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder), key=natural)]
    scenes = [(path, find_pictures(path)) for path in paths if os.path.isdir(path)]
    scenes = [(path, files) for path, files in scenes if files]
    if not scenes:
        raise ValueError(f"{folder}: has no sub-folder with pictures (one folder a scene)")
    return scenes


def find_pictures(folder):
    """The files of a folder with a picture's extension, hidden ones aside, in natural order."""
    return [
        os.path.join(folder, file)
        for file in sorted(os.listdir(folder), key=natural)
        if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
    ]


def natural(name):
    """Sort key by which 2.jpg comes before 10.jpg."""
    parts = re.split(r"([0-9]+)", name.lower())  # every second part is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def find_brackets(folder, whole=False):
    """The pictures that a scene is scored by: {path of the scene: picture files}.

    They are the scene's first and last file, or all where `whole`. In the layout of the MEFB
    benchmark, they are <scene>_A.* and <scene>_B.* in either letter case, whatever else is there.
    Scenes of one picture are left out. Raises as find_scenes does, and ValueError where no
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


def find_all_brackets(folder, group, results):
    """The brackets of a folder: {scene: picture files}, and what cannot be used, as messages.

    Every sub-folder with pictures, but that of the results, is a scene. The folder's own pictures
    are scenes of `group` files each or, where that is None, as their EXIF data group them; such a
    scene has the name of its first file. Raises ValueError where there is nothing to fuse or two
    scenes have one name.
    """
    scenes, problems = {}, []

    def add(name, files):
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
    for name in sorted(os.listdir(folder), key=natural):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not (os.path.isdir(results) and os.path.samefile(path, results)):
            try:
                files = find_pictures(path)
            except OSError as error:
                problems.append(one_line(error))
                continue
            if files:
                add(name, files)
    if not scenes:
        reason = problems[0] if problems else f"{folder}: holds no pictures, nor do its sub-folders"
        raise ValueError(reason)
    return scenes, problems


class Shot(NamedTuple):
    """A photo and what its EXIF says: seconds at its start, exposure time, settings, bias."""

    file: str
    start: float
    seconds: float
    settings: tuple
    bias: float | None


def group_by_exif(files):
    """Photos of one folder as brackets: lists of files in the order in which they were taken.

    A bracket ends where the camera pauses, and before an exposure that it has already: a bias in
    brackets made by bias, else settings (exposure time, aperture, ISO). Returns the brackets and,
    as messages, which files do not say when they were taken and how exposed.
    """
    shots, problems = [], []
    for file in files:
        exif = metadata.read_exif(file)
        start = seconds(metadata.exif_value(exif, TIME))
        settings = tuple(metadata.exif_value(exif, tag) for tag in SETTINGS)
        bias = metadata.exif_value(exif, BIAS)
        if start is None or (settings[0] is None and bias is None):
            problems.append(
                f"{file}: does not say when and how it was exposed; --group N takes N files each"
            )
        else:
            shots.append(Shot(file, start, settings[0] or 0.0, settings, bias))
    shots.sort(key=lambda shot: shot.start)  # stable: by name within a second
    brackets = []
    for shot in shots:
        if not brackets or begins_another(shot, brackets[-1]):
            brackets.append([])
        brackets[-1].append(shot)
    return [[shot.file for shot in bracket] for bracket in brackets], problems


def begins_another(shot, bracket):
    """Whether a Shot is not of the bracket, a list of Shots, that the one before it is of."""
    last = bracket[-1]
    if shot.start - last.start - last.seconds > PAUSE:
        return True
    if len({other.bias for other in bracket}) > 1:
        return shot.bias in {other.bias for other in bracket}
    return (shot.settings, shot.bias) in {(other.settings, other.bias) for other in bracket}


def seconds(time):
    """EXIF's time, YYYY:MM:DD hh:mm:ss, in seconds since some day; None where it is not one."""
    try:
        moment = np.datetime64("{}-{}-{}T{}:{}:{}".format(*time.replace(" ", ":").split(":")[:6]))
    except (AttributeError, IndexError, ValueError):
        return None
    return float(moment.astype("datetime64[s]").astype(np.int64))
