"""inference.py on folders of brackets: names, processes, signals, failures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import (
    ROOT,
    fuse_files,
    fuse_folder,
    network_of,
    run,
    write_bracket,
)

import fusion
import grouping
import inference
import opts
import photos
import utils
from brackets import find_pictures


def test_a_steady_folder_is_one_sequence(tmp_path, files, brackets, monkeypatch):
    seen = []
    fuse = fusion.fuse

    def watched(network, images, options, out):
        seen.append(options.steady)
        return fuse(network, images, options, out)

    monkeypatch.setattr(fusion, "fuse", watched)
    files["--model"] = opts.BETWEEN
    flags = ["--look", "photo", "--name", "{scene}.png"]
    assert fuse_folder(files, brackets, tmp_path / "steady", *flags, "--steady") == 0
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2] is not None


def test_a_folder_of_scenes(brackets, tmp_path, files, capfd):
    results = tmp_path / "results"
    assert fuse_folder(files, brackets, results, "--name", "{scene}.png", "--preview") == 0
    assert capfd.readouterr().err == "inference.py: 3 brackets fused\n"
    scenes = sorted(os.listdir(brackets))
    assert sorted(os.listdir(results)) == sorted(
        name for scene in scenes for name in (f"{scene}.png", f"{scene}_preview.jpg")
    )
    for scene in scenes:
        images = [utils.read_image(path) for path in find_pictures(brackets / scene)]
        fused = utils.read_image(str(results / f"{scene}.png"))
        assert np.array_equal(fused, fusion.fuse(network_of(files), images))


def test_failed_scenes_are_named_and_the_others_fused(tmp_path, files, capfd):
    folder, results = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("a", "b", "c", "d"):
        write_bracket(folder / name)
    (folder / "b" / "2.png").write_bytes(b"damaged")
    for number in (1, 2):
        (folder / "c" / f"{number}.png").unlink()
    assert fuse_folder(files, folder, results, "--quiet") == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "b_fused.jpg: not made: " in lines[0]
    assert "2.png" in lines[0]
    assert lines[1] == "inference.py: 2 brackets fused, 1 failed, 1 single photo left alone"
    assert sorted(os.listdir(results)) == ["a_fused.jpg", "d_fused.jpg"]
    # Again, with what was wrong mended: the folder of results is no scene, and what is there stays.
    write_bracket(folder / "e")
    shutil.copy(folder / "a" / "2.png", folder / "b" / "2.png")
    before = (results / "a_fused.jpg").stat().st_mtime_ns
    shutil.rmtree(folder / "c")
    assert fuse_folder(files, folder, results, "--quiet", "--skip_existing") == 0
    assert not capfd.readouterr().err
    assert sorted(os.listdir(results)) == [f"{name}_fused.jpg" for name in "abde"]
    assert (results / "a_fused.jpg").stat().st_mtime_ns == before


def test_several_processes_make_the_same_results(tmp_path, files, capfd):
    folder = tmp_path / "in"
    for number in range(5):
        write_bracket(folder / str(number), gains=(0.3 + 0.1 * number, 1.0, 8.0))
    (folder / "3" / "2.png").write_bytes(b"damaged")
    files["--model"] = opts.BETWEEN
    flags = ["--look", "photo", "--name", "{scene}.png", "--quiet"]
    for jobs in ("1", "2"):
        assert fuse_folder(files, folder, tmp_path / jobs, *flags, "--jobs", jobs) == 1
        lines = capfd.readouterr().err.splitlines()
        assert "3.png: not made: " in lines[0]
        assert "2.png" in lines[0]
        assert lines[1:] == ["inference.py: 4 brackets fused, 1 failed"]
    names = sorted(os.listdir(tmp_path / "1"))
    assert names == sorted(os.listdir(tmp_path / "2")) == ["0.png", "1.png", "2.png", "4.png"]
    for name in names:
        one, other = (utils.read_image(str(tmp_path / jobs / name)).astype(int) for jobs in "12")
        assert np.abs(one - other).max() <= 1  # Sums may be rounded in another order.


def test_several_processes_without_a_network(brackets, tmp_path, files, capfd):
    missing = {**files, "--model": "none.pth"}
    assert fuse_folder(missing, brackets, tmp_path / "out", "--jobs", "2", "--quiet") == 2
    assert capfd.readouterr().err == "inference.py: none.pth: No such file or directory\n"


def ends(group):
    """Returns True once no process of a group is left, False after a while."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(os.name == "nt", reason="signals are others on Windows")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_stop_all_processes(tmp_path, files, number, status):
    """Ctrl-C reaches all processes of a terminal; the others, only the one that was started."""
    folder, results = tmp_path / "in", tmp_path / "out"
    write_bracket(folder / "0", 300, 400, gains=(0.3, 1.0, 8.0))
    for scene in range(1, 60):
        shutil.copytree(folder / "0", folder / str(scene))
    command = [sys.executable, str(ROOT / "inference.py"), "--model", files["--model"]]
    command += ["--folder", str(folder), "--res", str(results), "--jobs", "2", "--device", "cpu"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        end = time.monotonic() + 60
        while not list(results.glob("*_fused.jpg")) and time.monotonic() < end:
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(20) == status
        assert ends(process.pid)
        assert "Traceback" not in process.stderr.read()
    fused = [name for name in os.listdir(results) if name.endswith("_fused.jpg")]
    assert 0 < len(fused) < 60
    assert fused == os.listdir(results)
    for name in fused:
        assert utils.read_image(str(results / name)).shape == (300, 400, 3)


def test_processes_are_as_many_as_cores_and_memory_allow(brackets, tmp_path, files, monkeypatch):
    options = ["--folder", str(brackets), "--model", files["--model"], "--align"]
    recipe = photos.recipe_of(opts.TestOptions().parse(options))
    scenes = [(find_pictures(brackets / scene), scene) for scene in os.listdir(brackets)]
    largest = max(scenes, key=lambda scene: len(scene[0]))[0]
    needed = photos.needed_memory(largest, photos.known_headers(largest), recipe)
    for cores, free, count, expected in [
        (4, None, 12, 4),
        (16, None, 60, inference.BLIND),
        (4, needed * 3 + recipe.rest(len(largest)) + 1e6, 12, 3),
        (4, needed * 0.5, 12, 1),
        (16, None, 7, 2),
        (16, None, 2, 1),
        (1, None, 12, 1),
    ]:
        monkeypatch.setattr(inference, "usable_cores", lambda cores=cores: cores)
        monkeypatch.setattr(inference, "available_memory", lambda free=free: free)
        work = (scenes * 30)[:count]
        assert inference.possible_jobs(work, recipe, "cpu") == expected
    assert inference.possible_jobs(scenes * 12, recipe, "cuda:0") == 1
    monkeypatch.setattr(inference, "usable_cores", lambda: 2)
    monkeypatch.setattr(inference, "available_memory", lambda: 0)
    missing = [(["none.jpg"], "none")] * 6  # Reading them will say so.
    assert inference.possible_jobs(missing, recipe, "cpu") == 2


def test_photos_of_one_folder_in_groups(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder, extension=".jpg", gains=(0.3, 1.0, 8.0, 0.31, 1.01, 8.1))
    assert fuse_folder(files, folder, tmp_path / "out") == 2
    err = capfd.readouterr().err
    assert "1.jpg: does not say when and how it was exposed; --group N" in err
    assert fuse_folder(files, folder, tmp_path / "out", "--group", "3", "--quiet") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["1_fused.jpg", "4_fused.jpg"]


def test_results_never_overwrite_photos(tmp_path, files, capfd):
    folder = tmp_path / "card"
    paths = write_bracket(folder, extension=".jpg", gains=(0.3, 8.0))
    before = [path.read_bytes() for path in paths]
    flags = ["--group", "2", "--name", "{scene}.jpg", "--quiet"]
    assert fuse_folder(files, folder, folder, *flags) == 2
    assert "need a folder other than that of the photos" in capfd.readouterr().err
    (tmp_path / "link").symlink_to(folder)
    assert fuse_folder(files, folder, tmp_path / "link", *flags) == 2
    assert [path.read_bytes() for path in paths] == before


def test_a_photo_is_no_result_of_its_own(files, capfd):
    before = Path(files["--image1"]).read_bytes()
    files["--res"] = files["--image1"]
    assert run(files) == 2
    assert capfd.readouterr().err == f"inference.py: {files['--res']}: is one of the photos\n"
    assert Path(files["--image1"]).read_bytes() == before


def test_what_a_killed_process_leaves_is_removed(tmp_path, capfd):
    kept = ["a1.jpg.tmp77", "a[1].jpg.tmp_mine"]
    for name in ("a[1].jpg.tmp77_1", "a[1]_preview.jpg.tmp77_5", *kept):
        (tmp_path / name).touch()
    task = (["1.jpg", "2.jpg"], str(tmp_path / "a[1].jpg"))
    fused = (done for done in [(task, ChildProcessError("its process ended"))])
    card = grouping.Card({}, [], {}, [])
    assert inference.finish_folder(fused, 1, card, bar=False) == 1
    assert "a[1].jpg: not made: its process ended" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == kept


def test_what_cannot_be_read_costs_no_other_bracket(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder / "scene")
    (folder / "1.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "2.jpg").touch()
    (folder / "3.jpg").mkdir()
    assert fuse_folder(files, folder, tmp_path / "out") == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("1.jpg: No such file or directory")
    assert lines[1].endswith("2.jpg: not a picture that can be read, or damaged or cut short")
    assert lines[2] == "inference.py: 1 bracket fused, 2 files not read"
    assert os.listdir(tmp_path / "out") == ["scene_fused.jpg"]


def test_what_cannot_be_grouped_is_named_and_the_rest_fused(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder / "scene")
    shutil.copy(folder / "scene" / "1.png", folder / "index.png")
    assert fuse_folder(files, folder, tmp_path / "out", "--quiet") == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "index.png: does not say when" in lines[0]
    assert os.listdir(tmp_path / "out") == ["scene_fused.jpg"]


def test_brackets_of_one_name_are_refused(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder, gains=(0.3, 8.0))
    for number in (1, 2):
        image = utils.read_image(str(folder / f"{number}.png"))
        utils.write_image(str(folder / f"{number}.tif"), image)
    assert fuse_folder(files, folder, tmp_path / "out", "--group", "2", "--quiet") == 0
    write_bracket(folder / "1", gains=(0.4, 7.0))
    assert fuse_folder(files, folder, tmp_path / "out", "--group", "2") == 2
    assert "two brackets have the name 1" in capfd.readouterr().err


def test_folders_whose_results_cannot_be_stored(tmp_path, files, capfd):
    """Known from the headers of one scene, before a picture is decoded or the network is loaded."""
    folder, results = tmp_path / "in", tmp_path / "out"
    write_bracket(folder / "colours")
    for path in write_bracket(folder / "grey"):
        utils.write_image(str(path), utils.read_image(str(path))[..., 1])
    missing = {**files, "--model": "none.pth"}
    assert fuse_folder(missing, folder, results, "--name", "{scene}.ppm") == 2
    result = os.path.join(results, "grey.ppm")
    reason = "grey pictures cannot be stored as .ppm; try .png, .jpg or .tif"
    assert capfd.readouterr().err == f"inference.py: {result}: {reason}\n"
    assert not os.path.exists(results)
    results.mkdir()
    assert fuse_folder(missing, folder, results) == 2
    assert os.listdir(results) == []  # It was there before.
    assert fuse_folder(files, folder, results, "--name", "{scene}.pnm", "--quiet") == 0
    assert sorted(os.listdir(results)) == ["colours.pnm", "grey.pnm"]


def test_panels_of_a_folder_need_pairs(brackets, tmp_path, files, capfd):
    assert fuse_folder(files, brackets, tmp_path / "out", "--panel", "--quiet") == 1
    lines = capfd.readouterr().err.splitlines()
    assert sum("--panel is for two exposures, not 3" in line for line in lines) == 2
    assert os.listdir(tmp_path / "out") == ["scene10_fused.jpg"]


def test_floats_are_checked_before_they_are_aligned(tmp_path, files, pair, capfd):
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path, image in zip(paths, pair, strict=True):
        cv2.imwrite(str(path), image.astype(np.float32) / 128)
    assert fuse_files(files, paths, "--align") == 2
    assert "float pictures must lie in [0, 1]" in capfd.readouterr().err


def test_an_empty_name_is_refused(capfd):
    """As an unset variable of a shell gives it."""
    for flags in (["--folder", ""], ["--images", "a.png", ""], ["--describe", "--model", ""]):
        with pytest.raises(SystemExit) as caught:
            inference.main(flags)
        assert caught.value.code == 2
        assert " is empty (--help" in capfd.readouterr().err


def test_a_result_that_is_there_has_its_preview(tmp_path, files):
    """Otherwise, --skip_existing would take the scene for done."""
    result, path = np.zeros((5, 6, 3), np.uint8), tmp_path / "a.png"
    tall = np.zeros((70_000, 1, 3), np.uint8)
    with pytest.raises(ValueError, match=r"a_preview\.jpg"):
        photos.write_result(str(path), result, None, {}, 95, tall, None)
    assert not path.exists()
    write_bracket(tmp_path / "in" / "a")
    for flags in ([], ["--preview"]):
        flags += ["--quiet", "--skip_existing"]
        assert fuse_folder(files, tmp_path / "in", tmp_path / "out", *flags) == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["a_fused.jpg", "a_fused_preview.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
def test_previews_of_names_in_another_code(tmp_path, files):
    image = os.fsencode(tmp_path) + b"/d\xe9.png"
    shutil.copy(files["--image1"], image)
    files["--image1"] = os.fsdecode(image)
    assert run(files, "--preview") == 0


def test_hidden_folders_are_no_brackets(tmp_path, files):
    for name in ("a", ".thumbs"):
        write_bracket(tmp_path / "in" / name)
    assert fuse_folder(files, tmp_path / "in", tmp_path / "out", "--quiet") == 0
    assert os.listdir(tmp_path / "out") == ["a_fused.jpg"]


def test_a_folder_says_how_many_scenes_it_had(brackets, tmp_path, files, capfd):
    for flags in (["--verbose"], ["--quiet"]):
        assert fuse_folder(files, brackets, tmp_path / "out", *flags) == 0
        captured = capfd.readouterr()
        assert captured.out == ""
        for text in (
            "inference.py: 3 brackets fused\n",
            "scene2_fused.jpg: fused from 1.png, 2.png, 3.png\n",
        ):
            assert (text in captured.err) == (flags == ["--verbose"])
