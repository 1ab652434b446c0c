"""Access rules of the server, malformed requests, sockets and a full disk."""

from __future__ import annotations

import errno
import json
import logging
import socket
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="the server is tested through its client")

from server_toys import clip, serving, toy

from tts_lm.server import run, voices
from tts_lm.server.scheduler import ServeLimits
from tts_lm.server.security import Access, site_of

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
FIELDS = {"name": "anna", "text": "so many words of hers", "consent": "she agreed to it in writing"}
SITE, OTHER = "https://app.example", "https://evil.example"
KEY = {"Authorization": "Bearer s3cret"}


@pytest.fixture(scope="module")
def app_of() -> Any:
    """ASGI client of a server with the given access rules, without a socket."""
    from starlette.testclient import TestClient

    from tts_lm.server.app import create_app

    return lambda access: TestClient(create_app(toy(), access=access))


def test_a_key_is_needed_if_one_is_set(app_of):
    with app_of(Access(api_key="ä€")) as app:
        for header in ("", "ä€", "Basic ä€", "Bearer", "Bearer x", "bearer ä€", "Bearer ä€"):
            right = header.lower() == "bearer ä€"
            for path in ("/v1/models", "/metrics", "/openapi.json", "/health"):
                answer = app.get(path, headers={"Authorization": header.encode()})
                assert answer.status_code == (200 if right or path == "/health" else 401), (header, path)
        assert app.get("/v1/models").status_code == 401


@pytest.mark.parametrize("key", [None, "s3cret"])
@pytest.mark.parametrize("origins", [(), ("*",)])
def test_malformed_hosts_and_origins_are_bad_requests(app_of, key, origins):
    app = app_of(Access(api_key=key, hosts=None if key else ("localhost",), cors_origins=origins))
    hosts = ["[x", "[zz]:80", "[[x", "a b", "x]:1", "u@x", "a:b:c", "[::1]x", "", "x:port", "\xff[\xff"]
    sites = ["http://[", "http://[zz]", "http://", "nonsense", "http://a]b", "//[", "http://x:port"]
    for header in [("Host", host) for host in hosts] + [("Origin", site) for site in sites]:
        headers = {"Host": "localhost", **(KEY if key else {}), header[0]: header[1].encode("latin-1")}
        answer = app.get("/v1/voices", headers=headers)
        assert answer.status_code == 400 and set(answer.json()) == {"error"}, header


def test_the_servers_own_names_are_accepted(app_of):
    app = app_of(Access(hosts=run.LOCAL_NAMES))
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[0:0::1]"):
        for origin, status in (({}, 200), ({"Origin": f"http://{host}"}, 200), ({"Origin": OTHER}, 403)):
            assert app.get("/v1/voices", headers={"Host": host, **origin}).status_code == status, host
    for headers in ({"Host": "localhost", "Origin": "null"}, {"Host": "evil.example"}):
        assert app.get("/v1/voices", headers=headers).status_code == 403


@pytest.mark.parametrize("key", [None, "s3cret"])
def test_pages_of_the_named_sites_may_use_the_server(app_of, key):
    app, given = app_of(Access(api_key=key, cors_origins=(SITE,))), KEY if key else {}
    ask = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = app.options("/v1/audio/speech", headers={"Origin": SITE, **ask})
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == SITE
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    for path, status in (("/v1/voices", 200), ("/v1/nowhere", 404)):
        answer = app.get(path, headers={"Origin": SITE, **given})
        assert answer.status_code == status and answer.headers["access-control-allow-origin"] == SITE
        assert "x-ignored-fields" in answer.headers["access-control-expose-headers"].lower()
    assert app.options("/v1/audio/speech", headers={"Origin": OTHER, **ask}).status_code == 400
    other = app.get("/v1/voices", headers={"Origin": OTHER, **given})
    assert "access-control-allow-origin" not in other.headers
    assert other.status_code == (200 if key else 403)  # with a key the browser withholds the answer
    assert app.get("/v1/voices", headers={"Origin": SITE}).status_code == (401 if key else 200)
    closed = app_of(Access(api_key=key)).get("/v1/voices", headers={"Origin": SITE, **given})
    assert not [name for name in closed.headers if name.startswith("access-control")]


