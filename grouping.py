"""Which photos of a card belong together? What cameras note, and then a look at the pictures.

EXIF proposes brackets: of one camera, one size and one focal length, without flash, an exposure
taken twice, or a pause. A look at reduced pictures decides: frames of one bracket show one scene.
"""

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import cv2
import numpy as np

import align
import fusion
import headers
import metadata
import raw
import utils
from brackets import find_folders, find_pictures, natural
from carried import PROGRAM
from maker_notes import Noted, read_notes
from script import one_line

PAUSE = 30.0  # seconds without a photo, after which the next one always starts another bracket
WAIT = 120.0  # seconds after which a photo of the same scene may still complete a bracket
SHORT = 3.0  # seconds; a shorter pause is none, since most cameras note whole seconds
BLUR = 1.5  # seconds by which pauses may be off, as times are whole seconds
LONGER = 2.5  # times the pauses beside it, from which on a pause ends a bracket
SAME = 0.25  # stops; nearer exposures are one exposure
RANGE = 0.5  # stops between the exposures of a bracket, at least
ZOOM = 0.02  # share by which the focal length may differ
SIDE = 250  # pixels; approximate longer side of the pictures that are looked at
SURE = 0.3  # correlation of detail from which on two pictures surely show one scene
ALIKE = 3.0  # mean difference of levels below which two pictures are of one exposure
FIRED = 1  # bit of EXIF's Flash
NO_RAW = (
    ".jpg",
    ".jpeg",
    ".heic",
    ".heif",
    ".hif",
)  # formats of cameras, by which others are edits
MAKE, MODEL, SERIAL = 0x010F, 0x0110, 0xA431  # EXIF's tags
TIME, SUB_SECONDS = 0x9003, 0x9291
SECONDS, APERTURE, BIAS = 0x829A, 0x829D, 0x9204
FLASH, FOCAL_LENGTH = 0x9209, 0x920A

Look = Callable[[str, str], "bool | None"]  # do two files show one scene? None: cannot be told


class Shot(NamedTuple):
    """A photo and how it was taken, as its EXIF says.

    start: seconds since 1970, by the camera's clock. seconds: exposure time, 0 where EXIF lacks it.
    exposure: in stops, higher for brighter pictures of one scene. bias: exposure bias in EV. focal:
    length in mm. Exposure, bias and focal length that EXIF lacks are None. camera: maker, model and
    serial number. frame: height, width, orientation. flash: True where it fired. noted: by the
    maker, see maker_notes.py.
    """

    file: str
    start: float
    seconds: float = 0.0
    exposure: float | None = None
    bias: float | None = None
    camera: tuple[Any, ...] = ()
    frame: tuple[Any, ...] = ()
    focal: float | None = None
    flash: bool = False
    noted: Noted = Noted()


class Card(NamedTuple):
    """All photos of a folder.

    scenes: the files of every bracket by its name. singles: photos of no bracket. left: files that
    count nothing, and why: copies, edits, results of an earlier run. problems: messages on files
    and folders that cannot be used.
    """

    scenes: dict[str, list[str]]
    singles: list[str]
    left: dict[str, str]
    problems: list[str]


def sort_card(
    folder: str | os.PathLike[str], group: int | str | None, results: str | os.PathLike[str]
) -> Card:
    """Sorts the photos of a folder and of its sub-folders, except hidden ones and the results'.

    The folder's own photos make brackets by their EXIF, or of `group` files each, or by looks alone
    where `group` is "auto". A sub-folder is one bracket where its photos show one scene, and is
    sorted like the folder where they do not. Sub-folders of one without photos are looked into.
    A bracket has the name of its sub-folder or, where there are several, of its first file.

    Raises OSError where the folder cannot be listed, and ValueError where there is nothing to fuse
    or two brackets have one name.
    """
    card = Card({}, [], {}, [])
    view = Viewer()

    def add(name: str, files: list[str]) -> None:
        if name in card.scenes:
            raise ValueError(f"{folder}: two brackets have the name {name}")
        card.scenes[name] = files

    flat = without_doubles(find_pictures(folder), card)
    if isinstance(group, int):
        parts = [flat[start : start + group] for start in range(0, len(flat), group)]
    else:
        parts = sort_photos(flat, view, card, looks_alone=group == "auto")
    for files in parts:
        add(stem(files[0]), files)
    for path, name in folders_to_search(folder, results, card):
        try:
            files = without_doubles(find_pictures(path), card)
        except OSError as error:
            card.problems.append(one_line(error))
            continue
        parts = sort_folder(files, view, card)
        for part in parts:
            add(name if len(parts) == 1 else f"{name}_{stem(part[0])}", part)
    if not card.scenes:
        reason = f"{folder}: holds no pictures, nor do its sub-folders"
        if card.problems:
            reason = card.problems[0]
        elif card.singles:
            reason = f"{folder}: has no bracket, only single photos ({len(card.singles)})"
        raise ValueError(reason)
    return card


