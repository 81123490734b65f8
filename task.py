"""What can be learned? Tasks of train.py: a network, its loss, its validation and its figure.

A new network becomes a class in model.py, a line in TASKS and a value of --network in opts.py.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from tqdm import tqdm

import between
import fusion
import upsample
import utils
from dataset import as_8_bit_rgb
from engine import Criterion
from loss import BetweenLoss, MEF_SSIM_Loss, check_size
from model import BetweenNetwork, DeepFuse, PyramidDeepFuse, device_of, prepare
from scores import mefb_score

Model = TypeVar("Model", bound=DeepFuse | BetweenNetwork)


@dataclasses.dataclass(frozen=True)
class Task(Generic[Model]):
    """Everything in which the training of one network differs from that of another.

    build, criterion: make the network, and its loss, of the options of train.py. exposures: number
    that a sample has, at least. whole: True where it is validated on whole scenes, not on pairs.
    scores: takes the network, scenes' files, precision and quiet; returns a score a scene. panel:
    takes the network, a scene's exposures (side, side, 3) and the options; returns its line of a
    figure. without: options that do not concern it.
    """

    build: Callable[[argparse.Namespace], Model]
    criterion: Callable[[argparse.Namespace], Criterion]
    exposures: int
    whole: bool
    scores: Callable[[Model, Sequence[Sequence[str]], str, bool], list[float]]
    panel: Callable[[Model, Sequence[np.ndarray], argparse.Namespace], np.ndarray]
    without: tuple[str, ...] = ()


def luma_task(network: type[DeepFuse]) -> Task[DeepFuse]:
    """Returns the Task of a network that fuses luma."""
    return Task(
        build=lambda options: network(options.batch_norm, width=options.width),
        criterion=lambda options: MEF_SSIM_Loss(
            options.scales, options.loss, options.luminance_weight
        ),
        exposures=2,
        whole=False,
        scores=luma_scores,
        panel=luma_panel,
    )


def luma_panel(
    model: DeepFuse, scene: Sequence[np.ndarray], options: argparse.Namespace
) -> np.ndarray:
    """Returns under | over | fused | y_hat."""
    return fusion.panel(model, scene[0], scene[-1], target=options.loss)


def luma_scores(
    model: DeepFuse, pairs: Sequence[Sequence[str]], precision: str = "auto", quiet: bool = False
) -> list[float]:
    """Returns the multi-scale MEF-SSIM of every fused pair, on 8-bit grey at native size.

    model: in eval mode. pairs: picture files. precision: see prepare. quiet: hides the bar.
    """
    device = device_of(model)
    model = prepare(model, precision)
    scores = []
    for paths in tqdm(pairs, "validating", leave=False, disable=True if quiet else None):
        images = read_exposures(paths)
        fused = fusion.fuse(model, images)
        scores.append(mefb_score(fused, images, device))
    return scores


def between_panel(
    model: BetweenNetwork, scene: Sequence[np.ndarray], _options: argparse.Namespace
) -> np.ndarray:
    """Returns darkest | brightest | what the network tells | its teacher, the middle exposure.

    scene: three or more exposures, uint8 (side, side, 3).
    """
    ordered = sorted(scene, key=lambda image: image.mean())
    shown = (ordered[0], ordered[-1], utils.middle(ordered))
    stack = torch.from_numpy(utils.to_ycbcr(*shown)).to(device_of(model))
    with torch.inference_mode():
        told = model(stack[None, :2], stack[2:, 0].mean(dim=(1, 2))).clamp(0, 1).cpu().numpy()
    told = utils.from_ycbcr(told, np.uint8, keep_hue=True)
    return np.concatenate([*shown[:2], told, shown[2]], axis=1)


def between_scores(
    model: BetweenNetwork,
    scenes: Sequence[Sequence[str]],
    precision: str = "auto",
    quiet: bool = False,
) -> list[float]:
    """Returns, for every scene, 1 less the mean BetweenLoss of its exposures between.

    The network sees the darkest and the brightest exposure, reduced as for a photo. model: in eval
    mode. scenes: three or more picture files each. precision: see prepare. quiet: hides the bar.
    """
    device = device_of(model)
    model = prepare(model, precision)
    criterion = BetweenLoss()
    scores = []
    for paths in tqdm(scenes, "validating", leave=False, disable=True if quiet else None):
        images = [as_8_bit_rgb(image) for image in utils.read_images(paths)]
        images.sort(key=lambda image: image.mean())
        images = upsample.reduce_pictures(images, upsample.reduction(images, fusion.SMALL))
        stack = torch.from_numpy(utils.to_ycbcr(*images)).to(device)
        teachers = stack[1:-1]
        with torch.inference_mode():
            view = between.look(model, stack[None, [0, -1]])
            told = [between.tell(model, view, x[:1].mean(dim=(1, 2))) for x in teachers]
            losses = criterion.sample_losses(torch.cat(told), teachers)
        scores.append(1 - losses.mean().item())
    return scores


def read_exposures(paths: Sequence[str]) -> list[np.ndarray]:
    """Reads a scene's picture files; ValueError naming them where they cannot be scored."""
    images = utils.read_images(paths)
    try:
        fusion.check_images(images)
        check_size(*images[0].shape[:2])
    except ValueError as error:
        raise ValueError(f"{' and '.join(paths)}: {error}") from error
    return images


TASKS: dict[str, Task[Any]] = {
    DeepFuse.name: luma_task(DeepFuse),
    PyramidDeepFuse.name: luma_task(PyramidDeepFuse),
    BetweenNetwork.name: Task(
        build=lambda options: BetweenNetwork(options.width),
        criterion=lambda _: BetweenLoss(),
        exposures=3,
        whole=True,
        scores=between_scores,
        panel=between_panel,
        without=("loss", "scales", "luminance_weight", "uncentred", "batch_norm"),
    ),
}
