"""The command line of a stage: `--help`, checked settings, one-line errors and exit codes."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence

from stages import params
from stages.common.errors import print_error, reporting_errors


def run(
    main: Callable[[params.Params], None], doc: str | None, argv: Sequence[str] | None = None, *, lower: str = ""
) -> int:
    """Call `main` with the settings in params.yaml of the current folder.

    Errors that the user can fix are printed without a traceback; other exceptions are raised.

    Args:
      main: the stage.
      doc: the text for `--help`.
      argv: the arguments; None means those of the process.
      lower: the settings to reduce, which the message names when memory runs out.

    Returns:
      The exit code: 0 for success, 2 for a setting that cannot be used, 3 for training that does not converge, 130 for
      an interrupt, and 1 for other errors.
    """
    argparse.ArgumentParser(
        prog=_command(), description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    try:
        return reporting_errors(lambda: main(params.load()))
    except Exception as error:
        if not _out_of_memory(error):
            raise
        return print_error(f"out of memory{_amount(error)}{lower and f': lower {lower}'}", 1)


def _command() -> str:
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])


def _out_of_memory(error: Exception) -> bool:
    """Whether NumPy or TensorFlow failed to allocate memory, on the machine or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    if (tensorflow := sys.modules.get("tensorflow")) is None:  # this stage does not use it
        return False
    if isinstance(error, tensorflow.errors.InternalError):  # from CUDA, if another process uses the GPU's memory
        return "out of memory" in str(error).lower()
    return isinstance(error, tensorflow.errors.ResourceExhaustedError)


def _amount(error: Exception) -> str:
    """Return what the error says of the allocation: ` (shape[40000,28,28,128] and type float on …/device:GPU:0)`."""
    message = " ".join(str(error).split())
    match = re.search(
        r"shape\s?\[[\d,]*\].*?(?= by allocator)|Unable to allocate .*|trying to allocate [\d.]+ ?\w+", message
    )
    return f" ({match[0]})" if match else ""
