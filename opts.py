"""What can be asked of the scripts? Their command-line options; --help lists them."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights")
WEIGHTS = os.path.join(FOLDER, "deepfuse.pth")  # the paper's network
PYRAMID = os.path.join(FOLDER, "pyramid.pth")  # the paper's layers on a pyramid
BETWEEN = os.path.join(FOLDER, "between.pth")  # the network of photos
SOURCES = os.path.join(FOLDER, "SOURCES.tsv")  # where the pictures of training come from

Group = argparse._ActionsContainer  # a parser, or a group of its options


class Parser(argparse.ArgumentParser):
    """A parser whose --help shows defaults, and whose errors are one line."""

    def __init__(self, description: str):
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    def parse_args(  # type: ignore[override]
        self, argv: Sequence[str] | None = None
    ) -> argparse.Namespace:
        """Returns the options; refuses empty texts, as unset variables of a shell give them."""
        options = super().parse_args(argv)
        for name, value in vars(options).items():
            if value == "" or (isinstance(value, list) and "" in value):
                self.error(f"--{name} is empty")
        return options

    def error(self, message: str) -> NoReturn:
        """Prints the mistake and ends the program with status 2."""
        if message.startswith("unrecognized arguments: ") and " -" not in message:
            message += "; every value follows an option that names it"
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


class TrainOptions:
    """The options of train.py."""

    def __init__(self) -> None:
        self.parser = Parser("Train DeepFuse without ground truth on exposure brackets.")
        self.add_data_options()
        self.add_draw_options()
        self.add_run_options()
        self.add_network_options()
        self.add_loss_options()

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the options of a command line, the program's own by default."""
        options = self.parser.parse_args(argv)
        if options.width is None:
            options.width = 32 if options.network == "between" else 16
        return options

    def add_data_options(self) -> None:
        """Adds the options that say what is trained on."""
        data = self.parser.add_argument_group("data")
        data.add_argument(
            "--folder",
            nargs="+",
            required=True,
            help="folders with one sub-folder a scene, which holds that scene's exposures",
        )
        data.add_argument(
            "--val_folder",
            nargs="+",
            default=[],
            help="folders of the scenes by which best.pth is chosen",
        )
        data.add_argument(
            "--crop_size", type=number(int, 41), default=256, help="side of the crops, in pixels"
        )
        data.add_argument("--batch_size", type=number(int, 1), default=8, help="crops a step")
        data.add_argument(
            "--cache", help="folder of the decoded training pictures; DET/cache unless given"
        )
        data.add_argument(
            "--workers", type=number(int, 0), default=2, help="processes that prepare crops"
        )

    def add_draw_options(self) -> None:
        """Adds the options that say how crops are drawn, and what they are seen with."""
        draws = self.parser.add_argument_group("draws")
        draws.add_argument(
            "--draws",
            type=number(int, 1),
            default=1,
            help="random pairs, or stacks, that an epoch draws of every scene; checkpoints are "
            "written once an epoch, which is short on a GPU",
        )
        draws.add_argument(
            "--pairs",
            choices=("any", "extreme", "far"),
            default="any",
            help="a random under- and a random over-exposed picture, the darkest and the "
            "brightest, or half of the draws either",
        )
        draws.add_argument(
            "--stacks",
            type=number(float, 0, 1),
            default=0.0,
            help="share of draws that are three to five exposures instead of a pair, or with "
            "--network between, more than three",
        )
        draws.add_argument(
            "--zoom",
            type=number(float, 1),
            default=1.0,
            help="largest side of the area that a crop shows, as a multiple of --crop_size",
        )
        draws.add_argument(
            "--gamma",
            type=number(float, 1),
            default=1.0,
            help="largest power to which all exposures of a crop are raised; the smallest is its "
            "inverse",
        )
        draws.add_argument(
            "--widen",
            type=number(float, 0),
            default=0.0,
            help="largest number of stops by which a draw's darkest exposure is made darker, and "
            "its brightest brighter, as if the camera had bracketed wider",
        )
        draws.add_argument(
            "--degrade",
            action="store_true",
            help="show a draw's darkest and brightest exposure with noise, as JPEG files and moved "
            "by up to 0.3 pixels",
        )
        draws.add_argument(
            "--noise",
            type=number(float, 0),
            default=0.0,
            help="largest standard deviation of noise on the luma that the network sees, on the "
            "scale [0, 1]; the loss uses the pictures without it",
        )

    def add_run_options(self) -> None:
        """Adds the options that say how long to train, and what is written where."""
        run = self.parser.add_argument_group("run")
        run.add_argument(
            "--epoch",
            type=number(int, 1),
            default=15000,
            help="epochs in all; an epoch draws --draws random pairs, or stacks, of every scene",
        )
        run.add_argument("--resume", metavar="CHECKPOINT", help="latest.pth of a run to continue")
        run.add_argument("--det", default="train_result", help="folder of all results")
        run.add_argument(
            "--record_epoch", type=number(int, 1), default=100, help="epochs between two figures"
        )
        run.add_argument(
            "--val_epoch", type=number(int, 1), default=50, help="epochs between two validations"
        )
        run.add_argument(
            "--tensorboard",
            action="store_true",
            help="write DET/tensorboard too; needs the package tensorboard",
        )
        run.add_argument(
            "--seed",
            type=number(int, 0, 2**63 - 1),
            default=0,
            help="seed of the weights and crops",
        )
        add_machine_options(run)
        add_precision_option(run, integers=False)

    def add_network_options(self) -> None:
        """Adds the options that say what is trained."""
        network = self.parser.add_argument_group("network")
        network.add_argument(
            "--network",
            choices=("deepfuse", "pyramid", "between"),
            default="deepfuse",
            help="the paper's network, its layers on a coarse-to-fine pyramid, or the network of "
            "photos, which tells exposures between others and learns from such",
        )
        network.add_argument(
            "--width",
            type=number(int, 1),
            help="channels of C1 and C4, half those of C2 and C3, or those of the network of "
            "photos; 16, as in the paper, or 32 unless given",
        )
        network.add_argument(
            "--init", metavar="CHECKPOINT", help="weights of the same network to start from"
        )
        network.add_argument(
            "--ema",
            type=number(float, 0, 0.9999),
            default=0.0,
            help="decay, a step, of the average of the weights, which is validated and saved; 0 "
            "takes no average",
        )
        network.add_argument(
            "--batch_norm",
            action="store_true",
            help="BatchNorm after every convolution; several processes need GPUs for it",
        )
        network.add_argument(
            "--uncentred",
            action="store_true",
            help="do not keep the mean of the kernels of C2 to C5 at zero; at zero, more of their "
            "channels become useful",
        )

    def add_loss_options(self) -> None:
        """Adds the options of the loss and of the optimiser."""
        loss = self.parser.add_argument_group("loss and optimiser")
        loss.add_argument(
            "--loss",
            choices=("patch", "global"),
            default="patch",
            help="target of the loss: y_hat of every window (Ma et al.), or the earlier "
            "implementation's blend of the two pictures",
        )
        loss.add_argument(
            "--scales", type=int, choices=(1, 3), default=3, help="scales of MEF-SSIM"
        )
        loss.add_argument(
            "--luminance_weight",
            type=number(float, 0),
            default=0.1,
            help="weight of the term that keeps brightness natural; 0 in the paper",
        )
        loss.add_argument(
            "--loss_power",
            type=number(float, 1),
            default=1.0,
            help="power of every sample's loss in the mean that is minimised; above 1, scenes that "
            "are hard to fuse count for more; the loss that is logged is this mean",
        )
        loss.add_argument(
            "--optimizer",
            choices=("adam", "muon"),
            default="adam",
            help="Adam for all weights, as in the paper, or Muon for kernels, which learns more "
            "from the same crops; about half of Adam's --lr suits it",
        )
        loss.add_argument("--lr", type=number(float, 0), default=2e-3, help="highest learning rate")
        loss.add_argument(
            "--schedule",
            choices=("cosine", "constant"),
            default="cosine",
            help="course of the learning rate after the warm-up",
        )
        loss.add_argument(
            "--warmup",
            type=number(int, 0),
            default=100,
            help="steps in which the learning rate rises from 0",
        )


