"""How are photos fused in a page? Drop them, change the look, compare, and save the full result.

The page is Gradio's, which is optional. It runs on this machine: what is dropped goes into a folder
of temporary files here, which is removed at the end.
"""

import argparse
import functools
import importlib.util
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fusion
import ghosts
import photos
import raw
import utils
from opts import DemoOptions, TestOptions, how_to_install, one_line, run

if TYPE_CHECKING:
    import gradio

HOUR = 3600  # seconds; what was dropped longer than 24 hours ago is removed every hour
REDUCED = 640  # pixels; longer side of the pictures that are fused while one tries
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
SAMPLES = [
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "samples", f"{name}.jpg")
    for name in ("under", "over")
]


class Dropped(NamedTuple):
    """Photos of one scene: their files, dark to bright, and the same reduced to REDUCED."""

    files: list[str]
    reduced: list[np.ndarray]


class Choice(NamedTuple):
    """The way of fusing that is chosen in the page; see inference.py's flags of these names.

    align, deghost: True for "auto", False for "no".
    """

    look: str
    finish: float
    align: bool
    deghost: bool

    def recipe(self, result: str) -> photos.Recipe:
        """Returns the Recipe of inference.py for a result's file."""
        flags = ["--look", self.look, "--res", result, "--images", "a", "b", "--quiet"]
        if self.look == "photo":
            if not 0 <= self.finish <= 2:  # This is true for NaN too.
                raise ValueError(f"finish must be from 0 to 2, not {self.finish}")
            flags += ["--finish", str(self.finish)]
        for flag, chosen in (("--align", self.align), ("--deghost", self.deghost)):
            flags += [flag, "auto" if chosen else "no"]
        return photos.recipe_of(TestOptions().parse(flags))


class Studio:
    """Everything that the page does, without the page.

    device: as inference.py's --device. folder: for all that is dropped and all results.
    """

    def __init__(self, folder: str, device: str = "auto"):
        self.folder = folder
        self.device = device
        self.loaded: dict[str, fusion.Network] = {}
        self.writing = threading.Lock()
        self.closed = False

    def network(self, look: str) -> fusion.Network:
        """Returns the network of a look; it is loaded once."""
        if look not in self.loaded:
            flags = ["--look", look, "--device", self.device, "--images", "a", "b"]
            self.loaded[look] = photos.network_for(TestOptions().parse(flags))
        return self.loaded[look]

    def read(self, files: Sequence[str]) -> Dropped:
        """Reads photos; ValueError where there are fewer than two, or they are of several kinds."""
        if len(files) < 2:
            raise ValueError("drop two or more exposures of one scene")
        photos.check_memory(files, photos.known_headers(files))
        development = raw.common_development(files)
        reduced = []
        for file in files:
            picture = photos.in_srgb(file, utils.read_picture(file, development, half=True))
            image = utils.as_type(picture.pixels, picture.dtype or picture.pixels.dtype)
            reduced.append(utils.reduce(image, min(1, REDUCED / max(image.shape[:2]))))
        fusion.check_images(reduced, one_size=False)
        order = ghosts.by_brightness(reduced)
        return Dropped([files[i] for i in order], [reduced[i] for i in order])

    def fuse_reduced(self, dropped: Dropped, choice: Choice) -> list[np.ndarray]:
        """Returns the reduced exposures, aligned if chosen, and the fused picture; 8-bit each."""
        recipe = choice.recipe("result.png")
        reference = photos.choose_reference(dropped.reduced, recipe)
        opaque = [None] * len(dropped.reduced)
        images, _, files = photos.prepared(
            dropped.files, list(dropped.reduced), opaque, reference, recipe
        )
        network = self.network(choice.look)
        # The result may take the place of the first exposure.
        fused = photos.fuse_images(network, [image.copy() for image in images], recipe)
        if len(files) < len(dropped.files):
            images = list(dropped.reduced)  # What was left out is shown all the same.
        return [utils.to_8_bit(image) for image in (*images, fused)]

    def save(self, dropped: Dropped, choice: Choice, extension: str) -> str:
        """Fuses the full photos as inference.py does, and writes the result with their metadata.

        Returns the path of the result, which has a folder of its own in `folder`.
        """
        name = os.path.splitext(os.path.basename(dropped.files[0]))[0]
        name = f"{name}_fused{extension}"
        path = os.path.join(self.folder, secrets.token_hex(8), name)
        recipe = choice.recipe(path)
        photos.check_results(os.path.join(self.folder, name), dropped.files, recipe)
        pictures = photos.read_scene(dropped.files, recipe)
        network = self.network(choice.look)
        write = photos.fuse_scene(network, dropped.files, pictures, path, recipe)
        with self.writing:
            if self.closed:
                raise ValueError("the page is closed")
            os.mkdir(os.path.dirname(path))
            write()
        return path

    def close(self) -> None:
        """Lets a result be written to its end, and none after it."""
        with self.writing:
            self.closed = True

    def without_folders(self, message: str) -> str:
        """Returns a message without the names of folders in `folder`."""
        separator = re.escape(os.sep)
        folders = rf"{re.escape(self.folder)}{separator}([^{separator}]+{separator})?"
        return re.sub(folders, "", message)


