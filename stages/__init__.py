"""What a run does: one module a DVC stage, and the two libraries they stand on."""

import importlib.util
import sys

if importlib.util.find_spec("pydantic") is None:
    # `dvc repro` calls the first `python` of PATH, which is the project's only where its environment is active.
    sys.exit(
        f"error: {sys.executable} has none of the project's packages: activate its environment, . .venv/bin/activate"
    )
