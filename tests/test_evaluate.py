"""The program that scores methods, and its scores on cases worked out by hand."""

import csv
import math
import os

import cv2
import numpy as np
import pytest
import torch
from conftest import exif, write_bracket

import evaluate
import fusion
import utils
from checkpoint import load_model, save_checkpoint
from model import DeepFuse, prepare
from opts import BETWEEN
from portable import OnnxBetween
from scores import (
    mef_ssim_c,
    mefb_score,
    middle_difference,
    rendition_scores,
    score_all,
    to_grey,
)


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_bracket(tmp_path / "scenes" / name, seed=seed)
    return tmp_path / "scenes"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    network, path = DeepFuse(), str(tmp_path / "net.pth")
    save_checkpoint(path, {"model": network.state_dict(), "network": network.settings})
    return path


def run(*arguments):
    assert evaluate.main([*map(str, arguments), "--quiet", "--device", "cpu"]) == 0


def read(table):
    with open(table, newline="") as file:
        return {(row["method"], row["scene"]): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("side", [60, 500])
def test_scores_of_reduced_pictures(folder, model, tmp_path, side):
    """Of 120x96 pixels to 60x48, the means of 2x2; what is smaller already stays."""
    out, table = tmp_path / "out", tmp_path / "scores.csv"
    run("--folder", folder, "--model", model, "--save", out, "--csv", table, "--score_size", side)

    def halved(path):
        grey = to_grey(utils.read_image(str(path)))
        if side == 500:
            return grey
        means = grey.reshape(48, 2, 60, 2).mean(axis=(1, 3))
        return np.floor(means + 0.5).astype(np.uint8)

    for (method, scene), row in read(table).items():
        grey = [halved(folder / scene / name) for name in ("1.png", "3.png")]
        saved = halved(out / evaluate.folder_name(method) / f"{scene}.png")
        # within what rounding halves up or to even makes
        assert float(row["MEF-SSIM"]) == pytest.approx(mefb_score(saved, grey), abs=2e-3)


@pytest.mark.parametrize("stack", [False, True])
def test_scores_are_those_of_the_saved_pictures(folder, model, tmp_path, stack, capsys):
    out, table, sheet = tmp_path / "out", tmp_path / "scores.csv", tmp_path / "sheet.png"
    arguments = ["--folder", folder, "--model", model, "--photo", "--save", out]
    run(*arguments, "--csv", table, "--sheet", sheet, *(["--stack"] if stack else []))
    rows = read(table)
    methods = ["average", "MergeMertens", model, "photo"]
    assert list(rows) == [(method, scene) for method in methods for scene in ("a", "b")]
    for (method, scene), row in rows.items():
        names = ("1.png", "2.png", "3.png") if stack else ("1.png", "3.png")
        images = [utils.read_image(str(folder / scene / name)) for name in names]
        grey = [to_grey(image) for image in images]
        saved = utils.read_image(str(out / evaluate.folder_name(method) / f"{scene}.png"))
        expected = score_all(to_grey(saved), grey)
        assert expected["MEF-SSIM"] == mefb_score(to_grey(saved), grey)
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-6)
        if method == model:
            fused = fusion.fuse(prepare(load_model(model)), images)
            assert np.array_equal(fused, saved)
        if method == "photo":
            fused = fusion.fuse(OnnxBetween(BETWEEN), images, fusion.Options(look="photo"))
            assert np.array_equal(fused, saved)
    cells = len(methods) + (3 if stack else 2)
    assert utils.read_image(str(sheet)).shape[1] == cells * utils.THUMBNAIL

    text = capsys.readouterr().out
    for method in methods:
        values = [float(rows[method, scene]["MEF-SSIM"]) for scene in ("a", "b")]
        summary = next(line for line in text.split("mean")[-1].splitlines() if method in line)
        columns = [float(word) for word in summary.replace(method, "").split()]
        assert columns[:3] == pytest.approx([np.mean(values), np.median(values), min(values)], 1e-4)
        assert columns[3] == pytest.approx(
            np.mean([float(rows[method, scene]["Q^AB/F"]) for scene in ("a", "b")]), abs=1e-4
        )


