"""How are fused pictures scored? Measures of 8-bit pictures, by exposures or by a rendition."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

import loss
import utils
import windows

BLOWN, CRUSHED = 250, 5  # levels of 255; brighter or darker pixels, and these, show no detail
DETAIL_DEVIATION = 2.0  # levels of 255; standard deviation in a window that shows detail
EVEN = 2.0  # CIELAB units; spread of chroma in a window of even colour
NEUTRAL_CHROMA = 4.0  # CIELAB units; chroma up to which the best-exposed exposure counts as neutral
WELL_EXPOSED = (40, 215)  # levels of 255 of all channels, where an exposure tells the colour
FLAT_SPREAD = 2.0  # L* of CIELAB; spread of lightness, in a smoothed window, without texture
BRIGHT = 235  # levels of 255; a small bright area is brighter than this in the brightest exposure
FINE = 5  # pixels a side of the windows in which texture is compared
SMALL_AREA = 0.02  # share of the picture that is the largest small area
BLOCK = 8  # pixels a side of MEF-SSIMc's windows
ROWS = 256  # rows of pixels that colour measures work on at a time
LEVELS_C_1, LEVELS_C_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # SSIM's constants
SMALLEST_VIF = 41  # pixels; smaller sides have no window at VIF's coarsest scale
VIF_WEIGHTS = (1, 0, 0.15, 1)  # of the scales, finest first
VISUAL_NOISE = 0.005 * 255**2  # variance of the noise of seeing
FLAT = 1e-10  # variance below which a window has no contrast
REGION = 16  # pixels a side of Q_CV's regions
MAPS = 40_000_000  # values, 4 bytes each, in the maps of one strip of windows; see mefb_score
# MATLAB's rgb2gray, which the MEF-SSIM authors' program calls: BT.601 with more digits.
GREY = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])  # of R, G, B


def to_grey(image: np.ndarray) -> np.ndarray:
    """Returns 8-bit grey, rounded, as the MEF-SSIM authors' program sees it.

    image: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1]. Returns uint8 (H, W).
    """
    image = utils.to_8_bit(image)
    if image.ndim == 2:
        return image
    return np.floor(image @ GREY + 0.5).astype(np.uint8)


def mefb_score(
    fused: np.ndarray, exposures: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> float:
    """Returns the multi-scale MEF-SSIM of 8-bit grey, which the MEFB benchmark reports.

    fused, exposures: pictures of one size, as to_grey takes them. device: computes the score.
    Windows are compared in strips of MAPS values, which bounds the memory for maps.
    Raises ValueError where the pictures differ in size or are smaller than the coarsest window.
    """
    grey = np.stack([to_grey(image) for image in (fused, *exposures)])
    loss.check_size(*grey.shape[1:])
    planes = torch.from_numpy(grey).to(device)[None] / 255  # (1, 1 + K, H, W)
    with torch.inference_mode():
        levels = windows.scale_levels(planes, len(windows.SCALE_WEIGHTS))
        return loss.combine_scales([mean_comparison(level) for level in levels]).item()


def mean_comparison(planes: torch.Tensor) -> torch.Tensor:
    """Returns the mean of SSIM's contrast-structure term over all windows of one scale, (1,).

    planes: the fused luma and its exposures, (1, 1 + K, H, W) in [0, 1].
    """
    rows, columns = (side - windows.WINDOW + 1 for side in planes.shape[2:])
    count = planes.shape[1] - 1
    # A window has K means and K (K + 1) / 2 covariances.
    strip = max(1, MAPS // (count * (count + 3) // 2) // columns)
    total = torch.zeros(1, dtype=torch.float64, device=planes.device)
    for top in range(0, rows, strip):
        bottom = min(top + strip, rows)
        part = planes[:, :, top : bottom + windows.WINDOW - 1]
        (desired,) = windows.desired_windows(part[:, 1:], scales=1)
        numerator, denominator, _ = windows.compare(part[:, :1], desired)
        total += (numerator / denominator).mean(dim=(1, 2, 3)).double() * (bottom - top)
    return (total / rows).to(planes.dtype)


def score_all(
    fused: np.ndarray, exposures: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Returns all scores of a fused picture, {name: score}.

    Multi-scale MEF-SSIM and Q^AB/F compare with the exposures; higher is better. The other four
    describe the fused picture alone, on the scale 0 to 255; detail raises them, but noise too.

    fused, exposures: 8-bit grey pictures of one size, uint8 (H, W).
    """
    return {
        "MEF-SSIM": mefb_score(fused, exposures, device),
        "Q^AB/F": edge_preservation(fused, exposures),
        "EN": entropy(fused),
        "SF": spatial_frequency(fused),
        "AG": average_gradient(fused),
        "SD": float(fused.std()),
    }


