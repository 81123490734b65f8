"""How does training update kernels? By Muon: along the nearest orthogonal matrix to the momentum.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

import torch

MOMENTUM = 0.95
STEPS = 5  # of the iteration of Newton and Schulz
QUINTIC = (3.4445, -4.7750, 2.0315)  # its coefficients, Jordan's: singular values end near 1
# Root mean square of an update's elements, by the learning rate, as Adam's is about; from J. Liu
# et al., "Muon is Scalable for LLM Training", 2025.
RMS = 0.2


class Muon(torch.optim.Adam):
    """Muon for the kernels of convolutions (out, in, height, width), Adam for everything else.

    A kernel counts as a matrix (out, in height width). Adam scales every element by itself, so
    that few directions of a kernel have most of its update; here all have the same. Kernels of one
    output, such as C5's, have one direction, and are Adam's.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Updates all parameters by their gradients."""
        for group in self.param_groups:
            kernels = [p for p in group["params"] if p.ndim == 4 and len(p) > 1]
            gradients = [p.grad for p in kernels]
            for kernel, gradient in zip(kernels, gradients, strict=True):
                if gradient is not None:
                    self.move(kernel, gradient, group["lr"])
                kernel.grad = None  # Adam's step leaves it alone.
        super().step()

    def move(self, kernel: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        """Takes Muon's step for one kernel, with Nesterov's momentum."""
        state = self.state[kernel]
        if not state:
            state["step"] = torch.zeros(())  # Adam cannot load a state without it.
            state["momentum"] = torch.zeros_like(kernel)
        state["step"] += 1
        momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
        update = orthogonal((gradient + MOMENTUM * momentum).flatten(1))
        kernel.sub_(update.view_as(kernel), alpha=rate * RMS * max(update.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Returns nearly U V^T for a matrix U S V^T (M, N): its singular values become about 1.

    They end between 0.68 and 1.2 where they are above a 500th of the matrix's norm.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = QUINTIC
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(STEPS):
        product = x @ x.T
        x = a * x + (b * product + c * product @ product) @ x
    return x
