"""The command `python -m pipeline`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline import run, settings
from pipeline.compare import compare
from pipeline.doctor import doctor
from pipeline.serve import serve
from pipeline.verify import verify
from stages.common.errors import reporting_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say, and return the exit code: 2 for a setting that cannot be used, 1 for a failed run."""
    arguments = parser().parse_args(argv)
    return reporting_errors(lambda: arguments.do(arguments))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description="Run the pipeline: drawings to a report.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "run",
        help="run the stages that need to run, and print the figures and the report's path",
        description="Run the stages that need to run, keep the run as a DVC experiment, and print the figures and the "
        "report's path. The run's settings are left in params.yaml.",
    )
    command.add_argument(
        "--profile",
        choices=settings.profiles(),
        help="a named set of changes to the committed params.yaml, from pipeline/profiles.yaml; "
        "without one, the settings are params.yaml as it stands",
    )
    command.add_argument(
        "-S",
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting: -S num_resnet=3 -S 'classes=[bee, cat]'",
    )
    command.add_argument(
        "--mirror",
        metavar="MIRROR",
        help="a folder of <class>.npy files (a relative one starts here), a URL, doodles, "
        "or auto: the best that is at hand",
    )
    command.set_defaults(do=lambda given: run.run(given.profile, given.set, given.mirror))

    command = commands.add_parser(
        "serve",
        help="start Prefect on this machine: its pages, the schedules and forms of prefect.yaml, and a worker",
        description="Start Prefect on this machine: its server and pages, the deployments of prefect.yaml, and a "
        "worker that runs them in this checkout, one at a time. Ends with an interrupt.",
    )
    command.add_argument("--port", type=int, default=4200, help="of the server, on this machine alone (4200)")
    command.add_argument("--schedules", action="store_true", help="have the schedules of prefect.yaml start runs")
    command.set_defaults(do=lambda given: serve(given.port, given.schedules))

    command = commands.add_parser(
        "verify",
        help="say whether a report belongs to the files and the settings here",
        description="Hash the files that a report says it was made from, compare its settings with those of "
        "params.yaml, and say whether it belongs to what lies here. The exit code is 1 where it does not.",
    )
    command.add_argument("page", nargs="?", default="reports/index.html", help="the report (reports/index.html)")
    command.set_defaults(do=lambda given: verify(Path(given.page)))

    command = commands.add_parser(
        "compare",
        help="lay the drawings, settings and measures of experiments side by side in reports/compare.html",
        description="Lay the drawings, settings and measures of several revisions side by side, in "
        "reports/compare.html. Nothing is computed again: their outputs come from DVC's cache.",
    )
    command.add_argument(
        "revisions",
        nargs="*",
        metavar="rev",
        help="a DVC experiment or a Git revision, `workspace` for what lies here; "
        "without any, the workspace and the experiments made from the current commit",
    )
    command.set_defaults(do=lambda given: compare(given.revisions))

    command = commands.add_parser(
        "doctor",
        help="say whether a run would work on this machine, and what to do where not",
        description="Look at each thing that a run with the settings of params.yaml needs, and print a line for it: "
        "ok, note (a run would work, if not as one may expect) or wrong, with a remedy. The exit code is 1 where one "
        "is wrong.",
    )
    command.set_defaults(do=lambda given: doctor())
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
