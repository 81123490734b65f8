"""Which processes train together? Those of torchrun, or one alone; and who stops them."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from model import choose_device


class Processes:
    """The processes that train together: torchrun's, or this one alone. A context.

    rank, count: this process's number, and the number of processes. first: True in the process that
    reports and writes. device: the device of this process. attempt: how often torchrun has
    restarted the processes.
    """

    def __init__(self, device: str) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        if self.count > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device = choose_device(device)
        self.first = self.rank == 0

    def __enter__(self) -> "Processes":
        if self.count > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            store = distributed.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            )
            distributed.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo",
                # The prefix keeps an attempt from finding the dead processes of an earlier one.
                store=distributed.PrefixStore(f"attempt {self.attempt}", store),
                rank=self.rank,
                world_size=self.count,
                # Others may wait for hours while the first decodes; torchrun itself sees deaths.
                timeout=timedelta(hours=12),
            )
        return self

    def __exit__(self, *_error: object) -> None:
        if self.count > 1:
            distributed.destroy_process_group()

    def sum(self, *values: float) -> Sequence[float]:
        """Returns the sum of every value over all processes."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Returns True where the flag is True in at least one process."""
        return self.sum(float(flag))[0] > 0

    def gather(self, values: list[Any]) -> list[Any]:
        """Returns one list of all processes' values, dealt out as values[rank::count]."""
        if self.count == 1:
            return values
        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, values)
        total = sum(map(len, parts))
        return [parts[i % self.count][i // self.count] for i in range(total)]

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Runs the context in the first process before the others enter it."""
        if self.count > 1 and not self.first:
            distributed.barrier()
        yield
        if self.count > 1 and self.first:
            distributed.barrier()


class StopOnSignal:
    """A context in which SIGTERM, SIGHUP or a first SIGINT asks to stop; a second one interrupts.

    A SIGHUP that is ignored, as nohup asks for, stays so.

    requested: True once a signal has asked to stop.
    """

    def __enter__(self) -> "StopOnSignal":
        self.requested = False
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self.previous = {number: signal.signal(number, self.request) for number in numbers}
        return self

    def request(self, number: int, _frame: object) -> None:
        """Handles the signals."""
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