class Controls(NamedTuple):
    """The parts of the page that the user or the program changes."""

    files: "gradio.Files"
    sample: "gradio.Button"
    exposures: "gradio.Gallery"
    look: "gradio.Radio"
    finish: "gradio.Slider"
    aligned: "gradio.Checkbox"
    deghost: "gradio.Checkbox"
    compared: "gradio.Radio"
    slider: "gradio.ImageSlider"
    file_format: "gradio.Radio"
    save: "gradio.Button"
    result: "gradio.File"


def lay_out() -> Controls:
    """Puts the controls into the page that is being made."""
    import gradio

    choices = [("a photo", "photo"), ("as in the paper", "paper")]
    gradio.Markdown("# DeepFuse\nDrop two or more exposures of one scene.")
    with gradio.Row():
        with gradio.Column(scale=1):
            files = gradio.Files(label="Exposures", elem_id="files")
            sample = gradio.Button("Try the sample", elem_id="sample")
            exposures = gradio.Gallery(label="From dark to bright", columns=3, height=180)
            look = gradio.Radio(choices, value="photo", label="Look", elem_id="look")
            finish = gradio.Slider(0, 2, 1, step=0.1, label="Finish", elem_id="finish")
            aligned = gradio.Checkbox(True, label="Align where needed", elem_id="align")
            deghost = gradio.Checkbox(True, label="Remove ghosts", elem_id="deghost")
        with gradio.Column(scale=3):
            compared = gradio.Radio([], label="Compare the result with", elem_id="compared")
            slider = gradio.ImageSlider(label="Exposure | result", elem_id="slider")
            with gradio.Row():
                file_format = gradio.Radio(list(FORMATS), value="JPEG", label="Format")
                save = gradio.Button("Fuse the full photos", variant="primary", elem_id="save")
            result = gradio.File(label="Result", elem_id="result", interactive=False)
    return Controls(
        *(files, sample, exposures, look, finish, aligned, deghost),
        *(compared, slider, file_format, save, result),
    )


