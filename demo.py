"""How are photos fused in a page? Drop them, change the look, compare, and save the full result.

The page is Gradio's, which is optional. It runs on this machine: what is dropped goes into a folder
of temporary files here, which is removed at the end.
"""

import argparse
import contextlib
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
import zipfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

import fusion
import ghosts
import grouping
import metadata
import photos
import raw
import utils
from brackets import pictures_among
from opts import DemoOptions, TestOptions
from script import how_to_install, one_line, run

if TYPE_CHECKING:
    import gradio

HOUR = 3600  # seconds; what was dropped longer than 24 hours ago is removed every hour
PREVIEW_SIDE = 1600  # pixels; longer side of the pictures that are fused while one tries
SHOWN_QUALITY = 92  # of the JPEG files that the page shows
TALL, LOW = 300, 110  # pixels; height of the place to drop photos on, before and after
EXPOSURE_WIDTH = 300  # pixels; width of an exposure among the others
BRACKETS_SHOWN = 8  # brackets beside each other
NAMED = 3  # files that are left alone, at most, that a message names
RESULT_FORMATS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
BROWSER_FORMATS = (".jpg", ".png")  # formats that browsers show
HERE = os.path.dirname(os.path.abspath(__file__))
PICTURES = os.path.join(HERE, "docs", "images")
EXPLAINED = (
    ("look.jpg", "<b>Look</b>: as in the paper | a photo."),
    ("finish.jpg", "<b>Finish</b>: 0, 0.5, 1 and 1.5. It scales tone and colour."),
    ("align.jpg", "<b>Align</b>: hand-held exposures without it | with it."),
    ("deghost.jpg", "<b>Remove ghosts</b>: people who walk, without it | with it."),
    (
        "gain_map.jpg",
        "<b>Gain map</b>: the photo | the map | what an ordinary screen shows | what an HDR screen "
        "shows, on which windows and lamps shine; both two stops darker here.",
    ),
)
FORMAT = "<b>Format</b>: JPEG is small, and can have a gain map; PNG and TIFF keep 16 bits."
SAMPLE_FILES = [os.path.join(HERE, "samples", f"{name}.jpg") for name in ("under", "over")]
VIEWER = """${value ? `<div class="frame"><div class="pair" style="--width: ${value.width}px">
<img class="right" src="${value.right}" alt="the result" draggable="false">
<img class="left" src="${value.left}" alt="${value.name}" draggable="false">
<span class="line"></span></div></div>
<input class="split" type="range" min="0" max="100" value="50"
 aria-label="How much of ${value.name} is shown beside the result">
<p>${value.name} | the result${value.note} Drag to compare; click for 100 %.</p>` : ""}"""
STYLE = """
.frame { overflow: auto; max-height: max(calc(100vh - 390px), 260px); touch-action: pan-y; }
.pair { position: relative; cursor: zoom-in; width: fit-content; margin: auto; }
.pair img { display: block; max-height: max(calc(100vh - 390px), 260px); max-width: 100%;
  user-select: none; }
.pair .left { position: absolute; inset: 0; width: 100%; height: 100%;
  clip-path: inset(0 calc(100% - var(--split, 50%)) 0 0); }
.pair .line { position: absolute; top: 0; bottom: 0; left: var(--split, 50%); width: 2px;
  margin-left: -1px; background: white; box-shadow: 0 0 3px black; pointer-events: none; }
.split { width: 100%; }
&.zoomed .pair { width: var(--width); cursor: zoom-out; margin: 0; }
&.zoomed .pair img { width: 100%; max-width: none; max-height: none; }
"""
FIGURES = """
summary { cursor: pointer; }
figure { margin: 12px 0; }
img { width: 100%; }
"""