def test_results_as_jpeg(tmp_path, model):
    """Scenes of JPEG files are scored as such a file has the result, others as it is."""
    for extension in (".jpg", ".png"):
        write_bracket(tmp_path / "scenes" / extension[1:], extension=extension)
    arguments = [
        "--folder",
        tmp_path / "scenes",
        "--model",
        model,
        "--csv",
        tmp_path / "scores.csv",
    ]
    run(*arguments, "--save", tmp_path / "plain")
    run(*arguments, "--save", tmp_path / "coded", "--jpeg", "75")
    for method in ("average", evaluate.folder_name(str(model))):
        plain, coded = (
            {s: utils.read_image(str(tmp_path / x / method / f"{s}.png")) for s in ("jpg", "png")}
            for x in ("plain", "coded")
        )
        assert np.array_equal(plain["png"], coded["png"])
        utils.write_image(str(tmp_path / "result.jpg"), plain["jpg"], quality=75)
        assert np.array_equal(utils.read_image(str(tmp_path / "result.jpg")), coded["jpg"])
        assert not np.array_equal(plain["jpg"], coded["jpg"])


def test_wins():
    def table_of(*values):
        return {scene: {"MEF-SSIM": value} for scene, value in zip("abc", values, strict=True)}

    table = {"x": table_of(0.9, 0.8, 0.7), "y": table_of(0.8, 0.9, 0.6)}
    assert evaluate.wins(table, "x") == [0, 2]
    assert evaluate.wins(table, "y") == [1, 0]


def test_results_on_disk(folder, tmp_path):
    """Scored as the same pictures computed in the run; found by scene, whatever else is there."""
    out, table = tmp_path / "out", tmp_path / "scores.csv"
    run("--folder", folder, "--model", "--save", out)
    theirs = out / "average"
    (theirs / "a.png").rename(theirs / "A_fused.png")
    (theirs / "notes.txt").write_text("x")
    (theirs / "abc.png").write_bytes(b"of no scene")
    run("--folder", folder, "--model", "--fused", f"theirs={theirs}", "--csv", table)
    rows = read(table)
    for scene in ("a", "b"):
        ours = {**rows["average", scene], "method": "theirs"}
        assert rows["theirs", scene] == ours


def test_a_result_goes_to_the_longest_scene_name(tmp_path):
    for name in ("house.png", "house_2.png", "House 2 night.jpg"):
        (tmp_path / name).write_bytes(b"")
    scenes = ["house", "house_2", "house 2 night"]
    found = evaluate.match_results(str(tmp_path), scenes)
    assert [os.path.basename(found[scene]) for scene in scenes] == [
        "house.png",
        "house_2.png",
        "House 2 night.jpg",
    ]


def test_layout_of_mefb(folder, tmp_path):
    """<scene>_A and <scene>_B in either case; other pictures of the folder do not count."""
    plain, table = tmp_path / "plain.csv", tmp_path / "mefb.csv"
    run("--folder", folder, "--model", "--csv", plain)
    for scene, names in (("a", ("A_a.png", "a_B.png")), ("b", ("b_A.PNG", "B_b.png"))):
        (folder / scene / "1.png").rename(folder / scene / names[0])
        (folder / scene / "3.png").rename(folder / scene / names[1])
        (folder / scene / "2.png").rename(folder / scene / "0_result.png")
    for flags in ([], ["--stack"]):
        run("--folder", folder, "--model", "--csv", table, *flags)
        expected, found = read(plain), read(table)
        for row in (*expected.values(), *found.values()):
            row.pop("dC")  # of brackets with a middle exposure
            row.pop("dE")
        assert found == expected


def test_folder_names():
    assert evaluate.folder_name("average") == "average"
    assert evaluate.folder_name("runs/a/model/best.pth") == "runs_a_model_best"
    assert evaluate.folder_name("../b/best.pth") == "b_best"
    assert evaluate.folder_name("a.pth +10") == "a_10"