def stem(file: str) -> str:
    """Returns a file's name without folder and extension."""
    return os.path.splitext(os.path.basename(file))[0]


def folders_to_search(
    folder: str | os.PathLike[str], results: str | os.PathLike[str], card: Card
) -> list[tuple[str, str]]:
    """Returns (path, name) of the sub-folders with photos, in natural order."""
    found = []
    for path in find_folders(folder):
        if os.path.isdir(results) and os.path.samefile(path, results):
            continue
        try:
            inner = [] if find_pictures(path) else find_folders(path)
        except OSError as error:
            card.problems.append(one_line(error))
            continue
        name = os.path.basename(path)
        found += [(path, name)] if not inner else folders_to_search(path, results, card)
    return found


def without_doubles(files: Sequence[str], card: Card) -> list[str]:
    """Returns files without copies, edits and results of an earlier run; these are noted as left.

    A copy has the same bytes. An edit has the name of a camera's file, and another format.
    """
    kept: list[str] = []
    first_of: dict[bytes, str] = {}
    sizes = [os.path.getsize(file) if os.path.isfile(file) else -1 for file in files]
    own = {stem(file).lower() for file in files if file.lower().endswith(NO_RAW)}
    # The file with the shortest name is the first: "IMG_1.jpg" before "IMG_1 (1).jpg".
    order = sorted(range(len(files)), key=lambda k: (len(files[k]), natural(files[k])))
    for k in order:
        file = files[k]
        if sizes[k] > 0 and sizes.count(sizes[k]) > 1:
            try:
                with open(file, "rb") as data:
                    digest = hashlib.sha256(data.read()).digest()
            except OSError:
                digest = os.fsencode(file)  # Reading says what is wrong.
            if digest in first_of:
                card.left[file] = f"a copy of {first_of[digest]}"
                continue
            first_of[digest] = file
        edited = not file.lower().endswith((*NO_RAW, *raw.RAW_EXTENSIONS))
        if edited and stem(file).lower() in own:
            card.left[file] = "has the name of a camera's file"
            continue
        kept.append(file)
    return sorted(kept, key=natural)


def sort_photos(
    files: Sequence[str], view: "Viewer", card: Card, looks_alone: bool = False
) -> list[list[str]]:
    """Returns the brackets among a folder's own photos; notes singles and problems on the card.

    looks_alone: goes by the order of names and by looks, whatever EXIF says.
    """
    if looks_alone:
        parts = split_by_looks(files, view.shows_one_scene, view.is_one_exposure)
        return with_two(parts, card)
    shots = []
    for file in files:
        shot = read_shot(file, card)
        if isinstance(shot, Shot):
            shots.append(shot)
        elif shot:
            card.problems.append(shot)
    return sort_shots(shots, view, card)


def sort_folder(files: Sequence[str], view: "Viewer", card: Card) -> list[list[str]]:
    """Returns the brackets of a sub-folder: one where its photos show one scene, or several.

    Photos without EXIF times are taken in the order of their names. Damaged ones stay with the
    others, so that their bracket is said to have failed.
    """
    if len(files) < 2:
        card.singles.extend(files)
        return []
    shots: list[Shot] = []
    for file in files:
        shot = read_shot(file, card)
        if file in card.left:
            continue
        if not isinstance(shot, Shot):
            shots = []
            break
        shots.append(shot)
    files = [file for file in files if file not in card.left]
    if shots and not is_one_take(shots):
        return sort_shots(shots, view, card)
    parts = split_by_looks(files, view.shows_one_scene)
    if shots and len(parts) > 1:
        return sort_shots(shots, view, card)
    if any(len(part) < 2 for part in parts):  # A scene of one photo is a doubtful one.
        return [list(files)]
    return parts


