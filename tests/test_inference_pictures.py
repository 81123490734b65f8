"""inference.py on pictures of many kinds: unusual ones, their metadata, moved and moving ones."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import (
    ROOT,
    blocks,
    exif,
    expose,
    fuse_files,
    motion,
    moving,
    network_of,
    run,
    see,
    write_bracket,
)
from PIL import Image

import align
import fusion
import ghosts
import inference
import opts
import photos
import scores
import utils
from checkpoint import load_model
from metadata import exif_values


def test_a_stack_in_any_order(tmp_path, files):
    paths = write_bracket(tmp_path / "scene")
    images = [utils.read_image(str(path)) for path in paths]
    expected = fusion.fuse(load_model(files["--model"]), images)
    for order in ((0, 1, 2), (2, 0, 1)):
        assert fuse_files(files, [paths[k] for k in order], "--precision", "float32") == 0
        result = utils.read_image(files["--res"]).astype(int)
        assert np.abs(result - expected).max() <= 1  # sums in another order


def as_file(path, data):
    path.write_bytes(data)
    return path


def cmyk_jpeg(grey):
    """A JPEG of four components, all of them alike, as print shops use: OpenCV writes none."""
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_OPTIMIZE, 0])[1].tobytes()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    size = data[frame + 5 : frame + 9]
    tables = data[2:frame] + data[frame + 13 : scan]
    components = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3, 4))
    header = b"\xff\xc0\x00\x14\x08" + size + b"\x04" + components
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(5)
    coded = data[scan + 10 : -2]
    scans = b"".join(
        b"\xff\xda\x00\x08\x01" + bytes([i, 0, 0, 63, 0]) + coded for i in (1, 2, 3, 4)
    )
    return b"\xff\xd8" + adobe + tables + header + scans + b"\xff\xd9"


def animated_webp(path, frames):
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGRA) for frame in frames]
    animation.durations = np.array([100] * len(frames))
    assert cv2.imwriteanimation(str(path), animation)
    return path


def unusual_brackets(folder, pair):
    """(name, picture files, what the command answers: None where it fuses them)."""

    def png(name, image):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        utils.write_image(str(path), image)
        return path

    under, over = (png(f"p{k}", image) for k, image in enumerate(pair))
    black, white = (png(f"c{v}", np.full_like(pair[0], v)) for v in (0, 255))
    grey = [scores.to_grey(image) for image in pair]
    jpegs = [as_file(folder / f"cmyk{k}.jpg", cmyk_jpeg(image)) for k, image in enumerate(grey)]
    webp = animated_webp(folder / "animated.webp", [pair[0], pair[1]])
    name = "Täst · 夜 with spaces"
    yield "one exposure", [under], "two or more pictures, not 1"
    yield "twenty exposures", [under, over] * 10, None
    yield "identical exposures", [under, under], None
    yield "black and white", [black, white], None
    yield "two black ones", [black, black], None
    yield "a black one", [black, over], None
    yield "CMYK", jpegs, None
    yield "animated WebP, the first picture of it", [webp, over], None
    yield "non-ASCII names", [png(f"{name}/{name}{k}", image) for k, image in enumerate(pair)], None
    yield "single pixels", [png(f"1x1{k}", image[:1, :1]) for k, image in enumerate(pair)], None
    yield "a panorama", [png(f"wide{k}", np.tile(i, (1, 60, 1))) for k, i in enumerate(pair)], None
    deep = png("deep", pair[0].astype(np.uint16) * 257)
    yield "depths mixed", [deep, over], None


@pytest.mark.slow
def test_unusual_brackets(tmp_path, files, pair, capfd):
    (tmp_path / "in").mkdir()
    for name, paths, reason in unusual_brackets(tmp_path / "in", pair):
        Path(files["--res"]).unlink(missing_ok=True)
        status = fuse_files(files, paths)
        err = capfd.readouterr().err
        if reason:
            assert status == 2, name
            assert reason in err, name
            assert str(paths[0]) in err
            assert err.count("\n") == 1
            assert not Path(files["--res"]).exists()
        else:
            assert status == 0, name
            assert not err, name
            first = utils.read_image(str(paths[0]))
            result = utils.read_image(files["--res"])
            assert result.shape == first.shape, name
            if name in ("identical exposures", "two black ones"):
                assert np.abs(result.astype(int) - first).mean() < 60, name


def test_a_read_only_target(tmp_path, files, capfd):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert run({**files, "--res": str(tmp_path / "locked" / "x.png")}) == 2
    assert "no permission" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_full_disk(tmp_path, files):
    """As a process whose files may not grow beyond a kilobyte: the old result stays."""
    run(files)
    before = Path(files["--res"]).read_bytes()
    names = sorted(os.listdir(tmp_path))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    script = f"{limit}; import inference; sys.exit(inference.main(sys.argv[1:]))"
    flags = [part for item in files.items() for part in item]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert files["--res"] in done.stderr
    assert done.stderr.count("\n") == 1
    assert Path(files["--res"]).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--fast"]])
def test_smooth_gradients_have_no_bands(tmp_path, files, flags):
    """A 16-bit gradient comes out with far more than 256 levels, and ever rising."""
    ramp = np.tile(np.linspace(0.1, 0.5, 1500), (60, 1))
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path, gain in zip(paths, (1, 1.9), strict=True):
        utils.write_image(str(path), utils.quantise(np.dstack([ramp * gain] * 3), np.uint16))
    weights = ["--model", opts.WEIGHTS]
    result = tmp_path / "result.tif"
    assert fuse_files(files, paths, *weights, "--res", str(result), *flags) == 0
    fused = utils.read_image(str(result))
    assert fused.dtype == np.uint16
    row = fused[30, 50:-50, 0].astype(int)
    assert len(np.unique(row)) > 1000
    assert np.diff(row).min() > -64  # a quarter of a level of 255: bfloat16's grain
    assert np.diff(row).max() < 257  # bands would be steps of a level


def test_depth_and_quality(tmp_path, files, pair):
    result = tmp_path / "deep.png"
    assert run({**files, "--res": str(result)}, "--depth", "16") == 0
    deep = utils.read_image(str(result))
    expected = fusion.fuse(network_of(files), pair, fusion.Options(dtype=np.uint16))
    assert np.array_equal(deep, expected)
    assert len(np.unique(deep)) > 256
    result = tmp_path / "float.tif"
    assert run({**files, "--res": str(result)}, "--depth", "float") == 0
    assert utils.read_image(str(result)).dtype == np.float32
    sizes = []
    for quality in ("20", "90"):
        result = tmp_path / "x.jpg"
        assert run({**files, "--res": str(result)}, "--quality", quality) == 0
        sizes.append(result.stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_preview_lies_beside_the_result(tmp_path, files):
    assert run(files, "--preview") == 0
    sheet = utils.read_image(str(tmp_path / "result_preview.jpg"))
    assert sheet.shape[1] == 3 * 480


def test_alpha_is_kept_where_it_is_common(tmp_path, files, pair, capfd):
    alpha = np.arange(61 * 75, dtype=np.uint8).reshape(61, 75)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, pair, strict=True):
        utils.write_image(str(path), image, alpha=alpha)
    assert fuse_files(files, paths) == 0
    assert np.array_equal(utils.read_picture(files["--res"]).alpha, alpha)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", [0, 1, 2])
def test_transparent_pixels_are_left_out(tmp_path, place):
    """As other programs' registration leaves them. The result is opaque where any exposure is."""
    radiance = see(blocks(380, 500, seed=1), motion())
    paths = [tmp_path / f"{k}.tif" for k in range(3)]
    images = [expose(radiance, gain) for gain in (0.3, 1, 4)]
    whole = tmp_path / "whole.tif"
    for path, image in zip(paths, images, strict=True):
        utils.write_image(str(path), image)
    assert inference.main(["--images", *map(str, paths), "--res", str(whole)]) == 0
    for everywhere in (True, False):
        for k, (path, image) in enumerate(zip(paths, images, strict=True)):
            alpha = np.full(image.shape[:2], 255, np.uint8)
            if k == place:
                alpha[:, :60] = 0
            if not everywhere:
                alpha[:20] = 0
            shown = image * (alpha > 0)[..., None]
            utils.write_image(str(path), shown.astype(np.uint8), alpha=alpha)
        result = tmp_path / "fused.tif"
        assert inference.main(["--images", *map(str, paths), "--res", str(result)]) == 0
        fused = utils.read_picture(str(result))
        expected = utils.read_image(str(whole)).astype(float)
        below = slice(20, None)
        assert np.abs(fused.pixels - expected)[below, :60].mean() < 12
        assert np.abs(fused.pixels - expected)[below, 60:].mean() < 8
        if everywhere:
            assert fused.alpha is None
        else:
            assert (fused.alpha[:20] == 0).all()
            assert (fused.alpha[20:] == 255).all()


