"""Blind comparisons: the pictures, the key, and what becomes of verdicts."""

import csv
import math
import shutil

import numpy as np
import pytest

import blind
import evaluate
import utils
from blind import BlindComparison, binomial_interval, count_verdicts


def picture(level, width=60):
    return np.full((40, width, 3), level, np.uint8)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_key_tells_which_side_is_which(tmp_path):
    """Over forty scenes both orders come up, and the pictures are as the key says."""
    comparison = BlindComparison(str(tmp_path / "blind"), "dark", "bright")
    for number in range(40):
        comparison.begin()
        comparison.add(f"s{number}", "dark", picture(50))
        comparison.add(f"s{number}", "other", picture(0))
        comparison.add(f"s{number}", "bright", picture(200))
    key = read(tmp_path / "blind" / "key.csv")
    assert {row["left"] for row in key} == {"dark", "bright"}
    for row in key:
        shown = utils.read_image(str(tmp_path / "blind" / f"{row['scene']}.jpg"))
        assert shown.shape == (40, 2 * 60 + blind.GAP, 3)
        levels = {"dark": 50, "bright": 200}
        assert abs(int(shown[20, 20, 0]) - levels[row["left"]]) <= 2  # JPEG
        assert abs(int(shown[20, -20, 0]) - levels[row["right"]]) <= 2


def test_large_pictures_are_reduced_and_half_scenes_left_out(tmp_path):
    comparison = BlindComparison(str(tmp_path), "a", "b")
    comparison.add("half", "a", picture(1))
    comparison.begin()
    for method in ("a", "b"):
        comparison.add("whole", method, picture(100, width=2 * blind.SHEET_WIDTH))
    assert [row["scene"] for row in read(tmp_path / "key.csv")] == ["whole"]
    assert (
        utils.read_image(str(tmp_path / "whole.jpg")).shape[1] == 2 * blind.SHEET_WIDTH + blind.GAP
    )


def write_verdicts(folder, verdicts):
    lines = [("scene", "left", "right"), ("x", "a", "b"), ("y", "b", "a"), ("z", "a", "b")]
    for name, rows in (("key.csv", lines), ("mine.csv", [("scene", "preferred"), *verdicts])):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return str(folder / "mine.csv")


def test_verdicts_are_read_by_the_key(tmp_path, capsys):
    path = write_verdicts(tmp_path, [("x", "left"), ("y", "Right "), ("z", "tie")])
    assert count_verdicts(path) == (("a", "b"), (2, 0), 1)
    assert evaluate.main(["--judged", path]) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 verdicts, 1 of them ties\n    2 for a (95 % interval: 34% to 100%")


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ([("w", "left")], "scene 'w' is not in the key"),
        ([("x", "left"), ("x", "right")], "scene 'x' has several verdicts"),
        ([("x", "both")], "scene 'x': 'both' is none of left, right, tie"),
        ([("x",)], "needs the columns scene, preferred"),
    ],
)
def test_verdicts_that_do_not_fit(tmp_path, verdicts, message, capsys):
    path = write_verdicts(tmp_path, verdicts)
    assert evaluate.main(["--judged", path]) == 2
    assert capsys.readouterr().err == f"evaluate.py: {path}: {message}\n"


@pytest.mark.parametrize(
    ("key", "verdicts", "message"),
    [
        ("scene,left,right\n", "scene,preferred\n", "the key beside it has 0 methods, not two"),
        ("scene,left,right\nx,a,a\n", "scene,preferred\n", "the key beside it has 1 methods"),
        ("scene,left,right\nx,a,b\n", "foo,bar\n", "needs the columns scene, preferred"),
        ("scene,left,right\nx,a,b\n", "", "needs the columns scene, preferred"),
        (
            "scene,left,right\nx,a,b\n",
            "scene,preferred".encode("utf-16"),
            "not a CSV file in UTF-8",
        ),
    ],
)
def test_files_that_are_no_verdicts(tmp_path, key, verdicts, message, capsys):
    (tmp_path / "key.csv").write_text(key)
    path = tmp_path / "verdicts.csv"
    path.write_bytes(verdicts if isinstance(verdicts, bytes) else verdicts.encode())
    assert evaluate.main(["--judged", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"evaluate.py: {path}: {message}")


def test_an_old_key_is_not_overwritten(tmp_path):
    BlindComparison(str(tmp_path), "a", "b")
    (tmp_path / "key.csv").write_text("scene,left,right\n")
    with pytest.raises(ValueError, match="is there already; verdicts"):
        BlindComparison(str(tmp_path), "a", "b")
    with pytest.raises(ValueError, match="not 'a' with itself"):
        BlindComparison(str(tmp_path / "new"), "a", "a")


@pytest.mark.parametrize(("successes", "trials"), [(15, 20), (17, 20), (3, 7), (10, 20)])
def test_interval_solves_wilsons_equation(successes, trials):
    """At its ends, the observed share lies 1.96 standard deviations from the probability."""
    low, high = binomial_interval(successes, trials)
    share = successes / trials
    assert low < share < high
    for p in (low, high):
        deviation = math.sqrt(p * (1 - p) / trials)
        assert abs(share - p) / deviation == pytest.approx(1.959964, rel=1e-6)


def test_interval_at_the_ends():
    assert binomial_interval(0, 0) == (0, 1)
    assert binomial_interval(0, 5)[0] == 0
    assert binomial_interval(5, 5)[1] == 1


def test_command_writes_the_pictures(brackets, tmp_path, capsys):
    folder = tmp_path / "blind"
    argv = ["--folder", str(brackets), "--model", "--quiet", "--blind", str(folder)]
    assert evaluate.main([*argv, "average", "nothing"]) == 2
    assert "'nothing' is none of the methods average, MergeMertens" in capsys.readouterr().err
    assert evaluate.main([*argv, "average", "MergeMertens"]) == 0
    scenes = {row["scene"] for row in read(folder / "key.csv")}
    assert scenes == {"scene1", "scene2", "scene10"}
    assert {path.stem for path in folder.glob("*.jpg")} == scenes
    given = []
    for name in ("one", "other"):  # Both sides can be results on disk.
        (tmp_path / name).mkdir()
        for scene in scenes:
            first = next((brackets / scene).iterdir())
            shutil.copy(first, tmp_path / name / f"{scene}{first.suffix}")
        given.append(f"{name}={tmp_path / name}")
    argv[-1] = str(tmp_path / "given")
    assert evaluate.main([*argv, "one", "other", "--fused", *given]) == 0
    assert {row["left"] for row in read(tmp_path / "given" / "key.csv")} <= {"one", "other"}
    with pytest.raises(SystemExit):
        evaluate.main(["--quiet"])
