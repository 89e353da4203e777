"""What other people's files, servers and settings may not do: run code, fill the memory, leave their folder, or hang.

Each test is an attack. What runs them has so much memory, and so much time, and no more.
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
from stages import extract, params
from stages.common import tables
from stages.common.errors import SettingsError, StageError
from stages.outputs import dataset, index
from stages.quickdraw import http, images, labels, mirrors, tfds
from stages.quickdraw.remote import Remote
from stages.reporting import blind_review, sheets
from tests import fake_project
from tests.settings import FULL, ROOT
from tests.stages.drawings import make_mirror
from tests.stages.quickdraw.server import Answer, Request, Server
from tests.stages.quickdraw.test_remote import CALM

HEADER = "{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


class Trap:
    """What a pickle can do: make a file, when it is only read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@contextmanager
def little_memory(more: int = 1 << 30) -> Iterator[None]:
    """No more than so many bytes can be taken within; a bomb of more is a MemoryError, which fails the test."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def little_time(seconds: float = 5) -> Iterator[None]:
    """What never answers fails the test, rather than holding it up."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def refused(function: Callable[[], object], says: str, error: type[Exception] = StageError) -> None:
    """`function` ends with one short line that says so."""
    with little_memory(), little_time(), pytest.raises(error, match=says) as caught:
        function()
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def array(shape: object, descr: str = "|u1", body: bytes = b"") -> bytes:
    """A .npy file of that header."""
    text = HEADER.format(descr=descr, shape=shape).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


# --- Files of drawings ---


def with_file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder


def test_a_pickle_in_a_file_of_drawings_is_not_run(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Trap(tmp_path / "trapped")], object), allow_pickle=True)
    folder = with_file(make_mirror(tmp_path / "mirror"), "bee.npy", file.getvalue())
    refused(mirrors.Folder(folder).counts, "bee.npy holds pickled objects")
    (tmp_path / "images.npy").write_bytes(file.getvalue())
    refused(lambda: tables.open_memmap(tmp_path / "images.npy"), "object", ValueError)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("rows", [2**60, 2**31, 2**63, 2**64, 10**18, 10**30])
def test_a_header_that_claims_absurdly_many_rows(tmp_path: Path, rows: int) -> None:
    folder = with_file(make_mirror(tmp_path / "mirror"), "bee.npy", array(f"({rows}, 784)", body=bytes(784)))
    refused(mirrors.Folder(folder).counts, "bee.npy (is cut short|has a header)")
    for shape in (f"({rows}, 28, 28, 1)", f"({rows}, {rows}, {2**64}, 0, 1)"):
        (tmp_path / "images.npy").write_bytes(array(shape, body=bytes(784)))
        refused(lambda: tables.open_memmap(tmp_path / "images.npy"), "lies|Not a valid|cut short|shape", ValueError)


def test_a_file_with_holes_that_claims_all_of_them(tmp_path: Path) -> None:
    folder = make_mirror(tmp_path / "mirror")
    for name in ("bee", "tree"):
        header = array(f"({2**31 - 1}, 784)")
        (folder / f"{name}.npy").write_bytes(header)
        os.truncate(folder / f"{name}.npy", len(header) + (2**31 - 1) * 784)
    counts = mirrors.Folder(folder).counts()
    refused(
        lambda: extract.check_num_drawings(10, counts),
        r"mirror: it says that it holds 4,294,[\d,]+ drawings; more than",
    )


@pytest.mark.parametrize(
    "content",
    [
        array("(50, 28, 28, 1)", "<f4", bytes(50 * 784 * 4)),
        array("(50, 784)", body=bytes(50 * 784)),
        b"PK\x03\x04",
        b"",
    ],
    ids=["of floats", "of another shape", "a zip file", "empty"],
)
def test_prefetched_images_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.npy"
    path.write_bytes(content)
    refused(
        lambda: images.Prefetched(path).pixels(make_index()), r"images.npy does not fit the index \(.+\): run the stage"
    )
    np.savez(tmp_path / "zip.npz", images=np.zeros((50, 28, 28, 1), np.uint8))
    refused(lambda: images.Prefetched(tmp_path / "zip.npz").pixels(make_index()), "does not fit the index")


