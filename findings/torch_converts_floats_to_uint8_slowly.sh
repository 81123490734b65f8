#!/usr/bin/env bash
# On a CPU, PyTorch converts floats to uint8 eight times slower than to int8, and slower than by way of int32.
#
# Seen with torch 2.14.1 on 2026-12-01 (Linux, one thread of an AMD EPYC, Zen 5): four million floats took
# 2.2 ms to uint8, 0.27 ms to int8, 0.6 ms to int32, and 1.1 ms to int32 and from there to uint8, with
# the same values. The way back, from uint8 to floats, is as fast as from int8. Both types have one byte, so one
# expects one speed. Whoever makes pictures of a network's floats, or integers for its kernels, pays for it at every pixel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.14.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import time

import torch


def milliseconds(work):
    times = []
    for _ in range(30):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


torch.set_num_threads(1)
x = torch.rand(4_000_000) * 255
to = {name: milliseconds(lambda: x.to(getattr(torch, name))) for name in ("uint8", "int8", "int32")}
detour = milliseconds(lambda: x.to(torch.int32).to(torch.uint8))
print(torch.__version__, torch.backends.cpu.get_cpu_capability())
for name, value in to.items():
    print(f"to {name}: {value:.2f} ms")
print(f"to int32, then to uint8: {detour:.2f} ms")
assert torch.equal(x.to(torch.uint8), x.to(torch.int32).to(torch.uint8))
assert to["uint8"] > 3 * to["int8"], "uint8 is no longer slow"
assert to["uint8"] > detour, "the detour no longer pays"
PYTHON
