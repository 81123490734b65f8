"""How exactly are hand-held exposures registered, and how much is left of what moved?

Real brackets, taken from a tripod, are moved by known amounts and registered by align.py, OpenCV's
AlignMTB and, where it is installed, hugin's align_image_stack; then the darkest and the brightest
exposure alone. Then an object is pasted into one exposure of every bracket, and ghosts.deghost
takes it out again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import align
import fusion
import ghosts
import model
import utils
from brackets import find_brackets
from checkpoint import load_model
from opts import WEIGHTS
from scores import mefb_score

PLACES = ("another", "the middle", "the darker of two", "the brighter of two")  # of the object


def known_motion(shape, rng):
    """Returns the homography of a random hand movement between two shots.

    It moves by at most 3 % of the width, turns by at most 2 degrees, and enlarges by at most 1 %
    from the centre to the edge. shape: (H, W).
    """
    height, width = shape
    angle = np.radians(rng.uniform(-2, 2))
    shift = rng.uniform(-0.03, 0.03, 2) * width
    tilt = rng.uniform(-0.02, 0.02, 2) / width
    centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1.0]])
    cos, sin = np.cos(angle), np.sin(angle)
    motion = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [*tilt, 1]])
    return centre @ motion @ np.linalg.inv(centre)


def move(image, homography):
    """Returns a picture resampled by a homography from its pixels to those of `image`."""
    return cv2.warpPerspective(
        image, homography, image.shape[1::-1], flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    )


def by_align(images, reference, _):
    """Registers by align.py; returns a function that finds a point in each exposure."""
    found = align.register_all(images, reference)
    for outcome in found:
        if isinstance(outcome, str):
            raise ValueError(outcome)
    return [lambda points, h=r.homography: align.project(h, points) for r in found]


def by_mtb(images, reference, _):
    """Registers by OpenCV's median threshold bitmaps, which find shifts alone."""
    mtb = cv2.createAlignMTB()
    grey = [utils.as_grey(image) for image in images]
    shifts = [mtb.calculateShift(grey[reference], other) for other in grey]
    # OpenCV gives the shift that brings the other picture to the reference.
    return [lambda points, s=shift: points - s for shift in shifts]


def by_hugin(images, reference, folder):
    """Registers by align_image_stack, which matches neighbours in brightness pair by pair."""
    names = [os.path.join(folder, f"{k}.png") for k in range(len(images))]
    for name, image in zip(names, images, strict=True):
        utils.write_image(name, image)
    project = os.path.join(folder, "project.pto")
    command = ["align_image_stack", "-p", project, "-m", "-i", "-f", "50", *names]
    subprocess.run(command, capture_output=True, check=True)

    def panorama(k, points, *flags):
        lines = "\n".join(f"{k} {x} {y}" for x, y in points)
        done = subprocess.run(
            ["pano_trafo", *flags, project], input=lines, capture_output=True, text=True, check=True
        )
        return np.array([line.split() for line in done.stdout.splitlines()], float)

    return [
        lambda points, k=k: panorama(k, panorama(reference, points), "-r")
        for k in range(len(images))
    ]


def measure_registration(stacks, seed):
    """Measures how far from their places all methods find points: {method: (distances, seconds)}.

    A distance is the root mean square over a grid of the reference's points in one exposure, in
    pixels. It is infinite where a method fails.
    """
    rng = np.random.default_rng(seed)
    methods = {"align.py": by_align, "AlignMTB": by_mtb}
    if shutil.which("align_image_stack"):
        methods["align_image_stack"] = by_hugin
    results = {name: ([], []) for name in methods}
    for images in tqdm(stacks, "registration", unit="scene", disable=None):
        reference = ghosts.middle_exposure(images)
        height, width = images[0].shape[:2]
        moved, truth = [], []
        for k, image in enumerate(images):
            motion = np.eye(3) if k == reference else known_motion((height, width), rng)
            moved.append(image if k == reference else move(image, motion))
            truth.append(np.linalg.inv(motion))
        points = grid_of_points((height, width))
        for name, method in methods.items():
            distances, seconds = results[name]
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = method(moved, reference, folder)
                    seconds.append(time.perf_counter() - start)
                    off = [
                        f(points) - align.project(t, points)
                        for f, t in zip(found, truth, strict=True)
                    ]
                except (ValueError, subprocess.CalledProcessError):
                    off = [np.full_like(points, np.inf)] * len(images)
            off = [d for k, d in enumerate(off) if k != reference]
            distances += [float(np.sqrt((d**2).sum(axis=1).mean())) for d in off]
    return results


def measure_extreme_pairs(stacks, seed):
    """Measures how far from its place align.py finds a moved darkest exposure on the brightest.

    Brackets from a tripod can be out of register by a part of a pixel. So its place is where the
    steps from each exposure to the next lead. Returns a distance a scene, as measure_registration.
    """
    rng = np.random.default_rng(seed)
    distances = []
    for images in tqdm(stacks, "extreme pairs", unit="scene", disable=None):
        greys = [utils.as_grey(images[k]) for k in ghosts.by_brightness(images)]
        place = np.eye(3)
        for brighter, darker in zip(greys[:0:-1], greys[-2::-1], strict=True):
            place = align.match(darker, brighter).homography @ place
        motion = known_motion(greys[-1].shape, rng)
        truth = np.linalg.inv(motion) @ place
        points = grid_of_points(greys[-1].shape)
        try:
            found = align.match(move(greys[0], motion), greys[-1]).homography
            apart = align.project(found, points) - align.project(truth, points)
            distances.append(float(np.sqrt((apart**2).sum(axis=1).mean())))
        except ValueError:
            distances.append(np.inf)
    return distances


