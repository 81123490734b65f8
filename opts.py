"""What can be asked of the scripts? Their command-line options; --help lists them."""

import argparse
import atexit
import contextlib
import ctypes
import gc
import math
import os
import sys
import warnings

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # as malloc.h numbers them
WEIGHTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights", "deepfuse.pth")


class Parser(argparse.ArgumentParser):
    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


class TrainOptions:
    """Options of train.py; parse() returns them as a namespace."""

    def __init__(self):
        self.parser = parser = Parser("Train DeepFuse without ground truth on exposure brackets.")
        data = parser.add_argument_group("data")
        data.add_argument(
            "--folder",
            nargs="+",
            required=True,
            help="folders that hold one sub-folder a scene, with that scene's exposures",
        )
        data.add_argument(
            "--val_folder", nargs="+", default=[], help="folders of scenes to choose best.pth by"
        )
        data.add_argument(
            "--crop_size", type=at_least(41), default=256, help="side of the crops, in pixels"
        )
        data.add_argument("--batch_size", type=at_least(1), default=8, help="crop stacks a step")
        data.add_argument(
            "--pairs",
            choices=("any", "extreme"),
            default="any",
            help="a random under- and over-exposed picture, or the darkest and the brightest",
        )
        data.add_argument(
            "--stacks",
            type=number(0, 1),
            default=0.0,
            help="share of draws that are three to five exposures instead of a pair",
        )
        data.add_argument(
            "--zoom",
            type=number(1),
            default=1.0,
            help="crops show an area up to so many times as wide, reduced to --crop_size",
        )
        data.add_argument(
            "--gamma",
            type=number(1),
            default=1.0,
            help="all exposures of a crop are raised to a power between 1/gamma and gamma",
        )
        data.add_argument(
            "--noise",
            type=number(0),
            default=0.0,
            help="highest standard deviation of noise on the luma that the network sees, on the "
            "scale [0, 1]; the loss is of the pictures without it",
        )
        data.add_argument(
            "--cache", help="folder of the decoded training pictures; DET/cache unless given"
        )
        data.add_argument(
            "--workers", type=at_least(0), default=2, help="processes that prepare crops"
        )

        run = parser.add_argument_group("run")
        run.add_argument(
            "--epoch",
            type=at_least(1),
            default=15000,
            help="epochs in all; one epoch is one random under/over pair a scene",
        )
        run.add_argument("--resume", metavar="CHECKPOINT", help="continue from such a latest.pth")
        run.add_argument("--det", default="train_result", help="folder of all results")
        run.add_argument(
            "--record_epoch", type=at_least(1), default=100, help="epochs from figure to figure"
        )
        run.add_argument(
            "--val_epoch", type=at_least(1), default=50, help="epochs from validation to validation"
        )
        run.add_argument(
            "--tensorboard",
            action="store_true",
            help="write DET/tensorboard too; needs the package tensorboard",
        )
        run.add_argument("--seed", type=at_least(0), default=0, help="of weights and crops")
        add_machine_options(run)
        add_precision_option(run)

        network = parser.add_argument_group("network")
        network.add_argument(
            "--network",
            choices=("deepfuse", "pyramid"),
            default="deepfuse",
            help="the paper's network, or its layers on a coarse-to-fine pyramid",
        )
        network.add_argument(
            "--width",
            type=at_least(1),
            default=16,
            help="channels of C1 and C4, half those of C2 and C3; the paper's are 16",
        )
        network.add_argument(
            "--init", metavar="CHECKPOINT", help="weights to start from, of the same network"
        )
        network.add_argument(
            "--ema",
            type=number(0, 0.9999),
            default=0.0,
            help="decay a step of the average of the weights that is validated and saved; 0 is no "
            "average",
        )
        network.add_argument(
            "--batch_norm",
            action="store_true",
            help="BatchNorm after every convolution; in several processes on GPUs only",
        )
        network.add_argument(
            "--uncentred",
            action="store_true",
            help="do not keep the mean of C2's to C5's kernels at zero, which makes more of their "
            "channels useful",
        )

        loss = parser.add_argument_group("loss and optimiser")
        loss.add_argument(
            "--loss",
            choices=("patch", "global"),
            default="patch",
            help="MEF-SSIM's y_hat: of every window (Ma et al.), or the earlier implementation's "
            "blend of the two pictures",
        )
        loss.add_argument(
            "--scales", type=int, choices=(1, 3), default=3, help="scales of MEF-SSIM"
        )
        loss.add_argument(
            "--luminance_weight",
            type=number(0),
            default=0.1,
            help="weight of the term that keeps brightness natural; the paper has none (0)",
        )
        loss.add_argument("--lr", type=number(0), default=2e-3, help="Adam's peak learning rate")
        loss.add_argument(
            "--schedule",
            choices=("cosine", "constant"),
            default="cosine",
            help="course of the learning rate after the warm-up",
        )
        loss.add_argument(
            "--warmup", type=at_least(0), default=100, help="steps in which it rises from 0"
        )

    def parse(self, argv=None):
        return self.parser.parse_args(argv)


