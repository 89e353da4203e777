"""The command `python -m pipeline draw`."""

from __future__ import annotations

import gc
import logging
import os
import socket
from pathlib import Path
from types import FrameType

import uvicorn

from pipeline import dvc
from pipeline.drawing.app import application
from pipeline.drawing.guard import is_loopback, names_of
from pipeline.models import load_model
from pipeline.run import open_in_browser
from stages.common import device
from stages.common.errors import StageError, UserError
from stages.inference.trained_model import Images
from stages.outputs import dataset

MAX_CONNECTIONS = 64


class DrawError(UserError):
    """The page cannot be served."""


def draw(run: str | None, host: str, port: int, open_page: bool) -> None:
    """Serve the page of a model until interrupted.

    Args:
      run: an experiment, a Git revision or the root of a checkout; None for the workspace.
      host: the name or address to listen on.
      port: 0 for any free one.
      open_page: whether to open the page in the browser.

    Raises:
      DrawError: the address cannot be used.
      StageError, DvcError: the run has no model.
    """
    with _listen(host, port) as listener:
        model = load_model(run)
        device.configure("auto")
        folder = Path(run) if run is not None and Path(run).is_dir() else None
        real = _real_drawings((folder or dvc.project_root(Path.cwd())) / dataset.FOLDER, model.image_shape)
        name = folder.resolve().name if folder else run or "workspace"
        app = application(model, name, real, names_of(host))
        reached = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        link = f"http://{reached}:{listener.getsockname()[1]}/"
        print(f"Draw here: {link}\nStop with Ctrl-C", flush=True)
        if not is_loopback(host):
            print("Every machine that can reach this one can use the page", flush=True)
        if open_page:
            open_in_browser(link)
        _Server(
            uvicorn.Config(app, lifespan="off", ws="none", log_level="error", limit_concurrency=MAX_CONNECTIONS)
        ).run([listener])


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Do not wait for completions that are being drawn: cancel them, which uvicorn would report as an error.
        self.force_exit = True
        logging.getLogger("uvicorn.error").disabled = True
        gc.freeze()  # the last collection of garbage would take a second, because TensorFlow leaves many objects
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise DrawError(f"--port is {port}; expected: a whole number from 0 to {2**16 - 1}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        raise DrawError(f"cannot listen on {host}, port {port} ({reason}): choose another --host or --port") from None


def _real_drawings(folder: Path, shape: tuple[int, int, int]) -> dict[str, Images]:
    """The held-out drawings of each class, if the folder has drawings of this shape."""
    try:
        drawings = dataset.load(folder)
    except StageError:
        return {}
    if drawings.images.shape[1:] != shape:
        return {}
    heldout = drawings.where(drawings.heldout)
    return {str(name): heldout.images[heldout.names == name] for name in dict.fromkeys(heldout.names)}
