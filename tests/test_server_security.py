"""Connections of clients that are slow, many, or no clients at all; and a disk that is full."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="its client is what the server is for")

from lm_toys import toy_synthesizer
from safetensors import SafetensorError
from server_toys import TEXT, Slow, clip, serving, until

from tts_lm import Synthesizer
from tts_lm.server import keeper, wire
from tts_lm.server.app import create_app
from tts_lm.server.security import Door
from tts_lm.server.keeper import VoiceKeeper
from tts_lm.server.limits import ServeLimits

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_LOCALHOST = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
FIELDS = {"name": "anna", "text": "so many words of hers", "consent": "she agreed to it in writing"}


@pytest.fixture
def synthesizer(tiny_codec) -> Synthesizer:
    return toy_synthesizer(tiny_codec)


@contextmanager
def connected(address: str, *said: bytes) -> Iterator[socket.socket]:
    host, _, port = address.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        for piece in said:
            line.sendall(piece)
        yield line


def rest_of(line: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    data = b""
    try:
        while piece := line.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


def error_in(answer: bytes, status: int) -> dict[str, Any]:
    """The error of a raw answer that ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head.lower(), answer
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\0rubbish\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000,
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so_in_json_and_makes_no_news(synthesizer, said, capsys):
    with serving(synthesizer) as (address, _):
        with connected(address, said) as line:
            assert "well-formed HTTP" in error_in(rest_of(line), 400)["message"]
        assert httpx.get(f"{address}/health").status_code == 200
    assert capsys.readouterr().err == ""


def test_who_says_nothing_is_let_go(synthesizer, monkeypatch):
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 0.3)
    with serving(synthesizer) as (address, _):
        with connected(address) as silent, connected(address, GET[:-5]) as slow:
            assert rest_of(silent) == b""
            assert "head of a request within 0.3 s" in error_in(rest_of(slow), 408)["message"]
        # After an answer too: half a head is no reason to wait for ever.
        with connected(address, GET) as line:
            read = line.recv(1 << 16)
            while not read.endswith(b"}"):
                read += line.recv(1 << 16)
            line.sendall(GET[:10])
            error_in(rest_of(line), 408)


