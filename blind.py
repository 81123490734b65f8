"""Which of two methods do people prefer? Side-by-side pictures in random order, and verdicts."""

import csv
import math
import os
import random
from collections import Counter
from typing import NamedTuple

import numpy as np

import utils

KEY = "key.csv"  # tells which method is on which side
SHEET_WIDTH = 1600  # pixels; wider pictures are reduced to it
GAP = 16  # pixels of white between the two pictures
VERDICTS = ("left", "right", "tie")
Z = 1.959964  # quantile of the normal distribution for an interval of 95 %


class BlindComparison:
    """A folder of side-by-side pictures of two methods, and the key to them.

    A picture <scene>.jpg has the methods in random order. KEY has a line a scene: scene, left,
    right. Those who judge get the pictures without it.
    """

    def __init__(self, folder: str, one: str, other: str):
        """Makes the folder. Raises ValueError where it has a key already, and OSError."""
        self.folder = folder
        self.methods = (one, other)
        self.key: list[tuple[str, str, str]] = []
        self.pictures: dict[str, np.ndarray] = {}
        if one == other:
            raise ValueError(f"--blind: compares two methods, not {one!r} with itself")
        os.makedirs(folder, exist_ok=True)
        if os.path.exists(self.path(KEY)):
            raise ValueError(f"{self.path(KEY)}: is there already; verdicts may belong to it")

    def path(self, name: str) -> str:
        """Returns a path in the folder."""
        return os.path.join(self.folder, name)

    def begin(self) -> None:
        """Forgets the picture of a scene of which only one method was added."""
        self.pictures = {}

    def add(self, scene: str, method: str, fused: np.ndarray) -> None:
        """Takes a method's picture of a scene; writes the pair as soon as both are there."""
        if method not in self.methods:
            return
        self.pictures[method] = utils.thumbnail(fused, min(fused.shape[1], SHEET_WIDTH))
        if len(self.pictures) < 2:
            return
        left, right = random.sample(self.methods, 2)
        gap = np.full((len(self.pictures[left]), GAP, 3), 255, np.uint8)
        row = np.concatenate([self.pictures[left], gap, self.pictures[right]], axis=1)
        utils.write_image(self.path(f"{scene}.jpg"), row)
        self.key.append((scene, left, right))
        with utils.replacing(self.path(KEY), "w", newline="") as file:
            csv.writer(file).writerows([("scene", "left", "right"), *self.key])
        self.begin()


class Count(NamedTuple):
    """The verdicts on two methods: how often each was preferred, and how often neither."""

    methods: tuple[str, str]
    preferred: tuple[int, int]
    ties: int


def count_verdicts(path: str) -> Count:
    """Counts the verdicts of a CSV file, by the key that lies beside it.

    The file has the columns scene and preferred, which is left, right or tie. Raises OSError where
    a file cannot be read, and ValueError naming it where it does not fit the key.
    """
    key = {row["scene"]: row for row in read_table(os.path.join(os.path.dirname(path), KEY), KEY)}
    methods = sorted({row[side] for row in key.values() for side in ("left", "right")})
    if len(methods) != 2:
        raise ValueError(f"{path}: the key beside it has {len(methods)} methods, not two")
    one, other = methods
    counts: Counter[str] = Counter()
    seen = set()
    for row in read_table(path, "verdicts"):
        scene, verdict = row["scene"], row["preferred"].strip().lower()
        if scene not in key or scene in seen:
            reason = "is not in the key" if scene not in key else "has several verdicts"
            raise ValueError(f"{path}: scene {scene!r} {reason}")
        if verdict not in VERDICTS:
            raise ValueError(f"{path}: scene {scene!r}: {verdict!r} is none of left, right, tie")
        seen.add(scene)
        counts[key[scene][verdict] if verdict != "tie" else verdict] += 1
    return Count((one, other), (counts[one], counts[other]), counts["tie"])


def read_table(path: str, kind: str) -> list[dict[str, str]]:
    """Reads a CSV file of scenes; kind: KEY or "verdicts".

    Raises OSError where it cannot be read, and ValueError where it is no text or lacks columns.
    """
    columns = ("scene", "left", "right") if kind == KEY else ("scene", "preferred")
    with open(path, newline="", encoding="utf-8-sig") as file:  # Spreadsheets begin with a mark.
        reader = csv.DictReader(file)
        try:
            rows, names = list(reader), reader.fieldnames or ()
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not set(columns) <= set(names) or any(row[name] is None for row in rows for name in columns):
        raise ValueError(f"{path}: needs the columns {', '.join(columns)}")
    return rows


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the interval of 95 % for the probability behind so many successes.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of
    the American Statistical Association 22(158), 1927. Without trials it is (0, 1).
    """
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, Z**2 / trials
    centre = (share + square / 2) / (1 + square)
    reach = Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)