def group(text: str) -> int | str:
    """Converts the value of --group: "auto", or a number of at least 2."""
    return text if text == "auto" else int(number(int, 2)(text))


class TestOptions:
    """The options of inference.py."""

    __test__ = False  # Without this, pytest takes the class for tests because of its name.

    def __init__(self) -> None:
        self.parser = Parser(
            "Fuse an under- and an over-exposed photo of one scene, or any number of exposures."
        )
        self.add_source_options()
        self.add_result_options()
        self.add_folder_options()
        self.add_scene_options()
        self.add_fusion_options()
        add_machine_options(self.parser, ", but the CPU for photos made without PyTorch")
        self.parser.add_argument(
            "--verbose",
            action="store_true",
            help="say what --align and --deghost did, and which files each result is made from",
        )

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the options of a command line, the program's own by default.

        `portable` is True where a network that needs no PyTorch does the same. `images` holds the
        files of --image1 and --image2 too. Ends the program with status 2 where options contradict
        each other.
        """
        options = self.parser.parse_args(argv)
        error = self.parser.error
        self.choose_look(options)
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
        if options.folder is None and (options.group or options.skip_existing or options.jobs):
            error("--group, --skip_existing and --jobs are for --folder")
        if options.folder is None and (
            options.dry_run or options.csv or options.singles != "leave"
        ):
            error("--dry_run, --csv and --singles are for --folder")
        if options.cluster and (options.folder is None or options.steady or options.jobs):
            error("--cluster is for --folder, without --steady and --jobs")
        if options.send_files and not options.cluster:
            error("--send_files is for --cluster")
        if options.folder is None and options.name != self.parser.get_default("name"):
            error("--name is for --folder; --res names a single result")
        if "{scene}" not in options.name or os.path.basename(options.name) != options.name:
            error(f"--name {options.name}: must be a file name with {{scene}} in it")
        if options.panel and options.wrap == "yes":
            error("--panel and --wrap do not go together")
        for other in ("preview", "gain_map"):
            if options.panel and getattr(options, other):
                error(f"--panel and --{other} do not go together")
        if options.headroom != self.parser.get_default("headroom") and not options.gain_map:
            error("--headroom is for --gain_map")
        if pair:
            options.images = pair
        if options.panel and options.images and len(options.images) != 2:
            error("--panel is for two exposures")
        if options.no_crop and options.align == "no":
            error("--no_crop is for --align")
        if options.res is None:
            options.res = "result.png" if options.folder is None else "fused"
        return options

    def choose_look(self, options: argparse.Namespace) -> None:
        """Completes the look, the network, and what is done to exposures before."""
        if options.look is None:
            options.look = "photo" if options.model is None else "paper"
        photo = options.look == "photo"
        options.align = options.align or ("auto" if photo else "no")
        options.deghost = options.deghost or ("auto" if photo else "no")
        if options.finish != 1 and not photo:
            self.parser.error("--finish is for --look photo")
        if options.steady and not (photo and options.finish and options.folder):
            self.parser.error("--steady is for finished photos of --folder")
        if options.alike and (options.steady or not (photo and options.finish and options.folder)):
            self.parser.error("--alike is for finished photos of --folder, and not for --steady")
        if options.steady and (options.jobs or 1) > 1:
            self.parser.error("--steady fuses one bracket after the other, with --jobs 1")
        if options.fast and options.look != "paper":
            self.parser.error("--fast is for --look paper")
        options.portable = (
            photo
            and options.model is None
            and options.device in ("auto", "cpu")
            and options.precision == "auto"
        )
        if options.model is None:
            options.model = BETWEEN if photo else WEIGHTS

    def add_source_options(self) -> None:
        """Adds the options that name the pictures and the network."""
        source = self.parser.add_argument_group("which pictures")
        source.add_argument("--image1", help="one exposure")
        source.add_argument("--image2", help="the other exposure; their order is free")
        source.add_argument(
            "--images", nargs="+", metavar="IMAGE", help="two or more exposures, in any order"
        )
        source.add_argument(
            "--folder",
            help="folder of brackets: a sub-folder whose photos show one scene is one, and other "
            "photos are grouped by their EXIF times and exposures, and by a look at them",
        )
        source.add_argument(
            "--group",
            type=group,
            metavar="N",
            help="photos a bracket among the folder's own, instead of grouping by EXIF, or auto: "
            "by looks alone, in the order of names",
        )
        source.add_argument(
            "--dry_run",
            action="store_true",
            help="print how --folder sorts photos into brackets and singles, and fuse nothing",
        )
        source.add_argument(
            "--csv", metavar="FILE", help="write how --folder sorts photos to this file"
        )
        source.add_argument(
            "--singles",
            choices=("leave", "copy"),
            default="leave",
            help="what becomes of photos of no bracket: nothing, or copies beside the results",
        )
        source.add_argument(
            "--model",
            help="checkpoint file of the network that fuses, ours, the earlier implementation's or "
            "the .npz file of the paper's authors; weights/between.pth for a photo and "
            "weights/deepfuse.pth for other looks unless given",
        )
        source.add_argument(
            "--describe", action="store_true", help="say what the checkpoint is, and fuse nothing"
        )

    def add_result_options(self) -> None:
        """Adds the options that say what is written."""
        result = self.parser.add_argument_group("the result")
        result.add_argument(
            "--res",
            help="picture file to write, or with --folder, the folder to write to; result.png or "
            "fused unless given",
        )
        result.add_argument("--H", type=number(int, 1), help="height to resize to, with --W")
        result.add_argument("--W", type=number(int, 1), help="width to resize to, with --H")
        result.add_argument(
            "--depth",
            choices=("8", "16", "float"),
            help="bits of a channel in the result, where its format has them (float: TIFF, and "
            "OpenEXR, Radiance HDR and PFM, which hold floats alone); the pictures' own unless "
            "given",
        )
        result.add_argument(
            "--quality",
            type=number(int, 1, 100),
            default=95,
            help="JPEG, WebP and AVIF quality, 1 to 100",
        )
        result.add_argument(
            "--preview",
            action="store_true",
            help="write a contact sheet of exposures and result too, as <result>_preview.jpg",
        )
        result.add_argument(
            "--gain_map",
            action="store_true",
            help="write a JPEG result with a gain map: HDR screens show lamps, sun and windows "
            "brighter, and others the photo as it is",
        )
        result.add_argument(
            "--headroom",
            type=number(float, 1, 4),
            default=2.5,
            metavar="STOPS",
            help="how much brighter than white --gain_map may become, in stops",
        )
        result.add_argument(
            "--panel",
            action="store_true",
            help="write under | over | fused | y_hat side by side instead of the fused picture",
        )

    def add_folder_options(self) -> None:
        """Adds the options that say how the results of --folder are made."""
        folder = self.parser.add_argument_group("the results of --folder")
        folder.add_argument(
            "--name",
            default="{scene}_fused.jpg",
            help="file name of a result of --folder, without a folder; {scene} is the name of the "
            "sub-folder or of the bracket's first file",
        )
        folder.add_argument(
            "--cluster",
            metavar="ADDRESS",
            help="let the workers of a dask scheduler at this address, such as "
            "tcp://10.0.0.5:8786, fuse the brackets of --folder",
        )
        folder.add_argument(
            "--send_files",
            action="store_true",
            help="send files to the workers of --cluster and fetch results, where they share no "
            "storage",
        )
        folder.add_argument(
            "--skip_existing",
            action="store_true",
            help="with --folder, leave results that are there",
        )
        folder.add_argument(
            "--jobs",
            type=number(int, 1),
            help="with --folder, brackets that are fused at a time, each by a process of its own; "
            "unless given, as many as cores and memory allow and as have three brackets each, or "
            "one on a GPU and with --steady",
        )

    def add_scene_options(self) -> None:
        """Adds the options for hand-held photos and moving scenes."""
        scene = self.parser.add_argument_group("hand-held photos and moving scenes")
        for flag, text in (
            ("--align", "bring exposures into register with the one that tells most"),
            ("--deghost", "where exposures show different things, show what one of them does"),
        ):
            scene.add_argument(
                flag,
                nargs="?",
                choices=("auto", "yes", "no"),
                const="yes",
                help=f"{text}: auto, where that is needed, is the default of photos; no is that of "
                f"other looks; {flag} alone is yes",
            )
        scene.add_argument(
            "--no_crop",
            action="store_true",
            help="keep the size of the exposures that are brought into register, instead of "
            "cropping to the area that all of them show",
        )
        scene.add_argument(
            "--reference",
            type=number(int, 1),
            metavar="N",
            help="show the scene of the Nth exposure from dark to bright, instead of the one that "
            "tells most; the result has its view and its EXIF",
        )

    def add_fusion_options(self) -> None:
        """Adds the options that say how exposures are fused."""
        fusion = self.parser.add_argument_group("how it is fused")
        fusion.add_argument(
            "--look",
            choices=("photo", "paper", "earlier"),
            help="photo: the best picture, as of more exposures, with the tone and colour that "
            "people choose; paper: the network and the paper's chroma, nothing else; earlier: the "
            "network and the chroma and rounding of the earlier implementation; photo unless "
            "--model is given",
        )
        add_finish_option(fusion)
        fusion.add_argument(
            "--steady",
            action="store_true",
            help="with --folder, for the brackets of a time lapse in the order of their names: "
            "change the finish of photos slowly, so that they do not flicker",
        )
        fusion.add_argument(
            "--alike",
            action="store_true",
            help="with --folder, for the brackets of a panorama: give all photos one tone, so that "
            "they can be stitched",
        )
        fusion.add_argument(
            "--wrap",
            nargs="?",
            choices=("auto", "yes", "no"),
            default="auto",
            const="yes",
            help="join the left and the right edge of a full circle: auto, where XMP (GPano) says "
            "that a picture is one; --wrap alone is yes",
        )
        add_fast_option(fusion)
        add_precision_option(fusion)


class EvaluateOptions:
    """The options of evaluate.py."""

    def __init__(self) -> None:
        self.parser = parser = Parser(
            "Score fusion on a folder of scenes by multi-scale MEF-SSIM and other scores, on 8-bit "
            "pictures of native size, beside a plain average and OpenCV's MergeMertens. A scene's "
            "pair is its first and its last file, or <scene>_A.* and <scene>_B.* as in MEFB. "
            "docs/results.md says what the columns mean."
        )
        parser.add_argument("--folder", help="folder with one sub-folder a scene")
        parser.add_argument(
            "--stack", action="store_true", help="score all files of a scene instead of a pair"
        )
        parser.add_argument(
            "--model", nargs="*", default=[WEIGHTS], help="checkpoint files to score"
        )
        parser.add_argument(
            "--score_size",
            type=number(int, 41),
            metavar="N",
            help="longer side, in pixels, to which pictures are reduced before they are scored; "
            "native size unless given",
        )
        parser.add_argument(
            "--photo",
            action="store_true",
            help="score inference.py's photos too",
        )
        add_finish_option(parser)
        add_fast_option(parser)
        add_precision_option(parser)
        parser.add_argument(
            "--jpeg",
            type=number(int, 1, 100),
            metavar="QUALITY",
            help="score results as JPEG files of that quality have them, in scenes whose exposures "
            "are JPEG files, but pictures of --fused as they are; MEFB's published scores are of "
            "quality 75",
        )
        parser.add_argument(
            "--fused",
            nargs="+",
            type=named_folder,
            default=[],
            metavar="NAME=DIR",
            help="results on disk to score beside, one file a scene, found by the scene's name",
        )
        parser.add_argument(
            "--reference",
            metavar="DIR",
            help="folder of finished renditions to compare with, one file a scene, found by the "
            "scene's name; other scenes are left out",
        )
        self.add_output_options()
        add_machine_options(parser)

    def add_output_options(self) -> None:
        """Adds the options that say what is written, and read again."""
        output = self.parser.add_argument_group("files")
        output.add_argument(
            "--blind",
            nargs=3,
            metavar=("DIR", "METHOD", "METHOD"),
            help="folder to write side-by-side pictures of two methods to, in random order, with "
            "the key to them, key.csv; methods have the names that are printed",
        )
        output.add_argument(
            "--judged",
            metavar="CSV",
            help="file of verdicts beside such a key, to count instead of scoring; its columns are "
            "scene and preferred (left, right or tie)",
        )
        output.add_argument("--csv", help="file of all scores, written after every scene")
        output.add_argument("--sheet", help="picture file of thumbnails of all results and sources")
        output.add_argument(
            "--save", help="folder to write the fused pictures to, in a folder a method"
        )

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the options of a command line, the program's own by default.

        Ends the program with status 2 unless there is something to score, or to count.
        """
        options = self.parser.parse_args(argv)
        if (options.folder is None) == (options.judged is None):
            self.parser.error("give --folder, or --judged")
        if options.finish != 1 and not options.photo:
            self.parser.error("--finish is for --photo")
        return options