def test_a_pipe_a_device_a_folder_or_a_circle_in_the_place_of_a_file(tmp_path: Path) -> None:
    folder = make_mirror(tmp_path / "mirror")
    path = folder / "bee.npy"
    makes: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/stdin"),
        lambda: path.mkdir(),
        lambda: path.symlink_to(path),
    ]
    for make in makes:
        path.unlink()
        make()
        refused(mirrors.Folder(folder).counts, "bee.npy", (StageError, OSError))  # type: ignore[arg-type]
        path.rmdir() if path.is_dir() else path.unlink()
        path.touch()


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "\0", "x\0y", "..", ".hidden", "a\nb", "\x1b[2J", ""]
)
def test_a_class_that_is_a_way_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be the name of a class"):
        params.check(FULL | {"mirror": "mine", "classes": ["bee", name]}, "params.yaml")
    with pytest.raises(ValueError, match="cannot be the name of a class"):
        labels.check_name(name)


@pytest.mark.parametrize("name", ["../../x", "/x", "a\0b", "..", "CON", "a:b\\c", "x" * 300, "\u202egnp"])
def test_a_sheet_of_whatever_class_stays_in_its_folder(name: str) -> None:
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


def test_an_index_as_it_should_be(tmp_path: Path) -> None:
    make_index().to_parquet(tmp_path / "index.parquet")
    pd.testing.assert_frame_equal(index.read(tmp_path / "index.parquet"), make_index())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"row": np.arange(50, dtype=np.int32) - 1}, "a drawing -1"),
        ({"row": np.arange(50.0)}, "column 'row' is float64"),
        ({"row": pd.array([None] * 50, "Int32")}, "column 'row'"),
        ({"name": ["bee"] * 50}, "column 'name' is"),
        ({"name": pd.Categorical([3] * 50)}, "column .name. is int64"),
        ({"name": pd.Categorical([None] * 50, ["bee"])}, "column 'name'"),
        ({"label": [[1, 2]] * 50}, "column 'label' is object"),
    ],
)
def test_an_index_of_other_values(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    make_index(**changes).to_parquet(tmp_path / "index.parquet")
    refused(lambda: index.read(tmp_path / "index.parquet"), f"index.parquet cannot be used .*{says}")


def test_an_index_that_is_a_bomb(tmp_path: Path) -> None:
    rows = 200_000_000  # 3 GB, in 10 kB
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows // 1000, np.int8)), ["bee"])
    path = tmp_path / "index.parquet"
    with pq.ParquetWriter(path, pa.schema({"name": column.type}), compression="zstd") as writer:
        for _ in range(1000):
            writer.write_table(pa.table({"name": column}), row_group_size=rows)
    assert path.stat().st_size < rows // 100
    refused(lambda: index.read(path), r"it claims 200,000,000 rows in [\d,]+ bytes")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31) + b"PAR1", b"\0" * 99]
)
def test_an_index_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.parquet").write_bytes(content)
    refused(lambda: index.read(tmp_path / "index.parquet"), r"index.parquet cannot be used \(.+\): run the stage")
    (tmp_path / "drawings.parquet").write_bytes(content)
    (tmp_path / "images.npy").write_bytes(content)
    refused(lambda: dataset.load(tmp_path), "cannot be read")


def test_a_type_of_arrow_that_unpickles_itself(tmp_path: Path) -> None:
    payload = pickle.dumps(Trap(tmp_path / "trapped"))
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    table = pa.Table.from_pandas(make_index())
    for place in range(table.num_columns):
        field = table.schema.field(place).with_metadata(metadata)
        column = table.column(place)
        table = table.set_column(place, field, column)
    pq.write_table(table, tmp_path / "index.parquet")
    index.read(tmp_path / "index.parquet")
    assert not (tmp_path / "trapped").exists()


# --- Settings ---

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30)
)


MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 30)
)


SETTINGS = [
    (LAUGHS + "num_resnet: *a29\n", "num_resnet is"),
    (LAUGHS + "classes: *a29\n", "classes"),
    ("classes: &x [*x]\n", "classes"),
    (f"seed: {'9' * 5000}\n", "not YAML|seed is"),
    (f"seed: 0x{'f' * 5000}\n", "seed is a number too long to be shown"),
    (f"num_drawings: 0x{'f' * 5000}\n", "num_drawings is a number too long to be shown"),
    (f"max_steps: 0x{'f' * 5000}\n", "max_steps is a number too long to be shown"),
    ("seed: 2001-99-99\n", "not YAML"),
    ("seed: !!python/object/apply:os.system [touch trapped]\n", "not YAML"),
    ("seed: !!python/name:os.system\n", "not YAML"),
    ("seed: !!binary '####'\n", "not YAML|seed"),
    ('mirror: "a\\0b"\n', "mirror: .* has characters"),
    ('mirror: "\\e[2Jmine"\n', "mirror: .* has characters"),
    ('data_dir: "a\\nb"\n', "data_dir: .* has characters"),
    ('mirror: "\\ud800"\n', "not YAML|mirror"),
    ('? [a, b]\n: 1\n"\\e[2J": 2\n', "is not a setting|not YAML"),
]
NO_SETTINGS = [
    (MERGES, r"not YAML: a merge key \(<<\) is not read"),
    ("a: &a {x: 1}\nb:\n  !!merge c: *a\n", r"not YAML: a merge key \(<<\) is not read"),
    ("seed: " + "[" * 50_000, "nested too deeply"),
    ("seed: " + "{a: " * 5_000, "nested too deeply"),
    ("#" * 2_000_000, "has more than 1,000,000 characters"),
]