def mef_ssim_c(fused: np.ndarray, exposures: Sequence[np.ndarray]) -> float:
    """Returns MEF-SSIMc, the colour version of MEF-SSIM, with SSIM's luminance term.

    K. Ma, Z. Duanmu, H. Yeganeh, Z. Wang, "Multi-Exposure Image Fusion by Optimizing a Structural
    Similarity Index", IEEE TCI 4(1), 2018. A window of BLOCK x BLOCK pixels is one vector of all
    three channels. Its desired structure is that of the exposure with the largest variance there.
    Its desired mean weighs the exposures by how near their local and global mean are to mid-grey.

    fused, exposures: uint8 RGB (H, W, 3) of one size. Returns NaN for grey pictures and for those
    smaller than a window.
    """
    height, width = fused.shape[:2]
    if fused.ndim == 2 or min(height, width) < BLOCK:
        return math.nan
    brightness = [float(image.mean()) for image in exposures]
    total = 0.0
    for top in range(0, height - BLOCK + 1, ROWS):
        rows = slice(top, top + ROWS + BLOCK - 1)
        images = [image[rows].astype(np.float64) for image in (fused, *exposures)]
        total += colour_comparison(images[0], images[1:], brightness).sum()
    return float(total / ((height - BLOCK + 1) * (width - BLOCK + 1)))


def colour_comparison(
    fused: np.ndarray, exposures: Sequence[np.ndarray], brightness: Sequence[float]
) -> np.ndarray:
    """Returns MEF-SSIMc's comparison of every window, (H - BLOCK + 1, W - BLOCK + 1).

    fused, exposures: float64 (H, W, 3) on the scale 0 to 255. brightness: mean of each exposure's
    whole picture.
    """
    mean_f = block_mean(fused)
    variance_f = block_mean(fused**2) - mean_f**2
    variance = np.full_like(mean_f, -np.inf)
    covariance, weights, weighted = (np.zeros_like(mean_f) for _ in range(3))
    for exposure, overall in zip(exposures, brightness, strict=True):
        mean = block_mean(exposure)
        own_variance = block_mean(exposure**2) - mean**2
        strongest = own_variance > variance
        variance[strongest] = own_variance[strongest]
        own_covariance = block_mean(fused * exposure) - mean_f * mean
        covariance[strongest] = own_covariance[strongest]
        distance = (mean / 255 - 0.5) ** 2 + (overall / 255 - 0.5) ** 2
        weight = np.exp(-distance / (2 * 0.2**2))
        weights += weight
        weighted += weight * mean
    desired = weighted / weights
    luminance = (2 * mean_f * desired + LEVELS_C_1) / (mean_f**2 + desired**2 + LEVELS_C_1)
    return luminance * (2 * covariance + LEVELS_C_2) / (variance_f + variance + LEVELS_C_2)


def block_mean(image: np.ndarray) -> np.ndarray:
    """Returns the mean of all channels over every window of BLOCK x BLOCK pixels that fits."""
    plane = cv2.boxFilter(image.mean(axis=2), cv2.CV_64F, (BLOCK, BLOCK), anchor=(0, 0))
    return plane[: 1 - BLOCK, : 1 - BLOCK]


def vif(fused: np.ndarray, exposures: Sequence[np.ndarray]) -> float:
    """Returns the share of the exposures' visual information that a fused picture keeps (VIFF).

    Y. Han, Y. Cai, Y. Cao, X. Xu, "A new image fusion performance metric based on visual
    information fidelity", Information Fusion 14(2), 2013, with its constants. In every window that
    exposure counts whose contrast the fused picture has least of. The mean over the channels, as in
    MEFB. It may exceed 1, because raised contrast counts as information.

    fused, exposures: uint8 (H, W, 3) or (H, W) of one size. Returns NaN for sides below 41 pixels
    and where one is grey and another in colour.
    """
    if min(fused.shape[:2]) < SMALLEST_VIF or any(x.ndim != fused.ndim for x in exposures):
        return math.nan
    values = []
    for channel in zip(*(cv2.split(image) for image in (fused, *exposures)), strict=True):
        picture, *sources = (plane.astype(np.float64) for plane in channel)
        least = list(visual_information(sources[0], picture))
        for source in sources[1:]:
            for best, found in zip(least, visual_information(source, picture), strict=True):
                less = found[0] < best[0]
                for plane, other in zip(best, found, strict=True):
                    plane[less] = other[less]
        shares = [(kept.mean() + 1e-7) / (shown.mean() + 1e-7) for _, kept, shown in least]
        values.append(np.dot(VIF_WEIGHTS, shares) / sum(VIF_WEIGHTS))
    return float(np.mean(values))


