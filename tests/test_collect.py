"""Scenes from clones of repositories, which are made here."""

import os
import subprocess

import cv2
import numpy as np
import pytest
from conftest import expose, scene, write_bracket

import collect
import utils
from brackets import find_scenes

GAINS = (0.1, 0.3, 1.0, 4.0, 16.0)
COLUMNS = ("folder", "scene", "exposures", "repository", "path", "licence as stated")


def radiance(seed):
    """Large dark and bright areas, at other places for every seed; (120, 180, 3) in [0, 1]."""
    areas = np.random.default_rng(seed).random((6, 9)).astype(np.float32)
    areas = cv2.resize(areas, (180, 120), interpolation=cv2.INTER_CUBIC).clip(0.01, 1)
    return areas[..., None] ** 3 * scene(120, 180, seed).mean(axis=1, keepdims=True)


def write_row(folder, seeds, gains=GAINS):
    """Scenes of one folder, numbered throughout: 1.png ... of the first one, and so on."""
    folder.mkdir(parents=True)
    pictures = [expose(radiance(seed), gain) for seed in seeds for gain in gains]
    for number, picture in enumerate(pictures, start=1):
        utils.write_image(str(folder / f"{number}.png"), picture)


def write_sources(path, rows):
    lines = ["\t".join(COLUMNS)]
    for i, (folder, exposures, repository, place) in enumerate(rows):
        lines.append(
            "\t".join([f"brackets/{folder}", f"s{i}", str(exposures), repository, place, ""])
        )
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def run(tmp_path, rows, *flags):
    sources = write_sources(tmp_path / "sources.tsv", rows)
    arguments = ["--sources", sources, "--clones", str(tmp_path / "clones")]
    return collect.main([*arguments, "--res", str(tmp_path / "out"), *flags])


def test_scenes_of_one_folder_are_told_apart(tmp_path, capsys):
    write_row(tmp_path / "clones" / "a" / "b" / "pictures", range(6))
    assert run(tmp_path, [("train", 5, "a/b", "pictures")] * 3) == 0
    assert capsys.readouterr().out == "train: 6 scenes, val: 0 scenes\n0 of 1 sources gave none\n"
    scenes = dict(find_scenes(tmp_path / "out" / "train"))
    assert len(scenes) == 6
    for number, files in enumerate(scenes.values()):
        assert len(files) == 5
        for file, gain in zip(files, GAINS, strict=True):
            expected = expose(radiance(number), gain)
            assert np.abs(utils.read_image(file).astype(int) - expected).mean() < 4  # JPEG