def wire(page: Controls, studio: Studio) -> None:
    """Connects the controls of the page that is being made with what they do."""
    import gradio

    dropped, shown, saved = gradio.State(), gradio.State(), gradio.State()
    said = functools.partial(said_in_the_page, studio)

    def clear():
        return None, [], gradio.Radio([], value=None), None, None, None

    @said
    def read(paths):
        if not paths:
            return clear()
        found = studio.read(paths)
        names = [os.path.basename(file) for file in found.files]
        cells = [(utils.to_8_bit(x), name) for x, name in zip(found.reduced, names, strict=True)]
        numbered = [(name, number) for number, name in enumerate(names)]
        return found, cells, gradio.Radio(numbered, value=0), None, None, None

    @said
    def fuse(found, number, *chosen):
        if found is None:
            return None, None
        pictures = studio.fuse_reduced(found, Choice(*chosen))
        return pictures, compare(pictures, number)

    def compare(pictures, number):
        return (pictures[number or 0], pictures[-1]) if pictures else None

    tracking = gradio.Progress(track_tqdm=True)

    @said
    def fuse_all(found, before, name, look, finish, aligned, deghost, progress=tracking):
        if found is None:
            raise ValueError("drop two or more exposures of one scene")
        progress(0.1, "Reading and fusing")
        path = studio.save(found, Choice(look, finish, aligned, deghost), FORMATS[name])
        if before is not None:
            shutil.rmtree(os.path.dirname(before), ignore_errors=True)
        return path, path

    choice = [page.look, page.finish, page.aligned, page.deghost]
    inputs, outputs = [dropped, page.compared, *choice], [shown, page.slider]
    everything = [dropped, page.exposures, page.compared, page.result, shown, page.slider]
    # One at a time: warnings are caught for all threads at once, and every fusion uses all cores.
    alone: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1}
    reading = page.files.change(read, page.files, everything, **alone)
    reading.failure(clear, None, everything)  # Else the scene before would be fused.
    changes: list[Callable] = [reading.success, page.finish.release]
    changes += [control.change for control in (page.look, page.aligned, page.deghost)]
    for change in changes:
        tried = change(fuse, inputs, outputs, **alone)
        tried.failure(lambda: (None, None), None, outputs)
    page.look.change(
        lambda look: gradio.Slider(interactive=look == "photo"), page.look, page.finish
    )
    page.compared.select(compare, [shown, page.compared], page.slider)
    page.sample.click(lambda: SAMPLES, None, page.files)
    full = [dropped, saved, page.file_format, *choice]
    page.save.click(fuse_all, full, [page.result, saved], **alone)


def said_in_the_page(studio: Studio, work: Callable) -> Callable:
    """Returns the function with its failures, and its warnings, as messages of the page."""
    import gradio

    @functools.wraps(work)
    def attempt(*arguments: Any) -> Any:
        try:
            with warnings.catch_warnings(record=True) as told:
                result = work(*arguments)
        except utils.FAILURES as error:
            message = studio.without_folders(one_line(error))
            raise gradio.Error(message, print_exception=False) from error
        except ModuleNotFoundError as error:  # The paper's look needs PyTorch.
            raise gradio.Error(how_to_install(error), print_exception=False) from error
        for warning in told:
            if warning.category is UserWarning:
                gradio.Warning(studio.without_folders(str(warning.message)))
        return result

    return attempt


def demo(options: argparse.Namespace) -> None:
    """Shows the page until it is interrupted.

    Raises ValueError where Gradio is missing, and OSError where the address cannot be used.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs gradio: pip install -r requirements-demo.txt")
    with tempfile.TemporaryDirectory(prefix="deepfuse_") as folder:
        studio = Studio(os.path.realpath(folder), options.device)
        page = start(studio, options.host, options.port, options.quiet)
        try:
            page.block_thread()
        finally:
            studio.close()


def start(
    studio: Studio, host: str = "127.0.0.1", port: int | None = None, quiet: bool = True
) -> "gradio.Blocks":
    """Starts to serve the page, and returns it.

    host, port: the address; without a port, 7860 or the next free one. quiet: does not print it.
    Raises OSError where the address cannot be used.
    """
    check_address(host, port)
    os.environ |= {"GRADIO_TEMP_DIR": studio.folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    import gradio

    with gradio.Blocks(
        title="DeepFuse", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)
    ) as page:
        wire(lay_out(), studio)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,  # It would offer a public link.
        prevent_thread_lock=True,
        allowed_paths=[os.path.dirname(SAMPLES[0])],
        footer_links=[],
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    if not quiet:
        print(f"Running on {address}", flush=True)
    return page


def check_address(host: str, port: int | None) -> None:
    """Raises OSError naming the address where this machine cannot listen on it."""
    try:
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:  # Gradio would try 100 ports.
        place = host if port is None else f"{host}, port {port}"
        raise OSError(f"{place}: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("demo.py", demo, DemoOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
