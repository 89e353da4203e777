"""Fetching from reliable and faulty mirrors: each fetch succeeds or ends with a one-line error, and can be resumed."""

import asyncio
import hashlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages.common.errors import StageError
from stages.quickdraw import http, remote, row_cache
from stages.quickdraw.file_server import FileHead
from stages.quickdraw.labels import BUCKET, PublishedFile, published
from stages.quickdraw.mirrors import Folder, Mirror, Rows
from stages.quickdraw.remote import Remote
from stages.quickdraw.retry import RetryPolicy
from tests.stages.drawings import COUNTS, make_mirror, noise
from tests.stages.quickdraw.server import Answer, Misbehave, Request, Server

# CALM retries soon, but has timeouts long enough for a busy machine. SHORT_TIMEOUTS is for responses that never come.
CALM = RetryPolicy(
    max_attempts=5,
    max_first_attempts=3,
    first_wait=0.01,
    max_wait=0.05,
    max_retry_after=2,
    read_timeout=15,
    request_timeout=30,
    total_timeout=120,
)
SHORT_TIMEOUTS = replace(CALM, read_timeout=0.3, request_timeout=2, total_timeout=20)
NAMES = ("bee", "sea turtle", "tree")
# Every third row, so that each needs a request.
REQUESTED = {name: np.arange(0, COUNTS[name], 3, dtype=np.int32) for name in NAMES}
NUMBER = sum(map(len, REQUESTED.values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_mirror(tmp_path / "two words")


def serve(folder: Path, misbehave: Misbehave | None = None, latency: float = 0, ranges: bool = True) -> Server:
    return Server(folder.parent, misbehave, latency, ranges)


def open_mirror(
    server: Server, retry_policy: RetryPolicy = CALM, published_files: dict[str, PublishedFile] | None = None
) -> Remote:
    return Remote(f"{server.address}/two%20words", retry_policy, published_files)


def describe_files(folder: Path) -> dict[str, PublishedFile]:
    contents = {name: (folder / f"{name}.npy").read_bytes() for name in COUNTS}
    return {
        name: PublishedFile(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
    }


def check_pixels(mirror: Mirror, requested: dict[str, Rows]) -> None:
    for name, rows in requested.items():
        out = np.zeros((len(rows), 784), np.uint8)
        mirror.read_rows(name, rows[::-1], out)
        assert np.array_equal(out, noise(name, COUNTS[name])[rows[::-1]]), name


@pytest.fixture(params=["auto", "ranges", "files"])
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are fetched. `auto` reads whole files, because the files of these tests are small."""
    monkeypatch.setenv("QUICKDRAW_FETCH", request.param)
    return str(request.param)


def test_rows_are_fetched_from_a_server(folder: Path, strategy: str) -> None:
    with serve(folder) as server:
        remote_mirror = open_mirror(server)
        remote_mirror.fetch(REQUESTED)
        check_pixels(remote_mirror, REQUESTED)
        assert len(server.parts()) == {"auto": 3, "files": 3, "ranges": NUMBER}[strategy]
        assert server.connections <= 64


@pytest.mark.parametrize(("stored", "image_shape"), [((64,), (8, 8, 1)), ((20, 36, 3), (20, 36, 3))])
def test_drawings_of_any_shape_are_fetched(
    tmp_path: Path, strategy: str, stored: tuple[int, ...], image_shape: tuple[int, ...]
) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    drawings = np.random.default_rng(0).integers(0, 256, (30, *stored), np.uint8)
    np.save(folder / "bee.npy", drawings)
    rows = np.arange(0, 30, 4, dtype=np.int32)
    with serve(folder) as server:
        remote_mirror = open_mirror(server)
        remote_mirror.fetch({"bee": rows})
        assert remote_mirror.image_shape() == image_shape
        out = np.empty((len(rows), drawings[0].size), np.uint8)
        remote_mirror.read_rows("bee", rows, out)
        assert np.array_equal(out.reshape(-1, *stored), drawings[rows])
        np.save(folder / "bee.npy", np.zeros((30, 9, 8), np.uint8))  # another shape, under the same name
        server.listing = True
        assert open_mirror(server).counts() == {"bee": 30}
        assert open_mirror(server).image_shape() == (9, 8, 1)


def test_files_of_two_shapes_on_a_server_are_one_error_line(folder: Path) -> None:
    np.save(folder / "tree.npy", np.zeros((COUNTS["tree"], 32, 32, 3), np.uint8))
    with serve(folder) as server:
        calls: list[Callable[[Remote], object]] = [Remote.counts, lambda mirror: mirror.fetch(REQUESTED)]
        for call in calls:
            with pytest.raises(StageError, match=r"^source: .*\.npy has drawings of .*, and .*\.npy of ") as caught:
                call(open_mirror(server))
            assert "28×28 pixels, grey" in str(caught.value) and "32×32 pixels, in colour" in str(caught.value)
    published_files = describe_files(folder)  # as if the bucket had changed
    with serve(folder) as server, pytest.raises(StageError, match=r"the public bucket has drawings of 28×28"):
        open_mirror(server, published_files=published_files).fetch({"tree": np.array([0], np.int32)})


def test_drawings_are_counted_with_and_without_a_list_of_files(folder: Path) -> None:
    links = ["bee.npy", "/two%20words/sea%20turtle.npy", "zorro.npy?x=1", "../up.npy", "deep/er.npy", "tree.npy"]
    links += ["http://[/x.npy", "//[x]y/x.npy"]  # invalid URLs
    listing = "".join(f'<a href="{link}">x</a>' for link in [*links, "http://a.b/c.npy"])

    def send_listing(request: Request, answer: Answer) -> None:
        if not request.path.endswith(".npy"):
            answer.status, answer.body = 200, listing.encode()
            answer.headers["Content-Type"] = "text/html; charset=utf-8"

    with serve(folder, send_listing) as server:
        assert open_mirror(server).counts() == {name: COUNTS[name] for name in ("bee", "sea turtle", "tree")}
    with serve(folder) as server:  # without a list, the published names are tried
        assert open_mirror(server).counts() == {
            name: COUNTS[name] for name in ("bee", "sea turtle", "The Eiffel Tower", "tree")
        }
        assert len(server.requests) == 346, "expected: one request for the list and one for each class"


def test_hidden_files_of_a_server_are_not_classes(folder: Path) -> None:
    (folder / "._bee.npy").write_bytes(b"\0\5\26\7")
    with serve(folder) as server:
        server.listing = True
        assert open_mirror(server).counts() == COUNTS


@pytest.mark.parametrize("file", ["\u00e9clair", "e\u0301clair"])
@pytest.mark.parametrize("denies", [False, True])
def test_a_file_can_be_named_in_either_form_of_unicode(tmp_path: Path, strategy: str, file: str, denies: bool) -> None:
    def refuse(request: Request, answer: Answer) -> None:
        if denies and answer.status == 404:
            forbidden(answer)

    name = "\u00e9clair"
    folder = tmp_path / "two words"
    folder.mkdir()
    np.save(folder / f"{file}.npy", noise(name, 5))
    with serve(folder, refuse) as server:
        server.listing = True
        assert open_mirror(server).counts() == {name: 5}
        remote_mirror = open_mirror(server)  # as in another stage, which does not count the drawings
        remote_mirror.fetch({name: np.array([0, 4], np.int32)})
        out = np.zeros((2, 784), np.uint8)
        remote_mirror.read_rows(name, np.array([4, 0], np.int32), out)
        assert np.array_equal(out, noise(name, 5)[[4, 0]])


def test_a_store_that_denies_access_to_missing_files(folder: Path) -> None:
    def refuse(request: Request, answer: Answer) -> None:
        if answer.status == 404:
            forbidden(answer)

    with serve(folder, refuse) as server:
        assert open_mirror(server).counts() == {
            name: COUNTS[name] for name in ("bee", "sea turtle", "The Eiffel Tower", "tree")
        }
        with pytest.raises(
            StageError, match=r"elsewhere/[a-zA-Z ]+.npy: the server refused the request \(403 Trouble\)$"
        ):
            Remote(f"{server.address}/elsewhere", CALM).counts()
        server.misbehave = None
        with pytest.raises(StageError, match=r"^source: http://[\d.:]+/elsewhere/\*.npy: no such file$"):
            Remote(f"{server.address}/elsewhere", CALM).counts()


def test_only_rows_that_are_not_cached_are_fetched(folder: Path, strategy: str) -> None:
    with serve(folder) as server:
        open_mirror(server, published_files=describe_files(folder)).fetch(REQUESTED)
        before = len(server.requests)
        second = open_mirror(server, published_files=describe_files(folder))
        second.fetch(REQUESTED)
        assert len(server.requests) == before
        check_pixels(second, REQUESTED)

        more = REQUESTED | {"zorro": np.array([1, 39], np.int32)}
        second.fetch(more)
        assert {request.path for request in server.requests[before:]} == {"two words/zorro.npy"}
        check_pixels(second, more)

        before = len(server.parts())
        unpublished = open_mirror(server)  # it has to request the sizes of the files, but shares the cache
        unpublished.fetch(more)
        assert len(server.parts()) == before
        check_pixels(unpublished, more)


def test_pixels_are_in_the_order_of_the_drawings(folder: Path) -> None:
    drawings = pd.DataFrame({"name": pd.Categorical(["tree", "bee", "tree"]), "row": [7, 0, 1]})
    with serve(folder) as server:
        remote_mirror = open_mirror(server)
        remote_mirror.prepare(drawings)
    assert np.array_equal(remote_mirror.pixels(drawings), Folder(folder).pixels(drawings))


def test_neighbouring_rows_are_fetched_in_one_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    rows = np.array([50, 3, 4, 6, 7, 10, 3, 51], np.int32)
    with serve(folder) as server:
        remote_mirror = open_mirror(server)
        remote_mirror.fetch({"bee": rows})
        check_pixels(remote_mirror, {"bee": rows})
        spans = {(request.start, request.stop) for request in server.parts()}
    assert spans == {(128 + 784 * first, 128 + 784 * last + 784) for first, last in ((3, 7), (10, 10), (50, 51))}


def test_a_request_has_a_maximum_number_of_rows() -> None:
    spans = remote._spans(np.arange(3000, dtype=np.int32))
    assert [(int(span[0]), int(span[-1])) for span in spans] == [(0, 1023), (1024, 2047), (2048, 2999)]


def test_the_faster_strategy_is_chosen() -> None:
    fetch = remote._Fetch(Remote(BUCKET), {}, None)  # type: ignore[arg-type]
    head = FileHead(size=115_000_000, version="", accepts_ranges=True, content=b"")
    assert not fetch._prefers_whole_file("bee", head, 1_449)  # rows among the first 500,000 drawings
    assert fetch._prefers_whole_file("bee", head, 146_000)  # rows: all of them
    seconds = head.size / remote.BYTES_PER_SECOND
    break_even = int(seconds / remote.REQUEST_SECONDS)
    assert not fetch._prefers_whole_file("bee", head, break_even - 1)
    assert fetch._prefers_whole_file("bee", head, break_even + 1)


def test_an_invalid_strategy_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "fast")
    with (
        serve(folder) as server,
        pytest.raises(StageError, match="QUICKDRAW_FETCH is 'fast'; expected: ranges, files"),
    ):
        open_mirror(server).fetch(REQUESTED)


def test_the_public_bucket_is_counted_without_a_request(cache_folder: Path) -> None:
    counts = Remote(f"{BUCKET}/").counts()
    assert sum(counts.values()) == 50_426_266
    assert (counts["panda"], counts["snowman"]) == (113_613, 340_029)
    assert list(counts)[:2] == ["aircraft carrier", "airplane"]
    assert Remote("gs://quickdraw_dataset/full/numpy_bitmap").published_files is published()
    assert Remote("https://example.org/full/numpy_bitmap").published_files is None
    assert not cache_folder.exists()


# --- Faults of the network and the server ---


def every(number: int, change: Callable[[Answer], None]) -> Misbehave:
    """Change every `number`-th response to a request for drawings."""
    count = 0

    def misbehave(request: Request, answer: Answer) -> None:
        nonlocal count
        if request.start != 0 and request.path.endswith(".npy"):
            count += 1
            if count % number == 0:
                change(answer)

    return misbehave


def late(answer: Answer) -> None:
    answer.latency = 0.02


def reset(answer: Answer) -> None:
    answer.cut = len(answer.body) // 2


def reset_immediately(answer: Answer) -> None:
    answer.cut = 0


def stall(answer: Answer) -> None:
    answer.stall = len(answer.body) // 2


def stall_immediately(answer: Answer) -> None:
    answer.latency = 3600


def throttle(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 429, b"slowly!", {"Retry-After": "1"}


def unavailable(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 503, b"busy", {}


def request_timeout(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 408, b"", {}


def short(answer: Answer) -> None:
    answer.body = answer.body[:-10]


def shorter_than_content_length(answer: Answer) -> None:
    answer.headers["Content-Length"] = str(len(answer.body))
    answer.body = answer.body[:-10]


def long(answer: Answer) -> None:
    answer.body += b"0123456789"


def malformed_range(answer: Answer) -> None:
    answer.status, answer.headers = 206, {"Content-Range": "bytes some-more/of them"}


TRANSIENT = {
    "latency": (1, late),
    "resets": (3, reset),
    "immediate resets": (2, reset_immediately),
    "429 with Retry-After": (40, throttle),
    "503": (2, unavailable),
    "408": (5, request_timeout),
    "short responses": (2, short),
    "responses shorter than their Content-Length": (3, shorter_than_content_length),
    "long responses": (2, long),
    "stalls": (50, stall),
    "immediate stalls": (50, stall_immediately),
    "malformed range": (4, malformed_range),
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_transient_faults_are_retried_by_ranges(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    with serve(folder, every(*TRANSIENT[fault])) as server:
        remote_mirror = open_mirror(server, replace(SHORT_TIMEOUTS if "stall" in fault else CALM, max_attempts=50))
        started = time.monotonic()
        remote_mirror.fetch(REQUESTED)
        check_pixels(remote_mirror, REQUESTED)
    assert len(server.parts()) > NUMBER or fault == "latency"
    assert time.monotonic() - started >= (1 if "Retry-After" in fault else 0)


# Without responses of the wrong length: a whole file of another length is a different file.
@pytest.mark.parametrize("fault", sorted(TRANSIENT.keys() - {"short responses", "long responses"}))
def test_transient_faults_are_retried_by_files(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "files")
    with serve(folder, every(2, TRANSIENT[fault][1])) as server:
        remote_mirror = open_mirror(server, SHORT_TIMEOUTS if "stall" in fault else CALM)
        remote_mirror.fetch(REQUESTED)
        check_pixels(remote_mirror, REQUESTED)
    assert len(server.parts()) > 3 or fault == "latency"


def internal_error(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 500, b"<html>Traceback", {}


def long_retry_after(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 429, b"", {"Retry-After": "86400"}


def forbidden(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 403, b"", {}


def gone(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 404, b"", {}


def other_bytes(answer: Answer) -> None:
    first, last, size = map(int, re.findall(r"\d+", answer.headers["Content-Range"]))
    answer.headers["Content-Range"] = f"bytes {first + 784}-{last + 784}/{size}"


def longer_file(answer: Answer) -> None:
    answer.headers["Content-Range"] = re.sub(r"/\d+", "/999999", answer.headers["Content-Range"])


def shorter_file(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 416, b"", {"Content-Range": "bytes */128"}


def other_version(answer: Answer) -> None:
    answer.headers["ETag"] = '"another"'


def compressed(answer: Answer) -> None:
    answer.headers["Content-Encoding"] = "gzip"


def whole_file(answer: Answer) -> None:
    answer.status, answer.headers = 200, {}


def redirect_to_file(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 302, b"", {"Location": "file:///etc/passwd"}


def redirect_loop(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 307, b"", {"Location": "?again"}


PERMANENT = {
    "500": (internal_error, r"the server answered 500 Trouble \(tried 5 times\)"),
    "stalls": (stall, r"timed out \(tried 5 times\)"),
    "resets": (reset, r"tried 5 times\)"),
    "short": (short, r"the server sent 774 bytes, expected 784 \(tried 5 times\)"),
    "long": (long, r"the server sent 794 bytes, expected 784 \(tried 5 times\)"),
    "a day's wait": (long_retry_after, "the server answered 429 Trouble, and asks to wait 86,400 seconds; the maximum"),
    "forbidden": (forbidden, r"the server refused the request \(403 Trouble\)"),
    "gone": (gone, r"no longer exists \(404\)"),
    "malformed range": (
        malformed_range,
        r"without a valid Content-Range \('bytes some-more/of them'\)",
    ),
    "other bytes": (other_bytes, "the server sent the wrong bytes"),
    "a longer file": (longer_file, r"has 999,999 bytes, expected [\d,]+: it has changed"),
    "a shorter file": (shorter_file, "now has 128 bytes: it has changed"),
    "another version": (other_version, "changed while it was read"),
    "compressed": (compressed, "sends it compressed"),
    "whole file": (whole_file, r"ignored the range and sent the whole file \(tried 5 times\)"),
    "redirect to a file": (redirect_to_file, "redirected to file://, which is not followed"),
    "redirect loop": (redirect_loop, "redirected more than 5 times"),
}


@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_fault_is_one_error_line_and_the_next_run_resumes(
    folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    change, message = PERMANENT[fault]
    count = 0

    def change_after_60(request: Request, answer: Answer) -> None:
        nonlocal count
        if request.start and answer.status == 206:
            count += 1
            if count > 60:
                change(answer)

    with serve(folder, change_after_60) as server:
        with pytest.raises(StageError) as caught:
            open_mirror(server, SHORT_TIMEOUTS if "stall" in fault else CALM).fetch(REQUESTED)
        line = str(caught.value)
        assert re.search(message, line), line
        assert line.startswith(f"source: {server.address}/two%20words/"), "the error does not begin with the file"
        assert "\n" not in line and len(line) < 500
        match = re.search(rf"; (\d+) of {NUMBER} drawings are cached in {cache_folder}; run the same command", line)
        assert match is not None
        cached = int(match[1])
        assert 30 <= cached <= 60 + 64

        server.misbehave = None
        server.wait_until_idle()  # for the requests of the failed fetch
        before = len(server.parts())
        remote_mirror = open_mirror(server)
        remote_mirror.fetch(REQUESTED)
        assert NUMBER - cached <= len(server.parts()) - before < NUMBER
        check_pixels(remote_mirror, REQUESTED)


def test_an_unreachable_server_is_an_error_after_three_attempts(folder: Path) -> None:
    with serve(folder) as server:
        remote_mirror = open_mirror(server)
    with pytest.raises(StageError, match=r"^source: http://127.0.0.1:\d+/two%20words/bee.npy: .*\(tried 3 times\)"):
        remote_mirror.fetch({"bee": REQUESTED["bee"]})
    with pytest.raises(StageError, match=r"^source: http://127.0.0.1:\d+/two%20words/\*.npy: .*\(tried 3 times\)"):
        remote_mirror.counts()


def test_fetching_and_counting_have_a_deadline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    policy = RetryPolicy(total_timeout=0.5)
    with serve(folder, latency=0.3) as server:
        remote_mirror = open_mirror(server, policy)
        with pytest.raises(StageError, match=r"timed out after 0.000139 hours; \d+ of 107 drawings are cached"):
            remote_mirror.fetch(REQUESTED)
        with pytest.raises(StageError, match=r"^source: http://.*/two%20words/\*.npy: timed out after 0.000139 hours$"):
            remote_mirror.counts()


def test_whole_files_are_read_from_a_server_without_ranges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(folder, ranges=False) as server:
        remote_mirror = open_mirror(server)
        assert sum(remote_mirror.counts().values()) == 390
        remote_mirror.fetch(REQUESTED)
        check_pixels(remote_mirror, REQUESTED)
    warning = "the source does not support range requests, so whole files are read: about "
    assert capsys.readouterr().err.startswith(warning)


def test_a_server_without_the_ranges_that_the_user_requires(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    with serve(folder, ranges=False) as server, pytest.raises(StageError, match="does not support range requests"):
        open_mirror(server).fetch(REQUESTED)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_stream_is_resumed_where_it_broke(folder: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "files")
    monkeypatch.setattr(remote, "PROGRESS_BYTES", 5_000)

    def break_off(request: Request, answer: Answer) -> None:
        if request.start != 0:
            answer.cut = (0 if ranges else request.start or 0) + 10_000

    cuts = iter(range(10_000, 10**9, 10_000))

    def break_off_later(request: Request, answer: Answer) -> None:
        if request.start != 0:
            answer.cut = next(cuts)

    with serve(folder, break_off if ranges else break_off_later, ranges=ranges) as server:
        remote_mirror = open_mirror(server, published_files=describe_files(folder))
        remote_mirror.fetch({"bee": REQUESTED["bee"]})
        check_pixels(remote_mirror, {"bee": REQUESTED["bee"]})
        assert len(server.parts()) == 10, "94,208 bytes need ten requests of 10,000"


def test_a_file_with_the_wrong_checksum_is_not_cached(
    folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "files")
    files = describe_files(folder)
    files["bee"] = files["bee"]._replace(sha256="0" * 64)
    with serve(folder) as server:
        remote_mirror = open_mirror(server, published_files=files)
        with pytest.raises(StageError, match=r"bee.npy has the SHA-256 [0-9a-f]{64}, expected 0{64}: none of"):
            remote_mirror.fetch({"bee": REQUESTED["bee"]})
    assert [path.stat().st_size for path in cache_folder.rglob("*.rows")] == [792], "the cache holds more than a header"
    assert {path.suffix for path in cache_folder.rglob("*") if path.is_file()} == {".rows", ".lock"}


def test_a_file_of_the_wrong_size_is_refused(folder: Path, strategy: str) -> None:
    files = describe_files(folder)
    files["bee"] = files["bee"]._replace(size=files["bee"].size + 784)
    with (
        serve(folder) as server,
        pytest.raises(StageError, match=r"bee.npy has 94,208 bytes, expected 94,992"),
    ):
        open_mirror(server, published_files=files).fetch(REQUESTED)


def test_a_changed_file_replaces_the_cached_rows(folder: Path, strategy: str) -> None:
    with serve(folder) as server:
        open_mirror(server).fetch(REQUESTED)
        changed = noise("bee", COUNTS["bee"])[::-1]
        np.save(folder / "bee.npy", changed)  # of the same size
        for rows in (REQUESTED["bee"], np.arange(0, 120, 2, dtype=np.int32)):
            remote_mirror = open_mirror(server)
            remote_mirror.fetch(REQUESTED | {"bee": rows})
            out = np.empty((len(rows), 784), np.uint8)
            remote_mirror.read_rows("bee", rows, out)
            assert np.array_equal(out, changed[rows])


def test_urls_with_different_queries_do_not_share_rows(folder: Path, strategy: str) -> None:
    def remove_etag(request: Request, answer: Answer) -> None:
        answer.headers.pop("ETag", None)

    pixels = noise("bee", COUNTS["bee"])
    with serve(folder, remove_etag) as server:
        for query in ("", "?of=May", "?of=June", ""):
            pixels = pixels[::-1]
            np.save(folder / "bee.npy", pixels)
            remote_mirror = Remote(f"{server.address}/two%20words{query}", CALM)
            remote_mirror.fetch({"bee": REQUESTED["bee"]})
            out = np.empty((len(REQUESTED["bee"]), 784), np.uint8)
            remote_mirror.read_rows("bee", REQUESTED["bee"], out)
            assert np.array_equal(out, pixels[REQUESTED["bee"]]), query


def test_invalid_files_and_rows_are_one_error_line(folder: Path) -> None:
    (folder / "bee.npy").write_bytes((folder / "bee.npy").read_bytes()[:-100])
    with serve(folder) as server:
        with pytest.raises(StageError, match=r"bee.npy is cut short: 94,108 bytes, where its header says 120 drawings"):
            open_mirror(server).counts()
        with pytest.raises(StageError, match=r"bee.npy is cut short"):
            open_mirror(server).fetch(REQUESTED)
        with pytest.raises(StageError, match=r"tree.npy holds 110 drawings, and row 110 was requested"):
            open_mirror(server).fetch({"tree": np.array([110], np.int32)})
        with pytest.raises(StageError, match=r"none.npy does not exist"):
            open_mirror(server).fetch({"none": np.array([0], np.int32)})


def test_credentials_are_sent_but_never_shown(folder: Path, cache_folder: Path) -> None:
    authorizations = []

    def record(request: Request, answer: Answer) -> None:
        authorizations.append(request.headers.get("authorization", ""))

    with serve(folder, record) as server:
        address = server.address.replace("http://", "http://me:secret@") + "/two%20words?key=secret"
        Remote(address, CALM).fetch({"tree": REQUESTED["tree"]})
        with pytest.raises(StageError) as caught:
            Remote(address, CALM).fetch({"none": np.array([0], np.int32)})
    assert set(authorizations) == {"Basic bWU6c2VjcmV0"}
    assert "secret" not in str(caught.value)
    assert not [
        path
        for path in cache_folder.rglob("*")
        if "secret" in str(path) or (path.is_file() and b"secret" in path.read_bytes())
    ]


@pytest.mark.parametrize(
    "proxy", ["http://me:secret@{}", "me:secret@{}"], ids=["proxy with a scheme", "proxy without a scheme"]
)
def test_credentials_are_not_shown_if_a_response_is_malformed(
    folder: Path, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def malformed(request: Request, answer: Answer) -> None:
        answer.headers["X"] = "a\0b"

    def require_login(request: Request, answer: Answer) -> None:
        answer.status, answer.body = 407, b""

    with serve(folder, malformed) as server:
        with pytest.raises(StageError, match=r"two%20words/\*.npy: 400 [ -~]+ \(tried 3 times\)$") as caught:
            Remote(f"{server.address}/two%20words?key=secret", CALM).counts()
        assert "secret" not in str(caught.value)
        server.misbehave = require_login
        monkeypatch.setenv("https_proxy", proxy.format(server.address.removeprefix("http://")))
        with pytest.raises(StageError, match=r"/x/\*.npy: 407 Trouble \(tried 3 times\)$") as caught:
            Remote("https://drawings.example/x?key=secret", CALM).counts()
        assert "secret" not in str(caught.value)


# --- Redirects and proxies ---

PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.1"


class FakeDns:
    """Replaces name resolution.

    Attributes:
      lookups: the results of each host's look-ups in order, each a list of addresses; the last one is repeated.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lookups: dict[str, list[list[str]]] = {}
        self._real = socket.getaddrinfo
        monkeypatch.setattr("socket.getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host not in self.lookups:
            return list(self._real(host, port, *args, **kwargs))
        addresses = self.lookups[host].pop(0) if len(self.lookups[host]) > 1 else self.lookups[host][0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> FakeDns:
    return FakeDns(monkeypatch)


@pytest.mark.parametrize(
    ("mirror", "target", "allowed"),
    [
        ([PUBLIC], [PUBLIC], True),
        ([PUBLIC], [PRIVATE], False),
        ([PUBLIC], [PUBLIC, PRIVATE], False),
        ([PUBLIC, PRIVATE], [PRIVATE], False),
        ([PRIVATE], [PRIVATE], True),
        ([PRIVATE, "192.168.0.1"], [PUBLIC, PRIVATE], True),
        ([], [PRIVATE], False),
        ([], [PUBLIC], True),
    ],
)
def test_only_a_private_mirror_may_redirect_into_a_private_network(
    mirror: list[str], target: list[str], allowed: bool, dns: FakeDns
) -> None:
    dns.lookups = {"mirror.example": [mirror], "target.example": [target]}
    resolver = http._SafeResolver(("mirror.example", 80), None)
    if allowed:
        addresses = asyncio.run(resolver.resolve_target("target.example", 80))
        assert [address["host"] for address in addresses] == target
    else:
        with pytest.raises(PermissionError):
            asyncio.run(resolver.resolve_target("target.example", 80))


def test_a_host_name_that_resolves_to_another_address_after_the_check(dns: FakeDns) -> None:
    dns.lookups = {"Mirror.example": [[PUBLIC]], "mirror.example": [[PRIVATE]], "target.example": [[PUBLIC], [PRIVATE]]}
    resolver = http._SafeResolver(("mirror.example", 80), None)

    async def connect() -> None:
        assert [address["host"] for address in await resolver.resolve("Mirror.example", 80)] == [PUBLIC]
        await resolver.resolve_target("target.example", 80)
        with pytest.raises(PermissionError):  # although the source has a private address by now, too
            await resolver.resolve("target.example", 80)

    asyncio.run(connect())


def redirect_to(server: Server, target: str) -> Misbehave:
    """Redirect requests for `moved` to the target, in which `{}` stands for the server's port."""

    def redirect(request: Request, answer: Answer) -> None:
        if "moved" in request.path:
            to = request.path.replace("moved", "two%20words")
            answer.status, answer.body, answer.headers = 301, b"", {"Location": f"{target.format(port(server))}/{to}"}

    return redirect


def port(server: Server) -> str:
    return server.address.rpartition(":")[2]


def test_redirects_are_followed_but_not_into_a_private_network(
    folder: Path, dns: FakeDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    dns.lookups = {"mirror.example": [["127.0.0.1"]], "target.example": [["127.0.0.1"], ["127.0.0.2"]]}
    with serve(folder) as server:
        server.misbehave = redirect_to(server, "http://127.0.0.1:{}")
        Remote(f"http://mirror.example:{port(server)}/moved", CALM).fetch(REQUESTED)

        monkeypatch.setattr("stages.quickdraw.http._is_public_address", lambda address: address == "127.0.0.1")
        bee = {"bee": np.array([1], np.int32)}
        for target, shown in {"http://127.0.0.2:{}": "127.0.0.2", "http://target.example:{}": "target.example"}.items():
            server.misbehave = redirect_to(server, target)
            with pytest.raises(
                StageError, match=rf"redirected into a private network \({shown}\), which is not followed"
            ):
                Remote(f"http://mirror.example:{port(server)}/moved?to={shown}", CALM).fetch(bee)


def test_a_proxy_resolves_host_names_and_private_addresses_are_refused(
    folder: Path, dns: FakeDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    dns.lookups = {"mirror.example": [[]], "target.example": [[]]}
    with serve(folder) as server:
        monkeypatch.setenv("http_proxy", server.address.removeprefix("http://"))
        server.misbehave = redirect_to(server, "http://target.example")
        remote_mirror = Remote("http://mirror.example/moved", CALM)
        remote_mirror.fetch(REQUESTED)
        check_pixels(remote_mirror, REQUESTED)
        server.misbehave = redirect_to(server, "http://10.0.0.1")
        with pytest.raises(StageError, match=r"redirected into a private network \(10.0.0.1\), which is not followed"):
            Remote("http://mirror.example/moved", CALM).fetch({"zorro": np.array([1], np.int32)})


@pytest.mark.parametrize("proxy", ["socks5://host:1", "http://[x", "host:99999", "http://"])
def test_an_invalid_proxy_is_one_error_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(
        StageError, match=r"^source: the proxy in http_proxy cannot be used; expected: an http:// or https:// URL$"
    ):
        Remote("http://mirror.example", CALM).counts()


@pytest.mark.parametrize(
    ("address", "is_public"),
    [("127.0.0.1", False), ("10.1.2.3", False), ("::1", False), ("fe80::1%eth0", False), ("169.254.169.254", False),
     ("8.8.8.8", True), ("2606:4700::1111", True)],
)  # fmt: skip
def test_public_addresses(address: str, is_public: bool) -> None:
    assert http._is_public_address(address) is is_public


# --- Concurrent runs, and other stores ---


def test_concurrent_runs_fetch_each_drawing_once(folder: Path, strategy: str) -> None:
    with serve(folder, latency=0.01) as server:
        runs = [open_mirror(server), open_mirror(server)]
        threads = [threading.Thread(target=run.fetch, args=(REQUESTED,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.parts()) == {"auto": 3, "files": 3, "ranges": NUMBER}[strategy]
    for run in runs:
        check_pixels(run, REQUESTED)


@pytest.fixture
def store(folder: Path) -> Iterator[str]:
    """The URL of the mirror in an fsspec store."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    for path in folder.iterdir():
        filesystem.pipe_file(f"/store/{path.name}", path.read_bytes())
    yield "memory://store"
    filesystem.rm("/store", recursive=True)


def test_rows_are_fetched_from_an_fsspec_store(store: str, strategy: str) -> None:
    remote_mirror = Remote(store, CALM)
    assert remote_mirror.counts() == dict(
        sorted(COUNTS.items(), key=lambda item: list(remote_mirror.counts()).index(item[0]))
    )
    remote_mirror.fetch(REQUESTED)
    check_pixels(remote_mirror, REQUESTED)
    with pytest.raises(
        StageError, match=r"source: memory://store/none.npy does not exist on the server; 0 of 1 drawings"
    ):
        remote_mirror.fetch({"none": np.array([0], np.int32)})


def test_hidden_files_of_a_store_are_not_classes(store: str) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/store/._bee.npy", b"\0\5\26\7")
    assert Remote(store, CALM).counts() == COUNTS


def test_a_failing_store_is_retried(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    real = MemoryFileSystem.cat_file
    random_numbers = random.Random(0)

    def flaky(self: object, path: str, start: int, end: int) -> bytes:
        if random_numbers.random() < 0.3:
            raise ConnectionError("the network\nis down")
        content: bytes = real(self, path, start, end)
        return content[:-1] if random_numbers.random() < 0.2 else content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    remote_mirror = Remote(store, RetryPolicy(max_attempts=20, max_first_attempts=20, first_wait=0.001, max_wait=0.002))
    remote_mirror.fetch(REQUESTED)
    check_pixels(remote_mirror, REQUESTED)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(StageError, match=r"memory://store/bee.npy: division by zero \(tried 3 times\)"):
        Remote(store, CALM).fetch({"bee": np.array([1], np.int32)})


def test_a_missing_package_of_a_store_is_one_error_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(address: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(StageError, match=r"^source: gs:// needs a package that is not installed: Please install gcsfs"):
        Remote("gs://somebody/drawings", CALM).counts()


def test_a_full_disk_is_an_error_that_names_the_cache(
    folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = row_cache.RowFile.prepare_append

    def prepare_append(self: row_cache.RowFile, version: str) -> None:
        real(self, version)
        self.path.unlink()
        self.path.symlink_to("/dev/full")

    monkeypatch.setattr(row_cache.RowFile, "prepare_append", prepare_append)
    with serve(folder) as server, pytest.raises(OSError, match="No space left on device") as caught:
        open_mirror(server).fetch(REQUESTED)
    assert caught.value.filename == str(cache_folder)
