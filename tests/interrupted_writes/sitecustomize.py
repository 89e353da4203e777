"""Python imports this module at its start, if this folder is in PYTHONPATH: it stops in the middle of a chosen write.

INTERRUPTED_WRITE names the file. The first time that a process writes it after the file `armed` has appeared beside
this variable's folder, half of the first text is written. Then `armed` is renamed to `writing`, and the process sleeps,
or the disk is full if `armed` says so.
"""

import builtins
import errno
import os
import time
from pathlib import Path
from typing import Any

SECONDS = 0.4  # of the sleep

_target = os.environ.get("INTERRUPTED_WRITE", "")
_armed = Path(os.environ.get("INTERRUPTED_WRITE_CONTROL", "."), "armed")
_open = builtins.open


def _interrupted_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
    opened: Any = _open(file, mode, *arguments, **keywords)
    if isinstance(file, str | os.PathLike) and Path(file).name == _target and "w" in mode and _armed.exists():
        write = opened.write

        def write_half(content: Any) -> Any:
            opened.write = write
            write(content[: len(content) // 2])
            opened.flush()
            disk_is_full = _armed.read_text() == "full"
            _armed.rename(_armed.with_name("writing"))
            if disk_is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            time.sleep(SECONDS)
            return write(content[len(content) // 2 :])

        opened.write = write_half
    return opened


if _target:
    builtins.open = _interrupted_open
