"""Scores against values worked out by hand, published ones and literal loops."""

import math

import numpy as np
import pytest
import torch

import loss
import scores
from scores import (
    average_gradient,
    blotches,
    ciede2000,
    edge_preservation,
    edges,
    entropy,
    largest_spread,
    lost_detail,
    mef_ssim_c,
    mefb_score,
    middle_difference,
    psnr,
    rendition_scores,
    score_all,
    shown_detail,
    spatial_frequency,
    ssim,
    to_grey,
)


def test_entropy():
    assert entropy(np.full((4, 4), 7, np.uint8)) == 0
    assert entropy(np.arange(256, dtype=np.uint8).reshape(16, 16)) == 8
    quarters = np.array([[0, 0, 0, 9]], np.uint8)
    assert entropy(quarters) == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)


def test_spatial_frequency_and_average_gradient():
    image = np.array([[0, 3], [4, 9], [4, 9]], np.uint8)
    # Differences along rows 3, 5, 5, along columns 4, 6, 0, 0.
    assert spatial_frequency(image) == pytest.approx(math.sqrt((59 + 52) / 6))
    # At (0, 0): 3 and 4; at (1, 0): 5 and 0.
    expected = (math.sqrt((9 + 16) / 2) + math.sqrt(25 / 2)) / 2
    assert average_gradient(image) == pytest.approx(expected)


def test_standard_deviation_is_of_all_pixels():
    image = np.zeros((50, 50), np.uint8)
    image[:, ::2] = 10
    assert score_all(image, [image, image])["SD"] == 5


def stripes(period, low, high, shape=(64, 64)):
    columns = np.arange(shape[1]) // period % 2
    return np.where(np.broadcast_to(columns, shape), high, low).astype(np.uint8)


def test_edge_preservation():
    vertical = stripes(8, 50, 150)
    flat = np.full_like(vertical, 90)
    # Equal strength and direction everywhere: both sigmoids at 1.
    whole = 0.9994 / (1 + math.exp(-7.5)) * 0.9879 / (1 + math.exp(-22 * 0.2))
    assert edge_preservation(vertical, [vertical, flat]) == pytest.approx(whole)
    # Half the strength, the same direction.
    weak = stripes(8, 75, 125)
    half = 0.9994 / 2 * 0.9879 / (1 + math.exp(-22 * 0.2))
    assert edge_preservation(weak, [vertical]) == pytest.approx(half)
    assert edge_preservation(vertical, [weak]) == pytest.approx(half)
    # Edges at right angles lose the direction's share, a flat result loses the strength's.
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    inner = np.s_[1:-1, 1:-1]
    strength, angle = edges(ramp)
    assert (strength[inner] == 8).all()
    assert (angle[inner] == 0).all()
    turned_strength, turned = edges(ramp.T.copy())
    assert (turned_strength[inner] == 8).all()
    assert (turned[inner] == np.pi / 2).all()
    # At the border, whose mirror takes the gradient away, the direction is lost but not wrong.
    assert edge_preservation(ramp.T.copy(), [ramp]) < 1e-4
    assert edge_preservation(flat, [ramp]) < 1e-3
    assert edge_preservation(flat, [flat]) == 0


