"""How are photos fused in a page? Drop them, change the look, compare, and save the full result.

The page is Gradio's, which is optional. It runs on this machine: what is dropped goes into a folder
of temporary files here, which is removed at the end.
"""

import argparse
import functools
import importlib.util
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import align
import fusion
import inference
import raw
import utils
from opts import DemoOptions, TestOptions, one_line, run

if TYPE_CHECKING:
    import gradio

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
    """The way of fusing that is chosen in the page; see inference.py's flags of these names."""

    look: str
    finish: float
    align: bool
    deghost: bool

    def recipe(self, result: str) -> inference.Recipe:
        """Returns the Recipe of inference.py for a result's file."""
        flags = ["--look", self.look, "--res", result, "--images", "a", "b", "--quiet"]
        if self.look == "photo":
            if not 0 <= self.finish <= 2:  # This is true for NaN too.
                raise ValueError(f"finish must be from 0 to 2, not {self.finish}")
            flags += ["--finish", str(self.finish)]
        flags += ["--align"] * bool(self.align) + ["--deghost"] * bool(self.deghost)
        return inference.recipe_of(TestOptions().parse(flags))


class Studio:
    """Everything that the page does, without the page. device: as inference.py's --device."""

    def __init__(self, device: str = "auto"):
        self.device = device
        self.loaded: dict[str, inference.Networks] = {}

    def networks(self, look: str) -> inference.Networks:
        """Returns the networks of a look; they are loaded once."""
        if look not in self.loaded:
            options = TestOptions().parse(["--look", look, "--images", "a", "b"])
            files = options.model, options.colour
            self.loaded[look] = inference.load_networks(*files, self.device, "auto")
        return self.loaded[look]

    def read(self, files: Sequence[str]) -> Dropped:
        """Reads photos; ValueError where there are fewer than two, or they are of several kinds."""
        if len(files) < 2:
            raise ValueError("drop two or more exposures of one scene")
        inference.check_memory(files)
        balance = raw.common_white_balance(files)
        reduced = []
        for file in files:
            image = utils.read_picture(file, balance, half=True).pixels
            reduced.append(align.reduce(image, min(1, REDUCED / max(image.shape[:2]))))
        fusion.check_images(reduced, one_size=False)
        order = align.by_brightness(reduced)
        return Dropped([files[i] for i in order], [reduced[i] for i in order])

    def fuse_reduced(self, dropped: Dropped, choice: Choice) -> list[np.ndarray]:
        """Returns the reduced exposures, aligned if chosen, and the fused picture; 8-bit each."""
        recipe = choice.recipe("result.png")
        reference = inference.choose_reference(dropped.reduced, recipe.reference)
        images, _ = inference.align_and_deghost(
            dropped.files, list(dropped.reduced), None, reference, recipe
        )
        networks = self.networks(choice.look)
        # The result may take the place of the first exposure.
        fused = inference.fuse_images(networks, [image.copy() for image in images], recipe)
        return [utils.to_8_bit(image) for image in (*images, fused)]

    def save(self, dropped: Dropped, choice: Choice, path: str) -> None:
        """Fuses the full photos as inference.py does, and writes the result with their metadata."""
        recipe = choice.recipe(path)
        inference.check_results(path, dropped.files, recipe)
        pictures = inference.read_scene(dropped.files, recipe)
        networks = self.networks(choice.look)
        inference.fuse_scene(networks, dropped.files, pictures, path, recipe)()


def said_in_the_page(work: Callable) -> Callable:
    """Returns the function with its failures, and its warnings, as messages of the page."""
    import gradio

    @functools.wraps(work)
    def attempt(*arguments: Any) -> Any:
        try:
            with warnings.catch_warnings(record=True) as told:
                result = work(*arguments)
        except inference.FAILURES as error:
            raise gradio.Error(without_folders(one_line(error)), print_exception=False) from error
        for warning in told:
            if warning.category is UserWarning:
                gradio.Warning(without_folders(str(warning.message)))
        return result

    return attempt


def without_folders(message: str) -> str:
    """Returns a message without the names of the folders of temporary files."""
    hidden = tempfile.gettempdir()
    words = (
        os.path.basename(word) if word.startswith(hidden) else word for word in message.split(" ")
    )
    return " ".join(words)


