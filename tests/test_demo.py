"""The page: what it does, over HTTP, and in a browser."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

import cv2
import numpy as np
import pytest
from conftest import SIZE, blocks, exif, expose, huge_png, with_torch, write_bracket

import demo
import inference
import metadata
import utils

ROOT = os.path.dirname(demo.__file__)
DRIVER = shutil.which("chromedriver")
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs gradio")
needs_browser = pytest.mark.skipif(
    not (importlib.util.find_spec("gradio") and importlib.util.find_spec("selenium") and DRIVER),
    reason="needs gradio, selenium, and Chromium with its driver",
)
PHOTO = demo.Choice("photo", 1.0, False, False)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return demo.Studio(str(tmp_path_factory.mktemp("studio")), "cpu")


@pytest.fixture
def files(tmp_path):
    return [str(path) for path in write_bracket(tmp_path / "scene", 120, 160, extension=".jpg")]


def test_photos_are_ordered_by_exposure(studio, files):
    dropped = studio.read([files[2], files[0], files[1]])
    assert dropped.files == files
    assert [image.shape for image in dropped.reduced] == [(120, 160, 3)] * 3


def test_large_photos_are_reduced_for_the_page(studio, tmp_path):
    files = [str(path) for path in write_bracket(tmp_path / "large", 1600, 2000, gains=(0.3, 8))]
    dropped = studio.read(files)
    assert [image.shape for image in dropped.reduced] == [(1280, 1600, 3)] * 2
    *exposures, fused = studio.fuse_reduced(dropped, PHOTO)
    assert fused.shape == (1280, 1600, 3)
    assert all(np.array_equal(x, y) for x, y in zip(exposures, dropped.reduced, strict=True))


@pytest.mark.parametrize(
    ("choice", "flags"),
    [
        (PHOTO, []),
        (demo.Choice("photo", 0.5, False, True), ["--finish", "0.5", "--align", "no"]),
        pytest.param(
            demo.Choice("paper", 0.5, True, False),
            ["--look", "paper", "--align", "auto"],
            marks=with_torch,
        ),
    ],
)
def test_the_full_result_is_that_of_inference(studio, tmp_path, choice, flags):
    radiance = blocks(*SIZE, seed=0)
    files = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    for file, gain in zip(files, (0.3, 1, 4), strict=True):
        utils.write_image(file, expose(radiance, gain))
    dropped = studio.read(files)
    assert studio.fuse_reduced(dropped, choice)[-1].ndim == 3
    page = studio.save(dropped, choice, ".png")
    expected = str(tmp_path / "command.png")
    arguments = ["--images", *files, "--res", expected, "--device", "cpu", "--quiet", *flags]
    assert inference.main(arguments) == 0
    assert np.array_equal(utils.read_image(page), utils.read_image(expected))


def test_results_keep_their_exif(studio, files, tmp_path):
    for file in files:
        image = utils.read_image(file)
        utils.write_image(file, image, metadata={"EXIF": exif()})
    page = studio.save(studio.read(files), PHOTO, ".jpg")
    written = utils.read_picture(page).metadata["EXIF"]
    assert metadata.exif_values(written).keys() >= metadata.exif_values(exif()).keys() - {0x0112}


def test_what_cannot_be_fused_is_said(studio, files, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    grey = tmp_path / "grey.png"
    utils.write_image(str(grey), np.zeros((120, 160), np.uint8))
    huge = huge_png(tmp_path / "huge.png", 200_000, 200_000)
    for paths, reason in [
        (files[:1], "two or more exposures"),
        ([files[0], str(broken)], "not a picture"),
        ([files[0], str(grey)], "some pictures are grey"),
        ([files[0], str(huge)], "of memory"),
    ]:
        with pytest.raises(ValueError, match=reason):
            studio.read(paths)


@pytest.mark.parametrize("finish", [float("nan"), -1, 3])
def test_a_finish_that_no_page_sends_is_refused(finish):
    with pytest.raises(ValueError, match="finish must be"):
        PHOTO._replace(finish=finish).recipe("x.png")


def test_depths_mixed_are_ordered_by_brightness(studio, files, tmp_path):
    deep = tmp_path / "deep.png"
    utils.write_image(str(deep), utils.read_image(files[0]).astype(np.uint16) * 257)
    assert studio.read([files[2], str(deep)]).files == [str(deep), files[2]]


def test_messages_do_not_show_where_files_lie(studio):
    for folder in ("5f", "a folder"):
        message = f"'{studio.folder}/{folder}/my scene.jpg': not a picture"
        assert studio.without_folders(message) == "'my scene.jpg': not a picture"
    assert studio.without_folders("10 % of /it replaced") == "10 % of /it replaced"


@needs_gradio
def test_a_look_without_pytorch_is_said(studio):
    import gradio

    def work():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    with pytest.raises(gradio.Error, match="needs torch: pip install"):
        demo.said_in_the_page(studio, work)()


def test_nothing_is_written_after_the_end(files, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    studio = demo.Studio(str(folder), "cpu")
    studio.close()
    with pytest.raises(ValueError, match="closed"):
        studio.save(studio.read(files), PHOTO, ".jpg")
    assert not list(folder.iterdir())


@needs_gradio
@pytest.mark.parametrize("flags", [["--host", "203.0.113.7"], ["--host", "no such host"]])
def test_an_address_of_another_machine_gets_one_line(flags, capfd):
    assert demo.main(flags) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"demo.py: {flags[1]}: ")
    assert error.count("\n") == 1


@needs_gradio
def test_a_port_in_use_gets_one_line(capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert demo.main(["--port", str(port)]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"demo.py: 127.0.0.1, port {port}: ")
    assert error.count("\n") == 1


def test_without_gradio_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.main([]) == 2
    reason = "the page needs gradio: pip install -r requirements-demo.txt"
    assert capsys.readouterr().err == f"demo.py: {reason}\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a page that is served by this process."""
    page = demo.start(demo.Studio(str(tmp_path_factory.mktemp("served")), "cpu"))
    yield page.local_url
    page.close()