def is_one_take(shots: Sequence[Shot]) -> bool:
    """Returns True where a folder's shots may be one bracket, pauses aside: no exposure twice."""
    shots = sorted(shots, key=lambda shot: shot.start)
    return len({shot.camera for shot in shots}) == 1 and not any(
        starts_another(shot._replace(start=last.start), [*shots[:k], last])
        for k, (last, shot) in enumerate(itertools.pairwise(shots))
    )


def with_two(parts: Iterable[list[str]], card: Card) -> list[list[str]]:
    """Returns the parts of two files and more; others are singles."""
    brackets = []
    for part in parts:
        if len(part) > 1:
            brackets.append(part)
        else:
            card.singles.extend(part)
    return brackets


def read_shot(file: str, card: Card) -> "Shot | str":
    """Returns a photo's Shot, or why there is none; "" for a result of an earlier run."""
    try:
        exif = raw.read_exif_values(file)
    except OSError as error:
        return one_line(error)
    if exif.get(metadata.SOFTWARE) == PROGRAM:
        card.left[file] = "a result of an earlier run"
        return ""
    header = None if raw.is_raw(file) else headers.read_header(file)
    if header and header.refusal and not exif:
        return f"{file}: {header.refusal}"
    if not exif and not raw.is_raw(file) and header is None:
        return f"{file}: not a picture that can be read, or damaged or cut short"

    def number(tag: int) -> float | None:
        value = exif.get(tag)
        return float(value) if isinstance(value, int | float) else None

    start = to_seconds(exif.get(TIME), exif.get(SUB_SECONDS))
    seconds, aperture, iso, bias = map(number, (SECONDS, APERTURE, metadata.ISO, BIAS))
    if start is None or (seconds is None and bias is None):
        return (
            f"{file}: does not say when and how it was exposed; --group N takes N files each, "
            "--group auto goes by looks"
        )
    exposure = None
    if seconds and seconds > 0:
        exposure = math.log2(seconds)
        exposure -= 2 * math.log2(aperture) if aperture and aperture > 0 else 0
        exposure += math.log2(iso / 100) if iso and iso > 0 else 0
    return Shot(
        file,
        start,
        seconds or 0.0,
        exposure,
        bias,
        tuple(str(exif.get(tag, "")) for tag in (MAKE, MODEL, SERIAL)),
        (*(header[:2] if header else ()), metadata.orientation(exif)),
        number(FOCAL_LENGTH),
        bool(int(number(FLASH) or 0) & FIRED),
    )


