"""Shared by the tests of `generate`: a project, shards of a few drawings, and one core, so that one process draws."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.generating import check, manifest
from tests.pipeline.generating import project


@pytest.fixture(scope="module")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    project.make(root, project.untrained())
    return root


@pytest.fixture
def root(made_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, which is the current folder. Its tests do not change it."""
    monkeypatch.chdir(made_project)
    return made_project


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SHARD", 8)
    monkeypatch.setattr(check, "BLOCK", 8)


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)