class Dropped(NamedTuple):
    """Photos of one scene: their files, dark to bright, and the same reduced to PREVIEW_SIDE."""

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
    gain_map: bool = False

    def recipe(self, result: str) -> photos.Recipe:
        """Returns the Recipe of inference.py for a result's file."""
        flags = ["--look", self.look, "--res", result, "--images", "a", "b", "--quiet"]
        if self.look == "photo":
            if not 0 <= self.finish <= 2:  # This is true for NaN too.
                raise ValueError(f"finish must be from 0 to 2, not {self.finish}")
            flags += ["--finish", str(self.finish)]
        for flag, chosen in (("--align", self.align), ("--deghost", self.deghost)):
            flags += [flag, "auto" if chosen else "no"]
        flags += ["--gain_map"] if self.gain_map else []
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
        self.prepared: tuple[Any, Any] = (None, None)  # the exposures of the last choice

    def network(self, look: str) -> fusion.Network:
        """Returns the network of a look; it is loaded once."""
        if look not in self.loaded:
            flags = ["--look", look, "--device", self.device, "--images", "a", "b"]
            self.loaded[look] = photos.network_for(TestOptions().parse(flags))
        return self.loaded[look]

    def sort(self, files: Sequence[str]) -> list[list[str]]:
        """Returns the brackets among files, as --folder finds them by EXIF and looks.

        Photos that do not say when they were taken are one bracket. Warns of files that are none.
        """
        card = grouping.Card({}, [], {}, [])
        kept = pictures_among(files)
        others = sorted({os.path.basename(file) for file in {*files} - {*kept}})
        if others:
            names = ", ".join([*others[:NAMED], *(["..."] if len(others) > NAMED else [])])
            warnings.warn(f"no photos, or also there as RAW: {names}", stacklevel=2)
        kept = grouping.without_doubles(kept, card)
        brackets = grouping.sort_photos(kept, grouping.Viewer(), card)
        # What someone drops by hand is meant to be one scene, unless there are several for sure.
        return brackets if len(brackets) > 1 and not card.problems else [kept]

    def read(self, files: Sequence[str]) -> Dropped:
        """Reads photos; ValueError where there are fewer than two, or they are of several kinds."""
        if len(files) < 2:
            raise ValueError("drop two or more exposures of one scene")
        photos.check_memory(files, photos.known_headers(files))
        check_one_size(files)
        development = raw.common_development(files)
        reduced = []
        for file in files:
            picture = photos.in_srgb(file, utils.read_picture(file, development, half=True))
            image = utils.as_type(picture.pixels, picture.dtype or picture.pixels.dtype)
            reduced.append(utils.reduce(image, min(1, PREVIEW_SIDE / max(image.shape[:2]))))
        fusion.check_images(reduced, one_size=False)
        order = ghosts.by_brightness(reduced)
        return Dropped([files[i] for i in order], [reduced[i] for i in order])

    def fuse_reduced(self, dropped: Dropped, choice: Choice) -> list[np.ndarray]:
        """Returns the reduced exposures, aligned if chosen, and the fused picture; 8-bit each."""
        recipe = choice._replace(gain_map=False).recipe("result.png")
        if choice.look == "paper":
            # The full photo is not fused so; here it would take long.
            recipe = photos.with_options(recipe, fast=True)
        key = dropped.files, choice.look, choice.align, choice.deghost
        if self.prepared[0] != key:
            reference = photos.choose_reference(dropped.reduced, recipe)
            opaque = [None] * len(dropped.reduced)
            images, _, files = photos.prepared(
                dropped.files, list(dropped.reduced), opaque, reference, recipe
            )
            self.prepared = key, (images, len(files) < len(dropped.files))
        images, fewer = self.prepared[1]
        network = self.network(choice.look)
        # The result may take the place of the first exposure.
        fused = photos.fuse_images(network, [image.copy() for image in images], recipe)
        if fewer:
            images = list(dropped.reduced)  # What was left out is shown all the same.
        return [utils.to_8_bit(image) for image in (*images, fused)]

    def shown(self, picture: np.ndarray) -> str:
        """Writes a picture for the page to show; returns its path."""
        path = os.path.join(self.folder, secrets.token_hex(8), "shown.jpg")
        os.mkdir(os.path.dirname(path))
        utils.write_image(path, picture, quality=SHOWN_QUALITY)
        return path

    def save_all(self, brackets: Sequence[Sequence[str]], choice: Choice, extension: str) -> str:
        """Fuses the full photos of several brackets; returns the path of a ZIP archive of them."""
        folder = os.path.join(self.folder, secrets.token_hex(8))
        os.mkdir(folder)
        path = os.path.join(folder, "fused.zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for files in tqdm(brackets, desc="fusing", unit="bracket", disable=False):
                result = self.save(Dropped(list(files), []), choice, extension)
                archive.write(result, os.path.basename(result))
                shutil.rmtree(os.path.dirname(result), ignore_errors=True)
        return path

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


def check_one_size(files: Sequence[str]) -> None:
    """Raises ValueError naming the files where their sizes do not fit each other."""
    sizes = [utils.upright_size(file) for file in files]
    first = sizes[0]
    for file, size in zip(files, sizes, strict=True):
        if first and size and not fusion.nearly_fits(size, first):
            raise ValueError(
                f"{files[0]} has {first[1]}x{first[0]} pixels, and {file} {size[1]}x{size[0]}: "
                "exposures of one scene have one size"
            )


def caption_of(file: str) -> str:
    """Returns a photo's name and how it was exposed."""
    parts = [os.path.basename(file)]
    with contextlib.suppress(OSError):
        exif = raw.read_exif_values(file)
        seconds, iso, bias = map(exif.get, (grouping.SECONDS, metadata.ISO, grouping.BIAS))
        if isinstance(seconds, int | float) and seconds > 0:
            parts.append(f"{seconds:g} s" if seconds >= 0.3 else f"1/{1 / seconds:.0f} s")
        if isinstance(iso, int) and iso > 0:
            parts.append(f"ISO {iso}")
        if isinstance(bias, int | float):
            parts.append(f"{bias:+.3g} EV")
    return " · ".join(parts)


class Controls(NamedTuple):
    """The parts of the page that the user or the program changes."""

    files: "gradio.Files"
    folder: "gradio.UploadButton"
    sample: "gradio.Button"
    strip: "gradio.Gallery"
    viewer: "gradio.HTML"
    compared: "gradio.Radio"
    save: "gradio.Button"
    save_all: "gradio.Button"
    result: "gradio.DownloadButton"
    exposures: "gradio.Gallery"
    look: "gradio.Radio"
    finish: "gradio.Slider"
    aligned: "gradio.Checkbox"
    deghost: "gradio.Checkbox"
    gain_map: "gradio.Checkbox"
    file_format: "gradio.Radio"


def lay_out() -> Controls:
    """Puts the controls into the page that is being made."""
    import gradio

    choices = [("a photo", "photo"), ("as in the paper", "paper")]
    with open(os.path.join(HERE, "viewer.js"), encoding="utf-8") as file:
        script = file.read()
    with gradio.Row():
        with gradio.Column(scale=4, min_width=320):
            files = gradio.Files(
                label="Drop two or more exposures of one scene, or a card of brackets",
                elem_id="files",
                height=TALL,
            )
            strip = gradio.Gallery(
                label="Brackets",
                elem_id="strip",
                columns=BRACKETS_SHOWN,
                height=LOW,
                allow_preview=False,
                visible=False,
            )
            viewer = gradio.HTML(
                None,
                html_template=VIEWER,
                css_template=STYLE,
                js_on_load=script,
                elem_id="viewer",
            )
            compared = gradio.Radio(
                [], label="Compare with", elem_id="compared", visible=False, show_label=False
            )
            with gradio.Row():
                save = gradio.Button(
                    "Fuse the full photo", variant="primary", elem_id="save", visible=False
                )
                save_all = gradio.Button("Fuse all brackets", elem_id="save_all", visible=False)
                result = gradio.DownloadButton("Download", elem_id="result", visible=False)
            gradio.HTML(explanations(), elem_id="explained", css_template=FIGURES)
        with gradio.Column(scale=1, min_width=240):
            gradio.Markdown("# DeepFuse")
            with gradio.Row():
                sample = gradio.Button("Try the sample", elem_id="sample", min_width=100)
                folder = gradio.UploadButton(
                    "Open a folder", file_count="directory", elem_id="folder", min_width=100
                )
            look = gradio.Radio(choices, value="photo", label="Look", elem_id="look")
            finish = gradio.Slider(0, 2, 1, step=0.1, label="Finish", elem_id="finish")
            aligned = gradio.Checkbox(True, label="Align where needed", elem_id="align")
            deghost = gradio.Checkbox(True, label="Remove ghosts", elem_id="deghost")
            gain_map = gradio.Checkbox(
                False, label="Gain map: shine on HDR screens", elem_id="gain_map"
            )
            file_format = gradio.Radio(list(RESULT_FORMATS), value="JPEG", label="Format")
            exposures = gradio.Gallery(
                label="From dark to bright", columns=2, height=220, visible=False
            )
    return Controls(
        *(files, folder, sample, strip, viewer, compared, save, save_all, result, exposures),
        *(look, finish, aligned, deghost, gain_map, file_format),
    )


class Answers:
    """The page's answers to what is done in it: new values for its controls, or changes of them.

    Arguments are values of controls. found: the brackets; read: the Dropped that is shown; seen:
    the files of its exposures and of the result, the result's width, and a note on it.
    """

    def __init__(self, studio: Studio):
        self.studio = studio

    def sort(self, paths: Sequence[str] | None) -> tuple[Any, ...]:
        """Finds the brackets among what was dropped, for the strip and the button below."""
        import gradio

        if not paths:
            return [], 0, gradio.Gallery(None, visible=False), gradio.Button(visible=False)
        found = self.studio.sort(paths)
        several = len(found) > 1
        cells = [strip_cell(files) for files in found] if several else []
        strip = gradio.Gallery(cells, selected_index=0 if several else None, visible=several)
        return found, 0, strip, gradio.Button(visible=several)

    def read(self, found: list[list[str]], number: int) -> tuple[Any, ...]:
        """Reads a bracket."""
        import gradio

        if not found:
            return self.cleared()
        read = self.studio.read(found[number])
        names = [(os.path.basename(file), k) for k, file in enumerate(read.files)]
        cells = [
            (utils.thumbnail(image, EXPOSURE_WIDTH), caption_of(file))
            for image, file in zip(read.reduced, read.files, strict=True)
        ]
        best = ghosts.telling_exposure(read.reduced)
        return (
            read,
            gradio.Gallery(cells, visible=True),
            gradio.Radio(names, value=best, visible=True),
            gradio.Button(visible=True),
            gradio.DownloadButton(visible=False),
            gradio.Files(height=LOW),
        )

    @staticmethod
    def cleared() -> tuple[Any, ...]:
        """Returns what `read` does, of nothing."""
        import gradio

        return (
            None,
            gradio.Gallery(None, visible=False),
            gradio.Radio([], value=None, visible=False),
            gradio.Button(visible=False),
            gradio.DownloadButton(visible=False),
            gradio.Files(height=TALL),
        )

    @staticmethod
    def outdated() -> Any:
        """Returns the change of the download, if it is there, after another choice."""
        import gradio

        return gradio.DownloadButton("Out of date: fuse again", value=None, interactive=False)

    def fuse(self, read: Dropped | None, number: int | None, *chosen: Any) -> tuple[Any, ...]:
        """Fuses the reduced exposures."""
        import gradio

        if read is None:
            return None, None, gradio.DownloadButton(visible=False)
        *exposures, fused = self.studio.fuse_reduced(read, Choice(*chosen))
        pictures = [*map(self.studio.shown, exposures), self.studio.shown(fused)]
        seen = pictures, fused.shape[1], ", reduced for this page."
        return seen, self.compare(read, seen, number), self.outdated()

    @staticmethod
    def compare(
        read: Dropped | None, seen: Sequence[Any] | None, number: int | None
    ) -> dict[Any, Any] | None:
        """Returns what the viewer shows: an exposure beside the result."""
        if not seen or read is None:
            return None
        (*exposures, result), width, note = seen
        number = min(number or 0, len(exposures) - 1)
        name = os.path.basename(read.files[number])
        pictures = {"left": address_of(exposures[number]), "right": address_of(result)}
        return {**pictures, "width": width, "name": name, "note": note}

    def fuse_full(
        self,
        read: Dropped | None,
        seen: Sequence[Any],
        number: int | None,
        name: str,
        *chosen: Any,
        progress: Any,
    ) -> tuple[Any, ...]:
        """Fuses the full photo, and shows it. name: of its format."""
        import gradio

        if read is None:
            raise ValueError("drop two or more exposures of one scene")
        progress(0.1, "Reading and fusing")
        extension = RESULT_FORMATS[name]
        path = self.studio.save(read, Choice(*chosen), extension)
        header = utils.header_of(path)
        pixels = f"{header.width}x{header.height} pixels" if header else ""
        visible = (
            path if extension in BROWSER_FORMATS else self.studio.shown(utils.read_image(path))
        )
        (*exposures, _), width, _ = seen
        seen = [*exposures, visible], header.width if header else width, f", {pixels}."
        button = gradio.DownloadButton(
            f"Download {os.path.basename(path)}", value=path, interactive=True, visible=True
        )
        return seen, self.compare(read, seen, number), button

    def fuse_brackets(self, found: list[list[str]], name: str, *chosen: Any, progress: Any) -> Any:
        """Fuses all brackets into an archive."""
        import gradio

        progress(0.0, "Fusing all brackets")
        path = self.studio.save_all(found, Choice(*chosen), RESULT_FORMATS[name])
        return gradio.DownloadButton(
            f"Download {len(found)} photos", value=path, interactive=True, visible=True
        )


def strip_cell(files: Sequence[str]) -> tuple[np.ndarray, str]:
    """Returns a bracket's picture in the strip, and its name."""
    shown = grouping.reduced_picture(utils.middle(files))
    picture = np.zeros((2, 3, 3), np.uint8) if shown is None else utils.to_8_bit(shown)
    return picture, f"{grouping.stem(files[0])} ({len(files)})"


def address_of(path: str) -> str:
    """Returns where the page finds a file."""
    return f"/gradio_api/file={path}"


def wire(page: Controls, studio: Studio) -> None:
    """Connects the controls of the page that is being made with what they do."""
    import gradio

    def picked(event: gradio.SelectData) -> int:
        """Returns the number of the bracket that was clicked in the strip."""
        return event.index

    brackets, number, dropped, shown = map(gradio.State, ([], 0, None, None))
    answers = Answers(studio)
    said = functools.partial(said_in_the_page, studio)
    sort, read, fuse = map(said, (answers.sort, answers.read, answers.fuse))
    tracked = functools.partial(functools.partial, progress=gradio.Progress(track_tqdm=True))
    choice = [page.look, page.finish, page.aligned, page.deghost]
    loaded = [dropped, page.exposures, page.compared, page.save, page.result, page.files]
    inputs, outputs = [dropped, page.compared, *choice], [shown, page.viewer, page.result]
    # One at a time: warnings are caught for all threads at once, and every fusion uses all cores.
    alone: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1}
    sorted_into = [brackets, number, page.strip, page.save_all]
    changes: list[Callable[..., Any]] = []
    for event, source in ((page.files.change, page.files), (page.folder.upload, page.folder)):
        sorting = event(sort, source, sorted_into, **alone)
        reading = sorting.success(read, [brackets, number], loaded, **alone)
        for step in (sorting, reading):  # Else the scene before would be fused.
            step.failure(answers.cleared, None, loaded).then(
                lambda: (None, None), None, outputs[:2]
            )
        changes.append(reading.success)
    picking = page.strip.select(picked, None, number)
    changes.append(picking.success(read, [brackets, number], loaded, **alone).success)
    changes.append(functools.partial(page.finish.change, trigger_mode="always_last"))
    changes += [control.change for control in (page.look, page.aligned, page.deghost)]
    for change in changes:
        change(fuse, inputs, outputs, **alone)  # After a failure, the last picture remains.
    for control in (page.gain_map, page.file_format):
        control.change(answers.outdated, None, page.result)
    page.look.change(
        lambda look: gradio.Slider(interactive=look == "photo"), page.look, page.finish
    )
    page.compared.input(answers.compare, [dropped, shown, page.compared], page.viewer)
    page.sample.click(lambda: SAMPLE_FILES, None, page.files)
    everything = [page.file_format, *choice, page.gain_map]
    full = [dropped, shown, page.compared, *everything]
    page.save.click(said(tracked(answers.fuse_full)), full, outputs, **alone)
    several = [brackets, *everything]
    page.save_all.click(said(tracked(answers.fuse_brackets)), several, page.result, **alone)


def explanations() -> str:
    """Returns the page's pictures of what each choice does, as HTML that one opens."""
    figures = "".join(
        f'<figure><img src="{address_of(os.path.join(PICTURES, file))}" alt="" loading="lazy">'
        f"<figcaption>{text}</figcaption></figure>"
        for file, text in EXPLAINED
    )
    return f"<details><summary>Which choice does what?</summary>{figures}<p>{FORMAT}</p></details>"


def said_in_the_page(studio: Studio, work: Callable[..., Any]) -> Callable[..., Any]:
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
        allowed_paths=[os.path.dirname(SAMPLE_FILES[0]), PICTURES, studio.folder],
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