def to_seconds(time: object, fraction: object = None) -> float | None:
    """Converts EXIF's time, YYYY:MM:DD hh:mm:ss, to seconds since 1970; None for anything else.

    fraction: digits behind the decimal point of its seconds.
    """
    try:
        moment = datetime.strptime(str(time)[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    digits = str(fraction).strip() if fraction is not None else ""
    part = float(f"0.{digits}") if digits.isdigit() else 0.0
    return (moment - datetime(1970, 1, 1)).total_seconds() + part


def sort_shots(shots: Sequence[Shot], view: "Viewer", card: Card) -> list[list[str]]:
    """Returns brackets of shots, in the order of their times; notes singles on the card."""
    notes = read_notes([shot.file for shot in shots])
    shots = [shot._replace(noted=notes.get(shot.file, Noted())) for shot in shots]
    cameras: dict[tuple[Any, ...], list[Shot]] = {}
    # The sort is stable: by name within a second.
    for shot in sorted(shots, key=lambda shot: shot.start):
        cameras.setdefault(shot.camera, []).append(shot)
    parts = []
    for taken in cameras.values():
        view.prepare([shot.file for shot in taken])
        proposed = joined_again(split_by_exif(taken), view.shows_one_scene)
        for part in proposed:
            files = [shot.file for shot in part]
            by_file = dict(zip(files, part, strict=True))
            for seen in split_by_looks(files, view.shows_one_scene):
                parts.append([by_file[file] for file in seen])
    parts.sort(key=lambda part: part[0].start)
    brackets = []
    for part in parts:
        if is_bracket(part):
            brackets.append([shot.file for shot in part])
        else:
            card.singles.extend(shot.file for shot in part)
    return brackets


def split_by_exif(shots: Sequence[Shot]) -> list[list[Shot]]:
    """Splits one camera's shots, in the order of their times, into proposed brackets."""
    parts: list[list[Shot]] = []
    for k, shot in enumerate(shots):
        following = shots[k + 1] if k + 1 < len(shots) else None
        if not parts or starts_another(shot, parts[-1], following):
            if parts and (place := earlier_end(shot, parts[-1])):
                parts[-1:] = [parts[-1][:place], parts[-1][place:]]
            else:
                parts.append([])
        parts[-1].append(shot)
    return parts


def earlier_end(shot: Shot, part: Sequence[Shot]) -> int:
    """Returns where a bracket ends before a shot whose exposure it has already; 0 for at the shot.

    That is at a pause much longer than the one before the shot, behind the exposure that is the
    same. So a shot to meter the light is told from the bracket behind it.
    """
    twins = [k for k, other in enumerate(part[:-1]) if other.bias == shot.bias]
    if not twins or not is_taken(shot, part) or starts_another(shot, part[-1:]):
        return 0
    pauses = [pause_between(one, other) for one, other in itertools.pairwise((*part, shot))]
    place = max(range(twins[-1], len(pauses)), key=pauses.__getitem__)
    longest, last = pauses[place], pauses[-1]
    clear = longest > last + BLUR and longest >= 2 * last
    return place + 1 if clear and not starts_another(shot, part[place + 1 :]) else 0


def starts_another(shot: Shot, part: Sequence[Shot], following: Shot | None = None) -> bool:
    """Returns True where a shot starts another bracket, instead of continuing `part`.

    following: the shot after it; where that comes quickly, a pause before the shot is a long one.
    """
    last = part[-1]
    if shot.flash or last.flash or shot.frame != last.frame:
        return True
    if shot.focal and last.focal and abs(shot.focal - last.focal) > ZOOM * last.focal:
        return True
    if is_noted_otherwise(shot, last):
        return True
    pause = pause_between(last, shot)
    if shot.noted.number and shot.noted.number - 1 == last.noted.number:
        return pause > WAIT
    if is_taken(shot, part):
        return True
    if pause > PAUSE:
        return True
    beside = [pause_between(a, b) for a, b in itertools.pairwise(part)]
    if not beside and following is not None:
        beside = [pause_between(shot, following)]
    return pause > SHORT and bool(beside) and pause > LONGER * max(*beside, SHORT / LONGER)


def is_noted_otherwise(shot: Shot, last: Shot) -> bool:
    """Returns True where the camera notes that a shot does not follow the last one in a bracket.

    Only one of them is of a bracket, or its number is lower.
    """
    ours, theirs = shot.noted, last.noted
    if None not in (ours.bracketing, theirs.bracketing) and ours.bracketing != theirs.bracketing:
        return True
    return ours.number is not None and theirs.number is not None and ours.number < theirs.number


def pause_between(last: Shot, shot: Shot) -> float:
    """Returns the seconds between the end of a shot and the start of the next.

    After a long exposure, the camera may take another one in the dark, as long, to measure noise.
    """
    pause = shot.start - last.start - last.seconds
    return max(pause - last.seconds, 0.0) if last.seconds >= 1 else max(pause, 0.0)


def is_taken(shot: Shot, part: Sequence[Shot]) -> bool:
    """Returns True where a bracket has a shot's exposure already.

    Exposures are compared by bias or, in a bracket of one bias, by what the camera set. Shutters
    have limits: of two shots with different bias, both may be set alike.
    """
    biases = {other.bias for other in part}
    if len(biases) > 1 or (shot.bias not in biases and None not in biases):
        return shot.bias in biases
    return any(
        shot.exposure is None
        or other.exposure is None
        or abs(shot.exposure - other.exposure) < SAME
        for other in part
    )


def joined_again(parts: list[list[Shot]], shows_one_scene: Look) -> list[list[Shot]]:
    """Returns proposed brackets; a lone shot joins its neighbour in time that it completes.

    It does where it shows the neighbour's scene in an exposure that differs from all of that, as
    when someone changed the exposure by hand, and was slow once. A shot to meter the light is
    exposed as one of the bracket is, and stays alone.
    """
    result: list[list[Shot]] = []
    for part in parts:
        lone = bool(result) and 1 in (len(part), len(result[-1]))
        if (
            lone
            and completes(result[-1], part)
            and shows_one_scene(result[-1][-1].file, part[0].file)
        ):
            result[-1] = [*result[-1], *part]
        else:
            result.append(part)
    return result


def completes(before: Sequence[Shot], after: Sequence[Shot]) -> bool:
    """Returns True where two parts differ in all exposures, and in nothing else."""
    last, shot = before[-1], after[0]
    if last.flash or shot.flash or last.frame != shot.frame or pause_between(last, shot) > WAIT:
        return False
    if is_noted_otherwise(shot, last):
        return False
    exposures = [one.exposure for one in (*before, *after)]
    if None in exposures:
        return False
    return all(
        abs(a.exposure - b.exposure) >= RANGE  # type: ignore[operator]
        for a in before
        for b in after
    ) and not (len({one.bias for one in (*before, *after)}) > 1 and is_taken(shot, before))


def is_bracket(part: Sequence[Shot]) -> bool:
    """Returns True of two and more shots of different exposures."""
    if len(part) < 2:
        return False
    if len({shot.bias for shot in part}) > 1:
        return True
    exposures = [shot.exposure for shot in part if shot.exposure is not None]
    return len(exposures) < 2 or max(exposures) - min(exposures) >= RANGE


def split_by_looks(
    files: Sequence[str], shows_one_scene: Look, is_one_exposure: Look | None = None
) -> list[list[str]]:
    """Splits files, in their order, before those that show another scene than all before.

    is_one_exposure: splits also before a file that is exposed as one of the bracket is.
    """
    parts: list[list[str]] = []
    for file in files:
        if parts:
            again = is_one_exposure and any(is_one_exposure(o, file) for o in parts[-1])
            if not again and fits(file, parts[-1], shows_one_scene):
                parts[-1].append(file)
                continue
        parts.append([file])
    return parts


def fits(file: str, part: Sequence[str], shows_one_scene: Look) -> bool:
    """Returns True where a file shows the scene of any file of a part, or none can tell."""
    answers = []
    for other in reversed(part):  # The neighbours in time are the likeliest to fit.
        answers.append(shows_one_scene(other, file))
        if answers[-1]:
            return True
    return False not in answers


class Viewer:
    """Looks at pictures, reduced to about SIDE pixels, each of which is read once."""

    def __init__(self) -> None:
        self.views: dict[str, np.ndarray | None] = {}

    def prepare(self, files: Sequence[str]) -> None:
        """Reads files, several at a time."""
        missing = [file for file in files if file not in self.views]
        with ThreadPoolExecutor() as pool:
            self.views.update(zip(missing, pool.map(reduced_view, missing), strict=True))

    def shows_one_scene(self, one: str, other: str) -> bool | None:
        """Returns True where two files surely show one scene, False where they surely do not."""
        self.prepare([one, other])
        a, b = self.views[one], self.views[other]
        if a is None or b is None:
            return None
        if a.shape != b.shape:
            if not fusion.nearly_fits(a.shape, b.shape):
                return False
            b = cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_AREA)
        try:
            return True if align.match(b, a).correlation >= SURE else None
        except align.TooLittleDetail:
            return None
        except ValueError:
            return False

    def is_one_exposure(self, one: str, other: str) -> bool | None:
        """Returns True where two files look alike without any change of their levels."""
        self.prepare([one, other])
        a, b = self.views[one], self.views[other]
        if a is None or b is None or a.shape != b.shape:
            return None
        return abs(float(a.mean()) - float(b.mean())) < ALIKE


def reduced_view(file: str) -> np.ndarray | None:
    """Returns reduced_picture in 8-bit grey, (h, w); None where a file has no picture."""
    picture = reduced_picture(file)
    return None if picture is None else utils.as_grey(picture)


def reduced_picture(file: str) -> np.ndarray | None:
    """Returns a file's picture, reduced to about SIDE pixels; None where it has none.

    JPEG files are decoded at an eighth of their size, which is quick.
    """
    try:
        if raw.is_raw(file):
            picture = utils.read_picture(file, half=True).pixels
        else:
            with open(file, "rb") as opened:
                data = opened.read()
            header = utils.header_of(file)
            large = header is not None and min(header.height, header.width) >= 8 * SIDE
            if data.startswith(headers.JPEG) and large:
                decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)
                picture = cv2.cvtColor(np.asarray(decoded), cv2.COLOR_BGR2RGB)
            else:
                picture = utils.read_picture(file).pixels
        factor = max(round(max(picture.shape[:2]) / SIDE), 1)
        return utils.reduce(picture, 1 / factor)
    except utils.FAILURES:
        return None  # Fusing says why.