def test_without_any_clone_one_line_says_how_to_get_them(tmp_path, capsys):
    assert run(tmp_path, [("train", 5, f"a/{name}", "pictures") for name in "bcde"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has no clone of these sources; --clone makes them" in error


def test_the_only_scene_of_a_folder_is_its_longest_group(tmp_path):
    """Beside it lie another program's result and a logo."""
    folder = tmp_path / "clones" / "a" / "b"
    paths = write_bracket(folder, 120, 180, seed=3, gains=GAINS, extension=".jpg")
    toned = cv2.createCLAHE(40, (8, 8)).apply(utils.as_grey(utils.read_image(str(paths[2]))))
    utils.write_image(str(folder / "result.jpg"), toned)
    utils.write_image(str(folder / "logo.png"), np.zeros((30, 30), np.uint8))
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8 damaged")
    (source,) = collect.read_sources(
        write_sources(tmp_path / "sources.tsv", [("val", 3, "a/b", ".")])
    )
    with pytest.warns(UserWarning, match="damaged.jpg"):
        (files,) = collect.scenes_of(source, str(tmp_path / "clones"))
    assert [os.path.basename(file) for file in files] == ["1.jpg", "3.jpg", "5.jpg"]


def test_pairs_in_two_folders(tmp_path):
    for name, gain in (("under", 0.05), ("over", 30.0)):
        write_row(tmp_path / "clones" / "a" / "b" / "data" / name, range(3), [gain])
    assert run(tmp_path, [("train", 2, "a/b", "data/under")] * 3, "--quiet") == 0
    scenes = find_scenes(tmp_path / "out" / "train")
    assert [len(files) for _, files in scenes] == [2, 2, 2]
    for _, (dark, bright) in scenes:
        assert utils.read_image(dark).mean() < utils.read_image(bright).mean()


def test_no_scene_is_both_trained_on_and_validated_with(tmp_path):
    write_row(tmp_path / "clones" / "a" / "b", range(5))
    rows = [("val", 3, "a/b", ".")] * 2 + [("train", 3, "a/b", ".")] * 2
    assert run(tmp_path, rows, "--quiet") == 0
    names = [sorted(os.listdir(tmp_path / "out" / folder)) for folder in ("train", "val")]
    assert names == [["a_b_1", "a_b_2", "a_b_3"], ["a_b_4", "a_b_5"]]


def test_pairs_without_partners_cost_their_source(tmp_path, capfd):
    for name, gain in (("under", 0.05), ("over", 30.0)):
        write_row(tmp_path / "clones" / "a" / "b" / name, range(3), [gain])
    write_row(tmp_path / "clones" / "a" / "c", range(1))
    (tmp_path / "clones" / "a" / "b" / "over" / "2.png").unlink()
    rows = [("train", 2, "a/b", "under"), ("train", 5, "a/c", ".")]
    assert run(tmp_path, rows) == 1
    captured = capfd.readouterr()
    assert "3 pictures, but 2 partners" in captured.err
    assert captured.out == "train: 1 scenes, val: 0 scenes\n1 of 2 sources gave none\n"


def test_another_run_replaces_scenes(tmp_path):
    write_row(tmp_path / "clones" / "a" / "b", range(2))
    for name in ("a_b_1_2", "other"):
        (tmp_path / "out" / "train" / name).mkdir(parents=True)
    for rows, count, names in [(2, 5, ["a_b_1", "a_b_2"]), (1, 2, ["a_b_1"])]:
        assert run(tmp_path, [("train", count, "a/b", ".")] * rows, "--quiet") == 0
        assert sorted(os.listdir(tmp_path / "out" / "train")) == sorted(
            [*names, "a_b_1_2", "other"]
        )
        assert len(os.listdir(tmp_path / "out" / "train" / "a_b_1")) == count


def test_a_scene_that_cannot_be_read_costs_no_other(tmp_path, capfd):
    """Nor what an earlier run has made of it."""
    folder = tmp_path / "clones" / "a" / "b"
    for name, gain in (("under", 0.05), ("over", 30.0)):
        write_row(folder / name, range(3), [gain])
    rows = [("train", 2, "a/b", "under")] * 3
    for _ in range(2):
        assert run(tmp_path, rows) == 0
        scenes = find_scenes(tmp_path / "out" / "train")
        assert [len(files) for _, files in scenes] == [2, 2, 2]
        (folder / "over" / "2.png").write_bytes(b"damaged")
    captured = capfd.readouterr()
    assert captured.err.count("under_2: not collected: ") == 1
    assert captured.out.splitlines()[2] == "train: 2 scenes, val: 0 scenes"


def test_likeness():
    """Spearman's rank correlation; ties have their mean rank."""
    one = np.array([[10, 20, 20, 40]], np.float32)
    assert collect.likeness(one, one**2 / 10) == pytest.approx(1)
    other = np.array([[40, 30, 30, 20]], np.float32)
    assert collect.likeness(one, other) == pytest.approx(-1)
    assert collect.likeness(one, one[:, :3]) == 0
    assert collect.likeness(one, np.full_like(one, 90)) == 0
    assert collect.likeness(one, np.full_like(one, 255)) == 0
    assert collect.mean_ranks(one[0]).tolist() == [-1.5, 0, 0, 1.5]


def test_exposures_that_hardly_differ_count_once():
    thumbnails = [np.full((4, 6), level, np.float32) for level in (90, 10, 12, 200, 91, 150)]
    exposures = [collect.Exposure(str(i), x) for i, x in enumerate(thumbnails)]
    assert [e.path for e in collect.choose_exposures(exposures, 9)] == ["1", "0", "5", "3"]
    assert [e.path for e in collect.choose_exposures(exposures, 2)] == ["1", "3"]


def test_large_pictures_are_reduced(tmp_path):
    utils.write_image(str(tmp_path / "a.png"), np.zeros((40, 2400), np.uint16))
    collect.write_scene([tmp_path / "a.png"], str(tmp_path / "scene"))
    small = utils.read_image(tmp_path / "scene" / "1.jpg")
    assert (small.shape, small.dtype) == ((20, 1200), np.uint8)


def test_only_listed_folders_are_cloned(tmp_path, capfd):
    """From a repository on this disk; one that is not there costs its own scenes alone."""
    origin = tmp_path / "hub" / "a" / "b"
    write_row(origin / "some pictures", range(2))
    write_row(origin / "others", range(1))
    write_row(origin / "some pictures" / "below", range(1))
    write_row(origin / "some pictures" / "deep" / "listed", range(5, 6))
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    rows = [("train", 5, "a/b", "some pictures")] * 2
    rows += [("val", 5, "a/b", "some pictures/deep/listed"), ("val", 2, "a/none", "x")]
    sources = collect.read_sources(write_sources(tmp_path / "sources.tsv", rows))
    clones = tmp_path / "clones"
    with pytest.warns(UserWarning, match="a/none: "):
        collect.clone(sources, str(clones), host=(tmp_path / "hub").as_uri())
    assert os.listdir(clones / "a") == ["b"]
    assert not (clones / "a" / "b" / "others").exists()
    assert not (clones / "a" / "b" / "some pictures" / "below").exists()
    assert run(tmp_path, rows) == 1
    captured = capfd.readouterr()
    assert captured.out == "train: 2 scenes, val: 1 scenes\n1 of 3 sources gave none\n"
    assert "collect.py: " in captured.err
    assert "No such file" in captured.err


def test_the_table_of_the_weights():
    sources = collect.read_sources(collect.CollectOptions().parse([]).sources)
    assert sum(source.train for source in sources) == 355
    assert sum(source.val for source in sources) == 24
    assert len({(source.repository, source.path) for source in sources}) == len(sources)
    assert all(2 <= source.exposures <= 5 for source in sources)


def test_what_is_no_table(tmp_path, capfd):
    path = tmp_path / "sources.tsv"
    path.write_text("a\tb\n1\t2\n")
    assert collect.main(["--sources", str(path), "--quiet"]) == 2
    assert capfd.readouterr().err.startswith(f"collect.py: {path}: no table of sources: ")
    assert collect.main(["--sources", str(tmp_path / "none"), "--quiet"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("repository", "path"),
    [("../../x", "a"), ("owner/name", "../../y"), ("/etc", "."), ("a/b", "/")],
)
def test_a_table_leads_nowhere_else(tmp_path, capfd, repository, path):
    table = tmp_path / "sources.tsv"
    columns = "folder\tscene\texposures\trepository\tpath\tlicence as stated"
    table.write_text(f"{columns}\nbrackets/train\tt1\t3\t{repository}\t{path}\tnone\n")
    assert collect.main(["--sources", str(table), "--quiet"]) == 2
    assert "leads out of the folder" in capfd.readouterr().err
