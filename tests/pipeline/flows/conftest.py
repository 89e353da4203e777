"""A real Prefect server, and workers whose stages are fake."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import fake_project
from tests.pipeline.prefect_server import Server, Worker, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that workers clone, with committed settings that need no network."""
    root = tmp_path_factory.mktemp("origin") / "my project"
    root.mkdir()
    fake_project.write(root, source="doodles")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def worker(server: Server, repository: Path, store: Path, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """A function that starts a worker with its own home folder, like a separate machine."""
    workers: list[Worker] = []

    def start(name: str = "machine", **variables: str) -> Worker:
        shared = {"QUICKDRAW_REPOSITORY": str(repository), "QUICKDRAW_STORE": f"file://{store}"}
        workers.append(Worker(server, tmp_path / name, **shared | variables))
        eventually(lambda: "started!" in workers[-1].log.read_text())
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture
def deployed(server: Server, worker: Callable[..., Worker], tmp_path: Path) -> Worker:
    """A worker, with the unmodified deployments."""
    started = worker()
    server.deploy(tmp_path)
    return started


@pytest.fixture(scope="module")
def forms(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The unmodified deployments, without a worker."""
    folder = tmp_path_factory.mktemp("forms")
    with (folder / "pool.log").open("wb") as log:  # fails if the pool exists
        server.start("work-pool", "create", "quickdraw", "--type", "process", cwd=folder, log=log).wait(900)
    server.deploy(folder)
