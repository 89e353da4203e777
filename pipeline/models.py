"""The model of a run, of the workspace or of a DVC experiment, for use from Python."""

import tempfile
from pathlib import Path

from pipeline import dvc
from stages.common.files import atomic_file
from stages.inference.trained_model import TrainedModel, load

FILES = ("data/train/config.json", "data/train/weights.safetensors")
OPTIONAL_FILES = ("data/sample/settings.json", "params.yaml")  # a run from before the first has only the second


def load_model(run: str | Path | None = None) -> TrainedModel:
    """The model of a finished run.

    Args:
      run: the root of a checkout, or an exported folder; or the name of a DVC experiment or a Git revision, whose files
        are read from DVC's cache, or from its remote, without checking them out. None for the checkout of the current
        folder.

    Raises:
      StageError: a file of the run is missing or cannot be used.
      DvcError: there is no such run, or its files are not here.
    """
    if run is None:
        return load(dvc.project_root(Path.cwd()))
    if Path(run).is_dir():
        return load(run)
    snapshot = dvc.Snapshot(dvc.project_root(Path.cwd()), str(run))
    with tempfile.TemporaryDirectory() as folder:
        for path in (*FILES, *OPTIONAL_FILES):
            try:
                content = snapshot.read(path)
            except dvc.NoSuchFile:
                if path in FILES:
                    raise
                continue
            with atomic_file(Path(folder, path)) as temporary:
                temporary.write_bytes(content)
        return load(folder)
