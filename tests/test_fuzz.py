"""Changed files are read or refused: 300 of them, or, in a night, FUZZ=20000."""

import os
import warnings

import numpy as np
import pytest
from conftest import exif, icc, png_with

import utils

COUNT = int(os.environ.get("FUZZ", 300))
EXTENSIONS = (".jpg", ".png", ".tif", ".webp", ".avif", ".bmp", ".ppm")


def whole_files(folder):
    """One valid file a format, with the metadata that it can hold; {extension: bytes}."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (23, 31, 3), np.uint8)
    held = {"EXIF": exif(), "ICC": icc(), "XMP": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"}
    files = {}
    for extension in EXTENSIONS:
        path = folder / f"whole{extension}"
        utils.write_image(str(path), picture, metadata=held)
        files[extension] = path.read_bytes()
    files[".png"] = png_with(files[".png"], (b"gAMA", (45455).to_bytes(4, "big")))
    return files


def changed(data, rng):
    """A copy of which bytes are replaced, left out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 9))
        match int(rng.integers(4)):
            case 0:
                data[place : place + length] = rng.bytes(length)
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length]
            case 3:
                del data[max(place, 1) :]
    return bytes(data)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_changed_files_are_read_or_refused(tmp_path, extension):
    whole = whole_files(tmp_path)[extension]
    rng = np.random.default_rng(EXTENSIONS.index(extension))
    path, read = str(tmp_path / f"changed{extension}"), 0
    for _ in range(COUNT // len(EXTENSIONS)):
        data = changed(whole, rng)
        with open(path, "wb") as file:
            file.write(data)
        refused, picture = "", None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata
                picture = utils.read_picture(path)
        except (OSError, ValueError) as error:
            refused = str(error)
        if picture is None:
            assert f"changed{extension}" in refused
        else:
            read += 1
            assert picture.pixels.dtype in utils.DTYPES
            assert picture.pixels.size
    assert read < COUNT // len(EXTENSIONS)  # Some are damaged for sure.