def test_two_checkpoints_do_not_share_a_folder(folder, tmp_path, capsys):
    paths = [tmp_path / name for name in ("a/best.pth", "a_best.pth")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        torch.save({"model": DeepFuse().state_dict()}, path)
    argv = ["--folder", str(folder), "--model", *map(str, paths), "--save", str(tmp_path / "s")]
    assert evaluate.main(argv) == 2
    assert "_a_best: would hold the pictures of several checkpoints" in capsys.readouterr().err


def test_average_is_rounded():
    images = [np.full((2, 2, 3), level, np.uint8) for level in (1, 4)]
    assert (evaluate.average(images) == 2).all()  # 2.5, to even
    assert (evaluate.average([images[1], images[1]]) == 4).all()


def test_mertens_is_clipped_not_wrapped(folder):
    images = [cv2.imread(str(folder / "a" / name)) for name in ("1.png", "3.png")]
    exact = cv2.createMergeMertens().process(images)
    fused = evaluate.merge_mertens(images)
    assert np.abs(fused / 255.0 - exact.clip(0, 1)).max() <= 0.5 / 255 + 1e-6


def test_mistakes_get_one_line(folder, model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    small, double, missing = (tmp_path / name for name in ("small", "double", "missing"))
    for directory, names in (
        (small, ["a.png", "b.png"]),
        (double, ["a.png", "a_2.png", "b.png"]),
        (missing, ["b.png"]),
    ):
        directory.mkdir()
        for name in names:
            utils.write_image(str(directory / name), np.zeros((50, 50), np.uint8))
    cases = [
        (["--folder", tmp_path / "empty"], f"{tmp_path / 'empty'}: has no sub-folder"),
        (["--folder", tmp_path / "none"], f"{tmp_path / 'none'}: No such file"),
        (["--folder", folder, "--model", "none.pth"], "none.pth: No such file"),
        (["--folder", folder, "--csv", "none/x.csv"], "none/x.csv: there is no folder none"),
        (["--folder", folder, "--sheet", "x.nonsense"], "x.nonsense: unknown picture format"),
        (["--folder", folder, "--fused", f"x={small}"], f"{folder / 'a'}: {small / 'a.png'} has"),
        (["--folder", folder, "--fused", f"x={double}"], f"{double}: has 2 pictures of scene a"),
        (["--folder", folder, "--fused", f"x={missing}"], f"{missing}: has no picture of scene a"),
        (["--folder", folder, "--fused", "x=none"], "none: No such file"),
        (["--folder", folder, "--fused", f"average={small}"], "--fused: 'average' is"),
    ]
    for argv, message in cases:
        models = [] if "--model" in argv else ["--model"]
        assert evaluate.main([*map(str, argv), *models, "--quiet"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"evaluate.py: {message}"), err
        assert err.count("\n") == 1
    assert os.listdir(tmp_path / "empty") == []


def test_renditions(folder, tmp_path, capsys):
    """Scenes that have one are compared with it; the others are left out."""
    renditions, table = tmp_path / "renditions", tmp_path / "scores.csv"
    renditions.mkdir()
    middle = utils.read_image(str(folder / "a" / "2.png"))
    utils.write_image(str(renditions / "A.png"), middle)
    run("--folder", folder, "--model", "--reference", renditions, "--csv", table)
    rows = read(table)
    assert list(rows) == [("average", "a"), ("MergeMertens", "a")]
    ends = [utils.read_image(str(folder / "a" / name)) for name in ("1.png", "3.png")]
    for method, fuse in (("average", evaluate.average), ("MergeMertens", evaluate.merge_mertens)):
        expected = rendition_scores(fuse(ends), middle)
        expected["MEF-SSIMc"] = mef_ssim_c(fuse(ends), ends)
        for name, value in expected.items():
            assert float(rows[method, "a"][name]) == pytest.approx(value, abs=1e-6), name
    heads = next(line for line in capsys.readouterr().out.splitlines() if "minimum" in line)
    assert heads.endswith("L ref L sd ref chroma ref")
    for names, message in (
        ([], f"{renditions}: has no picture of any scene"),
        (["a.png", "a_2.png"], f"{renditions}: has 2 pictures of scene a"),
        (["a.png"], f"{folder / 'a'}: {renditions / 'a.png'} has 60x50 pixels, the scene 120x96"),
    ):
        for path in renditions.iterdir():
            path.unlink()
        for name in names:
            utils.write_image(str(renditions / name), np.zeros((50, 60), np.uint8))
        argv = ["--folder", str(folder), "--model", "--reference", str(renditions), "--quiet"]
        assert evaluate.main(argv) == 2
        assert capsys.readouterr().err == f"evaluate.py: {message}\n"


def test_a_scene_that_fails_is_named_and_the_others_are_reported(folder, tmp_path, capsys):
    write_bracket(folder / "c", seed=3)
    table, sheet = tmp_path / "scores.csv", tmp_path / "sheet.png"
    run("--folder", folder, "--model", "--csv", table)
    whole = read(table)
    (folder / "b" / "3.png").write_bytes((folder / "b" / "3.png").read_bytes()[:2000])
    argv = ["--folder", folder, "--model", "--csv", table, "--sheet", sheet, "--quiet"]
    capsys.readouterr()
    assert evaluate.main([*map(str, argv)]) == 1
    out, err = capsys.readouterr()
    assert f"evaluate.py: {folder / 'b'}: {folder / 'b' / '3.png'}: not a picture" in err
    assert err.splitlines()[-1] == "evaluate.py: 1 of 3 scenes were not scored"
    assert [line.split()[0] for line in out.splitlines()[4:7]] == ["MEF-SSIM", "a", "c"]
    assert read(table) == {key: row for key, row in whole.items() if key[1] != "b"}
    rows = utils.read_image(str(sheet)).shape[0] / (192 + utils.CAPTION)  # of 120x96 pixels
    assert rows == 2


def test_scores_are_written_as_they_come(folder, tmp_path, monkeypatch):
    """After a run that is cut short, the table holds all scenes that were done."""
    table = tmp_path / "scores.csv"
    score_scene = evaluate.score_scene

    def second_is_interrupted(scene, *rest):
        if scene.name == "b":
            raise KeyboardInterrupt
        return score_scene(scene, *rest)

    monkeypatch.setattr(evaluate, "score_scene", second_is_interrupted)
    argv = ["--folder", str(folder), "--model", "--csv", str(table), "--quiet"]
    assert evaluate.main(argv) == 130
    assert {scene for _, scene in read(table)} == {"a"}


def test_sizes_are_checked_before_anything_is_fused(folder, tmp_path, capsys):
    """From headers: the last scene's mistake is found although the first cannot be decoded."""
    path = folder / "a" / "3.png"
    path.write_bytes(path.read_bytes()[:2000])
    utils.write_image(str(folder / "b" / "3.png"), np.zeros((50, 60), np.uint8))
    assert evaluate.main(["--folder", str(folder), "--model", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err == f"evaluate.py: {folder / 'b'}: the pictures differ in size: 120x96 and 60x50\n"
    utils.write_image(str(folder / "b" / "1.png"), np.zeros((40, 60), np.uint8))
    utils.write_image(str(folder / "b" / "3.png"), np.zeros((40, 60), np.uint8))
    assert evaluate.main(["--folder", str(folder), "--model", "--quiet"]) == 2
    assert f"{folder / 'b'}: MEF-SSIM at 3 scale(s) needs" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_costs_its_scene(folder, capsys):
    (folder / "a" / "3.png").unlink()
    (folder / "a" / "3.png").symlink_to("nowhere")
    assert evaluate.main(["--folder", str(folder), "--model", "--quiet"]) == 1
    assert "1 of 2 scenes were not scored" in capsys.readouterr().err


def test_a_result_without_its_sources_orientation_is_told(folder, tmp_path, capsys):
    for number in ("1", "3"):
        image = utils.read_image(str(folder / "a" / f"{number}.png"))
        data = cv2.imencodeWithMetadata(
            ".jpg", image, [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(exif(6), np.uint8)]
        )[1]
        (folder / "a" / f"{number}.jpg").write_bytes(data.tobytes())
    for name in ("1.png", "2.png", "3.png"):
        (folder / "a" / name).unlink()
    results = tmp_path / "results"
    results.mkdir()
    for scene in ("a", "b"):
        utils.write_image(str(results / f"{scene}.png"), np.zeros((96, 120, 3), np.uint8))
    argv = ["--folder", str(folder), "--model", "--fused", f"x={results}", "--quiet"]
    assert evaluate.main(argv) == 2
    message = (
        f"{folder / 'a'}: {results / 'a.png'} has 120x96 pixels, the scene 96x120; "
        "it lacks the EXIF orientation of the scene's pictures"
    )
    assert message in capsys.readouterr().err


def test_fused_needs_a_name_and_a_folder(capsys):
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["--folder", "x", "--fused", "results"])
    assert caught.value.code == 2
    assert "'results' is not of the form NAME=DIR" in capsys.readouterr().err


def test_colours_are_compared_with_the_middle_exposure(tmp_path, capsys):
    for name, gains in (("three", (0.3, 1.0, 8.0)), ("two", (0.3, 8.0))):
        write_bracket(tmp_path / "scenes" / name, seed=1, gains=gains)
    options = ["--folder", str(tmp_path / "scenes"), "--model", "--quiet"]
    assert evaluate.main([*options, "--csv", str(tmp_path / "scores.csv")]) == 0
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = {(row["method"], row["scene"]): float(row["dC"]) for row in csv.DictReader(file)}
    middle = utils.read_image(str(tmp_path / "scenes" / "three" / "2.png"))
    ends = [utils.read_image(str(tmp_path / "scenes" / "three" / f"{k}.png")) for k in (1, 3)]
    expected = middle_difference(evaluate.average(ends), middle)["dC"]
    assert rows["average", "three"] == pytest.approx(expected, abs=1e-6)
    assert math.isnan(rows["average", "two"])
    summary = capsys.readouterr().out.splitlines()
    heading = next(text for text in summary if " dC" in text)
    line = next(text for text in summary if text.startswith("average  "))
    end = heading.index(" dC") + len(" dC")
    assert line[:end].split()[-1] == f"{expected:.4f}"
