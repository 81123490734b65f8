"""How does a script start, warn, fail and end? In one way for all of them."""

import argparse
import atexit
import contextlib
import ctypes
import gc
import importlib.util
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

# numbers of settings in malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
SPINS = 20_000  # of an idle thread, see limit_spinning
LARGE_BLOCK = 2**25  # bytes; the largest M_MMAP_THRESHOLD that glibc takes
WITH_TORCH = ("torch", "torchvision", "matplotlib")  # packages that photos do without


def run(
    script: str, work: Callable[..., Any], options: argparse.Namespace, keep_large: bool = False
) -> int:
    """Calls work(options); returns the script's exit status: what `work` returns, or 0.

    keep_large: as keep_freed_memory takes it.

    An OSError or ValueError is a mistake that the user can mend, and gives one line on stderr and
    status 2. So do a lack of memory, and of PyTorch. A warning gives one line too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # File names can have letters that it lacks.
            stream.reconfigure(errors="backslashreplace")
    unwind_at_signals()
    keep_freed_memory(keep_large)
    limit_spinning()
    atexit.register(gc.freeze)  # Otherwise the collector searches PyTorch at exit, for 0.4 s.
    with warnings.catch_warnings():
        warn_in_lines(script)
        try:
            return work(options) or 0
        except (OSError, ValueError) as error:
            print(f"{script}: {one_line(error)}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            print(f"{script}: {how_to_install(error)}", file=sys.stderr)
            return 2
        except MemoryError as error:
            print(f"{script}: not enough memory: {one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130  # as shells report SIGINT


def how_to_install(error: ModuleNotFoundError) -> str:
    """Returns a line on a package that photos do without; raises the error where it is another."""
    if error.name not in WITH_TORCH:
        raise error
    return f"needs {error.name}: pip install -r requirements.txt"


def need_torch(script: str, parse: Callable[[], object]) -> None:
    """Answers --help and mistakes before PyTorch is loaded; ends the script where it is missing.

    parse: reads the script's command line.
    """
    parse()
    if importlib.util.find_spec("torch") is None:
        print(f"{script}: {how_to_install(ModuleNotFoundError(name='torch'))}", file=sys.stderr)
        sys.exit(2)


def unwind_at_signals() -> None:
    """Makes SIGTERM and SIGHUP end this process as an exception does, with their usual status.

    Else they would leave its other processes at work, and unfinished files. A signal that is
    ignored, as nohup asks for, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows it in the main thread alone.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def warn_in_lines(script: str) -> None:
    """Makes every warning of this process a line on stderr."""

    def say(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{script}: {message}", file=sys.stderr)

    warnings.showwarning = say
    warnings.filterwarnings("ignore", module="PIL")  # about damaged EXIF; they name no file


def keep_freed_memory(keep_large: bool = False) -> None:
    """Makes glibc keep freed memory instead of returning it and fetching it anew, page by page.

    Threads share one heap, because that of a thread is returned whatever the settings are. On a
    CPU, this saves a sixth of the time of a training step.

    keep_large: keeps blocks from LARGE_BLOCK on, too: a network's features in training. Whole
    pictures are better returned, or the gaps between them would waste memory.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # Other C libraries do not have mallopt.
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_ARENA_MAX, 1)
            mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
            if keep_large:
                mallopt(M_MMAP_MAX, 0)


def limit_spinning() -> None:
    """Makes PyTorch's idle threads sleep sooner, after SPINS turns of libgomp's loop, not 300,000.

    As long as they wait in the loop, they keep a core from the threads that work on other tiles.
    It acts where PyTorch is imported later: in inference.py, where time counts most. A user's own
    setting of OpenMP is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def one_line(error: BaseException) -> str:
    """Returns an exception's message as one line, with the file's name where it has one."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