class ExportOptions:
    """The options of export.py."""

    def __init__(self) -> None:
        self.parser = parser = Parser("Write a network that fuses luma as an ONNX file.")
        parser.add_argument("--model", default=WEIGHTS, help="checkpoint file of the network")
        parser.add_argument("--res", default="network.onnx", help="ONNX file to write")
        parser.add_argument(
            "--count", type=number(int, 2), default=2, help="exposures that the file fuses"
        )
        parser.add_argument(
            "--side",
            type=number(int, 16, 4096),
            default=512,
            help="shorter side, in pixels, of the pictures that a pyramid is exported for; the "
            "file takes any size, but has as many levels as such a picture needs",
        )
        parser.add_argument(
            "--layers",
            action="store_true",
            help="write the layers of the network of photos alone, for any number of exposures: "
            "three files, which inference.py runs without PyTorch",
        )
        parser.add_argument("--quiet", action="store_true", help="print nothing")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the options of a command line, the program's own by default."""
        options = self.parser.parse_args(argv)
        whole = any(getattr(options, x) != self.parser.get_default(x) for x in ("count", "side"))
        if options.layers and whole:
            self.parser.error("--layers serves any number of exposures: leave out --count, --side")
        return options


class CollectOptions:
    """The options of collect.py."""

    def __init__(self) -> None:
        self.parser = parser = Parser(
            "Collect scenes for training and validation from clones of public repositories."
        )
        parser.add_argument(
            "--clones",
            default="clones",
            help="folder of the clones, each in a folder of its owner's and its own name",
        )
        parser.add_argument(
            "--clone",
            action="store_true",
            help="first clone what is missing from GitHub, of each repository the listed folders",
        )
        parser.add_argument(
            "--sources", default=SOURCES, help="table of repositories and folders in them"
        )
        parser.add_argument("--res", default="brackets", help="folder to write train and val to")
        parser.add_argument("--quiet", action="store_true", help="print nothing")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the options of a command line, the program's own by default."""
        return self.parser.parse_args(argv)