@pytest.mark.parametrize(("text", "says"), SETTINGS + NO_SETTINGS)
def test_settings_that_are_an_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    if (text, says) in SETTINGS:
        others = FULL.keys() - re.findall(r"^(\w+):", text, re.MULTILINE)
        text += "".join(f"{key}: {json.dumps(FULL[key])}\n" for key in FULL if key in others)
    (tmp_path / "params.yaml").write_text(text)
    with little_memory(), little_time(20), pytest.raises(SettingsError, match=says) as caught:
        params.load()
    assert all(len(line) < 400 and line.isprintable() for line in str(caught.value).splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


WORDS = (
    "$(touch trapped)",
    "`touch trapped`",
    "; touch trapped",
    "|touch trapped",
    "\"'; touch trapped #",
    "${trapped}",
)


def test_commands_of_stages_carry_no_settings() -> None:
    graph = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    assert all(re.fullmatch(r"python -m stages\.\w+", stage["cmd"]) for stage in graph["stages"].values())
    assert "${" not in (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert graph.keys() == {"stages", "metrics", "plots", "artifacts"}, "no `vars`, and nothing made from a template"


@pytest.mark.slow
def test_no_shell_reads_a_setting_or_the_name_of_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "$(touch trapped) `touch trapped`"
    root.mkdir()
    fake_project.write(root)
    monkeypatch.chdir(root)
    monkeypatch.setattr("pipeline.server.configured_server", lambda: None)
    everything = "".join(WORDS)
    mirror = everything.replace("'", "")
    assert main(["run", "-S", f"mirror={mirror}", "-S", f"data_dir={everything}"]) == 0, capsys.readouterr().err
    ran = fake_project.recorded_runs(root)
    assert {entry["settings"]["mirror"] for entry in ran} == {mirror}, "as it was written, to the letter"
    workspace = dvc.Workspace(root)
    for name in (*WORDS, "--force", "-x", "../../x"):
        try:
            workspace.save(name)
        except dvc.DvcError as error:
            assert "\n" not in str(error)
    assert not list(tmp_path.rglob("trapped"))


def test_nothing_of_the_project_starts_a_shell() -> None:
    for path in [*(ROOT / "stages").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"shell\s*=\s*True|os\.system|os\.popen|getoutput", text), path
        assert not re.search(r"\bpickle\b(?!d)|joblib|allow_pickle=True|\beval\(|yaml\.load\(.*Loader", text), path


# --- Reviews, pages, sheets ---


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 90_000, "recursion"),
        (b'{"questions": ' + b"[" * 90_000, "recursion"),
        (b'{"questions": "' + b"a" * 200_000 + b'"}', "more than 100,000 bytes"),
        (b'{"questions": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_a_review_that_is_an_attack(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    refused(lambda: blind_review.read("", [], tmp_path), f"a.json is no review .*{says}")


def test_a_review_that_is_a_pipe_or_a_device(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    makes: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.mkdir(),
    ]
    for make in makes:
        make()
        refused(lambda: blind_review.read("", [], tmp_path), "a.json is no review .it is not a file")
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_name_of_a_reviewer_can_be_written(tmp_path: Path) -> None:
    said = {"questions": "", "mode": "pairs", "reviewer": "\ud800<script>", "answers": [[0, True]]}
    (tmp_path / "a.json").write_text(json.dumps(said))
    [review], _ = blind_review.read("", [blind_review.Question(0, 0, 0, True, True)], tmp_path)
    assert review.reviewer.encode() == b"?<script>"


@pytest.mark.parametrize("path", ["../x", "data/../../x", "/etc/passwd", "data/\0", "data/\ud800", "x", "data/a\nb"])
def test_a_page_that_names_other_files(path: str) -> None:
    claims = json.dumps({"files": {path: "0" * 64}, "settings": {}})
    page = f'<script type="application/json" id="provenance">{claims}</script>'.encode()
    refused(lambda: verify.read_provenance(page, Path("a.html")), "is not a report", verify.VerifyError)


def png(width: int, height: int, content: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def test_a_sheet_that_is_a_bomb() -> None:
    for size in (10_000, 60_000, 2**31 - 1):
        refused(lambda size=size: sheets.read_sheet(png(size, size)), "a sheet of", ValueError)  # type: ignore[misc]


@pytest.mark.parametrize("broken", [b"", b"\x89PNG", png(280, 560), png(280, 560).replace(b"IDAT", b"\xffDAT")])
def test_a_sheet_that_is_no_picture(broken: bytes) -> None:
    refused(lambda: sheets.read_sheet(broken), "a sheet that is not a picture", ValueError)


def test_a_drawing_that_is_a_bomb() -> None:
    bomb = png(28, 28, bytes(100_000_000))
    assert len(bomb) < 1_000_000
    with little_memory(50_000_000), pytest.raises(ValueError, match="813 bytes of pixels, not 812"):
        tfds._lines(bomb)


# --- Servers ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    return make_mirror(tmp_path / "mirror")


def answering(folder: Path, change: Callable[[Answer], None], says: str) -> None:
    def misbehave(request: Request, answer: Answer) -> None:
        if request.path.endswith(".npy"):
            change(answer)

    with Server(folder.parent, misbehave) as server:
        server.listing = True  # so that it is asked for the files that there are
        refused(Remote(f"{server.address}/mirror", CALM).counts, says)


def header(name: str, value: str) -> Callable[[Answer], None]:
    return lambda answer: answer.headers.update({name: value})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (header("Content-Range", "bytes 0-1023/" + "9" * 5000), "does not say"),
        (header("Content-Range", f"bytes 0-1023/{2**62}"), "is too long: 4,611,686"),
        (header("Content-Encoding", "gzip"), "sends it compressed"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)  # the server's
def test_an_answer_that_lies(folder: Path, change: Callable[[Answer], None], says: str) -> None:
    answering(folder, change, says)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://[x", "redirected to what is no address"),
        ("//[", "redirected to what is no address"),
        ("http://127.0.0.1:99999999/x", "redirected to what is no address"),
        ("http://127.0.0.1:abc/", "redirected to what is no address"),
        ("http://a..b/", "redirected to a..b: .* not the name of a host"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)  # the server's
def test_a_redirect_to_what_is_no_address(folder: Path, target: str, says: str) -> None:
    def redirect(answer: Answer) -> None:
        answer.status, answer.body, answer.headers = 302, b"", {"Location": target}

    answering(folder, redirect, rf"\.npy: {says}")


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
def test_no_redirect_leads_from_the_open_network_into_a_closed_one(target: str) -> None:
    import asyncio

    origin = http.HttpServer("http://93.184.216.34/drawings", CALM)  # an address of the open network; nobody is asked
    with pytest.raises(StageError, match="which is not followed"):
        asyncio.run(origin._redirected("http://93.184.216.34/drawings/bee.npy", target, "bee.npy"))


def test_neither_does_one_from_https_to_http() -> None:
    import asyncio

    origin = http.HttpServer("https://93.184.216.34/drawings", CALM)
    with pytest.raises(StageError, match="redirected to http://"):
        asyncio.run(origin._redirected("https://93.184.216.34/x", "http://93.184.216.34/x", "bee.npy"))


@pytest.mark.parametrize("mirror", ["ftp://host/x", "simplecache::file:///etc", "javascript://x", "zip://a::http://b"])
def test_a_mirror_of_another_scheme(mirror: str) -> None:
    with pytest.raises(SettingsError, match="is none of"):
        params.check(FULL | {"mirror": mirror}, "params.yaml")


def test_a_folder_of_the_project_is_no_package(tmp_path: Path) -> None:
    """A mirror's own folder is read, never run: a module of a library's name in it stays where it is."""
    folder = make_mirror(tmp_path / "mirror")
    (folder / "numpy.py").write_text("raise SystemExit('run')")
    done = subprocess.run(
        [sys.executable, "-c", "from stages.quickdraw import sources; from pathlib import Path; "
         "print(sum(sources.open_mirror('mirror', Path()).counts().values()))"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
