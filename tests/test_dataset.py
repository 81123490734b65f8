"""Crops from folders of brackets."""

import os
import shutil
import warnings

import cv2
import numpy as np
import pytest
import torch
from conftest import write_bracket
from torch.utils.data import DataLoader

import utils
from brackets import find_brackets, find_scenes
from dataset import MAX_STACK, BracketedDataset, Draws, EpochBatches, degraded, make_loader


def make(folder, tmp_path, **options):
    drawn = {name: options.pop(name) for name in list(options) if name in Draws._fields}
    cache = str(tmp_path / "cache")
    return BracketedDataset(
        folder, cache=cache, draws=Draws(**drawn), **{"crop_size": 64, **options}
    )


def test_items_are_ycbcr_crops(brackets, tmp_path):
    dataset = make(brackets, tmp_path)
    assert len(dataset) == 3
    for item in range(9):
        under, over = dataset[item]
        for crop in (under, over):
            assert crop.shape == (3, 64, 64)
            assert crop.dtype == torch.float32
            assert crop.min() >= 0
            assert crop.max() <= 1
        assert under[0].mean() < over[0].mean()


def test_crops_are_aligned_and_turned_together(tmp_path):
    """A scene whose pixels say where they are, in both exposures."""
    i, j = np.mgrid[:80, :100].astype(np.uint8)
    folder = tmp_path / "data" / "scene"
    folder.mkdir(parents=True)
    for name, blue in (("1.png", 0), ("2.png", 255)):
        image = np.stack([i, j, np.full_like(i, blue)], axis=-1)
        utils.write_image(str(folder / name), image)
    dataset = make(tmp_path / "data", tmp_path, crop_size=50)
    orientations, corners = set(), set()
    for item in range(60):
        crops = [
            utils.from_ycbcr(crop[None].numpy(), np.uint8).astype(int) for crop in dataset[item]
        ]
        assert np.array_equal(crops[0][..., :2], crops[1][..., :2])
        assert (crops[0][..., 2] == 0).all()
        assert (crops[1][..., 2] == 255).all()
        rows, columns = crops[0][..., 0], crops[0][..., 1]
        assert (np.ptp(rows), np.ptp(columns)) == (49, 49)
        steps = [values[1, 0] - values[0, 0] for values in (rows, columns)]
        orientations.add((*steps, rows[0, 1] - rows[0, 0], columns[0, 1] - columns[0, 0]))
        corners.add((rows.min(), columns.min()))
    assert len(orientations) == 8  # flips times quarter turns
    assert len(corners) > 40


def test_under_and_over_are_split_at_the_scenes_mean(tmp_path):
    folder = tmp_path / "data" / "scene"
    folder.mkdir(parents=True)
    # Mean 110: three pictures below it, two above, in no order of names.
    for name, level in enumerate((200, 20, 90, 40, 200)):
        utils.write_image(str(folder / f"{name}.png"), np.full((50, 50), level, np.uint8))
    dataset = make(tmp_path / "data", tmp_path, crop_size=50)
    pairs = {tuple(round(float(c[0, 0, 0]) * 255) for c in dataset[i]) for i in range(40)}
    assert pairs == {(20, 200), (90, 200), (40, 200)}


def test_crops_depend_on_seed_epoch_and_scene_alone(brackets, tmp_path):
    first, again = (make(brackets, tmp_path, seed=5) for _ in range(2))
    backwards = {item: again[item] for item in reversed(range(6))}
    for item in range(6):
        torch.manual_seed(item)
        assert all(map(torch.equal, first[item], backwards[item]))
    assert not torch.equal(first[0][0], first[3][0])  # another epoch
    assert not torch.equal(first[0][0], make(brackets, tmp_path, seed=6)[0][0])


def test_drawing_leaves_the_random_state_alone(brackets, tmp_path):
    dataset = make(brackets, tmp_path)
    before = torch.get_rng_state()
    dataset[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_crops(brackets, tmp_path, method):
    dataset = make(brackets, tmp_path)
    alone = list(DataLoader(dataset, batch_size=2, num_workers=0))
    shared = list(DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=method))
    assert len(alone) == len(shared) == 2
    for one, other in zip(alone, shared, strict=True):
        assert all(map(torch.equal, one, other))