class DemoOptions:
    """The options of demo.py."""

    def __init__(self) -> None:
        self.parser = parser = Parser("Fuse photos in a page, in the browser of this machine.")
        parser.add_argument(
            "--port",
            type=number(int, 1, 65535),
            help="7860 or the next free one unless given",
        )
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            help="address to listen on; 0.0.0.0 lets other machines see and use the page",
        )
        add_device_option(parser, ", but the CPU for photos")
        parser.add_argument("--quiet", action="store_true", help="do not print the page's address")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the options of a command line, the program's own by default."""
        return self.parser.parse_args(argv)


def add_fast_option(parser: Group) -> None:
    """Adds --fast."""
    parser.add_argument(
        "--fast",
        action="store_true",
        help="for --look paper, run the network on pictures reduced to about 1000 pixels, and "
        "apply to the full ones what this does to them",
    )


def add_finish_option(parser: Group) -> None:
    """Adds --finish."""
    parser.add_argument(
        "--finish",
        type=number(float, 0, 2),
        default=1.0,
        metavar="AMOUNT",
        help="how much of a photo's tone and colour; 0 is none, 2 twice as much",
    )


def add_precision_option(parser: Group, integers: bool = True) -> None:
    """Adds --precision; integers: with int8, which cannot be trained in."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16", *(["int8"] if integers else [])),
        default="auto",
        help="number type of the convolutions, auto being the one that the device is fast in, "
        "as measured on a CPU; everything else is float32"
        + (
            "; int8 is faster on a CPU and off by a quarter of a level in the mean"
            if integers
            else ""
        ),
    )


def add_machine_options(parser: Group, exception: str = "") -> None:
    """Adds --device and --quiet; arguments as add_device_option's."""
    add_device_option(parser, exception)
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")


def add_device_option(parser: Group, exception: str = "") -> None:
    """Adds --device; exception: a clause that says where auto is the CPU all the same."""
    parser.add_argument(
        "--device",
        default="auto",
        help=f"auto, cpu, cuda or cuda:N; auto is CUDA where there is one{exception}",
    )


def named_folder(text: str) -> tuple[str, str]:
    """Parses NAME=DIR into (name, folder)."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=DIR")
    return name, folder


def number(kind: type, lowest: float, highest: float = math.inf) -> Callable[[str], float]:
    """Returns a parser of numbers, int or float as `kind` says, from lowest to highest."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
            fits = math.isfinite(value) and lowest <= value <= highest
        except (ValueError, OverflowError):  # An integer may be larger than any float.
            fits = False
        if not fits:
            name = "an integer" if kind is int else "a number"
            limits = f"of at least {lowest}" if highest == math.inf else f"in {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} {limits}")
        return value

    return parse