def visual_information(
    source: np.ndarray, fused: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields, for four scales, every window's gain, the information kept, and that of the source.

    The fused window is taken for gain times the source's plus noise (Sheikh, Bovik, "Image
    information and visual quality", IEEE TIP 15(2), 2006).
    source, fused: float64 (H, W) on the scale 0 to 255.
    """
    for scale, side in enumerate((17, 9, 5, 3)):
        if scale:
            source, fused = (smoothed(x, side)[::2, ::2] for x in (source, fused))
        mean, mean_f = smoothed(source, side), smoothed(fused, side)
        variance = np.maximum(smoothed(source * source, side) - mean**2, 0)
        variance_f = np.maximum(smoothed(fused * fused, side) - mean_f**2, 0)
        covariance = smoothed(source * fused, side) - mean * mean_f
        flat = (variance < FLAT) | (variance_f < FLAT)
        gain = np.where(flat, 0, np.maximum(covariance / (variance + FLAT), 0))
        noise = np.maximum(variance_f - gain * covariance, FLAT)
        kept = np.log10(1 + gain**2 * variance / (noise + VISUAL_NOISE))
        yield gain, kept, np.log10(1 + variance / VISUAL_NOISE)


def smoothed(plane: np.ndarray, side: int) -> np.ndarray:
    """Returns the Gaussian-weighted mean over every window that fits; sigma is side / 5."""
    margin = side // 2
    return cv2.GaussianBlur(plane, (side, side), side / 5)[margin:-margin, margin:-margin]


def q_cv(fused: np.ndarray, exposures: Sequence[np.ndarray]) -> float:
    """Returns Q_CV, the visible difference from the exposures where they have edges; low is good.

    H. Chen, P. K. Varshney, "A human perception inspired quality metric for image fusion based on
    regional information", Information Fusion 8(2), 2007. The difference is filtered by the eye's
    sensitivity to contrast (Mannos, Sakrison) and squared. Its means over REGION x REGION pixels
    are weighed by the fifth powers of the exposure's gradients there. The mean over the channels,
    each stretched to 0 to 255 first, as in MEFB.

    fused, exposures: uint8 (H, W, 3) or (H, W) of one size. Returns NaN where one is grey and
    another in colour.
    """
    if any(image.ndim != fused.ndim for image in exposures):
        return math.nan
    rows, columns = (np.fft.fftfreq(side) * side / 4 for side in fused.shape[:2])
    frequency = np.hypot(rows[:, None], columns[: fused.shape[1] // 2 + 1])
    sensitivity = 2.6 * (0.0192 + 0.144 * frequency) * np.exp(-((0.144 * frequency) ** 1.1))
    values = []
    for channel in zip(*(cv2.split(image) for image in (fused, *exposures)), strict=True):
        picture, *sources = (np.rint(stretched_levels(plane)) for plane in channel)
        total = weights = 0.0
        for source in sources:
            across, down = (
                cv2.Sobel(source, cv2.CV_64F, *order, borderType=cv2.BORDER_CONSTANT)
                for order in ((1, 0), (0, 1))
            )
            salience = region_sums(np.hypot(across, down) ** 5)
            spectrum = np.fft.rfft2(source - picture) * sensitivity
            difference = np.fft.irfft2(spectrum, source.shape)
            total += (salience * region_sums(difference**2)).sum() / REGION**2
            weights += salience.sum()
        values.append(total / weights if weights else 0.0)
    return float(np.mean(values))


def stretched_levels(plane: np.ndarray) -> np.ndarray:
    """Stretches a uint8 plane so that its levels reach from 0 to 255; one level becomes 0."""
    low, high = int(plane.min()), int(plane.max())
    return (plane.astype(np.float64) - low) * (255 / max(high - low, 1))


def region_sums(plane: np.ndarray) -> np.ndarray:
    """Returns the sums over REGION x REGION pixels side by side; beyond the border, 0 is added."""
    missing = [(0, -side % REGION) for side in plane.shape]
    blocks = np.pad(plane, missing)
    rows, columns = (side // REGION for side in blocks.shape)
    return blocks.reshape(rows, REGION, columns, REGION).sum(axis=(1, 3))


def rendition_scores(fused: np.ndarray, rendition: np.ndarray) -> dict[str, float]:
    """Compares a fused picture with a finished rendition of its scene, which people have chosen.

    fused, rendition: uint8, RGB or grey, of one size. Returns, by name: PSNR in dB and SSIM; the
    mean and the 95th percentile of CIEDE2000 (dE00, dE00 95%); the mean distance in CIELAB (dE ref)
    and in its a* and b* alone (dC ref); mean lightness, its spread and mean chroma of the fused
    picture (L, L sd, chroma) and of the rendition (the same with ref).
    """
    fused, rendition = in_colour(fused), in_colour(rendition)
    lab, expected = to_lab(fused), to_lab(rendition)
    difference = lab - expected
    ciede = np.concatenate(
        [
            ciede2000(lab[top : top + ROWS], expected[top : top + ROWS])
            for top in range(0, len(lab), ROWS)
        ]
    )
    scores = {
        "PSNR": psnr(fused, rendition),
        "SSIM": ssim(fused, rendition),
        "dE00": float(ciede.mean()),
        "dE00 95%": float(np.percentile(ciede, 95)),
        "dE ref": float(np.linalg.norm(difference, axis=2).mean()),
        "dC ref": float(np.hypot(difference[..., 1], difference[..., 2]).mean()),
    }
    for name, picture in (("", lab), (" ref", expected)):
        scores[f"L{name}"] = float(picture[..., 0].mean())
        scores[f"L sd{name}"] = float(picture[..., 0].std())
        scores[f"chroma{name}"] = float(np.hypot(picture[..., 1], picture[..., 2]).mean())
    return scores


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of uint8 pictures in dB; infinity for equal ones."""
    error = float(np.mean((image.astype(np.float32) - reference) ** 2, dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns the mean over R, G, B of SSIM with 11x11 Gaussian windows that fit into the picture.

    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
    visibility to structural similarity", IEEE TIP 13(4), 2004; sigma 1.5, at native size.
    """
    values = []
    for plane, other in zip(cv2.split(image), cv2.split(reference), strict=True):
        x, y = plane.astype(np.float64), other.astype(np.float64)
        mean_x, mean_y = gaussian(x), gaussian(y)
        variance = gaussian(x * x) - mean_x**2 + gaussian(y * y) - mean_y**2
        covariance = gaussian(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + LEVELS_C_1) / (mean_x**2 + mean_y**2 + LEVELS_C_1)
        values.append((luminance * (2 * covariance + LEVELS_C_2) / (variance + LEVELS_C_2)).mean())
    return float(np.mean(values))


def gaussian(plane: np.ndarray) -> np.ndarray:
    """Returns the Gaussian-weighted mean over every 11x11 window that fits; sigma 1.5."""
    margin = windows.WINDOW // 2
    smooth = cv2.GaussianBlur(plane, (windows.WINDOW, windows.WINDOW), windows.SIGMA)
    return smooth[margin:-margin, margin:-margin]


def to_lab(image: np.ndarray) -> np.ndarray:
    """Converts uint8 RGB, taken for sRGB, to CIELAB (D65), float32 (H, W, 3)."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def ciede2000(lab: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the CIEDE2000 difference of CIELAB colours, (..., 3) each, with all weights 1.

    G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 Color-Difference Formula", Color Research and
    Application 30(1), 2005, eq. 2 to 22.
    """
    (light_1, a_1, b_1), (light_2, a_2, b_2) = (
        np.moveaxis(x.astype(np.float64), -1, 0) for x in (lab, other)
    )
    mean_chroma = (np.hypot(a_1, b_1) + np.hypot(a_2, b_2)) / 2
    stretch = 1 + (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25**7))) / 2
    chroma_1, chroma_2 = np.hypot(stretch * a_1, b_1), np.hypot(stretch * a_2, b_2)
    hue_1, hue_2 = (
        np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a_1, b_1), (a_2, b_2))
    )
    grey = chroma_1 * chroma_2 == 0  # Such colours have no hue.
    turn = hue_2 - hue_1
    # Rounding must not turn a difference of 180 degrees the other way.
    turn -= 360 * np.sign(turn) * (np.abs(turn) > 180 + 1e-9)
    turn = np.where(grey, 0, turn)
    hue = np.where(grey, hue_1 + hue_2, (hue_1 + turn / 2) % 360)
    light, chroma = (light_1 + light_2) / 2, (chroma_1 + chroma_2) / 2
    cosine = [
        np.cos(np.radians(k * hue - shift)) for k, shift in ((1, 30), (2, 0), (3, -6), (4, 63))
    ]
    t = 1 - 0.17 * cosine[0] + 0.24 * cosine[1] + 0.32 * cosine[2] - 0.20 * cosine[3]
    offset = (light - 50) ** 2
    d_light = (light_2 - light_1) / (1 + 0.015 * offset / np.sqrt(20 + offset))
    d_chroma = (chroma_2 - chroma_1) / (1 + 0.045 * chroma)
    d_hue = 2 * np.sqrt(chroma_1 * chroma_2) * np.sin(np.radians(turn / 2))
    d_hue /= 1 + 0.015 * chroma * t
    angle = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(np.radians(angle))
    return np.sqrt(d_light**2 + d_chroma**2 + d_hue**2 + rotation * d_chroma * d_hue)


def middle_difference(fused: np.ndarray, exposure: np.ndarray | None) -> dict[str, float]:
    """Returns the mean distance in CIELAB, dE, and in its a* and b* alone, dC, from an exposure.

    Only pixels count that are neither dark nor clipped in the exposure.

    fused, exposure: 8-bit RGB (H, W, 3). Returns NaN where there is no exposure, where no pixel
    counts, and where the pictures are grey or differ in size.
    """
    nothing = {"dC": math.nan, "dE": math.nan}
    if exposure is None or exposure.ndim == 2 or fused.shape != exposure.shape:
        return nothing
    usable = ((exposure > 20) & (exposure < 235)).all(axis=2)
    if not usable.any():
        return nothing
    difference = (to_lab(fused) - to_lab(exposure))[usable]
    return {
        "dC": float(np.hypot(*difference[:, 1:].T).mean()),
        "dE": float(np.linalg.norm(difference, axis=1).mean()),
    }


def lightness_quantiles(fused: np.ndarray) -> dict[str, float]:
    """Returns the 5 and the 95 % quantile of L* of CIELAB: how open shadows, how white whites are.

    fused: 8-bit, RGB or grey.
    """
    light = to_lab(in_colour(fused))[..., 0]
    low, high = np.percentile(light, (5, 95))
    return {"L 5%": float(low), "L 95%": float(high)}


def in_colour(image: np.ndarray) -> np.ndarray:
    """Returns a picture with three channels, equal ones where it is grey."""
    return image if image.ndim == 3 else cv2.merge([image] * 3)


def noise_level(image: np.ndarray) -> np.ndarray:
    """Returns the mean of |L* - its median of 3x3| around every pixel, float32 (H, W).

    image: 8-bit, RGB or grey. The means are over 11x11 pixels.
    """
    light = to_lab(in_colour(image))[..., 0]
    return cv2.blur(np.abs(light - cv2.medianBlur(light, 3)), (windows.WINDOW, windows.WINDOW))


class Seen(NamedTuple):
    """The places that a scene's exposures show, for the scores of scores_of_places.

    flat: mask of places without texture. noise: the least noise_level of an exposure that shows the
    place. bright: mask of small bright areas; texture: the largest spread of lightness there.
    neutral: mask of places that the best-exposed exposure shows as neutral. All are (H, W).
    """

    flat: np.ndarray
    noise: np.ndarray
    bright: np.ndarray
    texture: np.ndarray
    neutral: np.ndarray


def places_seen(exposures: Sequence[np.ndarray]) -> Seen:
    """Returns what exposures show. exposures: 8-bit pictures of one size, RGB or grey."""
    shape = exposures[0].shape[:2]
    best = np.full(shape, np.inf, np.float32)  # the nearest that an exposure comes to mid-grey
    flat, neutral = np.zeros(shape, bool), np.zeros(shape, bool)
    noise = np.full(shape, np.inf, np.float32)
    texture = np.zeros(shape, np.float32)
    for exposure in exposures:
        rgb = in_colour(exposure)
        lab = to_lab(rgb)
        lowest, highest = rgb.min(axis=2), rgb.max(axis=2)
        shown = (lowest >= WELL_EXPOSED[0]) & (highest <= WELL_EXPOSED[1])
        noise = np.where(shown, np.minimum(noise, noise_level(rgb)), noise)
        texture = np.maximum(texture, np.where(highest < BLOWN, lightness_spread(lab, FINE), 0))
        distance = np.abs(lab[..., 0] - 50)
        better = shown & (distance < best)
        best[better] = distance[better]
        smooth = cv2.GaussianBlur(lab, (0, 0), 2)
        flat[better] = (lightness_spread(smooth) < FLAT_SPREAD)[better]
        neutral[better] = (np.hypot(smooth[..., 1], smooth[..., 2]) < NEUTRAL_CHROMA)[better]
    brightest = max(exposures, key=lambda image: image.mean())
    bright = small_areas(in_colour(brightest).min(axis=2) > BRIGHT)
    return Seen(
        flat & np.isfinite(noise), noise, bright & (texture > DETAIL_DEVIATION), texture, neutral
    )


def lightness_spread(lab: np.ndarray, side: int = windows.WINDOW) -> np.ndarray:
    """Returns the standard deviation of L* in the window around every pixel, (H, W).

    side: pixels a side of the windows.
    """
    light = lab[..., 0]
    variance = cv2.blur(light * light, (side, side)) - cv2.blur(light, (side, side)) ** 2
    return np.sqrt(np.maximum(variance, 0))


def small_areas(mask: np.ndarray) -> np.ndarray:
    """Returns the inside of a mask's connected areas of at most SMALL_AREA of the picture.

    Windows of FINE pixels there do not reach beyond the area.
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    small = statistics[:, cv2.CC_STAT_AREA] <= SMALL_AREA * mask.size
    small[0] = False  # what is not in the mask
    return cv2.erode(small[labels].astype(np.uint8), np.ones((FINE, FINE))) > 0


def scores_of_places(fused: np.ndarray, seen: Seen) -> dict[str, float]:
    """Returns scores that see what people name where a picture loses, NaN where nothing counts.

    noise: noise_level over that of the cleanest exposure that shows the place, where there is no
        texture; both plus 0.1, so that two clean pictures are alike.
    highlights: texture in small bright areas, over that of the exposure that shows them best.
    tint: mean chroma in CIELAB of what the best-exposed exposure shows as neutral.

    fused: 8-bit, RGB or grey.
    """
    lab = to_lab(in_colour(fused))
    ratio = (noise_level(fused) + 0.1) / (np.where(seen.flat, seen.noise, 0) + 0.1)
    kept = lightness_spread(lab, FINE) / np.maximum(seen.texture, DETAIL_DEVIATION)
    smooth = cv2.GaussianBlur(lab, (0, 0), 2)
    chroma = np.hypot(smooth[..., 1], smooth[..., 2])
    values = {
        "noise": (ratio, seen.flat),
        "highlights": (kept, seen.bright),
        "tint": (chroma, seen.neutral),
    }
    return {
        name: float(plane[mask].mean()) if mask.any() else math.nan
        for name, (plane, mask) in values.items()
    }


def shown_detail(exposures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a mask, bool (H, W): True where some exposure shows detail.

    An exposure shows detail where it is neither blown nor crushed itself and varies by
    DETAIL_DEVIATION or more in the 11x11 window around the pixel.

    exposures: 8-bit grey pictures of one size, uint8 (H, W).
    """
    shown = np.zeros(exposures[0].shape, bool)
    window = (windows.WINDOW, windows.WINDOW)
    for exposure in exposures:
        x = exposure.astype(np.float64)
        variance = cv2.blur(x * x, window) - cv2.blur(x, window) ** 2
        shown |= (variance >= DETAIL_DEVIATION**2) & (exposure > CRUSHED) & (exposure < BLOWN)
    return shown


def lost_detail(fused: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """Returns the shares of the picture that are blown or crushed where an exposure shows detail.

    fused: 8-bit grey, uint8 (H, W). shown: the shown_detail of its exposures.
    """
    return {
        "blown": float((shown & (fused >= BLOWN)).mean()),
        "crushed": float((shown & (fused <= CRUSHED)).mean()),
    }


def blotches(fused: np.ndarray, spread: np.ndarray) -> float:
    """Returns how much chroma varies where it is even in all exposures, in CIELAB units.

    Windows count whose spread in every exposure is below EVEN. The result is the mean, over them,
    by which the fused picture's chroma_spread exceeds that of the exposures.

    fused: 8-bit RGB (H, W, 3). spread: the largest_spread of its exposures. Returns NaN for grey
    pictures and where no window counts.
    """
    even = spread < EVEN
    if fused.ndim == 2 or not even.any():
        return math.nan
    return float(np.maximum(chroma_spread(fused) - spread, 0)[even].mean())


def largest_spread(exposures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the largest chroma_spread among the exposures around every pixel, float32 (H, W)."""
    largest = np.zeros(exposures[0].shape[:2], np.float32)
    for exposure in exposures:
        if exposure.ndim == 3:  # Grey pictures have no chroma.
            largest = np.maximum(largest, chroma_spread(exposure))
    return largest


def chroma_spread(image: np.ndarray) -> np.ndarray:
    """Returns the spread of chroma in the 11x11 window around every pixel, float32 (H, W).

    It is the root of the summed variances of a* and b* of CIELAB.
    """
    chroma = to_lab(image)[..., 1:]
    window = (windows.WINDOW, windows.WINDOW)
    variance = cv2.blur(chroma * chroma, window) - cv2.blur(chroma, window) ** 2
    return np.sqrt(np.maximum(variance, 0).sum(axis=2))


def entropy(fused: np.ndarray) -> float:
    """Returns the Shannon entropy, in bits, of the histogram of a uint8 picture's 256 levels."""
    share = np.bincount(fused.ravel(), minlength=256) / fused.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def spatial_frequency(fused: np.ndarray) -> float:
    """Returns the root of the summed mean squared differences along rows and along columns.

    A. M. Eskicioglu, P. S. Fisher, "Image quality measures and their performance", IEEE
    Transactions on Communications 43(12), 1995. Both sums are divided by the number of pixels.
    """
    x = fused.astype(np.float64)
    squares = (np.diff(x, axis=0) ** 2).sum() + (np.diff(x, axis=1) ** 2).sum()
    return float(np.sqrt(squares / x.size))


def average_gradient(fused: np.ndarray) -> float:
    """Returns the mean of sqrt((dx^2 + dy^2)/2) over all pixels but the last row and column.

    dx and dy are differences to the next pixel. G. Cui, H. Feng, Z. Xu, Q. Li, Y. Chen, "Detail
    preserved fusion of visible and infrared images using regional saliency extraction and
    multi-scale image decomposition", Optics Communications 341, 2015.
    """
    x = fused.astype(np.float64)
    dy, dx = np.diff(x, axis=0)[:, :-1], np.diff(x, axis=1)[:-1]
    return float(np.sqrt((dx**2 + dy**2) / 2).mean())


def edge_preservation(fused: np.ndarray, exposures: Sequence[np.ndarray]) -> float:
    """Returns Q^AB/F: how much of the exposures' edges the fused picture keeps, in [0, 1].

    An edge is kept in strength and direction. C. S. Xydeas, V. Petrovic, "Objective image fusion
    performance measure", Electronics Letters 36(4), 2000, with its constants and L = 1. The sum
    goes over all exposures, two or more. Sobel filters mirror the picture at its border.
    Returns 0 where no exposure has an edge.
    """
    strength_f, angle_f = edges(fused)
    total = weights = 0.0
    for exposure in exposures:
        strength, angle = edges(exposure)
        high = np.maximum(strength, strength_f)
        relative = np.minimum(strength, strength_f) / np.where(high > 0, high, 1)
        # Angles that differ by pi are one direction.
        direction = np.abs(np.abs(angle - angle_f) - np.pi / 2) / (np.pi / 2)
        kept = 0.9994 / (1 + np.exp(-15 * (relative - 0.5)))
        kept *= 0.9879 / (1 + np.exp(-22 * (direction - 0.8)))
        total += (kept * strength).sum()
        weights += strength.sum()
    return float(total / weights) if weights else 0.0


def edges(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns strength and direction, in [-pi/2, pi/2], of every pixel's Sobel gradient."""
    x = cv2.Sobel(grey, cv2.CV_64F, 1, 0)
    y = cv2.Sobel(grey, cv2.CV_64F, 0, 1)
    vertical = np.where(y != 0, np.pi / 2, 0.0)
    return np.hypot(x, y), np.where(x != 0, np.arctan(y / np.where(x != 0, x, 1)), vertical)