def test_scenes_are_decoded_once(brackets, tmp_path):
    dataset = make(brackets, tmp_path)
    cache = tmp_path / "cache"
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(files) == 3
    again = make(brackets, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    assert torch.equal(dataset[0][0], again[0][0])


@pytest.mark.parametrize("kept", [0, 10, 20000])
def test_a_damaged_cache_is_made_anew(brackets, tmp_path, kept):
    before = make(brackets, tmp_path)[0]
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:kept])
    assert all(map(torch.equal, make(brackets, tmp_path)[0], before))


@pytest.mark.parametrize("copies", [3, 7])
def test_copies_of_one_picture_are_no_bracket(tmp_path, copies):
    for seed in range(12):  # a mean of equal numbers rounds to another number, now and then
        write_bracket(tmp_path / "data" / f"scene{seed}", 50, 50, seed, gains=(1,) * copies)
    with (
        pytest.warns(UserWarning, match="equally bright"),
        pytest.raises(ValueError, match="no scene in it can be used"),
    ):
        make(tmp_path / "data", tmp_path, crop_size=48)


def test_changed_pictures_are_decoded_again(brackets, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brackets, folder)
    before = make(folder, tmp_path)[0]
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        path = str(folder / "scene1" / name)
        utils.write_image(path, 255 - utils.read_image(path))
    assert not torch.equal(make(folder, tmp_path)[0][0], before[0])


def test_scenes_smaller_than_the_crop_are_enlarged(brackets, tmp_path):
    dataset = make(brackets, tmp_path, crop_size=96)
    for item in range(3):  # the sides of one are 70 pixels, of one 80
        under, over = dataset[item]
        assert under.shape == over.shape == (3, 96, 96)
    with pytest.raises(ValueError, match="crops of 97 pixels are larger than all scenes"):
        make(brackets, tmp_path, crop_size=97)


def test_fingerprint_tells_what_changed(brackets, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brackets, folder)
    first = make([folder, brackets], tmp_path).fingerprint()
    assert list(first) == [
        "scene1",
        "scene2",
        "scene10",
        "scene1 (2)",
        "scene2 (2)",
        "scene10 (2)",
    ]
    assert first["scene1"] == first["scene1 (2)"]
    assert first["scene10"].startswith("2 of 150x80, ")
    shutil.copy(folder / "scene2" / "1.png", folder / "scene2" / "2.png")
    second = make([folder, brackets], tmp_path).fingerprint()
    assert [name for name in first if first[name] != second[name]] == ["scene2"]