def test_edge_preservation_weighs_by_the_sources_edges():
    """Against the formula written out pixel by pixel, on noise, with three sources."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 9, 11)).astype(np.uint8)
    gradients = []
    for picture in pictures:
        p = np.pad(picture.astype(float), 1, mode="reflect")
        rows = np.arange(1, 10)[:, None]
        columns = np.arange(1, 12)[None]
        x = sum(w * (p[rows + d, columns + 1] - p[rows + d, columns - 1]) for d, w in KERNEL)
        y = sum(w * (p[rows + 1, columns + d] - p[rows - 1, columns + d]) for d, w in KERNEL)
        gradients.append((x, y))
    total = weights = 0.0
    x_f, y_f = gradients[0]
    for x, y in gradients[1:]:
        for i, j in np.ndindex(9, 11):
            g, g_f = math.hypot(x[i, j], y[i, j]), math.hypot(x_f[i, j], y_f[i, j])
            if g == 0:
                continue
            a, a_f = (
                math.atan(v[i, j] / u[i, j]) if u[i, j] else math.pi / 2
                for u, v in ((x, y), (x_f, y_f))
            )
            strength = g_f / g if g > g_f else g / g_f
            direction = abs(abs(a - a_f) - math.pi / 2) / (math.pi / 2)
            quality = 0.9994 / (1 + math.exp(-15 * (strength - 0.5)))
            quality *= 0.9879 / (1 + math.exp(-22 * (direction - 0.8)))
            total += quality * g
            weights += g
    value = edge_preservation(pictures[0], list(pictures[1:]))
    assert value == pytest.approx(total / weights, rel=1e-9)


KERNEL = ((-1, 1), (0, 2), (1, 1))  # Sobel's: offset and weight of the lines that are added


def test_score_does_not_depend_on_strips(pair, monkeypatch):
    """Windows are compared in strips; the mean over all of them is that of loss.mef_ssim."""
    fused = pair[0] // 2 + pair[1] // 2
    planes = [torch.from_numpy(to_grey(x))[None, None] / 255 for x in (fused, *pair)]
    whole = loss.mef_ssim(planes[0], torch.cat(planes[1:], dim=1)).item()
    for maps in (1, 2500, 6500, 10**7):
        monkeypatch.setattr(scores, "MAPS", maps)
        assert mefb_score(fused, pair) == pytest.approx(whole, abs=1e-6)  # float32


def test_middle_difference_is_that_of_lab():
    """Of pure colours, whose a* and b* are in any table of CIELAB (sRGB, D65)."""
    exposure = np.full((4, 5, 3), 128, np.uint8)  # a* = b* = 0
    exposure[0] = 255  # clipped: left out
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 255  # L* 53.24, a* 80.09, b* 67.20
    expected = math.hypot(80.09, 67.20)
    values = middle_difference(red, exposure)
    assert values["dC"] == pytest.approx(expected, abs=0.2)
    assert values["dE"] == pytest.approx(math.hypot(expected, 53.585 - 53.24), abs=0.2)
    assert middle_difference(exposure, exposure) == {"dC": 0, "dE": 0}
    for fused, other in ((red, None), (red[..., 0], exposure), (red, exposure * 0)):
        assert all(math.isnan(value) for value in middle_difference(fused, other).values())


def metric_case(height, width, s, count):
    """Computed pictures: two fused ones and their exposures, uint8 RGB."""
    i, j = np.mgrid[:height, :width]
    base = np.stack(
        [
            127.5
            + 80 * np.sin(i / (5 + s) + c) * np.cos(j / (9 - s) - c / 2)
            + 40 * np.sin(i * j / (61 + 10 * s) + c)
            for c in (0, 0.7, 1.4)
        ],
        axis=2,
    )
    gains, offsets = {2: ((0.4, 1.9), (-15, 35)), 3: ((0.35, 1, 2.2), (-10, 0, 30))}[count]
    pairs = zip(gains, offsets, strict=True)
    exposures = [np.clip(np.floor(g * base + o + 0.5), 0, 255) for g, o in pairs]
    mean = np.floor(np.mean(exposures, axis=0) + 0.5)
    own = np.floor(np.clip(base, 0, 255) + 0.5)
    return [x.astype(np.uint8) for x in (mean, own)], [x.astype(np.uint8) for x in exposures]


@pytest.mark.parametrize("rows", [16, 256])
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((64, 96, 0, 2), (0.81265360, 0.67738789)),
        ((97, 131, 1, 2), (0.81395549, 0.68009889)),
        ((80, 75, 2, 3), (0.84822184, 0.93836868)),
    ],
)
def test_mef_ssim_c_agrees_with_public_implementations(case, expected, rows, monkeypatch):
    """In strips of rows as in one; public implementations print eight digits."""
    monkeypatch.setattr(scores, "ROWS", rows)
    fused, exposures = metric_case(*case)
    values = [mef_ssim_c(picture, exposures) for picture in fused]
    # Theirs differ from the formula in float64 by up to 5e-8.
    assert values == pytest.approx(expected, abs=1e-7)


def test_mef_ssim_c_is_for_colour():
    fused, exposures = metric_case(64, 96, 0, 2)
    assert math.isnan(mef_ssim_c(fused[0][..., 0], [x[..., 0] for x in exposures]))
    assert math.isnan(mef_ssim_c(fused[0][:7], [x[:7] for x in exposures]))
    assert not math.isnan(mef_ssim_c(fused[0][:8], [x[:8] for x in exposures]))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [  # G. Sharma, W. Wu, E. N. Dalal, table 1: pairs 1, 3, 4, 7, 9 to 14, 16, 17, 25, 29, 34
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.8361, -74.0200), (50, 0, -82.7485), 3.4412),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0009), 7.1792),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0010), 7.1792),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0011), 7.2195),
        ((50, 2.4900, -0.0010), (50, -2.4900, 0.0012), 7.2195),
        ((50, -0.0010, 2.4900), (50, 0.0009, -2.4900), 4.8045),
        ((50, -0.0010, 2.4900), (50, 0.0011, -2.4900), 4.7461),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_agrees_with_its_published_test_data(one, other, expected):
    """The pairs cover hues on either side of the wrap at 360 degrees, and grey."""
    one, other = (np.array(colour, np.float64) for colour in (one, other))
    assert ciede2000(one, other) == pytest.approx(expected, abs=5e-5)  # four digits are printed
    assert ciede2000(other, one) == pytest.approx(expected, abs=5e-5)


def test_psnr_and_ssim_of_offsets():
    rng = np.random.default_rng(0)
    image = rng.integers(20, 230, (40, 50, 3)).astype(np.uint8)
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1, abs=1e-12)
    assert psnr(image + np.uint8(5), image) == pytest.approx(20 * math.log10(255 / 5))
    flat = np.full((20, 20, 3), 100, np.uint8)
    luminance = (2 * 100 * 150 + 2.55**2) / (100**2 + 150**2 + 2.55**2)
    assert ssim(flat, flat + np.uint8(50)) == pytest.approx(luminance, abs=1e-9)


def test_ssim_against_a_literal_loop():
    rng = np.random.default_rng(1)
    pair = rng.integers(0, 256, (2, 14, 13, 3)).astype(np.uint8)
    offset = np.arange(11) - 5
    window = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(window, window)
    window /= window.sum()
    values = []
    for channel in range(3):
        x, y = (picture[..., channel].astype(float) for picture in pair)
        for i, j in np.ndindex(4, 3):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            m, n = (window * p).sum(), (window * q).sum()
            v, w = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
            c = (window * (p - m) * (q - n)).sum()
            luminance = (2 * m * n + 2.55**2) / (m * m + n * n + 2.55**2)
            values.append(luminance * (2 * c + 7.65**2) / (v + w + 7.65**2))
    assert ssim(*pair) == pytest.approx(np.mean(values), rel=1e-9)


def test_rendition_scores_of_flat_colours():
    """Grey of L* 53.585 against pure red, L* 53.24, a* 80.09, b* 67.20 (sRGB, D65)."""
    grey = np.full((20, 30, 3), 128, np.uint8)
    red = np.zeros_like(grey)
    red[..., 0] = 255
    values = rendition_scores(grey, red)
    chroma = math.hypot(80.09, 67.20)
    assert values["dC ref"] == pytest.approx(chroma, abs=0.2)  # OpenCV's tables
    assert values["dE ref"] == pytest.approx(math.hypot(chroma, 53.585 - 53.24), abs=0.2)
    assert values["dE00"] == pytest.approx(values["dE00 95%"])
    assert (values["L"], values["L ref"]) == pytest.approx((53.585, 53.24), abs=0.1)
    assert values["chroma"] == pytest.approx(0, abs=0.1)
    assert values["chroma ref"] == pytest.approx(chroma, abs=0.2)
    assert values["L sd"] == pytest.approx(0, abs=1e-3)
    assert values["PSNR"] == psnr(grey, red)
    assert rendition_scores(grey[..., 0], grey)["dE00"] == 0


def test_lost_detail():
    """Blown and crushed count where an exposure has texture that is not clipped itself."""
    rng = np.random.default_rng(0)
    textured = rng.integers(60, 200, (80, 80)).astype(np.uint8)
    flat = np.full((80, 80), 100, np.uint8)
    white, black = np.full_like(flat, 255), np.zeros_like(flat)
    fused = textured.copy()
    fused[:20], fused[60:] = 250, 5
    quarter = {"blown": 0.25, "crushed": 0.25}
    assert lost_detail(fused, shown_detail([textured, white])) == quarter
    assert lost_detail(fused, shown_detail([black, textured])) == quarter
    assert lost_detail(fused, shown_detail([flat, white])) == {"blown": 0, "crushed": 0}
    assert lost_detail(np.full_like(flat, 249), shown_detail([textured])) == {
        "blown": 0,
        "crushed": 0,
    }
    clipped = np.where(textured > 130, 255, 0).astype(np.uint8)  # texture, but of clipped pixels
    assert lost_detail(fused, shown_detail([clipped, clipped])) == {"blown": 0, "crushed": 0}


def test_blotches():
    """Chroma that varies in the fused picture alone, and none where an exposure's varies."""
    even = np.full((60, 60, 3), (120, 130, 140), np.uint8)
    stripes = even.copy()
    stripes[:, ::2] = (150, 120, 120)
    assert blotches(even, largest_spread([even, even // 2])) == 0
    value = blotches(stripes, largest_spread([even, even // 2]))
    lab = scores.to_lab(np.stack([stripes[:1, 1], stripes[:1, 0]]))
    distance = np.linalg.norm((lab[1] - lab[0])[0, 1:])
    # A window of 11 columns has 5 of one colour and 6 of the other.
    assert value == pytest.approx(distance * math.sqrt(5 * 6) / 11, rel=1e-3)
    assert math.isnan(blotches(stripes, largest_spread([stripes, even])))
    assert math.isnan(blotches(even[..., 0], largest_spread([even[..., 0]])))


def test_vif_of_a_share_of_the_contrast():
    """Columns of period 2 have contrast at the finest scale alone, which the next one smooths."""
    columns = np.tile(np.array([50, 250], np.uint8), (64, 32))
    half = np.tile(np.array([100, 200], np.uint8), (64, 32))
    flat = np.full_like(columns, 150)
    noise = 0.005 * 255**2
    # A window's variance is 100^2; with a gain of 1/2 it keeps a quarter of it.
    finest = math.log(1 + 0.25 * 100**2 / noise) / math.log(1 + 100**2 / noise)
    expected = (finest + 0.15 + 1) / 2.15
    assert scores.vif(half, [columns, columns]) == pytest.approx(expected, abs=0.01)
    assert scores.vif(columns, [columns, columns]) == pytest.approx(1, abs=1e-3)
    # The exposure counts whose contrast is kept least.
    assert scores.vif(columns, [half, columns]) == pytest.approx(1, abs=1e-3)
    assert scores.vif(half, [flat, columns]) == pytest.approx(1, abs=0.01)
    inverted = 300 - columns.astype(int)
    lost = scores.vif(inverted.astype(np.uint8), [columns, columns])
    assert lost == pytest.approx((0 + 0.15 + 1) / 2.15, abs=0.01)


def test_vif_is_the_mean_over_channels():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 60, 50, 3), dtype=np.uint8)
    by_channel = [scores.vif(x[0], x[1:]) for x in np.moveaxis(pictures, -1, 0)]
    assert scores.vif(pictures[0], pictures[1:]) == pytest.approx(np.mean(by_channel))
    assert scores.vif(pictures[0, :41, :41], pictures[1:, :41, :41]) > 0
    assert math.isnan(scores.vif(pictures[0, :40], pictures[1:, :40]))
    assert math.isnan(scores.vif(pictures[0, ..., 0], pictures[1:]))


def test_q_cv_of_a_wave():
    """Waves of opposite phase differ by one of 255 levels, four periods in 64 pixels."""
    wave = np.cos(2 * np.pi * 4 * np.arange(64) / 64) * 127.5
    source, fused = (np.tile(np.rint(127.5 + x).astype(np.uint8), (64, 1)) for x in (wave, -wave))
    # A quarter of the 4 cycles a picture goes into Mannos' and Sakrison's sensitivity.
    sensitivity = 2.6 * (0.0192 + 0.144 * 1) * math.exp(-(0.144**1.1))
    expected = (255 * sensitivity) ** 2 / 2
    assert scores.q_cv(fused, [source, source]) == pytest.approx(expected, rel=0.01)
    assert scores.q_cv(source, [source, source]) == pytest.approx(0, abs=1e-9)
    # An exposure without edges does not count, nor does the contrast of the whole.
    flat = np.full_like(source, 90)
    assert scores.q_cv(source, [source, flat]) == pytest.approx(0, abs=1e-9)
    assert scores.q_cv(source // 2, [source, source]) < 10
    assert math.isnan(scores.q_cv(np.dstack([fused] * 3), [source, source]))


def test_regions_at_the_border_are_filled_up_with_zeros():
    sums = scores.region_sums(np.ones((20, 33)))
    assert sums.tolist() == [[256, 256, 16], [64, 64, 4]]


def grey_picture(levels):
    """Returns RGB of equal channels."""
    return np.dstack([np.asarray(levels).round().clip(0, 255).astype(np.uint8)] * 3)


def test_quantiles_of_lightness():
    """A ramp of 0 to 255; L* of CIELAB is 116 (Y)^(1/3) - 16 above 8 % grey."""
    ramp = grey_picture(np.tile(np.arange(256), (20, 1)))
    found = scores.lightness_quantiles(ramp)
    for name, level in (("L 5%", 12.75), ("L 95%", 242.25)):
        linear = ((level / 255 + 0.055) / 1.055) ** 2.4
        light = 116 * linear ** (1 / 3) - 16 if linear > 0.008856 else 903.3 * linear
        assert found[name] == pytest.approx(light, abs=0.5)
    assert scores.lightness_quantiles(ramp[..., 0]) == found


def exposures_of_a_sign(side=120):
    """A smooth wall with a small sign, which is clipped but in the darkest exposure."""
    wall = np.tile(np.linspace(120, 135, side), (side, 1))
    dark, bright = wall - 60, wall + 60
    dark[50:66, 50:66] = np.where(np.arange(16) // 4 % 2, 220, 120)
    bright[50:66, 50:66] = 255
    return [grey_picture(dark), grey_picture(bright)]


def test_noise_is_that_over_the_cleanest_exposure():
    rng = np.random.default_rng(0)
    clean = exposures_of_a_sign()
    noisy_dark = [grey_picture(clean[0][..., 0] + rng.normal(0, 8, (120, 120))), clean[1]]
    seen = scores.places_seen(noisy_dark)
    middle = clean[0][..., 0] / 2.0 + clean[1][..., 0] / 2.0

    def noise(sigma):
        picture = grey_picture(middle + rng.normal(0, sigma, (120, 120)))
        return scores.scores_of_places(picture, seen)["noise"]

    assert noise(0) < 1.5  # the bright exposure is clean
    assert noise(6) > 3 * noise(0)
    assert noise(6) > 1.5 * noise(2)


def test_texture_kept_in_small_bright_areas():
    images = exposures_of_a_sign()
    seen = scores.places_seen(images)
    assert seen.bright[55:60, 55:60].all()
    assert seen.bright.mean() < 0.03
    kept = scores.scores_of_places(images[0], seen)["highlights"]
    assert kept == pytest.approx(1, abs=0.05)
    assert scores.scores_of_places(images[1], seen)["highlights"] < 0.1
    half = grey_picture(images[0][..., 0] / 2.0 + images[1][..., 0] / 2.0)
    assert 0.3 < scores.scores_of_places(half, seen)["highlights"] < 0.7
    large = images[1].copy()
    large[:60] = 255
    assert not scores.places_seen([images[0], large]).bright.any()


def test_tints_on_what_is_neutral():
    images = exposures_of_a_sign()
    seen = scores.places_seen(images)
    middle = grey_picture(images[0][..., 0] / 2.0 + images[1][..., 0] / 2.0)
    assert scores.scores_of_places(middle, seen)["tint"] < 0.5
    green = middle.copy()
    green[..., 1] += 12
    chroma = np.hypot(*np.moveaxis(scores.to_lab(green)[..., 1:], -1, 0))[seen.neutral].mean()
    assert scores.scores_of_places(green, seen)["tint"] == pytest.approx(chroma, rel=0.1)
    wall = [np.clip(image + np.array([20, 0, -20]), 0, 255).astype(np.uint8) for image in images]
    assert not scores.places_seen(wall).neutral[:40].any()
    nothing = scores.places_seen([np.zeros_like(middle), np.full_like(middle, 255)])
    assert all(math.isnan(x) for x in scores.scores_of_places(middle, nothing).values())
