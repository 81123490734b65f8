"""How is a pair of photos fused from the command line? Files and flags around fusion.fuse."""

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2

import fusion
import utils
from model import choose_device, load_model
from opts import TestOptions, run


def inference(options):
    """Fuses two picture files into a third as a TestOptions namespace says.

    Raises OSError or ValueError naming the file where a picture or the checkpoint cannot be used
    or the result cannot be written.
    """
    utils.check_picture_writable(options.res)
    paths = (options.image1, options.image2)
    with ThreadPoolExecutor() as pool:
        decoding = pool.map(utils.read_image, paths)
        model = load_model(options.model, choose_device(options.device))
        images = list(decoding)
    model = fusion.prepare(model, options.precision)
    if options.H:
        images = [resize(image, options.W, options.H) for image in images]
    how = {
        "progress": not options.quiet,
        "refine": options.refine,
        "chroma": options.chroma,
        "fast": options.fast,
    }
    try:
        if options.panel:
            under, over = sorted(images, key=lambda image: image.mean())
            result = fusion.panel(model, under, over, **how)
        else:
            result = fusion.fuse(model, images, **how)
    except ValueError as error:
        raise ValueError(f"{' and '.join(paths)}: {error}") from error
    del images  # whose memory encoding may need
    utils.write_image(options.res, result)


def resize(image, width, height):
    shrinks = width * height < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    try:
        return cv2.resize(image, (width, height), interpolation=interpolation)
    except cv2.error as error:
        raise ValueError(f"--H {height} --W {width}: {error.err}") from error


def main(argv=None):
    return run("inference.py", inference, TestOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