def test_pixels_that_are_not_numbers_are_refused(brackets, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brackets, folder)
    image = np.full((96, 120, 3), 0.5, np.float32)
    utils.write_image(str(folder / "scene2" / "2.tif"), image)
    image[3, 4] = np.nan
    cv2.imwrite(str(folder / "scene2" / "2.tif"), image)
    with pytest.raises(ValueError, match=r"2\.tif: has pixels that are not finite numbers"):
        make(folder, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_picture_of_floats_costs_its_scene_only(brackets, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brackets, folder)
    path = folder / "scene2" / "4.tif"
    utils.write_image(str(path), np.full((96, 120, 3), 0.5, np.float32))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.warns(UserWarning, match=r"scene2: skipped, .*4\.tif: "):
        assert len(make(folder, tmp_path)) == 2


def test_several_folders(brackets, tmp_path):
    write_bracket(tmp_path / "more" / "scene1", seed=9)
    assert len(make([brackets, tmp_path / "more"], tmp_path)) == 4


def test_16_bit_and_grey_scenes(tmp_path):
    folder = tmp_path / "data" / "scene"
    folder.mkdir(parents=True)
    for name, level in enumerate((10000, 50000)):
        utils.write_image(str(folder / f"{name}.png"), np.full((50, 50), level, np.uint16))
    under, over = make(tmp_path / "data", tmp_path, crop_size=50)[0]
    assert under[0].mean().item() == pytest.approx(10000 / 65535, abs=0.5 / 255)
    assert over[1].mean().item() == pytest.approx(0.5, abs=1e-6)


def test_scenes_that_cannot_be_used_are_named_and_skipped(brackets, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brackets, folder)
    write_bracket(folder / "single", gains=(1,))
    write_bracket(folder / "damaged")
    (folder / "damaged" / "2.png").write_bytes(b"\x89PNG")
    write_bracket(folder / "sizes")
    utils.write_image(str(folder / "sizes" / "2.png"), np.zeros((9, 9, 3), np.uint8))
    write_bracket(folder / "equal", gains=(1,) * 3)
    write_bracket(folder / "link")
    (folder / "link" / "9.png").symlink_to(tmp_path / "nowhere")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("not a scene")
    with pytest.warns(UserWarning, match="skipped") as caught:
        dataset = make(folder, tmp_path)
    assert len(dataset) == 3
    messages = sorted(str(warning.message) for warning in caught)
    for message, (scene, reason) in zip(
        messages,
        [
            ("damaged", "2.png: not a picture"),
            ("equal", "equally bright"),
            ("link", "No such file"),
            ("single", "one picture only"),
            ("sizes", "differ in size: 9x9, 120x96"),
        ],
        strict=True,
    ):
        assert message.startswith(f"{folder / scene}: skipped, ")
        assert reason in message


def test_no_usable_scene_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no sub-folder with pictures"):
        make(tmp_path / "empty", tmp_path)
    write_bracket(tmp_path / "data" / "single", gains=(1,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="no scene in it can be used"):
            make(tmp_path / "data", tmp_path)
    with pytest.raises(FileNotFoundError):
        make(tmp_path / "none", tmp_path)


def test_natural_order(brackets):
    names = [os.path.basename(folder) for folder, _ in find_scenes(brackets)]
    assert names == ["scene1", "scene2", "scene10"]


def names(files):
    return [os.path.basename(file) for file in files]


def test_pairs_are_first_and_last(tmp_path):
    write_bracket(tmp_path / "scene", gains=(0.1,) * 11)
    write_bracket(tmp_path / "single", gains=(1,))
    (tmp_path / "scene" / "notes.txt").write_text("not a picture")
    ((_, pair),) = find_brackets(tmp_path).items()
    assert names(pair) == ["1.png", "11.png"]
    ((_, stack),) = find_brackets(tmp_path, whole=True).items()
    assert names(stack) == [f"{number}.png" for number in range(1, 12)]
    shutil.rmtree(tmp_path / "scene")
    with pytest.raises(ValueError, match="no scene in it has two pictures"):
        find_brackets(tmp_path)


@pytest.mark.parametrize("whole", [False, True])
def test_pairs_in_the_layout_of_mefb(tmp_path, whole):
    folder = tmp_path / "Belgium House"
    folder.mkdir()
    for name in ("belgium house_B.JPG", "Belgium house_a.png", "0.png", "Belgium House_C.png"):
        (folder / name).touch()
    ((_, pair),) = find_brackets(tmp_path, whole).items()
    assert names(pair) == ["Belgium house_a.png", "belgium house_B.JPG"]
    (folder / "Belgium House_b.png").touch()  # two that could be B: an ordinary folder
    ((_, files),) = find_brackets(tmp_path, whole).items()
    assert len(files) == (5 if whole else 2)


def levels_scene(tmp_path, levels):
    """A dataset of one scene of flat pictures, so that a crop's level tells its exposure."""
    folder = tmp_path / "data" / "scene"
    folder.mkdir(parents=True)
    for number, level in enumerate(levels):
        utils.write_image(str(folder / f"{number}.png"), np.full((60, 60), level, np.uint8))

    def draws(count=300, **options):
        dataset = make(tmp_path / "data", tmp_path, crop_size=50, **options)
        return [(dataset[i][:, 0, 25, 25] * 255).round().int().tolist() for i in range(count)]

    return draws


def test_extreme_pairs(tmp_path):
    draws = levels_scene(tmp_path, (90, 20, 200, 40, 230))
    assert {tuple(draw) for draw in draws(pairs="extreme")} == {(20, 230)}
    with pytest.raises(ValueError, match="pairs must be"):
        draws(pairs="Any")


def test_stacks(tmp_path):
    """Their share, their lengths, no exposure twice, dark to bright; nothing lost of the pairs."""
    every = [10 * k for k in range(1, 10)]
    draws = levels_scene(tmp_path, every[::-1])(stacks=0.5)
    assert all(draw == sorted(set(draw)) for draw in draws)
    lengths = [len(draw) for draw in draws]
    # The share's standard deviation is 0.03.
    assert 0.4 < np.mean([length > 2 for length in lengths]) < 0.6
    assert set(lengths) == set(range(2, MAX_STACK + 1))
    assert {level for draw in draws for level in draw if len(draw) > 2} == set(every)
    assert all(draw[0] <= 50 < draw[1] for draw in draws if len(draw) == 2)


def test_stacks_of_scenes_that_have_two_pictures_are_pairs(tmp_path):
    draws = levels_scene(tmp_path, (40, 200))
    assert draws(stacks=1.0) == [[40, 200]] * 300


def test_far_pairs_are_extreme_in_half_of_the_draws(tmp_path):
    every = (20, 40, 90, 200, 230)
    draws = levels_scene(tmp_path, every)(pairs="far")
    # Any pair is the extreme one in a sixth of the draws; the deviation of the share is 0.03.
    assert 0.48 < np.mean([draw == [20, 230] for draw in draws]) < 0.69
    assert {level for draw in draws for level in draw} == set(every)


def test_degraded_exposures_are_the_outer_ones(brackets, tmp_path):
    """The teacher between them is as the camera took it, and every draw can be repeated."""
    options = {"exposures": 3, "pairs": "extreme", "batch_size": 1}
    with pytest.warns(UserWarning, match="scene10"):
        plain, degraded, again = (
            make(brackets, tmp_path, degrade=degrade, **options) for degrade in (False, True, True)
        )
    for item in range(4):
        seen, expected = degraded[item], plain[item]
        assert torch.equal(seen[1], expected[1])
        assert torch.equal(seen, again[item])
        for k in (0, 2):
            difference = (seen[k] - expected[k]).abs()
            assert 0 < difference.mean() < 0.1


def test_degraded_pictures_are_noisier_where_they_are_dark():
    rng = np.random.default_rng(3)
    dark, bright = (np.full((64, 64, 3), level, np.uint8) for level in (30, 220))
    spread = [
        np.mean([degraded(image, rng).astype(float).std() for _ in range(40)])
        for image in (dark, bright)
    ]
    assert spread[0] > 1.5 * spread[1] > 0
    edge = np.full((40, 40, 3), 40, np.uint8)
    edge[:, 20:] = 200
    moved = [degraded(edge, rng)[:, :, 1].mean() for _ in range(60)]
    # A pixel of 40 is 2.5 % of the width: at most 4 levels of the mean, and some noise.
    assert 0.5 < np.std(moved) < 4


@pytest.mark.parametrize("pairs", ["any", "extreme"])
def test_draws_of_three_and_more(tmp_path, pairs):
    """For exposures between: all of three or, in a share of the draws, more."""
    every = [10, 40, 90, 140, 200]
    options = {"exposures": 3, "pairs": pairs, "batch_size": 1}
    draws = [tuple(draw) for draw in levels_scene(tmp_path, every)(stacks=0.25, **options)]
    lengths = [len(draw) for draw in draws]
    assert set(lengths) == {3, 4, 5}
    assert 0.15 < np.mean(np.array(lengths) > 3) < 0.35
    assert all(list(draw) == sorted(set(draw)) for draw in draws)
    extreme = {draw for draw in draws if len(draw) == 3 and (draw[0], draw[-1]) == (10, 200)}
    assert {draw[1] for draw in extreme} == {40, 90, 140}
    assert (len({draw for draw in draws if len(draw) == 3}) == 3) == (pairs == "extreme")


def test_scenes_of_too_few_exposures_are_left_out(brackets, tmp_path):
    with pytest.warns(UserWarning, match="scene10: skipped, it has 2 pictures only"):
        assert len(make(brackets, tmp_path, exposures=3, batch_size=1)) == 2


def test_zoom_shows_more_of_the_scene(tmp_path):
    """On a ramp, the range of a crop's values is the width of the area that it shows."""
    folder = tmp_path / "data" / "scene"
    folder.mkdir(parents=True)
    ramp = np.broadcast_to(np.arange(220, dtype=np.uint8)[:, None] // 2, (220, 300))
    for name, light in (("1.png", 0), ("2.png", 100)):
        utils.write_image(str(folder / name), ramp + np.uint8(light))
    dataset = make(tmp_path / "data", tmp_path, crop_size=50, zoom=4.0)
    spans = []
    for item in range(200):
        crop = dataset[item][0, 0] * 255 * 2
        spans.append(float(crop.max() - crop.min() + 2))
    assert min(spans) < 60
    # An area of up to 200 pixels; reducing averages the outermost four.
    assert 180 < max(spans) < 205


def test_gamma_is_common_to_the_exposures(tmp_path):
    draws = levels_scene(tmp_path, (51, 204))(gamma=2.0)
    powers = [np.log(np.array(draw) / 255) / np.log([0.2, 0.8]) for draw in draws]
    # Half a level of rounding moves the dark one by 0.03, the bright one by 0.014.
    assert all(abs(one - other) < 0.05 for one, other in powers)
    assert 0.47 < min(power[0] for power in powers) < 0.6
    assert 1.8 < max(power[0] for power in powers) < 2.03


def test_widen_moves_the_outer_exposures_apart(tmp_path):
    """Two stops are a factor of 2^(2/2.2) = 1.88 in levels; what lies between is left alone."""
    make_draws = levels_scene(tmp_path, (40, 100, 180))
    outer = make_draws(widen=2.0, pairs="extreme")
    darks, brights = zip(*outer, strict=True)
    assert 21 <= min(darks) < 24
    assert 37 < max(darks) <= 40
    assert 180 <= min(brights) < 190
    assert max(brights) == 255
    stacks = [draw for draw in make_draws(widen=2.0, stacks=1.0) if len(draw) == 3]
    assert {draw[1] for draw in stacks} == {100}


def test_an_epoch_can_draw_more_than_once_of_a_scene(brackets, tmp_path):
    dataset = make(brackets, tmp_path, crop_size=48, each=3, batch_size=9)
    count = len(dataset.scenes)
    assert len(dataset) == 3 * count
    same_scene = [dataset[0], dataset[count], dataset[2 * count], dataset[3 * count]]
    pictures = {tuple(crop.flatten().tolist()) for crop in same_scene}
    assert len(pictures) == 4  # The last is of the second epoch.
    with pytest.raises(ValueError, match=f"a batch needs {count + 1} scenes"):
        make(brackets, tmp_path, crop_size=48, each=3, batch_size=3 * count + 1)


@pytest.mark.slow
def test_spawned_workers(brackets, tmp_path):
    dataset = make(brackets, tmp_path, crop_size=48)
    batches = EpochBatches(len(dataset), batch_size=2, epochs=2, seed=0)
    loader = make_loader(dataset, batches, workers=2, start_method="spawn")
    sizes = [len(pairs) for (pairs,) in loader]
    assert sizes == [2, 1, 2, 1]


def test_batches_hold_every_scene_once_an_epoch_in_any_number_of_processes():
    whole = list(EpochBatches(10, batch_size=4, epochs=2, seed=3))
    assert [len(batch) for batch in whole] == [4, 4, 2] * 2
    first, second = ([item for batch in part for item in batch] for part in (whole[:3], whole[3:]))
    assert sorted(first) == list(range(10))
    assert sorted(second) == list(range(10, 20))
    assert [item - 10 for item in second] != first
    halves = [EpochBatches(10, 2, 2, 3, rank=rank, count=2) for rank in (0, 1)]
    assert [one + other for one, other in zip(*halves, strict=True)] == whole
    assert list(EpochBatches(10, 4, 2, 3, start=(0, 2))) == whole[2:]
    assert list(EpochBatches(10, 4, 2, 3, start=(1, 1))) == whole[4:]
    assert list(EpochBatches(10, 4, 2, 4)) != whole