def test_metadata_are_the_middle_exposures(tmp_path, files, capfd):
    paths = write_bracket(tmp_path / "scene", extension=".jpg")
    for number, path in enumerate(paths):
        image = utils.read_image(str(path))
        utils.write_image(str(path), image, metadata={"EXIF": exif(1, number, number)})
    middle = exif_values(utils.read_picture(str(paths[1])).metadata["EXIF"])
    result = str(tmp_path / "result.jpg")
    assert fuse_files(files, paths, "--res", result) == 0
    found = exif_values(utils.read_picture(result).metadata["EXIF"])
    assert found == middle | {0x0131: "DeepFuse"}
    assert not capfd.readouterr().err
    assert fuse_files(files, paths, "--res", str(tmp_path / "result.tif")) == 0
    assert "EXIF not written" in capfd.readouterr().err


@pytest.fixture(scope="module")
def hand_held(tmp_path_factory):
    """Three exposures of a moved camera, as files."""
    folder = tmp_path_factory.mktemp("hand_held")
    radiance = blocks(380, 500, seed=1)
    paths = []
    for k, (move, gain) in enumerate((({"shift": (6, -3)}, 0.3), ({}, 1), ({"rotation": 1}, 4))):
        paths.append(folder / f"{k}.png")
        utils.write_image(str(paths[-1]), expose(see(radiance, motion(**move)), gain))
    return paths


