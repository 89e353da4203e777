"""The command `python -m pipeline`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import run, run_settings
from pipeline.compare import compare
from pipeline.doctor import doctor
from pipeline.importing.options import Options, parse_size
from pipeline.serve import serve
from pipeline.verify import verify
from stages.common.errors import reporting_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv`. Return the exit code: 0 for success, 2 for an invalid setting, 1 for other errors."""
    arguments = parser().parse_args(argv)
    return reporting_errors(lambda: arguments.execute(arguments))


def parser() -> argparse.ArgumentParser:
    """The command-line parser. In what it parses, `execute` is the function that runs the command."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description="Run the pipeline: drawings to a report.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "run",
        help="run the stages that are out of date; print what was reached and a link to the report",
        description="Run the stages that are out of date, save the run as a DVC experiment, and print what it has "
        "reached, what has changed since the last run, and a link to the report. The settings of the run are written "
        "to params.yaml.",
    )
    command.add_argument(
        "--profile",
        choices=run_settings.profiles(),
        help="a profile of pipeline/profiles.yaml: named changes to the committed params.yaml; "
        "default: the current params.yaml",
    )
    command.add_argument(
        "-S",
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting (repeatable): -S num_resnet=3 -S 'classes=[bee, cat]'",
    )
    _add_source(
        command,
        "where the drawings come from: a folder of <class>.npy files (relative to the current folder), another value "
        "of the setting source, or auto (the public bucket; doodles if it cannot be reached); default: the setting",
    )
    command.add_argument("--open", action="store_true", help="open the report in the browser when the run is done")
    command.set_defaults(
        execute=lambda arguments: run.run(arguments.profile, arguments.set, arguments.source, arguments.open)
    )

    command = commands.add_parser(
        "serve",
        help="start Prefect on this machine: its server, the deployments of prefect.yaml, and a worker",
        description="Start Prefect on this machine: its server with its web pages, the deployments of prefect.yaml, "
        "and a worker that runs them in this checkout, one at a time. Stop it with Ctrl-C.",
    )
    command.add_argument("--port", type=int, default=4200, help="the server's port on 127.0.0.1; default: 4200")
    command.add_argument("--schedules", action="store_true", help="enable the schedules of prefect.yaml")
    _add_source(
        command,
        "where the drawings of the deployments come from, unless a form says otherwise: as for `run`; default: the "
        "source of the committed params.yaml",
    )
    command.set_defaults(execute=lambda arguments: serve(arguments.port, arguments.schedules, arguments.source))

    command = commands.add_parser(
        "verify",
        help="check that a report matches the files and settings of this workspace, or check an exported or generated "
        "folder",
        description="Check that a report matches this workspace: hash the files that the report lists as its inputs, "
        "and compare its settings with params.yaml. Of an exported folder, hash its files. Of a generated folder, hash "
        "its files, and draw a random hundredth of its drawings again. The exit code is 1 if anything differs.",
    )
    command.add_argument(
        "page",
        nargs="?",
        default="reports/index.html",
        help="the report, or what `export` or `generate` has written; default: reports/index.html",
    )
    command.add_argument(
        "--run",
        metavar="RUN",
        help="whose model drew a generated folder: a DVC experiment, a Git revision or a folder; default: the run in "
        "this checkout",
    )
    command.set_defaults(execute=lambda arguments: verify(arguments.page, arguments.run))

    command = commands.add_parser(
        "export",
        help="write the model of a run, with a model card, into a folder to take elsewhere",
        description="Write the model of a run into a new folder: weights, configuration, settings, drawings, "
        "checksums, and a model card (README.md) in the form of the Hugging Face Hub. "
        "`pipeline.load_model` loads the folder.",
    )
    command.add_argument("folder", metavar="FOLDER", help="the folder to write, new or empty")
    command.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="a DVC experiment or a Git revision; default: the run in this checkout",
    )
    command.add_argument(
        "--tfp", action="store_true", help="add the weights of tfp.distributions.PixelCNN (needs position: none)"
    )
    command.add_argument("--savedmodel", action="store_true", help="add a TensorFlow SavedModel")
    command.add_argument("--push", metavar="NAME", help="upload the folder to this repository of the Hugging Face Hub")
    command.set_defaults(execute=_export)

    command = commands.add_parser(
        "compare",
        help="compare the drawings, settings and metrics of experiments in reports/compare.html",
        description="Compare the drawings, settings and metrics of several revisions in reports/compare.html. Nothing "
        "is computed again: the outputs come from DVC's cache.",
    )
    command.add_argument(
        "revisions",
        nargs="*",
        metavar="rev",
        help="a DVC experiment, a Git revision, or `workspace` for the current files; "
        "default: the experiments made from the current commit, and the workspace if it holds another run",
    )
    command.set_defaults(execute=lambda arguments: compare(arguments.revisions))

    command = commands.add_parser(
        "draw",
        help="serve a page on which you begin a drawing and the model completes it",
        description="Serve a page on this machine on which you begin a drawing with the mouse, a finger or the keys, "
        "and the model completes it. Stop it with Ctrl-C.",
    )
    command.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="whose model draws: a DVC experiment, a Git revision or a folder; default: the current files",
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; default: 127.0.0.1, which only this machine can reach",
    )
    command.add_argument("--port", type=int, default=8280, help="the port; 0 is any free one; default: 8280")
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    command.set_defaults(execute=_draw)

    command = commands.add_parser(
        "generate",
        help="draw very many drawings with the model, into a folder that the pipeline learns from",
        description="Draw a number of drawings of each class with the model, on all cores, into a folder of "
        "<class>.npy files, with a manifest of their hashes. If it is interrupted, the same command goes on. With a "
        "larger --per-class, it adds drawings to those that are there.",
    )
    command.add_argument(
        "folder",
        metavar="DEST",
        help="the folder to write, or a URL of any kind that fsspec writes: s3://bucket/drawings",
    )
    command.add_argument(
        "--per-class", type=int, required=True, metavar="N", help="the number of drawings of each class"
    )
    command.add_argument(
        "--run",
        metavar="RUN",
        help="whose model draws: a DVC experiment, a Git revision or a folder; default: the run in this checkout",
    )
    command.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="NAME",
        help="a class to draw (repeatable); default: all classes of the model",
    )
    command.add_argument(
        "--pool",
        metavar="POOL",
        help="a work pool of Prefect, whose workers draw; needs --run EXPERIMENT, and a DEST that all of them reach",
    )
    command.set_defaults(execute=_generate)

    command = commands.add_parser(
        "import",
        help="turn pictures into a folder that the pipeline learns from",
        description="Turn pictures into a folder of <class>.npy files. WHAT is a folder or a .zip of class folders of "
        "pictures, a picture that is a sheet of tiles, .npy, .npz, .csv, .ndjson of strokes, or an IDX file (MNIST).",
    )
    command.add_argument("what", metavar="WHAT", help="the file or folder to import")
    command.add_argument("folder", metavar="FOLDER", help="the folder to write, new or empty")
    command.add_argument("--size", help="fit every picture into this height and width: 28, or 20x36")
    command.add_argument("--grey", action="store_true", help="make coloured pictures grey")
    command.add_argument("--invert", action="store_true", help="make black white: for dark drawings on light paper")
    command.add_argument("--tile", help="height and width of the tiles of a sheet: 28x28")
    command.add_argument("--class", dest="class_name", metavar="NAME", help="the class of all pictures")
    command.add_argument("--images", metavar="NAME", help="the array of pictures in an .npz file")
    command.add_argument(
        "--labels",
        metavar="NAME",
        help="the array of labels in an .npz file; or the column of labels in a CSV file: its name, first or last",
    )
    command.set_defaults(execute=_import)

    command = commands.add_parser(
        "doctor",
        help="check whether a run would work on this machine, and print what to do if not",
        description="Check each thing that a run with the settings of params.yaml needs, and print one line for each: "
        "ok, note (a run works, but perhaps not as expected) or error (a run would fail), and what to do. The exit "
        "code is 1 if there is an error.",
    )
    command.set_defaults(execute=lambda _: doctor())
    return parser


def _draw(arguments: argparse.Namespace) -> None:
    from pipeline.drawing.command import draw

    draw(arguments.run, arguments.host, arguments.port, arguments.open)


def _export(arguments: argparse.Namespace) -> None:
    from pipeline.exporting.command import export

    export(
        Path(arguments.folder),
        arguments.run,
        tfp=arguments.tfp,
        saved_model=arguments.savedmodel,
        push=arguments.push,
    )


def _generate(arguments: argparse.Namespace) -> None:
    from pipeline.generating.command import generate

    generate(arguments.folder, arguments.per_class, arguments.run, arguments.classes, arguments.pool)


def _add_source(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument("--source", metavar="SOURCE", help=help)
    command.add_argument("--mirror", action=_FormerOption, dest="source", help=argparse.SUPPRESS)


class _FormerOption(argparse.Action):
    """The former name of --source, which still works, and says so."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        print("--mirror is now called --source, and MIRROR of `make run` SOURCE", file=sys.stderr, flush=True)
        setattr(namespace, self.dest, values)


def _import(arguments: argparse.Namespace) -> None:
    from pipeline.importing.command import import_pictures

    options = Options(
        size=arguments.size and parse_size(arguments.size, "--size"),
        grey=arguments.grey,
        invert=arguments.invert,
        tile=arguments.tile and parse_size(arguments.tile, "--tile"),
        class_name=arguments.class_name,
        images=arguments.images,
        labels=arguments.labels,
    )
    import_pictures(Path(arguments.what), Path(arguments.folder), options)


if __name__ == "__main__":
    raise SystemExit(main())
