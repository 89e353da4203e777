"""Untrusted files, servers and settings must not run code, exhaust memory, escape their folder, or hang.

Each test is an attack that runs with limited memory and time.
"""

import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipeline import dvc, verify
from pipeline.__main__ import main
from stages import params
from stages.common import tables
from stages.common.errors import SettingsError, StageError
from stages.outputs import dataset, index
from stages.quickdraw import http, images, labels, mirrors, selection, tfds
from stages.quickdraw.remote import Remote
from stages.reporting import blind_review, sheets
from tests import fake_project
from tests.settings import FULL, ROOT
from tests.stages.drawings import make_mirror
from tests.stages.quickdraw.server import Answer, Request, Server
from tests.stages.quickdraw.test_remote import CALM

HEADER = "{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


class Trap:
    """An object whose unpickling creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@contextmanager
def memory_limit(extra: int = 1 << 30) -> Iterator[None]:
    """Limit the memory that the block can allocate to `extra` bytes: more is a MemoryError, which fails the test."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def time_limit(seconds: float = 5) -> Iterator[None]:
    """Fail the test if the block takes more than `seconds` of processor time, which other work does not change."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


def rejects(function: Callable[[], object], message: str, error: type[Exception] = StageError) -> None:
    """Check that `function` raises `error` with one short line that matches `message`."""
    with memory_limit(), time_limit(), pytest.raises(error, match=message) as caught:
        function()
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def npy_bytes(shape: object, descr: str = "|u1", body: bytes = b"") -> bytes:
    """Return a .npy file with a header of this shape and type."""
    text = HEADER.format(descr=descr, shape=shape).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


# --- Files of drawings ---


def with_file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder


def test_a_pickle_in_a_file_of_drawings_is_not_executed(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Trap(tmp_path / "trapped")], object), allow_pickle=True)
    folder = with_file(make_mirror(tmp_path / "mirror"), "bee.npy", file.getvalue())
    rejects(mirrors.Folder(folder).counts, "bee.npy holds pickled objects")
    (tmp_path / "images.npy").write_bytes(file.getvalue())
    rejects(lambda: tables.open_memmap(tmp_path / "images.npy"), "object", ValueError)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("rows", [2**60, 2**31, 2**63, 2**64, 10**18, 10**30])
def test_a_header_that_claims_too_many_rows(tmp_path: Path, rows: int) -> None:
    folder = with_file(make_mirror(tmp_path / "mirror"), "bee.npy", npy_bytes(f"({rows}, 784)", body=bytes(784)))
    rejects(mirrors.Folder(folder).counts, "bee.npy (is cut short|has a header)")
    for shape in (f"({rows}, 28, 28, 1)", f"({rows}, {rows}, {2**64}, 0, 1)"):
        (tmp_path / "images.npy").write_bytes(npy_bytes(shape, body=bytes(784)))
        rejects(lambda: tables.open_memmap(tmp_path / "images.npy"), "do not match|Not a valid|shape", ValueError)


def test_sparse_files_with_too_many_drawings(tmp_path: Path) -> None:
    folder = make_mirror(tmp_path / "mirror")
    for name in ("bee", "tree"):
        header = npy_bytes(f"({2**31 - 1}, 784)")
        (folder / f"{name}.npy").write_bytes(header)
        os.truncate(folder / f"{name}.npy", len(header) + (2**31 - 1) * 784)
    counts = mirrors.Folder(folder).counts()
    rejects(
        lambda: selection.resolve_num_drawings(10, counts),
        r"source: it claims 4,294,[\d,]+ drawings; .* is the maximum supported",
    )


@pytest.mark.parametrize(
    "content",
    [
        npy_bytes("(50, 28, 28, 1)", "<f4", bytes(50 * 784 * 4)),
        npy_bytes("(50, 784)", body=bytes(50 * 784)),
        b"PK\x03\x04",
        b"",
    ],
    ids=["of floats", "of another shape", "a zip file", "empty"],
)
def test_prefetched_images_that_are_invalid(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.npy"
    path.write_bytes(content)
    rejects(
        lambda: images.Prefetched(path).pixels(make_index()), r"images.npy does not fit the index \(.+\): run the stage"
    )
    np.savez(tmp_path / "zip.npz", images=np.zeros((50, 28, 28, 1), np.uint8))
    rejects(lambda: images.Prefetched(tmp_path / "zip.npz").pixels(make_index()), "does not fit the index")


def test_a_pipe_device_folder_or_symlink_loop_instead_of_a_file(tmp_path: Path) -> None:
    folder = make_mirror(tmp_path / "mirror")
    path = folder / "bee.npy"
    replacements: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/stdin"),
        lambda: path.mkdir(),
        lambda: path.symlink_to(path),
    ]
    for replace in replacements:
        path.unlink()
        replace()
        rejects(mirrors.Folder(folder).counts, "bee.npy", (StageError, OSError))  # type: ignore[arg-type]
        path.rmdir() if path.is_dir() else path.unlink()
        path.touch()


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "\0", "x\0y", "..", ".hidden", "a\nb", "\x1b[2J", ""]
)
def test_a_class_name_that_escapes_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be the name of a class"):
        params.check(FULL | {"source": "mine", "classes": ["bee", name]}, "params.yaml")
    with pytest.raises(ValueError, match="cannot be the name of a class"):
        labels.check_name(name)


@pytest.mark.parametrize("name", ["../../x", "/x", "a\0b", "..", "CON", "a:b\\c", "x" * 300, "\u202egnp"])
def test_a_sheet_of_any_class_stays_in_its_folder(name: str) -> None:
    file = sheets.sheet_name(3, name)
    assert re.fullmatch(r"3_[A-Za-z0-9_-]+\.png", file)


# --- Tables ---

INDEX = {
    "position": np.arange(50, dtype=np.int64),
    "label": np.full(50, 26, np.int16),
    "name": pd.Categorical(["bee"] * 50),
    "row": np.arange(50, dtype=np.int32),
}


def make_index(**changes: object) -> pd.DataFrame:
    return pd.DataFrame(INDEX | changes)


def test_a_valid_index_is_read(tmp_path: Path) -> None:
    make_index().to_parquet(tmp_path / "index.parquet")
    pd.testing.assert_frame_equal(index.read(tmp_path / "index.parquet"), make_index())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": np.arange(50, dtype=np.int32) - 1}, "a negative value, -1"),
        ({"row": np.arange(50.0)}, "column 'row' is float64"),
        ({"row": pd.array([None] * 50, "Int32")}, "column 'row'"),
        ({"name": ["bee"] * 50}, "column 'name' is"),
        ({"name": pd.Categorical([3] * 50)}, "column .name. is int64"),
        ({"name": pd.Categorical([None] * 50, ["bee"])}, "column 'name'"),
        ({"label": [[1, 2]] * 50}, "column 'label' is object"),
    ],
)
def test_an_index_with_invalid_values(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    make_index(**changes).to_parquet(tmp_path / "index.parquet")
    rejects(lambda: index.read(tmp_path / "index.parquet"), f"index.parquet cannot be used .*{message}")


def test_an_index_that_is_a_decompression_bomb(tmp_path: Path) -> None:
    rows = 200_000_000  # 3 GB, in 10 kB
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows // 1000, np.int8)), ["bee"])
    path = tmp_path / "index.parquet"
    with pq.ParquetWriter(path, pa.schema({"name": column.type}), compression="zstd") as writer:
        for _ in range(1000):
            writer.write_table(pa.table({"name": column}), row_group_size=rows)
    assert path.stat().st_size < rows // 100
    rejects(lambda: index.read(path), r"it claims 200,000,000 rows in [\d,]+ bytes")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31) + b"PAR1", b"\0" * 99]
)
def test_an_index_that_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.parquet").write_bytes(content)
    rejects(lambda: index.read(tmp_path / "index.parquet"), r"index.parquet cannot be used \(.+\): run the stage")
    (tmp_path / "drawings.parquet").write_bytes(content)
    (tmp_path / "images.npy").write_bytes(content)
    rejects(lambda: dataset.load(tmp_path), "cannot be used")


def test_an_arrow_extension_type_is_not_unpickled(tmp_path: Path) -> None:
    payload = pickle.dumps(Trap(tmp_path / "trapped"))
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    table = pa.Table.from_pandas(make_index())
    for position in range(table.num_columns):
        field = table.schema.field(position).with_metadata(metadata)
        column = table.column(position)
        table = table.set_column(position, field, column)
    pq.write_table(table, tmp_path / "index.parquet")
    index.read(tmp_path / "index.parquet")
    assert not (tmp_path / "trapped").exists()


# --- Settings ---

ALIAS_BOMB = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30)
)


MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 30)
)


SETTINGS = [
    (ALIAS_BOMB + "num_resnet: *a29\n", "num_resnet is"),
    (ALIAS_BOMB + "classes: *a29\n", "classes"),
    ("classes: &x [*x]\n", "classes"),
    (f"seed: {'9' * 5000}\n", "not YAML|seed is"),
    (f"seed: 0x{'f' * 5000}\n", "seed is a number too long to show"),
    (f"num_drawings: 0x{'f' * 5000}\n", "num_drawings is a number too long to show"),
    (f"max_steps: 0x{'f' * 5000}\n", "max_steps is a number too long to show"),
    ("seed: 2001-99-99\n", "not YAML"),
    ("seed: !!python/object/apply:os.system [touch trapped]\n", "not YAML"),
    ("seed: !!python/name:os.system\n", "not YAML"),
    ("seed: !!binary '####'\n", "not YAML|seed"),
    ('source: "a\\0b"\n', "source: .* contains unprintable"),
    ('source: "\\e[2Jmine"\n', "source: .* contains unprintable"),
    ('source: "a\\nb"\n', "source: .* contains unprintable"),
    ('source: "\\ud800"\n', "not YAML|source"),
    ('? [a, b]\n: 1\n"\\e[2J": 2\n', "is not a setting|not YAML"),
]
NOT_SETTINGS = [
    (MERGE_BOMB, r"not YAML: merge keys \(<<\) are not supported"),
    ("a: &a {x: 1}\nb:\n  !!merge c: *a\n", r"not YAML: merge keys \(<<\) are not supported"),
    ("seed: " + "[" * 50_000, "nested too deeply"),
    ("seed: " + "{a: " * 5_000, "nested too deeply"),
    ("#" * 2_000_000, "has more than 1,000,000 characters"),
]


@pytest.mark.parametrize(("text", "message"), SETTINGS + NOT_SETTINGS)
def test_settings_that_are_an_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    if (text, message) in SETTINGS:
        missing = FULL.keys() - re.findall(r"^(\w+):", text, re.MULTILINE)
        text += "".join(f"{key}: {json.dumps(FULL[key])}\n" for key in FULL if key in missing)
    (tmp_path / "params.yaml").write_text(text)
    with memory_limit(), time_limit(20), pytest.raises(SettingsError, match=message) as caught:
        params.load()
    assert all(len(line) < 400 and line.isprintable() for line in str(caught.value).splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


SHELL_COMMANDS = (
    "$(touch trapped)",
    "`touch trapped`",
    "; touch trapped",
    "|touch trapped",
    "\"'; touch trapped #",
    "${trapped}",
)


def test_stage_commands_contain_no_settings() -> None:
    graph = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    assert all(re.fullmatch(r"python -m stages\.\w+", stage["cmd"]) for stage in graph["stages"].values())
    assert "${" not in (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert graph.keys() == {"stages", "metrics", "plots", "artifacts"}, "no `vars` and no templates"


@pytest.mark.slow
def test_no_shell_executes_a_setting_or_the_name_of_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "$(touch trapped) `touch trapped`"
    root.mkdir()
    fake_project.write(root)
    monkeypatch.chdir(root)
    monkeypatch.setattr("pipeline.server.configured_server", lambda: None)
    attack = "".join(SHELL_COMMANDS)
    mirror = attack.replace("'", "")
    assert main(["run", "-S", f"source={mirror}"]) == 0, capsys.readouterr().err
    runs = fake_project.recorded_runs(root)
    assert {run["settings"]["source"] for run in runs} == {mirror}, "the value is unchanged"
    workspace = dvc.Workspace(root)
    for name in (*SHELL_COMMANDS, "--force", "-x", "../../x"):
        try:
            workspace.save(name)
        except dvc.DvcError as error:
            assert "\n" not in str(error)
    assert not list(tmp_path.rglob("trapped"))


def test_the_project_starts_no_shell_and_evaluates_no_data() -> None:
    for path in [*(ROOT / "stages").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"shell\s*=\s*True|os\.system|os\.popen|getoutput", text), path
        assert not re.search(r"\bpickle\b(?!d)|joblib|allow_pickle=True|\beval\(|yaml\.load\(.*Loader", text), path


# --- Reviews, pages, sheets ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 90_000, "recursion"),
        (b'{"questions": ' + b"[" * 90_000, "recursion"),
        (b'{"questions": "' + b"a" * 200_000 + b'"}', "more than 100,000 bytes"),
        (b'{"questions": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_a_review_that_is_an_attack(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    rejects(lambda: blind_review.read("", [], tmp_path), f"a.json is not a review .*{message}")


def test_a_review_that_is_a_pipe_or_a_device(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replacements: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.mkdir(),
    ]
    for create in replacements:
        create()
        rejects(lambda: blind_review.read("", [], tmp_path), "a.json is not a review .it is not a file")
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_name_of_a_reviewer_can_be_encoded(tmp_path: Path) -> None:
    answers = {"questions": "", "mode": "pairs", "reviewer": "\ud800<script>", "answers": [[0, True]]}
    (tmp_path / "a.json").write_text(json.dumps(answers))
    [review], _ = blind_review.read("", [blind_review.Question(0, 0, 0, True, True)], tmp_path)
    assert review.reviewer.encode() == b"?<script>"


@pytest.mark.parametrize("path", ["../x", "data/../../x", "/etc/passwd", "data/\0", "data/\ud800", "x", "data/a\nb"])
def test_a_page_that_lists_other_files(path: str) -> None:
    claims = json.dumps({"files": {path: "0" * 64}, "settings": {}})
    page = f'<script type="application/json" id="provenance">{claims}</script>'.encode()
    rejects(lambda: verify.read_provenance(page, Path("a.html")), "is not a report", verify.VerifyError)


def png(width: int, height: int, content: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def test_a_sheet_that_is_a_decompression_bomb() -> None:
    for size in (10_000, 60_000, 2**31 - 1):
        rejects(lambda size=size: sheets.read_sheet(png(size, size)), "a sheet of", ValueError)  # type: ignore[misc]


@pytest.mark.parametrize("broken", [b"", b"\x89PNG", png(280, 560), png(280, 560).replace(b"IDAT", b"\xffDAT")])
def test_a_sheet_that_is_not_an_image(broken: bytes) -> None:
    rejects(lambda: sheets.read_sheet(broken), "a sheet that is not a picture", ValueError)


def test_a_drawing_that_is_a_decompression_bomb() -> None:
    bomb = png(28, 28, bytes(100_000_000))
    assert len(bomb) < 1_000_000
    with memory_limit(50_000_000), pytest.raises(ValueError, match="813 bytes of pixels, not 812"):
        tfds._lines(bomb)


# --- Servers ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    return make_mirror(tmp_path / "mirror")


def rejects_answer(folder: Path, change: Callable[[Answer], None], message: str) -> None:
    """Check that counting the drawings of a server fails with `message` if `change` is applied to its answers."""

    def misbehave(request: Request, answer: Answer) -> None:
        if request.path.endswith(".npy"):
            change(answer)

    with Server(folder.parent, misbehave) as server:
        server.listing = True  # so that the client requests the list of files
        rejects(Remote(f"{server.address}/mirror", CALM).counts, message)


def set_header(name: str, value: str) -> Callable[[Answer], None]:
    return lambda answer: answer.headers.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_header("Content-Range", "bytes 0-1023/" + "9" * 5000), "does not say"),
        (set_header("Content-Range", f"bytes 0-1023/{2**62}"), "is too long: 4,611,686"),
        (set_header("Content-Encoding", "gzip"), "sends it compressed"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)  # the server's
def test_an_answer_with_false_headers(folder: Path, change: Callable[[Answer], None], message: str) -> None:
    rejects_answer(folder, change, message)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://[x", "redirected to an invalid address"),
        ("//[", "redirected to an invalid address"),
        ("http://127.0.0.1:99999999/x", "redirected to an invalid address"),
        ("http://127.0.0.1:abc/", "redirected to an invalid address"),
        ("http://a..b/", "redirected to a..b: .* not the name of a host"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)  # the server's
def test_a_redirect_to_an_invalid_address(folder: Path, target: str, message: str) -> None:
    def redirect(answer: Answer) -> None:
        answer.status, answer.body, answer.headers = 302, b"", {"Location": target}

    rejects_answer(folder, redirect, rf"\.npy: {message}")


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "//127.0.0.1/x", "http://127.0.0.1:1/x",
        "http://2130706433/x", "http://0x7f.1/x", "http://0/x", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x",
        "http://10.0.0.1/x", "http://169.254.169.254/latest/meta-data", "http://public@127.0.0.1/x",
        "http://93.184.216.34\\@127.0.0.1/x", "http://localhost/x", "http://192.168.1.1/", "http://[fe80::1]/",
        "http://[fc00::1]/", "http://100.64.0.1/x",
    ],
)  # fmt: skip
def test_a_redirect_from_a_public_to_a_private_network_is_not_followed(target: str) -> None:
    import asyncio

    server = http.HttpServer("http://93.184.216.34/drawings", CALM)  # a public address; no request is sent
    with pytest.raises(StageError, match="which is not followed"):
        asyncio.run(server._redirected("http://93.184.216.34/drawings/bee.npy", target, "bee.npy"))


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    import asyncio

    server = http.HttpServer("https://93.184.216.34/drawings", CALM)
    with pytest.raises(StageError, match="redirected to http://"):
        asyncio.run(server._redirected("https://93.184.216.34/x", "http://93.184.216.34/x", "bee.npy"))


@pytest.mark.parametrize("source", ["ftp://host/x", "simplecache::file:///etc", "javascript://x", "zip://a::http://b"])
def test_a_source_of_another_scheme(source: str) -> None:
    with pytest.raises(SettingsError, match="is not supported"):
        params.check(FULL | {"source": source}, "params.yaml")


def test_a_module_in_a_mirror_is_not_imported(tmp_path: Path) -> None:
    """A mirror is only read: a module in it with the name of a library is not executed."""
    folder = make_mirror(tmp_path / "mirror")
    (folder / "numpy.py").write_text("raise SystemExit('run')")
    result = subprocess.run(
        [sys.executable, "-c", "from stages.quickdraw import sources; from pathlib import Path; "
         "print(sum(sources.open_source('mirror', Path()).counts().values()))"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
