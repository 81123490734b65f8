"""How does a pyramid of exposures begin, and where does it end? See model.PyramidDeepFuse.

All of it serves NumPy's arrays and PyTorch's tensors, see arrays.py.
"""

from collections.abc import Sequence

from arrays import Array, namespace, softmax

COARSEST = 32  # pixels; a level is halved again if its shorter side is at least twice this
LOCAL_MEAN_SIDE = 17  # pixels of a level; side of the square that gives a detail's local mean
NATURAL = (0.38, 0.57)  # range of mean luma that tilted_mean aims at
LARGEST_TILT = 1.0  # At a tilt of 1 the brightest exposure weighs e times as much as the darkest.


def is_coarsest(height: int, width: int) -> bool:
    """Returns True for a size that is not halved any more."""
    return min(height, width) < 2 * COARSEST


def tilted_mean(stack: Sequence[Array], tilt: Array | None = None) -> Array:
    """Returns a weighted mean of K exposures, by default one of natural brightness.

    Every exposure has one weight, exp(t z_k), divided by the sum of all. z_k is the position of its
    mean luma on the line from the darkest exposure's, at -1/2, to the brightest's, at 1/2.

    stack: K arrays (N, 1, H, W). Returns (N, 1, H, W).
    tilt: t, shape (N, 1, 1, 1). The default is the t nearest to 0 that gives a mean luma within
        NATURAL, at most LARGEST_TILT either way. At 0 the weights are equal.
    """
    xp = namespace(stack[0])
    y = xp.concatenate(list(stack), axis=1)  # (N, K, H, W)
    level = y.mean(axis=(2, 3), keepdims=True)
    darkest, brightest = (f(level, axis=1, keepdims=True) for f in (xp.amin, xp.amax))
    place = (level - (darkest + brightest) / 2) / (brightest - darkest).clip(min=1e-3)

    def weights(tilt: Array) -> Array:
        return softmax(tilt * place)

    if tilt is None:
        mean = level.mean(axis=1, keepdims=True)
        target = mean.clip(*NATURAL)
        low = xp.full_like(target, -LARGEST_TILT)
        high = -low
        for _ in range(20):  # The mean luma grows with t, so bisection finds it.
            tilt = (low + high) / 2
            bright = (weights(tilt) * level).sum(axis=1, keepdims=True) > target
            low, high = xp.where(bright, low, tilt), xp.where(bright, tilt, high)
        tilt = (low + high) / 2 * (target != mean)
    return (weights(tilt) * y).sum(axis=1, keepdims=True)
