"""How a stage starts and how it ends: `--help`, the settings checked, and one line for a person where it fails."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence

from stages import params
from stages.errors import StageError


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
        main(params.load())
    except KeyboardInterrupt:
        return 130
    except StageError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(_explain(error), 1)
    except Exception as error:
        if not _out_of_memory(error):
            raise
        return _fail(f"out of memory{_amount(error)}{lower and f': lower {lower}'}", 1)
    return 0


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


def _explain(error: OSError) -> str:
    """`reports/index.html: No space left on device`: the file first, and no error number."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else " ".join(reason.split())


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return exit_code