@pytest.mark.slow
def test_alignment(hand_held, tmp_path, files, capfd):
    assert fuse_files(files, hand_held, "--align", "--verbose") == 0
    precision, *lines = capfd.readouterr().err.splitlines()
    assert "computes in" in precision
    assert len(lines) == 4
    assert lines[3].endswith(": fused from 0.png, 1.png, 2.png")
    assert lines[2].endswith("2.png: the reference")
    assert "moved by 6.0" in lines[0] or "moved by 5.9" in lines[0]
    assert "1.0 degrees" in lines[1] or "1.00" in lines[1]
    result = utils.read_image(files["--res"])
    images = [utils.read_image(str(path)) for path in hand_held]
    expected = fusion.fuse(network_of(files), align.align(images)[0])
    assert np.array_equal(result, expected)
    assert result.shape < images[0].shape
    assert fuse_files(files, hand_held, "--align", "--no_crop") == 0
    assert utils.read_image(files["--res"]).shape == images[0].shape


@pytest.mark.parametrize("number", [None, 1, 3])
def test_another_reference(files, brackets, monkeypatch, number):
    """Counted from dark to bright, whatever the order of the files."""
    seen = []
    find_movement = ghosts.find_movement
    monkeypatch.setattr(
        ghosts,
        "find_movement",
        lambda images, k: seen.append(images[k].mean()) or find_movement(images, k),
    )
    paths = sorted((brackets / "scene2").iterdir())
    images = utils.read_images(paths)
    index = ghosts.telling_exposure(images) if number is None else number - 1
    flags = [] if number is None else ["--reference", str(number)]
    assert fuse_files(files, [paths[2], paths[0], paths[1]], "--deghost", *flags) == 0
    expected = [utils.reduced_quickly(image, ghosts.COARSE).mean() for image in images]
    assert seen[0] == expected[index]


def test_a_reference_that_is_not_there(files, brackets, capfd):
    paths = sorted((brackets / "scene2").iterdir())
    assert fuse_files(files, paths, "--deghost", "--reference", "4") == 2
    assert capfd.readouterr().err == "inference.py: --reference 4: there are 3 exposures\n"


def test_what_cannot_be_aligned(hand_held, tmp_path, files, capfd):
    strange = expose(see(blocks(380, 500, seed=2), motion()), 1)
    utils.write_image(str(tmp_path / "strange.png"), strange)
    paths = [hand_held[1], tmp_path / "strange.png"]
    assert fuse_files(files, paths, "--align") == 2
    err = capfd.readouterr().err
    assert f"{paths[0]} cannot be aligned with {paths[1]}" in err or f"{paths[1]} cannot" in err
    assert err.count("\n") == 1
    assert not Path(files["--res"]).exists()
    photo = ["--images", *map(str, paths), "--res", files["--res"]]
    assert inference.main(photo) == 2  # Without being asked, too.
    err = capfd.readouterr().err
    assert "does not go with" in err
    assert "different scenes" in err
    assert err.count("\n") == 1
    assert not Path(files["--res"]).exists()
    assert inference.main([*photo, "--align", "no", "--deghost", "no"]) == 0


def test_an_exposure_of_another_scene_is_left_out(hand_held, tmp_path, capfd):
    """The result is that of the others, byte for byte, with one line that says so."""
    strange = tmp_path / "strange.png"
    utils.write_image(str(strange), expose(see(blocks(380, 500, seed=2), motion()), 0.7))
    results = [str(tmp_path / name) for name in ("with.png", "without.png")]
    few = list(map(str, hand_held))
    assert inference.main(["--images", *few, "--res", results[1]]) == 0
    assert capfd.readouterr().err == ""
    assert inference.main(["--images", str(strange), *few, "--res", results[0]]) == 0
    err = capfd.readouterr().err
    assert err.startswith(f"inference.py: {strange}: left out: it does not go with {few[2]}")
    assert err.count("\n") == 1
    assert Path(results[0]).read_bytes() == Path(results[1]).read_bytes()


