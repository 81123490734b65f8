"""Photos that belong together: one tone for all views of a place, and circles without a seam."""

import itertools

import cv2
import numpy as np
import pytest
from conftest import blocks, expose, with_torch

import carried
import gain_map
import inference
import opts
import photos
import utils

GAINS = (0.2, 1.0, 5.0)


def lightness(path):
    values = (utils.read_image(path) / utils.white_level(utils.read_image(path).dtype)).astype(
        np.float32
    )
    return cv2.cvtColor(values, cv2.COLOR_RGB2Lab)[..., 0]


@pytest.fixture
def views(tmp_path):
    """Three overlapping views of a place that becomes darker from left to right."""
    place = blocks(200, 560, seed=4) * np.geomspace(1.5, 0.15, 560)[None, :, None] + 0.005
    for number in range(3):
        folder = tmp_path / "card" / f"view{number}"
        folder.mkdir(parents=True)
        for k, gain in enumerate(GAINS):
            view = place[:, 130 * number : 130 * number + 300]
            utils.write_image(str(folder / f"{k}.png"), expose(view, gain))
    return tmp_path / "card"


def overlaps(folder):
    """Mean difference of lightness where two views show the same, blurred, of the worse two."""
    found = [lightness(str(folder / f"view{number}.png")) for number in range(3)]
    differences = []
    for one, other in itertools.pairwise(found):
        difference = cv2.GaussianBlur(one[:, 130:] - other[:, :170], (0, 0), 5)
        differences.append(np.abs(difference).mean())
    return max(differences)


def test_views_of_one_place_have_one_tone(views, tmp_path):
    for name, flags in (("own", []), ("alike", ["--alike"])):
        command = ["--folder", str(views), "--res", str(tmp_path / name), "--name", "{scene}.png"]
        assert inference.main([*command, "--quiet", "--align", "no", *flags]) == 0
    assert overlaps(tmp_path / "alike") < 0.6
    assert overlaps(tmp_path / "own") > 3 * overlaps(tmp_path / "alike")


def test_views_of_different_numbers_of_exposures_cannot_be_alike(views, tmp_path, capsys):
    (views / "view1" / "0.png").unlink()
    command = ["--folder", str(views), "--res", str(tmp_path / "out"), "--alike"]
    assert inference.main(command) == 2
    assert "brackets that are to be alike have [2, 3] exposures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--steady"], ["--look", "paper"], ["--finish", "0"]], ids=lambda flags: flags[0]
)
def test_alike_is_for_finished_photos(tmp_path, flags):
    with pytest.raises(SystemExit):
        inference.main(["--folder", str(tmp_path), "--alike", *flags])


def pano(kind="equirectangular", width=480, whole=480, form="attributes"):
    name = carried.PLACED["GPano"]
    facts = {
        "ProjectionType": kind,
        "CroppedAreaImageWidthPixels": width,
        "FullPanoWidthPixels": whole,
    }
    start = f'<rdf:Description rdf:about="" xmlns:GPano="{name}"'
    if form == "attributes":
        body = "".join(f' GPano:{key}="{value}"' for key, value in facts.items()) + "/>"
    else:
        body = "".join(f"<GPano:{key}>{value}</GPano:{key}>" for key, value in facts.items())
        body = f">{body}</rdf:Description>"
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{carried.RDF}">{start}{body}'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_full_circles_are_told_by_their_metadata(form):
    assert carried.is_full_circle(pano(form=form))
    assert not carried.is_full_circle(pano(whole=960, form=form))
    assert not carried.is_full_circle(pano(kind="cylindrical", form=form))
    assert not carried.is_full_circle(b"")
    assert not carried.is_full_circle(b"GPano <damaged")


def circle(folder, shift, held):
    """Exposures of a full circle, whose seam is somewhere; returns their paths."""
    half = blocks(160, 240, seed=6) * np.linspace(0.05, 1, 240)[None, :, None]
    place = np.roll(np.concatenate([half, half[:, ::-1]], axis=1), shift, axis=1)
    folder.mkdir()
    paths = []
    for k, gain in enumerate(GAINS):
        paths.append(str(folder / f"{k}.png"))
        utils.write_image(paths[-1], expose(place, gain), metadata=held)
    return paths


def step(left, right):
    """The step of lightness from one column to the next, in means of 20 rows."""
    return (right - left).reshape(-1, 20).mean(axis=1)


@pytest.mark.parametrize("look", ["photo", pytest.param("paper", marks=with_torch)])
def test_circles_have_no_seam(tmp_path, look):
    """At the seam, the step is that of a picture whose seam is elsewhere.

    That is 256 columns away, so that networks cut both pictures into the same squares.
    """
    found = {}
    for name, shift, flags in (
        ("seam", 60, ["--wrap"]),
        ("cut", 60, ["--wrap", "no"]),
        ("elsewhere", 316, ["--wrap"]),
    ):
        paths = circle(tmp_path / name, shift, {})
        result = str(tmp_path / f"{name}.png")
        command = ["--images", *paths, "--res", result, "--quiet", "--look", look, *flags]
        assert inference.main(command) == 0
        found[name] = lightness(result)
        assert found[name].shape == (160, 480)
    inner = found["elsewhere"]
    expected = step(inner[:, 255], inner[:, 256])
    at_seam = {
        name: step(found[name][:, -1], found[name][:, 0]) - expected for name in ("seam", "cut")
    }
    assert np.abs(at_seam["seam"]).mean() < (0.1 if look == "photo" else 0.02)
    assert np.abs(at_seam["cut"]).mean() > 3 * np.abs(at_seam["seam"]).mean()


def test_circles_are_joined_by_themselves(tmp_path):
    """Where GPano says so; a gain map and the metadata fit the result."""
    paths = circle(tmp_path / "circle", 60, {"XMP": pano()})
    for name, flags in (("auto", []), ("yes", ["--wrap"]), ("no", ["--wrap", "no"])):
        result = str(tmp_path / f"{name}.jpg")
        assert (
            inference.main(["--images", *paths, "--res", result, "--gain_map", "--quiet", *flags])
            == 0
        )
    auto, yes, no = (
        utils.read_image(str(tmp_path / f"{name}.jpg")) for name in ("auto", "yes", "no")
    )
    assert np.array_equal(auto, yes)
    assert not np.array_equal(auto, no)
    found = utils.read_picture(str(tmp_path / "auto.jpg"))
    assert carried.is_full_circle(found.metadata["XMP"])
    data = (tmp_path / "auto.jpg").read_bytes()
    levels = cv2.imdecode(np.frombuffer(data[data.rindex(b"\xff\xd8\xff\xe0") :], np.uint8), 0)
    assert levels.shape == (160, 480)
    assert gain_map.MPF in data


def test_a_ring_is_left_as_it_was_entered():
    picture = np.arange(60).reshape(3, 20)
    ring = photos.in_a_ring(picture, 4)
    assert ring[0].tolist() == [*range(16, 20), *range(20), *range(4)]
    assert np.array_equal(photos.out_of_ring(ring, 4), picture)
    recipe = photos.recipe_of(opts.TestOptions().parse(["--images", "a", "b"]))
    assert photos.ring_width(480, {"XMP": pano()}, recipe) == 60
    assert photos.ring_width(480, {}, recipe) == 0
