"""The DVC stages of a run, one module each, and the packages that they use.

`quickdraw`, `pixelcnn` and `metrics` are libraries; `common`, `outputs` and `reporting` hold what the stages share.
"""

import importlib.util
import sys

if importlib.util.find_spec("pydantic") is None:
    # `dvc repro` calls the first `python` of PATH, which is the project's only if its environment is activated.
    sys.exit(
        f"error: {sys.executable} lacks the project's packages: activate the environment with . .venv/bin/activate"
    )