class TestOptions:
    """Options of inference.py; parse() returns them as a namespace."""

    __test__ = False  # pytest takes classes of such a name for tests

    def __init__(self):
        self.parser = parser = Parser(
            "Fuse an under- and an over-exposed photo of one scene, or any number of exposures."
        )
        source = parser.add_argument_group("which pictures")
        source.add_argument("--image1", help="one exposure")
        source.add_argument("--image2", help="the other; their order is free")
        source.add_argument(
            "--images", nargs="+", metavar="IMAGE", help="two or more exposures, in any order"
        )
        source.add_argument(
            "--folder",
            help="fuse every sub-folder of it, all files as one bracket, and its own photos, in "
            "brackets as their EXIF times and exposures tell",
        )
        source.add_argument(
            "--group",
            type=at_least(2),
            metavar="N",
            help="brackets of the folder's own photos: N each",
        )
        source.add_argument("--model", default=WEIGHTS, help="checkpoint file")
        source.add_argument(
            "--describe", action="store_true", help="say what the checkpoint is, and fuse nothing"
        )

        result = parser.add_argument_group("the result")
        result.add_argument(
            "--res",
            help="picture file to write (result.png unless given); with --folder, the folder to "
            "write to (fused unless given)",
        )
        result.add_argument(
            "--name",
            default="{scene}_fused.jpg",
            help="with --folder, a result's file name, without a folder; {scene} is the name of "
            "the sub-folder or of the bracket's first file",
        )
        result.add_argument(
            "--skip_existing",
            action="store_true",
            help="with --folder, leave results that are there",
        )
        result.add_argument("--H", type=at_least(1), help="height to resize to, with --W")
        result.add_argument("--W", type=at_least(1), help="width to resize to, with --H")
        result.add_argument(
            "--depth",
            choices=("8", "16", "float"),
            help="bits of a channel, where the format has them (float: TIFF); as the pictures have "
            "unless given",
        )
        result.add_argument(
            "--quality", type=between(1, 100), default=95, help="of JPEG, WebP and AVIF, to 100"
        )
        result.add_argument(
            "--preview",
            action="store_true",
            help="write exposures and result as a contact sheet beside it, as <result>_preview.jpg",
        )
        result.add_argument(
            "--panel",
            action="store_true",
            help="write under | over | fused | y_hat side by side instead of the fused picture",
        )

        scene = parser.add_argument_group("hand-held photos and moving scenes")
        scene.add_argument(
            "--align",
            nargs="?",
            choices=("yes", "try"),
            const="yes",
            help="register all exposures to the middle one first; what cannot be registered is not "
            "fused, or with --align=try, fused as it is",
        )
        scene.add_argument(
            "--no_crop",
            action="store_true",
            help="after --align, keep the middle exposure's size; without, what all exposures show",
        )
        scene.add_argument(
            "--deghost",
            action="store_true",
            help="where an exposure shows something else than the middle one, show the latter",
        )

        look = parser.add_argument_group("how it is fused")
        add_fast_option(look)
        add_refine_option(
            look,
            "steps of gradient ascent on the fused luma's own MEF-SSIM; 5 of reduced pictures, "
            "else 0, unless given",
            None,
        )
        add_chroma_option(look)
        look.add_argument(
            "--strength",
            type=number(0, 1),
            default=1.0,
            help="share of the network's luma; the rest is the exposures' plain average",
        )
        add_precision_option(look)
        add_machine_options(parser)
        parser.add_argument(
            "--verbose", action="store_true", help="say what --align and --deghost did"
        )

    def parse(self, argv=None):
        options = self.parser.parse_args(argv)
        error = self.parser.error
        if (options.H is None) != (options.W is None):
            error("--H and --W go together")
        pair = [image for image in (options.image1, options.image2) if image is not None]
        if len(pair) == 1:
            error("--image1 and --image2 go together")
        sources = sum((bool(pair), options.images is not None, options.folder is not None))
        if options.describe and sources:
            error("--describe fuses nothing")
        if sources != 1 and not options.describe:
            error("give --image1 and --image2, or --images, or --folder")
        if options.folder is None and (options.group or options.skip_existing):
            error("--group and --skip_existing are for --folder")
        if "{scene}" not in options.name or os.path.basename(options.name) != options.name:
            error(f"--name {options.name}: must be a file name with {{scene}} in it")
        if options.panel and options.preview:
            error("--panel and --preview do not go together")
        if pair:
            options.images = pair
        if options.panel and options.images and len(options.images) != 2:
            error("--panel is for two exposures")
        if options.no_crop and not options.align:
            error("--no_crop is for --align")
        if options.res is None:
            options.res = "result.png" if options.folder is None else "fused"
        return options


