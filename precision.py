"""Which number type is fast here? The one in which this machine computes a layer soonest.

Processors that have instructions for bfloat16 are not always faster in it than in float32.
"""

import functools
import time
from collections.abc import Mapping

import torch
from torch.nn import functional as F

PRECISIONS = ("float32", "bfloat16", "float16")
CHANNELS, KERNEL = 32, 7  # of C3, which does half of the paper's network's arithmetic
LAYER_SIDE = 96  # pixels a side of the features that are convolved
REPEATS = 3  # timed runs of a type; the shortest counts
LEAST_SPEEDUP = 1.1  # times by which a narrower type must be faster to be taken


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Returns the type of the convolutions of that name; "auto" is the one that is fast here."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return fastest(layer_seconds())


def fastest(seconds: Mapping[torch.dtype, float]) -> torch.dtype:
    """Returns the type that is fastest by far, of seconds a type; else float32."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * LEAST_SPEEDUP < seconds[torch.float32] else torch.float32


@functools.cache
def layer_seconds() -> dict[torch.dtype, float]:
    """Returns the seconds that C3 takes on this CPU, by type; measured once a process.

    Types for which the processor has no instructions are left out: they are never the fastest.
    """
    # Older versions of PyTorch do not report capabilities; float32 works everywhere.
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    types = [torch.float32]
    if has.get("avx512_bf16") or has.get("amx_bf16"):
        types.append(torch.bfloat16)
    if len(types) == 1:
        return {torch.float32: 0.0}
    found = {}
    with torch.inference_mode():
        for dtype in types:
            x = torch.zeros(1, CHANNELS, LAYER_SIDE, LAYER_SIDE, dtype=dtype)
            weight = torch.zeros(CHANNELS, CHANNELS, KERNEL, KERNEL, dtype=dtype)
            x, weight = (part.to(memory_format=torch.channels_last) for part in (x, weight))
            times = []
            for _ in range(1 + REPEATS):
                start = time.perf_counter()
                F.conv2d(x, weight)
                times.append(time.perf_counter() - start)
            found[dtype] = min(times[1:])  # The first one prepares the kernel.
    return found


def precision_note(name: str, device: torch.device) -> str:
    """Returns the chosen type, and why it was chosen, for people."""
    chosen = type_name(choose_precision(name, device))
    if name != "auto" or device.type == "cuda" or len(layer_seconds()) == 1:
        return f"computes in {chosen}"
    times = ", ".join(
        f"{1000 * seconds:.1f} ms in {type_name(dtype)}"
        for dtype, seconds in layer_seconds().items()
    )
    return f"computes in {chosen}, because a layer took {times}"


def type_name(dtype: torch.dtype) -> str:
    """Returns the name of a type, as --precision has it."""
    return str(dtype).removeprefix("torch.")