def test_a_site_is_a_scheme_and_a_host():
    assert site_of("https://App.example/") == SITE and site_of("http://[::1]:3000") == "http://[::1]:3000"
    for wrong in ("app.example", "https://", "https://[x", "https://a/b"):
        with pytest.raises(ValueError):
            site_of(wrong)


def test_bodies_have_a_limit_with_and_without_a_length():
    with serving(toy(), ServeLimits(upload_bytes=50_000)) as (address, _):
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        upload, kind = f"{address}/v1/voices", {"Content-Type": "application/json"}
        chunked = (piece for piece in (head, *[b"x" * 1_000] * 60))
        for answer in (
            httpx.post(upload, files={"file": ("a.wav", b"x" * 60_000)}),
            httpx.post(upload, content=chunked, headers=form),
        ):
            assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
        text = json.dumps({"model": "toy", "voice": "bdl", "input": "a" * 5_000_000}).encode()
        for body in (text, (piece for piece in (text[:100], text[100:]))):
            assert httpx.post(f"{address}/v1/audio/speech", content=body, headers=kind).status_code == 413


def rest_of(address: str, said: bytes) -> bytes:
    """The response to raw bytes until the server closes the connection."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    data = b""
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(said)
        try:
            while piece := line.recv(1 << 16):
                data += piece
        except ConnectionResetError:
            pass
    return data


def test_broken_http_is_a_bad_request_without_a_log(capsys):
    with serving(toy()) as (address, _):
        for said in (
            b"\x16\x03\x01\x02\0rubbish\r\n\r\n",
            b"GET /health HTTP/1.1\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000,
            POST + b"Content-Length: -1\r\n\r\n",
            POST + b"Transfer-Encoding: gzip\r\n\r\n",
        ):
            assert rest_of(address, said)[:12] in (b"HTTP/1.1 400", b"")  # or reset before all was sent
        assert httpx.get(f"{address}/health").status_code == 200
    assert capsys.readouterr().err == ""


def test_connections_have_an_idle_time_and_a_limit(monkeypatch):
    monkeypatch.setattr(run, "IDLE_SECONDS", 1)
    with serving(toy(), connections=2) as (address, _):
        assert rest_of(address, GET).startswith(b"HTTP/1.1 200")
    monkeypatch.undo()
    with serving(toy(), connections=2) as (address, _):
        with httpx.Client() as one, httpx.Client() as two:
            assert [c.get(f"{address}/health").status_code for c in (one, two)] == [200, 200]
            assert httpx.get(f"{address}/health").status_code == 503
        assert httpx.get(f"{address}/health").status_code == 200


def test_a_full_disk_is_the_servers_fault_in_one_line(tmp_path, monkeypatch, caplog):
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    def add(**more: Any) -> httpx.Response:
        return httpx.post(f"{address}/v1/voices", data=FIELDS | more, files={"file": ("a.wav", clip())})

    with serving(toy(), voices_folder=tmp_path / "voices") as (address, _):
        with monkeypatch.context() as patch:
            patch.setattr(voices, "add_voice", full)
            answer = add()
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "storage"
        [record] = caplog.records
        assert record.levelno == logging.ERROR and record.exc_info is None
        listed = httpx.get(f"{address}/v1/voices").json()["data"]
        assert not [voice for voice in listed if voice["added"]] and add().status_code == 201


@pytest.mark.parametrize("host", [*run.LOCAL_NAMES, "0.0.0.0"])
def test_only_a_local_socket_has_names(host):
    try:
        listener = run.listen(host, 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        port, names = listener.getsockname()[1], run.local_names(listener, host)
        assert names is None if host == "0.0.0.0" else set(names or ()) == set(run.LOCAL_NAMES)
        shown = {"::1": "[::1]", "localhost": "127.0.0.1"}.get(host, host)
        assert run.address_of(listener) == f"http://{shown}:{port}"
        for place in ((host, port), ("nowhere.invalid", 0)):
            with pytest.raises(OSError, match=f"{place[0]}, port {place[1]}"):
                run.listen(*place)
