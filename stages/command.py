"""How a stage starts and how it ends: `--help`, the settings checked, and one line for a person where it fails."""

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
    """Call `main` with the settings of the params.yaml of the current folder, and return the exit code.

    0 is success, 2 a setting that cannot be used (`main` has not been called), 130 an interrupt, and 1 whatever else
    a person can put right. Such an error is printed without its traceback; that of a defect is left to be seen.

    Args:
      lower: the settings that a person is told to lower where memory ends.
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
    """NumPy's, or TensorFlow's (which is imported only where it was computed with), of a GPU or of the machine."""
    if isinstance(error, MemoryError):
        return True
    if (tensorflow := sys.modules.get("tensorflow")) is None:
        return False
    if isinstance(error, tensorflow.errors.InternalError):  # CUDA's own, where another process has the GPU's memory
        return "out of memory" in str(error).lower()
    return isinstance(error, tensorflow.errors.ResourceExhaustedError)


def _amount(error: Exception) -> str:
    """What did not fit, where the error tells: ` (shape[40000,28,28,128] and type float on …/device:GPU:0)`."""
    words = " ".join(str(error).split())
    found = re.search(
        r"shape\s?\[[\d,]*\].*?(?= by allocator)|Unable to allocate .*|trying to allocate [\d.]+ ?\w+", words
    )
    return f" ({found[0]})" if found else ""
