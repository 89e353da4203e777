"""The DVC stages of a run, one module each, and the packages that they use.

`quickdraw`, `pixelcnn` and `metrics` are libraries; `common`, `outputs` and `reporting` hold what the stages share.
"""

import importlib.util
import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Python is loading the modules of a command. An interrupt meanwhile ends it without a traceback; `reporting_errors`
    # restores Python's own handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if importlib.util.find_spec("pydantic") is None:
    # `dvc repro` calls the first `python` of PATH, which is the project's only if its environment is activated.
    sys.exit(
        f"error: {sys.executable} lacks the project's packages: activate the environment with . .venv/bin/activate"
    )