def grid_of_points(shape):
    """Returns points all over a picture of a shape (H, W), (225, 2)."""
    height, width = shape
    share = np.linspace(0.05, 0.95, 15)
    return np.stack(np.meshgrid(share * (width - 1), share * (height - 1)), -1).reshape(-1, 2)


def measure_movement(stacks, seed, network):
    """Measures what deghost does to static brackets, and to an object in one exposure only.

    The object is an ellipse of another scene, 3 % of the picture, pasted into an exposure next to
    the reference. Its trace is the mean difference, over the ellipse, from the picture fused
    without it. In scenes of three exposures or more, it is also pasted into the middle exposure,
    and deghost chooses the reference. Of the darkest and the brightest exposure alone, it is pasted
    into one, and the other is the reference. Returns the changes of MEF-SSIM in static scenes, and
    the shares of the traces that are gone, by where the object is.
    """
    rng = np.random.default_rng(seed)
    changes, gone = [], {place: [] for place in PLACES}
    for number, images in enumerate(tqdm(stacks, "movement", unit="scene", disable=None)):
        reference = ghosts.middle_exposure(images)
        height, width = images[0].shape[:2]
        clean = fuse(network, images)
        static, shares = ghosts.deghost(images, reference)
        change = 0.0
        if any(shares):
            change = mefb_score(fuse(network, static), images) - mefb_score(clean, images)
        changes.append(change)
        neighbours = [k for k in (reference - 1, reference + 1) if 0 <= k < len(images)]
        changed = neighbours[number % len(neighbours)]
        donor = stacks[(number + 7) % len(stacks)]
        donor = cv2.resize(donor[len(donor) // 2], (width, height))
        centre = (rng.uniform(0.25, 0.75, 2) * (width, height)).astype(int).tolist()
        axes = (int(0.06 * width), int(0.15 * height))
        mask = cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, 0, 0, 360, 1, -1) > 0

        def share_gone(images, place, shown, mask=mask, donor=donor):
            ghost = [image.copy() for image in images]
            ghost[place][mask] = donor[mask]
            clean = fuse(network, images)[mask].astype(float)
            before, after = (
                np.abs(fuse(network, pictures)[mask] - clean).mean()
                for pictures in (ghost, ghosts.deghost(ghost, shown)[0])
            )
            return 1 - after / before

        order = ghosts.by_brightness(images)
        pair = [images[order[0]], images[order[-1]]]
        gone["another"].append(share_gone(images, changed, reference))
        if len(images) > 2:
            gone["the middle"].append(share_gone(images, reference, None))
        gone["the darker of two"].append(share_gone(pair, 0, 1))
        gone["the brighter of two"].append(share_gone(pair, 1, 0))
    return changes, gone


def fuse(network, images):
    """Returns the network's picture, at full size and without refinement."""
    return fusion.fuse(network, images)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="tripod brackets, one sub-folder a scene")
    parser.add_argument("--seed", type=int, default=0, help="of the movements")
    options = parser.parse_args(argv)
    stacks = []
    for files in find_brackets(options.folder, whole=True).values():
        stacks.append([utils.to_8_bit(utils.read_image(file)) for file in files])
    heads = ["exposures", "median px", "95 % px", "failed", "s a scene"]
    print(f"{'registration':20}" + "".join(f"{head:>11}" for head in heads))
    for name, (distances, seconds) in measure_registration(stacks, options.seed).items():
        ordered = np.sort(distances)
        columns = [
            f"{len(ordered)}",
            f"{ordered[len(ordered) // 2]:.3f}",
            f"{ordered[int(0.95 * len(ordered))]:.3f}",
            f"{int(np.isinf(ordered).sum())}",
            f"{np.mean(seconds) if seconds else np.nan:.2f}",
        ]
        print(f"{name:20}" + "".join(f"{column:>11}" for column in columns))
    distances = np.array(measure_extreme_pairs(stacks, options.seed))
    print(
        f"\ndarkest on brightest: median {np.median(distances):.3f} px, within 0.3 px in "
        f"{(distances <= 0.3).sum()} of {len(distances)} scenes, failed in "
        f"{np.isinf(distances).sum()}"
    )
    network = model.prepare(load_model(WEIGHTS))
    changes, gone = measure_movement(stacks, options.seed, network)
    print(
        f"\nstatic scenes: MEF-SSIM changes by {np.mean(changes):.4f} on average, "
        f"{min(changes):.4f} at most"
    )
    for place, shares in gone.items():
        if not shares:
            continue
        print(
            f"object in {place} exposure: {np.median(shares):.1%} of its trace gone (median), "
            f"{np.mean(shares):.1%} (mean), {min(shares):.1%} (least), "
            f"{sum(share >= 0.9 for share in shares)} of {len(shares)} scenes at 90 % or more"
        )


if __name__ == "__main__":
    main()
