"""The project's interface to DVC and Git. No other package runs DVC or reads its files.

DVC commands run as child processes, and their output is read line by line. The graph, the stages that are up to date
and the files of an experiment are read through DVC's Python API.
"""

from pipeline.dvc.cache import cache_folder, configure_store, read_from_cache
from pipeline.dvc.errors import DvcError, NoSuchFile, OutOfTime
from pipeline.dvc.experiments import (
    Experiment,
    Snapshot,
    experiment_commits,
    fetch_experiments,
    list_experiments,
    metrics,
)
from pipeline.dvc.git import changed_files, find_root, has_origin, project_root, read_committed, resolve_commit
from pipeline.dvc.locks import exclusive_run
from pipeline.dvc.repository import (
    LOCK_FILE,
    RUN_FILES,
    Stage,
    is_torn,
    output_md5,
    outputs,
    remote,
    stages,
    stages_in_lockfile,
    up_to_date,
)
from pipeline.dvc.store import STORE_VARIABLE, StoreError, check_store
from pipeline.dvc.workspace import Outcome, Workspace, environment, temporary_workspace

__all__ = [
    "LOCK_FILE",
    "RUN_FILES",
    "STORE_VARIABLE",
    "DvcError",
    "Experiment",
    "NoSuchFile",
    "OutOfTime",
    "Outcome",
    "Snapshot",
    "Stage",
    "StoreError",
    "Workspace",
    "cache_folder",
    "changed_files",
    "check_store",
    "configure_store",
    "environment",
    "exclusive_run",
    "experiment_commits",
    "fetch_experiments",
    "find_root",
    "has_origin",
    "is_torn",
    "list_experiments",
    "metrics",
    "output_md5",
    "outputs",
    "project_root",
    "read_committed",
    "read_from_cache",
    "remote",
    "resolve_commit",
    "stages",
    "stages_in_lockfile",
    "temporary_workspace",
    "up_to_date",
]
