"""How did a camera take a bracket? As its maker notes, and exiftool reads, where it is installed.

EXIF has no tag for a bracket. Makers note the drive mode and the number of a shot, each in a way of
its own; exiftool (https://exiftool.org) knows their ways.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Noted(NamedTuple):
    """The notes on one shot.

    bracketing: True where the camera was set to bracket exposures, None where it does not say.
    number: of the shot in its bracket, from 1; None where it does not say.
    """

    bracketing: bool | None = None
    number: int | None = None


class Notes(NamedTuple):
    """A maker's way to note brackets.

    mode: tag of the drive mode. brackets: tells from its numbers whether exposures were bracketed.
    counter: tag with the number of the shot, "" for none, and the place of the number in it.
    """

    mode: str
    brackets: Callable[[Sequence[int]], bool]
    counter: str = ""
    place: int = 0


MAKERS = {
    "sony": Notes("ReleaseMode", lambda mode: mode[0] == 5, "SequenceNumber"),
    "panasonic": Notes("BracketSettings", lambda mode: mode[0] > 0, "SequenceNumber"),
    "fujifilm": Notes("AutoBracketing", lambda mode: mode[0] == 1, "SequenceNumber"),
    # The third number has bits for what is bracketed: exposure is 0 or 5, ISO 4.
    "olympus": Notes(
        "DriveMode", lambda mode: mode[0] == 5 and bool(sum(mode[2:3]) & 0b110001), "DriveMode", 1
    ),
    "canon": Notes("BracketMode", lambda mode: mode[0] in (1, 3)),  # exposure, ISO
    # Bit 4 is set for all brackets, bit 6 for those of white, bit 8 for those of Active D-Lighting.
    "nikon": Notes("ShootingMode", lambda mode: mode[0] & 0b101010000 == 0b10000),
}
MAKERS["om digital"] = MAKERS["olympus"]


def read_notes(files: Sequence[str]) -> dict[str, Noted]:
    """Returns the notes on files that have some; none where exiftool is missing or fails."""
    program = shutil.which("exiftool")
    # Absolute paths are no options and no comments. A line is a path.
    paths = {os.path.abspath(file): file for file in files if "\n" not in file}
    if program is None or not paths:
        return {}
    tags = sorted({tag for notes in MAKERS.values() for tag in (notes.mode, notes.counter) if tag})
    wanted = [f"-{tag}" for tag in ("Make", *tags)]
    command = [program, "-json", "-n", "-fast", "-charset", "filename=utf8", *wanted, "-@", "-"]
    lines = os.fsencode("\n".join(paths))
    try:
        found = json.loads(subprocess.run(command, input=lines, capture_output=True).stdout)
    except (OSError, ValueError):
        return {}
    notes = {paths.get(os.path.normpath(tags["SourceFile"])): noted_by(tags) for tags in found}
    return {file: noted for file, noted in notes.items() if file is not None and noted != Noted()}


def noted_by(values: Mapping[str, Any]) -> Noted:
    """Returns what a file's tags say; their values are exiftool's, as numbers."""

    def numbers(tag: str) -> list[int]:
        words = str(values.get(tag, "")).split()
        return [int(word) for word in words] if all(word.isdigit() for word in words) else []

    maker = str(values.get("Make", "")).lower()
    for name, notes in MAKERS.items():
        mode = numbers(notes.mode)
        if name not in maker or not mode:
            continue
        if not notes.brackets(mode):
            return Noted(False)
        count = numbers(notes.counter)[notes.place :] or [0]
        return Noted(True, count[0] or None)
    return Noted()