def test_who_waits_for_an_answer_is_not_let_go(synthesizer, monkeypatch):
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 0.3)
    slow = Slow(synthesizer)
    with serving(synthesizer) as (address, _), httpx.Client() as caller:
        asked = {"model": "toy", "voice": "bdl", "input": TEXT, "response_format": "wav"}
        threading.Timer(1.0, slow.go.set).start()
        assert caller.post(f"{address}/v1/audio/speech", json=asked, timeout=30).content[:4] == b"RIFF"
        assert caller.get(f"{address}/health").status_code == 200
        with connected(address, GET * 3) as line:  # one after another, sent at once
            assert rest_of(line).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize(
    "kind", [b"Content-Length: 99999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_a_body_that_nobody_reads_any_more_does_not_go_on(synthesizer, monkeypatch, kind):
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 0.5)
    with serving(synthesizer, ServeLimits(text_letters=10)) as (address, _):
        with connected(address, POST + kind) as line:
            began = time.monotonic()
            with pytest.raises(OSError):
                while time.monotonic() - began < 15:
                    line.sendall(b"ffff\r\n" + b" " * 0xFFFF + b"\r\n")


def test_a_chunk_that_is_none_after_the_answer_makes_no_news(synthesizer, capsys):
    with serving(synthesizer, ServeLimits(text_letters=10)) as (address, _):
        big = b"%x\r\n" % (2 << 20) + b" " * (2 << 20) + b"\r\n"
        with connected(address, POST + b"Transfer-Encoding: chunked\r\n\r\n", big) as line:
            assert line.recv(1 << 16).startswith(b"HTTP/1.1 413")
            line.sendall(b"zz\r\n")
            rest_of(line)
        assert httpx.get(f"{address}/health").status_code == 200
    assert capsys.readouterr().err == ""


def test_a_connection_too_many_is_refused_and_later_taken(synthesizer):
    with serving(synthesizer, connections=2) as (address, _):
        with connected(address, GET) as first, connected(address, GET) as second:
            for line in (first, second):
                assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")
            with connected(address, GET) as third:
                answer = rest_of(third)
                error = error_in(answer, 503)
                assert error["code"] == "no_room" and b"retry-after: 1" in answer.lower()
            with connected(address) as third, connected(address) as fourth, connected(address, GET) as fifth:
                assert rest_of(fifth) == b""
                del third, fourth
        until(lambda: httpx.get(f"{address}/health").status_code == 200)
        counted = httpx.get(f"{address}/metrics").text
        assert 'tts_lm_requests_total{route="other",status="503"}' in counted


def test_a_stream_that_takes_too_long_breaks_off_without_a_traceback(synthesizer, capsys):
    first, over = next(synthesizer.stream(TEXT, "bdl", 0)), threading.Event()

    def stalled(*_: Any) -> Any:
        yield first
        assert over.wait(30)

    synthesizer.stream = stalled  # type: ignore[method-assign]
    asked = {"model": "toy", "voice": "bdl", "input": TEXT, "response_format": "pcm", "stream": True}
    with serving(synthesizer, ServeLimits(timeout_seconds=2.0)) as (address, app):
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{address}/v1/audio/speech", json=asked, timeout=30)
        over.set()
        until(lambda: app.state.front.engine.places_taken == 0)
    assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(synthesizer, monkeypatch):
    monkeypatch.setattr(wire, "TAKING_SECONDS", 0.4)
    over, lost = wire.Wire.connection_lost, threading.Event()
    monkeypatch.setattr(wire.Wire, "connection_lost", lambda *args: (over(*args), lost.set()))
    said = synthesizer.say("One.", "bdl", 0)
    more = 12_000_000 // len(said.wav)  # than the buffers on the way hold
    synthesizer.join = lambda _: replace(said, wav=said.wav.repeat(more))  # type: ignore[method-assign]
    asked = {"model": "toy", "voice": "bdl", "input": "One.", "response_format": "wav"}
    body = json.dumps(asked).encode()
    with serving(synthesizer) as (address, _):
        with connected(address, POST + b"Content-Length: %d\r\n\r\n" % len(body), body) as line:
            assert lost.wait(30)
            assert len(rest_of(line)) < 2 * more * len(said.wav)
        whole = httpx.post(f"{address}/v1/audio/speech", json=asked, timeout=60).content
        assert len(whole) > 2 * more * len(said.wav)


def test_head_is_get_without_its_body(synthesizer):
    with serving(synthesizer) as (address, _):
        for path, status in (
            ("/health", 200),
            ("/v1/models", 200),
            ("/nowhere", 404),
            ("/v1/audio/speech", 405),
        ):
            answer = httpx.head(f"{address}{path}")
            assert answer.status_code == status and answer.content == b""
            if status == 200:
                assert (
                    answer.headers["content-length"]
                    == httpx.get(f"{address}{path}").headers["content-length"]
                )


def test_what_is_not_there_is_said_in_words(synthesizer):
    with serving(synthesizer) as (address, _):
        answer = httpx.get(f"{address}/v1/models/")  # and is no redirect to a Host that a client named
        assert answer.status_code == 404 and "GET /openapi.json" in answer.json()["error"]["message"]
        answer = httpx.put(f"{address}/v1/audio/speech")
        assert (
            answer.json()["error"]["message"] == "expected POST, got PUT"
            and answer.headers["allow"] == "POST"
        )


@pytest.mark.parametrize(
    ("body", "kind", "param", "message"),
    [
        (b'{"model":', "application/json", None, "got something else from character 9 on"),
        (
            b'{"model": "toy"}',
            "application/x-www-form-urlencoded",
            None,
            "Content-Type: application/json, got",
        ),
        ({"speed": "1.0"}, None, "speed", "valid number"),
        ({"speed": True}, None, "speed", "valid number"),
        ({"stream": "yes"}, None, "stream", "valid boolean"),
        ({"seed": "7"}, None, "seed", "valid integer"),
        ({"voice": {}}, None, "voice", "a voice's name, or an object with its id"),
        ({"voice": 5}, None, "voice", "a voice's name, or an object with its id"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(synthesizer, body, kind, param, message):
    if isinstance(body, dict):
        body, kind = (
            json.dumps({"model": "toy", "voice": "bdl", "input": "A."} | body).encode(),
            "application/json",
        )
    with serving(synthesizer) as (address, _):
        answer = httpx.post(f"{address}/v1/audio/speech", content=body, headers={"Content-Type": kind})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and message in error["message"]


def test_the_keys_scheme_is_written_as_one_likes_and_documented(synthesizer):
    with serving(synthesizer, door=Door(api_key="ä€")) as (address, _):
        for header, status in (
            ("Bearer ä€", 200),
            ("bearer ä€", 200),
            ("ä€", 401),
            ("Basic ä€", 401),
            ("Bearer", 401),
        ):
            answer = httpx.get(f"{address}/openapi.json", headers={"Authorization": header.encode()})
            assert answer.status_code == status
        document = httpx.get(
            f"{address}/openapi.json", headers={"Authorization": "Bearer ä€".encode()}
        ).json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    unlocked = [
        path for path, verbs in document["paths"].items() for verb in verbs.values() if "security" not in verb
    ]
    assert unlocked == ["/health"]


def storage_is_to_blame(answer: httpx.Response, caplog: pytest.LogCaptureFixture) -> bool:
    [record] = caplog.records
    caplog.clear()
    quiet = (
        record.levelno == logging.ERROR
        and record.exc_info is None
        and "a file could not be" in record.message
    )
    return answer.status_code == 503 and answer.json()["error"]["code"] == "storage" and quiet


def test_a_disk_that_is_full_is_the_servers_fault_in_one_line(synthesizer, tmp_path, monkeypatch, caplog):
    errors = [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: os error 28")]

    def fail(*_: Any, **__: Any) -> Any:
        raise errors[0]

    def add(**more: Any) -> httpx.Response:
        return httpx.post(f"{address}/v1/voices", data=FIELDS | more, files={"file": ("a.wav", clip())})

    with serving(synthesizer, voices_folder=tmp_path / "voices") as (address, app):
        assert add(name="berta").status_code == 201
        for _ in errors:
            errors.reverse()
            with monkeypatch.context() as patch:
                patch.setattr(keeper, "add_voice", fail)
                assert storage_is_to_blame(add(), caplog)
        with monkeypatch.context() as patch:
            patch.setattr(keeper.tempfile, "mkdtemp", fail)
            assert storage_is_to_blame(httpx.delete(f"{address}/v1/voices/berta"), caplog)
        with monkeypatch.context() as patch:  # small bodies lie in memory, large ones on the disk
            patch.setattr(keeper.tempfile, "tempdir", str(tmp_path / "nowhere"))
            for size in (2.0, 50.0):
                sound = {"file": ("a.wav", clip(size))}
                assert storage_is_to_blame(httpx.post(f"{address}/v1/audio/tokens", files=sound), caplog)
        added = [voice.name for voice, added in app.state.front.keeper.all() if added]
        assert added == ["berta"] == [path.name for path in (tmp_path / "voices").iterdir()]
        assert add().status_code == 201


def test_what_else_lies_in_the_voices_folder_is_left_alone(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "readme").write_text("not a voice")
    assert VoiceKeeper({}, 4, tmp_path, 4, 64).added == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lost+found", "readme"]
    with pytest.raises(OSError, match="readme: expected a folder for voices, File exists; give another"):
        VoiceKeeper({}, 4, tmp_path / "readme", 4, 64)


def test_an_app_of_somebody_elses_keeps_few_shapes_too(synthesizer, monkeypatch):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    create_app(synthesizer)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "32"


@pytest.mark.parametrize("host", wire.LOCAL_NAMES)
def test_a_socket_knows_whether_others_reach_it(host):
    try:
        listener = wire.listen(host, 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        port = listener.getsockname()[1]
        assert set(wire.local_names(listener, host) or ()) == set(wire.LOCAL_NAMES)
        assert wire.address_of(listener) == (
            f"http://[::1]:{port}" if host == "::1" else f"http://127.0.0.1:{port}"
        )
        with pytest.raises(
            OSError, match=f"cannot listen at {host}, port {port}: Address already in use; choose"
        ):
            wire.listen(host, port)


def test_a_name_with_two_addresses_is_taken_by_the_older(monkeypatch):
    found = [(kind, socket.SOCK_STREAM, 6, "", (host, 0)) for kind, host in _LOCALHOST]
    monkeypatch.setattr(wire.socket, "getaddrinfo", lambda *_, **__: found)
    with wire.listen("localhost", 0) as listener:
        assert wire.address_of(listener).startswith("http://127.0.0.1:")


def test_a_host_that_is_none_is_named():
    with wire.listen("0.0.0.0", 0) as listener:
        assert wire.local_names(listener, "0.0.0.0") is None
    with pytest.raises(OSError, match="cannot listen at nowhere.invalid: .*; choose another --host"):
        wire.listen("nowhere.invalid", 0)