class EvaluateOptions:
    """Options of evaluate.py; parse() returns them as a namespace."""

    def __init__(self):
        self.parser = parser = Parser(
            "Score fusion on a folder of scenes by multi-scale MEF-SSIM and other scores, on 8-bit "
            "pictures of native size, beside a plain average and OpenCV's MergeMertens. A scene's "
            "pair is its first and its last file, or <scene>_A.* and <scene>_B.* as in MEFB."
        )
        parser.add_argument("--folder", required=True, help="holds one sub-folder a scene")
        parser.add_argument(
            "--stack", action="store_true", help="all files of a scene instead of a pair"
        )
        parser.add_argument(
            "--model", nargs="*", default=[WEIGHTS], help="checkpoint files to score"
        )
        parser.add_argument(
            "--score_size",
            type=at_least(41),
            metavar="N",
            help="score pictures reduced to a longer side of N pixels; at native size unless given",
        )
        add_refine_option(parser, "score every checkpoint also with N steps of refinement", 0)
        add_fast_option(parser)
        add_chroma_option(parser)
        add_precision_option(parser)
        parser.add_argument(
            "--fused",
            nargs="+",
            type=named_folder,
            default=[],
            metavar="NAME=DIR",
            help="results on disk to score beside, a file a scene, found by the scene's name",
        )
        parser.add_argument("--csv", help="file to write every scene's scores to")
        parser.add_argument(
            "--sheet", help="picture file to write thumbnails of all results and sources to"
        )
        parser.add_argument(
            "--save", help="folder to write the fused pictures to, a folder a method"
        )
        add_machine_options(parser)

    def parse(self, argv=None):
        return self.parser.parse_args(argv)


def add_fast_option(parser):
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--fast",
        action="store_const",
        const=True,
        help="run the network on reduced pictures, of about 1000 pixels, and apply to the full "
        "ones what it does to them; the default from 4 megapixels on",
    )
    size.add_argument(
        "--full",
        dest="fast",
        action="store_const",
        const=False,
        help="run the network on the full pictures",
    )


def add_refine_option(parser, text, default):
    parser.add_argument("--refine", type=at_least(0), default=default, metavar="N", help=text)


def add_chroma_option(parser):
    parser.add_argument(
        "--chroma",
        choices=("paper", "relative"),
        default="paper",
        help="colour by the paper's formula, or in proportion to luma, which keeps more of it",
    )


def add_precision_option(parser):
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the convolutions; auto is what the device is fast in. All else is float32",
    )


def add_machine_options(parser):
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto is CUDA where there is one",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(script, work, options):
    """Calls work(options) and returns the script's exit status, which is what that returns, or 0.

    An OSError or ValueError is a mistake that the user can mend: one line on stderr, status 2. So
    is too little memory. Warnings are lines like that.
    """

    keep_freed_memory()
    atexit.register(gc.freeze)  # Looking for garbage in all of PyTorch at exit takes 0.4 s.

    def say(message, *_):
        print(f"{script}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = say
        warnings.filterwarnings("ignore", module="PIL")  # of damaged EXIF; they name no file
        try:
            return work(options) or 0
        except (OSError, ValueError) as error:
            say(one_line(error))
            return 2
        except MemoryError as error:
            say(f"not enough memory: {one_line(error)}")
            return 2
        except KeyboardInterrupt:
            return 130  # as shells report SIGINT


def keep_freed_memory():
    """Has glibc keep the memory that is freed, which it else fetches anew, page by page.

    On a CPU that is a sixth of the time of a training step, and of fusing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # of a C library without it
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_MMAP_MAX, 0)


def one_line(error):
    """An exception as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def named_folder(text):
    """Parser of NAME=DIR: (name, folder)."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=DIR")
    return name, folder


def at_least(lowest):
    """Parser of an integer >= lowest."""
    return between(lowest, math.inf)


def between(lowest, highest):
    """Parser of an integer from lowest to highest."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            range_ = f"of at least {lowest}" if highest == math.inf else f"in {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer {range_}")
        return value

    return parse


def number(lowest, highest=math.inf):
    """Parser of a finite float from lowest to highest."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and lowest <= value <= highest):
            range_ = f"of at least {lowest}" if highest == math.inf else f"in {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {range_}")
        return value

    return parse
