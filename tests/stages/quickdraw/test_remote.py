"""A mirror that behaves, and one that does not: every case ends right or in one line, and the next run continues."""

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

# Tries again at once, but waits for an answer for as long as a busy machine may take; HASTY is for what never answers.
CALM = RetryPolicy(
    attempts=5, first_attempts=3, wait=0.01, longest_wait=0.05, longest_retry_after=2, silence=15, request=30, total=120
)
HASTY = replace(CALM, silence=0.3, request=2, total=20)
NAMES = ("bee", "sea turtle", "tree")
WANTED = {name: np.arange(0, COUNTS[name], 3, dtype=np.int32) for name in NAMES}  # no two near: a request each
NUMBER = sum(map(len, WANTED.values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_mirror(tmp_path / "two words")


def serve(folder: Path, misbehave: Misbehave | None = None, latency: float = 0, ranges: bool = True) -> Server:
    return Server(folder.parent, misbehave, latency, ranges)


def mirror(server: Server, patience: RetryPolicy = CALM, known: dict[str, PublishedFile] | None = None) -> Remote:
    return Remote(f"{server.address}/two%20words", patience, known)


def known(folder: Path) -> dict[str, PublishedFile]:
    files = {name: (folder / f"{name}.npy").read_bytes() for name in COUNTS}
    return {name: PublishedFile(len(file), hashlib.sha256(file).hexdigest()) for name, file in files.items()}


def check(mirror: Mirror, wanted: dict[str, Rows]) -> None:
    for name, rows in wanted.items():
        out = np.zeros((len(rows), 784), np.uint8)
        mirror.gather(name, rows[::-1], out)
        assert np.array_equal(out, noise(name, COUNTS[name])[rows[::-1]]), name


@pytest.fixture(params=["auto", "ranges", "files"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are fetched; `auto` is by files, as these are small."""
    monkeypatch.setenv("QUICKDRAW_FETCH", request.param)
    return str(request.param)


def test_rows_come_from_a_server(folder: Path, way: str) -> None:
    with serve(folder) as server:
        there = mirror(server)
        there.fetch(WANTED)
        check(there, WANTED)
        assert len(server.parts()) == {"auto": 3, "files": 3, "ranges": NUMBER}[way]
        assert server.connections <= 64


def test_counts_come_without_a_list_of_files_too(folder: Path) -> None:
    links = ["bee.npy", "/two%20words/sea%20turtle.npy", "zorro.npy?x=1", "../up.npy", "deep/er.npy", "tree.npy"]
    links += ["http://[/x.npy", "//[x]y/x.npy"]  # no addresses
    listing = "".join(f'<a href="{link}">x</a>' for link in [*links, "http://a.b/c.npy"])

    def with_list(request: Request, answer: Answer) -> None:
        if not request.path.endswith(".npy"):
            answer.status, answer.body = 200, listing.encode()
            answer.headers["Content-Type"] = "text/html; charset=utf-8"

    with serve(folder, with_list) as server:
        assert mirror(server).counts() == {name: COUNTS[name] for name in ("bee", "sea turtle", "tree")}
    with serve(folder) as server:  # without, the published names are tried
        assert mirror(server).counts() == {
            name: COUNTS[name] for name in ("bee", "sea turtle", "The Eiffel Tower", "tree")
        }
        assert len(server.requests) == 346, "one for the list and one a class"


def test_a_store_that_refuses_what_it_lacks(folder: Path) -> None:
    def refuse(request: Request, answer: Answer) -> None:
        if answer.status == 404:
            forbidden(answer)

    with serve(folder, refuse) as server:
        assert mirror(server).counts() == {
            name: COUNTS[name] for name in ("bee", "sea turtle", "The Eiffel Tower", "tree")
        }
        with pytest.raises(StageError, match=r"elsewhere/[a-zA-Z ]+.npy: the server refuses it \(403 Trouble\)$"):
            Remote(f"{server.address}/elsewhere", CALM).counts()
        server.misbehave = None
        with pytest.raises(StageError, match=r"^mirror: http://[\d.:]+/elsewhere/\*.npy: there is no such file$"):
            Remote(f"{server.address}/elsewhere", CALM).counts()


def test_a_second_run_fetches_nothing_and_another_class_comes_alone(folder: Path, way: str) -> None:
    with serve(folder) as server:
        mirror(server, known=known(folder)).fetch(WANTED)
        before = len(server.requests)
        again = mirror(server, known=known(folder))
        again.fetch(WANTED)
        assert len(server.requests) == before
        check(again, WANTED)

        more = WANTED | {"zorro": np.array([1, 39], np.int32)}
        again.fetch(more)
        assert {request.path for request in server.requests[before:]} == {"two words/zorro.npy"}
        check(again, more)

        before = len(server.parts())
        unknown = mirror(server)  # a mirror whose sizes are to be asked for shares what is kept
        unknown.fetch(more)
        assert len(server.parts()) == before
        check(unknown, more)


def test_pixels_in_the_order_of_drawings(folder: Path) -> None:
    drawings = pd.DataFrame({"name": pd.Categorical(["tree", "bee", "tree"]), "row": [7, 0, 1]})
    with serve(folder) as server:
        there = mirror(server)
        there.prepare(drawings)
    assert np.array_equal(there.pixels(drawings), Folder(folder).pixels(drawings))


def test_neighbours_come_in_one_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    rows = np.array([50, 3, 4, 6, 7, 10, 3, 51], np.int32)
    with serve(folder) as server:
        there = mirror(server)
        there.fetch({"bee": rows})
        check(there, {"bee": rows})
        spans = {(request.start, request.stop) for request in server.parts()}
    assert spans == {(128 + 784 * first, 128 + 784 * last + 784) for first, last in ((3, 7), (10, 10), (50, 51))}


def test_groups_have_a_bound() -> None:
    spans = remote._spans(np.arange(3000, dtype=np.int32))
    assert [(int(span[0]), int(span[-1])) for span in spans] == [(0, 1023), (1024, 2047), (2048, 2999)]


def test_the_cheaper_way_is_chosen() -> None:
    fetch = remote._Fetch(Remote(BUCKET), {}, None)  # type: ignore[arg-type]
    start = FileHead(size=115_000_000, version="", ranges=True, content=b"")
    assert not fetch._whole("bee", start, 1_449)  # of the first 500,000
    assert fetch._whole("bee", start, 146_000)  # of all
    seconds = start.size / remote.BYTES_PER_SECOND
    even = int(seconds / remote.REQUEST_SECONDS)
    assert not fetch._whole("bee", start, even - 1)
    assert fetch._whole("bee", start, even + 1)


def test_a_way_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "fast")
    with (
        serve(folder) as server,
        pytest.raises(StageError, match="QUICKDRAW_FETCH is 'fast'; permitted: ranges, files"),
    ):
        mirror(server).fetch(WANTED)


def test_the_public_bucket_is_known_without_asking(own_cache: Path) -> None:
    counts = Remote(f"{BUCKET}/").counts()
    assert sum(counts.values()) == 50_426_266
    assert (counts["panda"], counts["snowman"]) == (113_613, 340_029)
    assert list(counts)[:2] == ["aircraft carrier", "airplane"]
    assert Remote("gs://quickdraw_dataset/full/numpy_bitmap").known is published()
    assert Remote("https://example.org/full/numpy_bitmap").known is None
    assert not own_cache.exists()


# --- A network as it is ---


def every(number: int, change: Callable[[Answer], None]) -> Misbehave:
    """Change every so many answers about drawings."""
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


def reset_at_once(answer: Answer) -> None:
    answer.cut = 0


def stall(answer: Answer) -> None:
    answer.stall = len(answer.body) // 2


def stall_at_once(answer: Answer) -> None:
    answer.latency = 3600


def throttle(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 429, b"slowly!", {"Retry-After": "1"}


def unavailable(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 503, b"busy", {}


def timed_out(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 408, b"", {}


def short(answer: Answer) -> None:
    answer.body = answer.body[:-10]


def short_in_spite_of_its_length(answer: Answer) -> None:
    answer.headers["Content-Length"] = str(len(answer.body))
    answer.body = answer.body[:-10]


def long(answer: Answer) -> None:
    answer.body += b"0123456789"


def nonsense(answer: Answer) -> None:
    answer.status, answer.headers = 206, {"Content-Range": "bytes some-more/of them"}


PASSING = {
    "latency": (1, late),
    "resets": (3, reset),
    "resets at once": (2, reset_at_once),
    "429 with Retry-After": (40, throttle),
    "503": (2, unavailable),
    "408": (5, timed_out),
    "short answers": (2, short),
    "answers shorter than they say": (3, short_in_spite_of_its_length),
    "long answers": (2, long),
    "stalls": (50, stall),
    "stalls at once": (50, stall_at_once),
    "nonsense": (4, nonsense),
}


@pytest.mark.parametrize("trouble", PASSING)
def test_trouble_that_passes_is_lived_through_by_ranges(
    folder: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    with serve(folder, every(*PASSING[trouble])) as server:
        there = mirror(server, replace(HASTY if "stall" in trouble else CALM, attempts=50))
        started = time.monotonic()
        there.fetch(WANTED)
        check(there, WANTED)
    assert len(server.parts()) > NUMBER or trouble == "latency"
    assert time.monotonic() - started >= (1 if "Retry-After" in trouble else 0)


# Not the answers whose length is another: a whole file of another length is another file.
@pytest.mark.parametrize("trouble", sorted(PASSING.keys() - {"short answers", "long answers"}))
def test_trouble_that_passes_is_lived_through_by_files(
    folder: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "files")
    with serve(folder, every(2, PASSING[trouble][1])) as server:
        there = mirror(server, HASTY if "stall" in trouble else CALM)
        there.fetch(WANTED)
        check(there, WANTED)
    assert len(server.parts()) > 3 or trouble == "latency"


def error(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 500, b"<html>Traceback", {}


def patient(answer: Answer) -> None:
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


def to_a_file(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 302, b"", {"Location": "file:///etc/passwd"}


def in_circles(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 307, b"", {"Location": "?again"}


LASTING = {
    "500": (error, r"the server says 500 Trouble \(tried 5 times\)"),
    "stalls": (stall, r"no answer in time \(tried 5 times\)"),
    "resets": (reset, r"tried 5 times\)"),
    "short": (short, r"the server sends 774 bytes, and 784 were asked for \(tried 5 times\)"),
    "long": (long, r"the server sends 794 bytes, and 784 were asked for \(tried 5 times\)"),
    "a day's wait": (patient, "the server says 429 Trouble, and asks to come back in 86,400 seconds"),
    "forbidden": (forbidden, r"the server refuses it \(403 Trouble\)"),
    "gone": (gone, r"is not there any more \(404\)"),
    "nonsense": (nonsense, r"does not say which bytes it sends \(Content-Range: 'bytes some-more/of them'\)"),
    "other bytes": (other_bytes, "the server sends other bytes"),
    "a longer file": (longer_file, r"has 999,999 bytes, and [\d,]+ were expected: it has changed"),
    "a shorter file": (shorter_file, "has 128 bytes now: it has changed"),
    "another version": (other_version, "changed while it was read"),
    "compressed": (compressed, "sends it compressed"),
    "whole file": (whole_file, r"ignores the range and sends the whole file \(tried 5 times\)"),
    "to a file": (to_a_file, "redirected to file://, which is not followed"),
    "in circles": (in_circles, "redirected more than 5 times"),
}


@pytest.mark.parametrize("trouble", LASTING)
def test_trouble_that_lasts_is_one_line_and_the_next_run_continues(
    folder: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    change, says = LASTING[trouble]
    count = 0

    def after_a_while(request: Request, answer: Answer) -> None:
        nonlocal count
        if request.start and answer.status == 206:
            count += 1
            if count > 60:
                change(answer)

    with serve(folder, after_a_while) as server:
        with pytest.raises(StageError) as caught:
            mirror(server, HASTY if "stall" in trouble else CALM).fetch(WANTED)
        line = str(caught.value)
        assert re.search(says, line), line
        assert line.startswith(f"mirror: {server.address}/two%20words/"), "the file is named"
        assert "\n" not in line and len(line) < 500
        found = re.search(rf"; (\d+) of {NUMBER} drawings are kept in {own_cache}; running again goes on", line)
        assert found is not None
        kept = int(found[1])
        assert 30 <= kept <= 60 + 64

        server.misbehave = None
        server.settle()  # the first run had requests under way when it gave up
        before = len(server.parts())
        there = mirror(server)
        there.fetch(WANTED)
        assert NUMBER - kept <= len(server.parts()) - before < NUMBER
        check(there, WANTED)


def test_a_network_that_is_down_is_said_soon(folder: Path) -> None:
    with serve(folder) as server:
        there = mirror(server)
    started = time.monotonic()
    with pytest.raises(StageError, match=r"^mirror: http://127.0.0.1:\d+/two%20words/bee.npy: .*\(tried 3 times\)"):
        there.fetch({"bee": WANTED["bee"]})
    with pytest.raises(StageError, match=r"^mirror: http://127.0.0.1:\d+/two%20words/\*.npy: .*\(tried 3 times\)"):
        there.counts()
    assert time.monotonic() - started < 5


def test_all_of_it_has_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    patience = RetryPolicy(total=0.5)
    with serve(folder, latency=0.3) as server:
        there = mirror(server, patience)
        with pytest.raises(StageError, match=r"not done after 0.000139 hours; \d+ of 107 drawings are kept"):
            there.fetch(WANTED)
        with pytest.raises(StageError, match=r"^mirror: http://.*/two%20words/\*.npy: not done after 0.000139 hours$"):
            there.counts()


def test_a_server_without_ranges_is_read_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(folder, ranges=False) as server:
        there = mirror(server)
        assert sum(there.counts().values()) == 390
        there.fetch(WANTED)
        check(there, WANTED)
    assert capsys.readouterr().err.startswith("the mirror gives no ranges of its files, so they are read whole: about ")


def test_a_server_without_ranges_that_are_insisted_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    with serve(folder, ranges=False) as server, pytest.raises(StageError, match="the server gives no ranges"):
        mirror(server).fetch(WANTED)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stream_that_breaks_is_taken_up_where_it_broke(
    folder: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        there = mirror(server, known=known(folder))
        there.fetch({"bee": WANTED["bee"]})
        check(there, {"bee": WANTED["bee"]})
        assert len(server.parts()) == 10, "94,208 bytes, 10,000 at a time"


def test_a_file_with_another_checksum_is_not_kept(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "files")
    files = known(folder)
    files["bee"] = files["bee"]._replace(sha256="0" * 64)
    with serve(folder) as server:
        there = mirror(server, known=files)
        with pytest.raises(StageError, match=r"bee.npy has the sha256 [0-9a-f]{64}, and 0{64} was expected: nothing"):
            there.fetch({"bee": WANTED["bee"]})
    assert [path.stat().st_size for path in own_cache.rglob("*.rows")] == [792], "its first line alone"
    assert {path.suffix for path in own_cache.rglob("*") if path.is_file()} == {".rows", ".lock"}


def test_a_file_of_another_size_than_is_known_is_not_kept(folder: Path, way: str) -> None:
    files = known(folder)
    files["bee"] = files["bee"]._replace(size=files["bee"].size + 784)
    with (
        serve(folder) as server,
        pytest.raises(StageError, match=r"bee.npy has 94,208 bytes, and 94,992 were expected"),
    ):
        mirror(server, known=files).fetch(WANTED)


def test_a_changed_file_is_not_mixed_with_what_is_kept(folder: Path, way: str) -> None:
    with serve(folder) as server:
        mirror(server).fetch(WANTED)
        changed = noise("bee", COUNTS["bee"])[::-1]
        np.save(folder / "bee.npy", changed)  # of the same size
        for rows in (WANTED["bee"], np.arange(0, 120, 2, dtype=np.int32)):
            there = mirror(server)
            there.fetch(WANTED | {"bee": rows})
            out = np.empty((len(rows), 784), np.uint8)
            there.gather("bee", rows, out)
            assert np.array_equal(out, changed[rows])


def test_addresses_that_differ_in_their_query_are_not_mixed(folder: Path, way: str) -> None:
    def say_nothing(request: Request, answer: Answer) -> None:
        answer.headers.pop("ETag", None)

    pixels = noise("bee", COUNTS["bee"])
    with serve(folder, say_nothing) as server:
        for query in ("", "?of=May", "?of=June", ""):
            pixels = pixels[::-1]
            np.save(folder / "bee.npy", pixels)
            there = Remote(f"{server.address}/two%20words{query}", CALM)
            there.fetch({"bee": WANTED["bee"]})
            out = np.empty((len(WANTED["bee"]), 784), np.uint8)
            there.gather("bee", WANTED["bee"], out)
            assert np.array_equal(out, pixels[WANTED["bee"]]), query


def test_a_file_that_became_something_else(folder: Path) -> None:
    (folder / "bee.npy").write_bytes((folder / "bee.npy").read_bytes()[:-100])
    with serve(folder) as server:
        with pytest.raises(StageError, match=r"bee.npy is cut short: 94,108 bytes, where its header says 120 drawings"):
            mirror(server).counts()
        with pytest.raises(StageError, match=r"bee.npy is cut short"):
            mirror(server).fetch(WANTED)
        with pytest.raises(StageError, match=r"tree.npy holds 110 drawings, and row 110 is wanted"):
            mirror(server).fetch({"tree": np.array([110], np.int32)})
        with pytest.raises(StageError, match=r"none.npy is not there"):
            mirror(server).fetch({"none": np.array([0], np.int32)})


def test_what_signs_an_address_is_sent_and_never_shown(folder: Path, own_cache: Path) -> None:
    seen = []

    def look(request: Request, answer: Answer) -> None:
        seen.append(request.headers.get("authorization", ""))

    with serve(folder, look) as server:
        address = server.address.replace("http://", "http://me:secret@") + "/two%20words?key=secret"
        Remote(address, CALM).fetch({"tree": WANTED["tree"]})
        with pytest.raises(StageError) as caught:
            Remote(address, CALM).fetch({"none": np.array([0], np.int32)})
    assert set(seen) == {"Basic bWU6c2VjcmV0"}
    assert "secret" not in str(caught.value)
    assert not [
        path
        for path in own_cache.rglob("*")
        if "secret" in str(path) or (path.is_file() and b"secret" in path.read_bytes())
    ]


@pytest.mark.parametrize(
    "proxy", ["http://me:secret@{}", "me:secret@{}"], ids=["a proxy with a scheme", "a proxy without"]
)
def test_what_lets_one_in_is_not_shown_where_an_answer_cannot_be_read(
    folder: Path, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def malformed(request: Request, answer: Answer) -> None:
        answer.headers["X"] = "a\0b"

    def who_are_you(request: Request, answer: Answer) -> None:
        answer.status, answer.body = 407, b""

    with serve(folder, malformed) as server:
        with pytest.raises(StageError, match=r"two%20words/\*.npy: 400 [ -~]+ \(tried 3 times\)$") as caught:
            Remote(f"{server.address}/two%20words?key=secret", CALM).counts()
        assert "secret" not in str(caught.value)
        server.misbehave = who_are_you
        monkeypatch.setenv("https_proxy", proxy.format(server.address.removeprefix("http://")))
        with pytest.raises(StageError, match=r"/x/\*.npy: 407 Trouble \(tried 3 times\)$") as caught:
            Remote("https://drawings.example/x?key=secret", CALM).counts()
        assert "secret" not in str(caught.value)


# --- Where a redirect may lead ---

OPEN, CLOSED = "93.184.216.34", "10.0.0.1"


class Names:
    """Name servers for tests: the addresses that a host has the first time it is looked up, the second, and so on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[list[str]]] = {}
        self._real = socket.getaddrinfo
        monkeypatch.setattr("socket.getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int, *arguments: Any, **named: Any) -> list[Any]:
        if host not in self.known:
            return list(self._real(host, port, *arguments, **named))
        found = self.known[host].pop(0) if len(self.known[host]) > 1 else self.known[host][0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.mark.parametrize(
    ("mirror", "target", "permitted"),
    [
        ([OPEN], [OPEN], True),
        ([OPEN], [CLOSED], False),
        ([OPEN], [OPEN, CLOSED], False),
        ([OPEN, CLOSED], [CLOSED], False),
        ([CLOSED], [CLOSED], True),
        ([CLOSED, "192.168.0.1"], [OPEN, CLOSED], True),
        ([], [CLOSED], False),
        ([], [OPEN], True),
    ],
)
def test_a_redirect_leads_into_a_private_network_from_one_alone(
    mirror: list[str], target: list[str], permitted: bool, names: Names
) -> None:
    names.known = {"mirror.example": [mirror], "target.example": [target]}
    hosts = http._SafeResolver(("mirror.example", 80), None)
    if permitted:
        assert [each["host"] for each in asyncio.run(hosts.permitted("target.example", 80))] == target
    else:
        with pytest.raises(PermissionError):
            asyncio.run(hosts.permitted("target.example", 80))


def test_a_name_that_leads_elsewhere_after_it_was_checked(names: Names) -> None:
    names.known = {"Mirror.example": [[OPEN]], "mirror.example": [[CLOSED]], "target.example": [[OPEN], [CLOSED]]}
    hosts = http._SafeResolver(("mirror.example", 80), None)

    async def connect() -> None:
        assert [each["host"] for each in await hosts.resolve("Mirror.example", 80)] == [OPEN]
        await hosts.permitted("target.example", 80)
        with pytest.raises(PermissionError):  # though the mirror too has another address by now
            await hosts.resolve("target.example", 80)

    asyncio.run(connect())


def redirected(server: Server, target: str) -> Misbehave:
    """What was moved is at the target, with `{}` for the server's own port."""

    def elsewhere(request: Request, answer: Answer) -> None:
        if "moved" in request.path:
            to = request.path.replace("moved", "two%20words")
            answer.status, answer.body, answer.headers = 301, b"", {"Location": f"{target.format(port(server))}/{to}"}

    return elsewhere


def port(server: Server) -> str:
    return server.address.rpartition(":")[2]


def test_redirects_are_followed_but_not_into_a_private_network(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    names.known = {"mirror.example": [["127.0.0.1"]], "target.example": [["127.0.0.1"], ["127.0.0.2"]]}
    with serve(folder) as server:
        server.misbehave = redirected(server, "http://127.0.0.1:{}")
        Remote(f"http://mirror.example:{port(server)}/moved", CALM).fetch(WANTED)

        monkeypatch.setattr("stages.quickdraw.http._is_public_address", lambda address: address == "127.0.0.1")
        bee = {"bee": np.array([1], np.int32)}
        for target, shown in {"http://127.0.0.2:{}": "127.0.0.2", "http://target.example:{}": "target.example"}.items():
            server.misbehave = redirected(server, target)
            with pytest.raises(
                StageError, match=rf"redirected into a private network \({shown}\), which is not followed"
            ):
                Remote(f"http://mirror.example:{port(server)}/moved?to={shown}", CALM).fetch(bee)


def test_behind_a_proxy_its_names_count_and_private_addresses_are_refused(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    names.known = {"mirror.example": [[]], "target.example": [[]]}
    with serve(folder) as server:
        monkeypatch.setenv("http_proxy", server.address.removeprefix("http://"))
        server.misbehave = redirected(server, "http://target.example")
        there = Remote("http://mirror.example/moved", CALM)
        there.fetch(WANTED)
        check(there, WANTED)
        server.misbehave = redirected(server, "http://10.0.0.1")
        with pytest.raises(StageError, match=r"redirected into a private network \(10.0.0.1\), which is not followed"):
            Remote("http://mirror.example/moved", CALM).fetch({"zorro": np.array([1], np.int32)})


@pytest.mark.parametrize("proxy", ["socks5://host:1", "http://[x", "host:99999", "http://"])
def test_a_proxy_that_is_none(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(StageError, match=r"^mirror: the proxy that http_proxy names is none of http:// or https://$"):
        Remote("http://mirror.example", CALM).counts()


@pytest.mark.parametrize(
    ("address", "is_open"),
    [("127.0.0.1", False), ("10.1.2.3", False), ("::1", False), ("fe80::1%eth0", False), ("169.254.169.254", False),
     ("8.8.8.8", True), ("2606:4700::1111", True)],
)  # fmt: skip
def test_which_networks_are_open(address: str, is_open: bool) -> None:
    assert http._is_public_address(address) is is_open


# --- Two runs at once, and other stores ---


def test_two_runs_at_once_fetch_each_drawing_once(folder: Path, way: str) -> None:
    with serve(folder, latency=0.01) as server:
        runs = [mirror(server), mirror(server)]
        threads = [threading.Thread(target=run.fetch, args=(WANTED,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.parts()) == {"auto": 3, "files": 3, "ranges": NUMBER}[way]
    for run in runs:
        check(run, WANTED)


@pytest.fixture
def store(folder: Path) -> Iterator[str]:
    """The mirror in a store that is not on the web."""
    import fsspec

    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/store/{path.name}", path.read_bytes())
    yield "memory://store"
    files.rm("/store", recursive=True)


def test_rows_come_from_any_store_that_fsspec_reads(store: str, way: str) -> None:
    there = Remote(store, CALM)
    assert there.counts() == dict(sorted(COUNTS.items(), key=lambda item: list(there.counts()).index(item[0])))
    there.fetch(WANTED)
    check(there, WANTED)
    with pytest.raises(StageError, match=r"mirror: memory://store/none.npy is not there; 0 of 1 drawings"):
        there.fetch({"none": np.array([0], np.int32)})


def test_a_store_that_fails(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    real = MemoryFileSystem.cat_file
    chance = random.Random(0)

    def flaky(self: object, path: str, start: int, end: int) -> bytes:
        if chance.random() < 0.3:
            raise ConnectionError("the network\nis down")
        content: bytes = real(self, path, start, end)
        return content[:-1] if chance.random() < 0.2 else content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    monkeypatch.setenv("QUICKDRAW_FETCH", "ranges")
    there = Remote(store, RetryPolicy(attempts=20, first_attempts=20, wait=0.001, longest_wait=0.002))
    there.fetch(WANTED)
    check(there, WANTED)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *arguments, **named: 1 / 0)
    with pytest.raises(StageError, match=r"memory://store/bee.npy: division by zero \(tried 3 times\)"):
        Remote(store, CALM).fetch({"bee": np.array([1], np.int32)})


def test_a_store_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(address: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(StageError, match=r"^mirror: gs:// needs a package that is not installed: Please install gcsfs"):
        Remote("gs://somebody/drawings", CALM).counts()


def test_a_full_disk_names_the_file(folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = row_cache.RowFile.begin

    def begin(self: row_cache.RowFile, version: str) -> None:
        real(self, version)
        self.path.unlink()
        self.path.symlink_to("/dev/full")

    monkeypatch.setattr(row_cache.RowFile, "begin", begin)
    with serve(folder) as server, pytest.raises(OSError, match="No space left on device") as caught:
        mirror(server).fetch(WANTED)
    assert caught.value.filename == str(own_cache)