@pytest.mark.slow
@needs_gradio
def test_no_other_file_can_be_read(address, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_text("secret")
    for path in (secret, os.path.join(ROOT, "demo.py"), "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert caught.value.code in (403, 404)
    # A page that was changed could ask for files by their paths.
    config = json.load(urllib.request.urlopen(f"{address}config"))
    names = {d["api_name"] for d in config["dependencies"] if d["api_name"]}
    assert "read" in names
    body = {"data": [[{"path": str(secret), "meta": {"_type": "gradio.FileData"}}] * 2]}
    answer = call(address, "read", body)
    assert "error" in answer
    assert "secret" not in answer.replace("secret.jpg", "")


def call(address, name, body):
    """What the page's server answers to a call of one of its functions."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{address}gradio_api/call/{name}", json.dumps(body).encode(), headers
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    return urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}").read().decode()


@pytest.mark.slow
@needs_gradio
@pytest.mark.skipif(sys.platform == "win32", reason="signals are others on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_files_are_removed_at_the_end(tmp_path, number):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, os.path.join(ROOT, "demo.py"), "--device", "cpu"]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell that runs the tests in the background lets them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert "127.0.0.1" in process.stdout.readline()
            (folder,) = [name for name in os.listdir(tmp_path) if name.startswith("deepfuse_")]
            process.send_signal(number)
            process.wait(20)
        finally:
            process.kill()
    assert not os.path.exists(tmp_path / folder)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--window-size=1400,1000")
    (tmp_path / "downloads").mkdir()
    wishes = {"download.default_directory": str(tmp_path / "downloads")}
    options.add_experimental_option("prefs", wishes)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def wait_for(found, seconds=30):
    """What a function returns as soon as it is true; fails after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # Elements come and go.
            result = found()
            if result:
                return result
        time.sleep(0.1)
    raise AssertionError("the page does not get there")


# Messages leave the page after some seconds, which a slow machine may need to look again.
KEEP_MESSAGES = """
window.messages = new Set();
new MutationObserver(() => document.querySelectorAll(".toast-body").forEach(
    part => window.messages.add(part.innerText.trim())
)).observe(document.body, {childList: true, subtree: true});
"""


class Visitor:
    """Someone who uses the page in a browser."""

    def __init__(self, browser, address, downloads):
        self.browser, self.downloads = browser, downloads
        browser.get(address)
        browser.execute_script(KEEP_MESSAGES)

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def shown(self):
        """The addresses of both pictures, left and right; empty until both are loaded."""
        found = {
            image.get_attribute("class"): image.get_attribute("src")
            for image in self.find("#viewer img")
            if image.get_property("naturalWidth") > 0
        }
        return [found[side] for side in ("left", "right")] if len(found) == 2 else []

    def drop(self, files):
        """Drops files; again where the page was just drawing its place for them anew."""
        before = self.shown()
        stem = os.path.splitext(os.path.basename(files[-1]))[0]
        for attempt in range(3):
            wait_for(lambda: self.find("#files input[type=file]"))[0].send_keys("\n".join(files))
            try:
                wait_for(lambda: stem in self.find("#files")[0].text, 5 * (attempt + 1))
                break
            except AssertionError:
                continue
        return before

    def changed(self, before):
        return wait_for(lambda: self.shown() != before and self.shown())

    def downloaded(self, name):
        """Clicks on the download; returns the file that it brings."""
        wait_for(lambda: name in self.find("#result")[0].text)
        self.find("#result")[0].click()
        path = self.downloads / name
        wait_for(lambda: path.exists() and path.stat().st_size)
        return path

    def told(self, text):
        """The messages that the page has shown, as soon as one of them has the text."""

        def messages():
            shown = self.browser.execute_script("return [...window.messages]")
            return any(text in message for message in shown) and " ".join(shown)

        try:
            return wait_for(messages)
        except AssertionError as error:
            seen = self.browser.execute_script("return [...window.messages]")
            page = self.find("body")[0].text
            raise AssertionError(f"{text!r} is not told: {seen}; the page: {page}") from error


@pytest.fixture
def visitor(browser, address, tmp_path):
    return Visitor(browser, address, tmp_path / "downloads")


@pytest.mark.slow
@needs_browser
def test_the_page_in_a_browser(visitor, tmp_path):
    """Drop, fuse, compare, drag, zoom, change the look, fuse the full photo, download it."""
    from selenium.webdriver import ActionChains

    find, shown = visitor.find, visitor.shown
    files = [str(path) for path in write_bracket(tmp_path / "large", 900, 1200, extension=".jpg")]
    visitor.drop([files[2], files[0]])
    before = wait_for(shown)
    assert [label.text for label in find("#compared label")] == ["1.jpg", "3.jpg"]  # dark to bright

    def split():
        return float(find("#viewer .split")[0].get_attribute("value"))

    pair = find("#viewer .pair")[0]
    assert split() == 50
    drag = ActionChains(visitor.browser).move_to_element(pair).click_and_hold()
    drag.move_by_offset(-pair.size["width"] // 4, 0).release().perform()
    wait_for(lambda: 20 < split() < 30)
    small = pair.size["width"]
    ActionChains(visitor.browser).move_to_element(pair).click().perform()
    wait_for(lambda: pair.size["width"] == 1200 > small)
    ActionChains(visitor.browser).move_to_element(pair).click().perform()
    wait_for(lambda: pair.size["width"] == small)

    (unchosen,) = [choice for choice in find("#compared input") if not choice.is_selected()]
    unchosen.click()
    other = wait_for(lambda: shown() and shown()[0] != before[0] and shown())
    assert other[1] == before[1]
    find("#look input[value=paper]")[0].click()
    other = visitor.changed(other)
    find("#look input[value=photo]")[0].click()
    other = visitor.changed(other)

    find("#save")[0].click()
    full = visitor.changed(other)
    assert full[1].endswith("/1_fused.jpg")
    path = visitor.downloaded("1_fused.jpg")
    expected = str(tmp_path / "command.jpg")
    flags = ["--images", files[0], files[2], "--res", expected, "--quiet"]
    assert inference.main(flags) == 0
    with open(expected, "rb") as file:
        assert path.read_bytes() == file.read()
    find("#deghost input")[0].click()
    wait_for(lambda: find("#result")[0].text == "Out of date: fuse again")
    assert not visitor.changed(full)[1].endswith("/1_fused.jpg")


@pytest.mark.slow
@needs_browser
def test_the_page_says_what_cannot_be_fused(visitor, files, tmp_path):
    """It names the files, but not where they lie; the scene before is gone."""
    find, shown = visitor.find, visitor.shown
    visitor.drop([files[2], files[0]])
    wait_for(shown)
    broken, large = tmp_path / "broken.jpg", tmp_path / "large.png"
    broken.write_bytes(b"no picture")
    utils.write_image(str(large), np.zeros((90, 200, 3), np.uint8))
    for bad, text in ((broken, "broken.jpg: not a picture"), (large, "have one size")):
        visitor.drop([files[0], str(bad)])
        told = visitor.told(text)
        assert bad.name in told
        assert str(tmp_path) not in told
        wait_for(lambda: not shown())
        assert not find("#compared label")


@pytest.mark.slow
@needs_browser
def test_a_card_is_sorted_in_the_page(visitor, tmp_path):
    """Two brackets, one after the other, and all of them in an archive."""
    paths = []
    for number, (bracket, gain) in enumerate((k, gain) for k in (1, 2) for gain in (0.3, 1, 4)):
        data = exif(1).replace(b"12:00:00", f"12:{bracket:02}:{number:02}".encode())
        data = data.replace((250).to_bytes(4, "big"), round(250 / gain).to_bytes(4, "big"))
        paths.append(str(tmp_path / f"{number}.jpg"))
        view = blocks(120, 160, seed=bracket) * 0.7
        utils.write_image(paths[-1], expose(view, gain), metadata={"EXIF": data})
    find, shown = visitor.find, visitor.shown
    visitor.drop(paths)
    before = wait_for(shown)
    assert [label.text for label in find("#strip .caption-label")] == ["0 (3)", "3 (3)"]
    find("#strip button.thumbnail-item")[1].click()
    visitor.changed(before)
    wait_for(lambda: [x.text for x in find("#compared label")] == ["3.jpg", "4.jpg", "5.jpg"])
    find("#save_all")[0].click()
    wait_for(lambda: find("#result")[0].text == "Download 2 photos")
    find("#result")[0].click()
    path = visitor.downloads / "fused.zip"
    wait_for(path.exists)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["0_fused.jpg", "3_fused.jpg"]


@pytest.mark.slow
@needs_browser
def test_a_folder_is_opened_in_the_page(visitor, files):
    """Its sub-folder too; what is no photo is left alone."""
    folder = os.path.dirname(files[0])
    for k, name in ((0, "notes.txt"), (1, "list.csv")):
        with open(os.path.join(folder, name), "w") as file:
            file.write(str(k))
    chooser = wait_for(lambda: visitor.find("input[type=file][webkitdirectory]"))[0]
    chooser.send_keys(folder)
    visitor.told("list.csv, notes.txt")
    wait_for(visitor.shown)
    assert [label.text for label in visitor.find("#compared label")] == ["1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.slow
@needs_browser
def test_photos_of_two_scenes_are_said_to_be_unrelated(visitor, tmp_path):
    rooms = [blocks(300, 400, seed=seed) for seed in (1, 2)]
    paths = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    for path, room, gain in zip(paths, rooms, (0.3, 4), strict=True):
        utils.write_image(path, expose(room, gain))
    visitor.drop(paths)
    visitor.told("different scenes")
    assert not visitor.shown()


@pytest.mark.slow
@needs_browser
def test_photos_of_24_megapixels_in_the_page(visitor, tmp_path):
    radiance = cv2.resize(blocks(250, 375, seed=3), (6000, 4000), interpolation=cv2.INTER_LINEAR)
    paths = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    for path, gain in zip(paths, (0.3, 4), strict=True):
        utils.write_image(path, expose(radiance, gain))
    visitor.drop(paths)
    before = wait_for(visitor.shown, 60)
    visitor.find("#save")[0].click()
    visitor.changed(before)
    path = visitor.downloaded("0_fused.jpg")
    assert utils.upright_size(str(path)) == (4000, 6000)


@pytest.mark.slow
@needs_browser
def test_the_page_is_usable_dark_and_narrow(visitor, address, files):
    """Nothing is wider than a phone's screen, text is light on dark, and keys do all."""
    from selenium.webdriver.common.keys import Keys

    browser = visitor.browser
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(f"{address}?__theme=dark")
    visitor.drop([files[0], files[2]])
    wait_for(visitor.shown)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390

    def luma(selector, value):
        style = f"getComputedStyle(document.querySelector('{selector}')).{value}"
        rgb = browser.execute_script(f"return {style}").partition("(")[2].rstrip(")").split(",")
        return float(np.mean([float(level) for level in rgb[:3]]))

    assert luma("#look", "backgroundColor") < 60
    assert luma("#viewer p", "color") > 140
    slider = visitor.find("#viewer .split")[0]
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    assert float(slider.get_attribute("value")) == 53
    before = visitor.shown()
    visitor.find("#deghost input")[0].send_keys(Keys.SPACE)
    visitor.changed(before)
    explained = visitor.find("#explained summary")[0]
    explained.send_keys(Keys.ENTER)
    pictures = visitor.find("#explained img")
    assert len(pictures) == len(demo.EXPLAINED)
    for picture in pictures:
        browser.execute_script("arguments[0].scrollIntoView()", picture)
        wait_for(lambda picture=picture: picture.get_property("naturalWidth") > 0)


def test_captions_say_how_a_photo_was_exposed(tmp_path):
    path = str(tmp_path / "x.jpg")
    utils.write_image(path, np.zeros((20, 30, 3), np.uint8), metadata={"EXIF": exif(1)})
    assert demo.caption_of(path) == "x.jpg · 1/250 s"
    assert demo.caption_of(str(tmp_path / "none.jpg")) == "none.jpg"