def test_cropped_tiff_files_are_placed_on_their_canvas(tmp_path):
    """By XPosition and YPosition, as Hugin's programs write them."""
    view = see(blocks(380, 500, seed=1), motion())
    paths = []
    for k, (gain, x, y) in enumerate(((0.3, 10, 0), (1, 0, 0), (4, 0, 20))):
        paths.append(str(tmp_path / f"{k}.tif"))
        picture = Image.fromarray(expose(view, gain)[y:, x : x + 380])
        tags = {286: x / 150, 287: y / 150, 282: 150.0, 283: 150.0}
        picture.save(paths[-1], tiffinfo=tags)
    result = str(tmp_path / "fused.tif")
    assert inference.main(["--images", *paths, "--res", result, "--verbose"]) == 0
    fused = utils.read_picture(result)
    assert fused.pixels.shape[:2] == (view.shape[0], 390)
    assert fused.alpha is None  # Every pixel is in some exposure.
    whole = [expose(view, gain) for gain in (0.3, 1, 4)]
    recipe = photos.recipe_of(opts.TestOptions().parse(["--images", *paths]))
    pictures = photos.read_scene(paths, recipe)
    for picture, image, (x, y) in zip(pictures, whole, ((10, 0), (0, 0), (0, 20)), strict=True):
        assert np.array_equal(picture.pixels[y:, x : x + 380], image[y:, x : x + 380])
        assert picture.alpha[y:, x : x + 380].all()
        assert picture.alpha.mean() < 255


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_one_exposure_upside_down_is_turned(tmp_path, capfd, odd):
    view = see(blocks(380, 500, seed=1), motion())
    paths = [str(tmp_path / f"{k}.png") for k in range(3)]
    for k, (path, gain) in enumerate(zip(paths, (0.3, 1, 4), strict=True)):
        image = expose(view, gain)
        utils.write_image(path, np.ascontiguousarray(image[::-1, ::-1]) if k == odd else image)
    result = str(tmp_path / "fused.png")
    assert inference.main(["--images", *paths, "--res", result]) == 0
    err = capfd.readouterr().err
    assert err.startswith(f"inference.py: {paths[odd]}: is turned, since it lies upside down")
    assert err.count("\n") == 1
    fused, shown = (utils.as_grey(x).astype(float) for x in (utils.read_image(result), image))
    height, width = fused.shape
    assert height > 290
    assert np.corrcoef(fused.ravel(), shown[:height, :width].ravel())[0, 1] > 0.6


def test_photos_are_put_together_without_a_flag(hand_held, tmp_path, capfd):
    flags = ["--images", *map(str, hand_held), "--res", str(tmp_path / "fused.png"), "--verbose"]
    assert inference.main(flags) == 0
    assert "moved by" in capfd.readouterr().err
    shape = utils.read_image(hand_held[0]).shape
    assert utils.read_image(flags[-2]).shape < shape
    assert inference.main([*flags, "--no_crop"]) == 0
    assert utils.read_image(flags[-2]).shape == shape
    capfd.readouterr()
    assert inference.main([*flags, "--look", "paper"]) == 0
    assert "moved by" not in capfd.readouterr().err


def test_a_scene_in_register_stays_as_it_is(tmp_path, capfd):
    """The same bytes as with both switched off."""
    view = see(blocks(380, 500, seed=1), motion())
    rng = np.random.default_rng(0)
    paths = []
    for k, gain in enumerate((0.1, 1, 4)):
        noisy = np.clip(expose(view, gain) + rng.normal(0, 1, view.shape), 0, 255)
        paths.append(str(tmp_path / f"{k}.png"))
        utils.write_image(paths[-1], noisy.astype(np.uint8))
    results = []
    for flags in ([], ["--align", "no", "--deghost", "no"]):
        result = tmp_path / f"fused{len(flags)}.png"
        assert inference.main(["--images", *paths, "--res", str(result), *flags]) == 0
        results.append(result.read_bytes())
    assert results[0] == results[1]
    assert capfd.readouterr().err == ""


def test_movement(tmp_path, files, capfd):
    images, _, _ = moving(blocks(380, 500, seed=1))
    paths = [tmp_path / f"m{k}.png" for k in range(3)]
    for path, image in zip(paths, images, strict=True):
        utils.write_image(str(path), image)
    assert fuse_files(files, paths, "--deghost", "--verbose") == 0
    precision, *lines = capfd.readouterr().err.splitlines()
    assert "computes in" in precision
    assert [line.endswith(": 0.0% replaced as moved") for line in lines[:3]] == [True, True, False]
    expected = fusion.fuse(network_of(files), ghosts.deghost(images)[0])
    assert np.array_equal(utils.read_image(files["--res"]), expected)
