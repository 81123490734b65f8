"""How are pictures put beside each other for the documents? Writes a row with captions.

python docs/side_by_side.py docs/images/example.jpg "dark=samples/under.jpg" "fused=fused.png"
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Write pictures of one size beside each other, with captions."
    )
    parser.add_argument("result", help="picture file to write")
    parser.add_argument("pictures", nargs="+", metavar="CAPTION=FILE", type=captioned)
    parser.add_argument("--width", type=int, default=400, help="of one, in pixels")
    parser.add_argument("--quality", type=int, default=85, help="JPEG quality")
    parser.add_argument(
        "--crop",
        type=int,
        nargs=4,
        metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"),
        help="part of every picture to show, in pixels",
    )
    options = parser.parse_args(argv)
    captions, files = zip(*options.pictures, strict=True)
    images = [utils.read_image(file) for file in files]
    if options.crop:
        left, top, width, height = options.crop
        images = [image[top : top + height, left : left + width] for image in images]
    row = utils.contact_sheet_row(images, captions, options.width)
    utils.write_image(options.result, row, quality=options.quality)


def captioned(text: str) -> tuple[str, str]:
    """Returns (caption, file) of a text CAPTION=FILE."""
    caption, _, file = text.rpartition("=")
    if not file:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form CAPTION=FILE")
    return caption, file


if __name__ == "__main__":
    main()
