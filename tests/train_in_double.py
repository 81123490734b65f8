"""Runs train.py in float64, where runs that are the same but for rounding agree closely.

In float32, rounding grows with the steps, on some processors beyond what a test should allow.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import train

make_batches = train.make_batches


def make_double_batches(*arguments):
    for stacks in make_batches(*arguments):
        yield [stack.double() for stack in stacks]


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    train.make_batches = make_double_batches
    train.Outputs.draw = lambda outputs, learner: None  # Fusing is not for float64.
    sys.exit(train.main())