def make_page(studio: Studio, folder: str) -> "gradio.Blocks":
    """Returns the page. folder: where results are written."""
    import gradio

    tracking = gradio.Progress(track_tqdm=True)
    choices = [("a photo", "photo"), ("as in the paper", "paper")]
    with gradio.Blocks(title="DeepFuse", analytics_enabled=False) as page:
        gradio.Markdown("# DeepFuse\nDrop two or more exposures of one scene.")
        dropped = gradio.State()
        shown = gradio.State()
        with gradio.Row():
            with gradio.Column(scale=1):
                files = gradio.Files(label="Exposures", elem_id="files")
                sample = gradio.Button("Try the sample", elem_id="sample")
                exposures = gradio.Gallery(label="From dark to bright", columns=3, height=180)
                look = gradio.Radio(choices, value="photo", label="Look", elem_id="look")
                finish = gradio.Slider(0, 2, 1, step=0.1, label="Finish", elem_id="finish")
                aligned = gradio.Checkbox(label="Align hand-held photos", elem_id="align")
                deghost = gradio.Checkbox(label="Remove ghosts of movement", elem_id="deghost")
            with gradio.Column(scale=3):
                compared = gradio.Radio([], label="Compare the result with", elem_id="compared")
                slider = gradio.ImageSlider(label="Exposure | result", elem_id="slider")
                with gradio.Row():
                    form = gradio.Radio(list(FORMATS), value="JPEG", label="Format")
                    save = gradio.Button("Fuse the full photos", variant="primary", elem_id="save")
                result = gradio.File(label="Result", elem_id="result", interactive=False)
        controls = [look, finish, aligned, deghost]

        def clear():
            return None, [], gradio.Radio([], value=None), None, None, None

        @said_in_the_page
        def read(paths):
            if not paths:
                return clear()
            found = studio.read(paths)
            names = [os.path.basename(file) for file in found.files]
            cells = [
                (utils.to_8_bit(x), name) for x, name in zip(found.reduced, names, strict=True)
            ]
            numbered = [(name, number) for number, name in enumerate(names)]
            return found, cells, gradio.Radio(numbered, value=0), None, None, None

        @said_in_the_page
        def fuse(found, number, *chosen):
            if found is None:
                return None, None
            pictures = studio.fuse_reduced(found, Choice(*chosen))
            return pictures, compare(pictures, number)

        def compare(pictures, number):
            return (pictures[number or 0], pictures[-1]) if pictures else None

        @said_in_the_page
        def fuse_all(found, name, look, finish, aligned, deghost, progress=tracking):
            if found is None:
                raise ValueError("drop two or more exposures of one scene")
            progress(0.1, "Reading and fusing")
            stem = os.path.splitext(os.path.basename(found.files[0]))[0]
            path = os.path.join(tempfile.mkdtemp(dir=folder), f"{stem}_fused{FORMATS[name]}")
            studio.save(found, Choice(look, finish, aligned, deghost), path)
            return path

        inputs, outputs = [dropped, compared, *controls], [shown, slider]
        everything = [dropped, exposures, compared, result, shown, slider]
        reading = files.change(read, files, everything)
        reading.failure(clear, None, everything)  # Else the scene before would be fused.
        changes: list[Callable] = [reading.success, finish.release]
        changes += [control.change for control in (look, aligned, deghost)]
        for change in changes:
            change(fuse, inputs, outputs).failure(lambda: (None, None), None, outputs)
        compared.select(compare, [shown, compared], slider)
        sample.click(lambda: SAMPLES, None, files)
        save.click(fuse_all, [dropped, form, *controls], result)
    return page


def demo(options: argparse.Namespace) -> None:
    """Shows the page until it is interrupted; ValueError where Gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs gradio: pip install -r requirements-demo.txt")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # else files would be left behind
    with tempfile.TemporaryDirectory(prefix="deepfuse_") as folder:
        page = start(options, folder)
        page.block_thread()


def start(options: argparse.Namespace, folder: str) -> "gradio.Blocks":
    """Starts to serve the page, and returns it. folder: for everything that is dropped or made."""
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    import gradio

    page = make_page(Studio(options.device), folder)
    page.launch(
        server_name=options.host,
        server_port=getattr(options, "port", None),
        share=False,
        quiet=options.quiet,
        prevent_thread_lock=True,
        allowed_paths=[os.path.dirname(SAMPLES[0])],
        footer_links=[],
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("demo.py", demo, DemoOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
