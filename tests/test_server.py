"""The server as the official OpenAI client sees it: speech, streams, voices, and errors."""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="the server is tested through its client")

import openai
from pages import ROOT, read_blocks
from server_toys import TEXT, Slow, client, clip, heard, places, run_program, serving, toy, until

from tts_lm import Synthesizer
from tts_lm.cli.main import main
from tts_lm.server.scheduler import ServeLimits

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
LEFT = b'tts_lm_request_seconds_count{route="/v1/audio/speech",status="499"} 1.0'
CONSENT = "the speaker, a colleague, agreed in writing"
ASKED = {"model": "toy", "voice": "bdl", "input": TEXT, "response_format": "wav"}


@pytest.fixture
def synthesizer() -> Synthesizer:
    return toy()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Any]]:
    with serving(toy(), ServeLimits(queue=8)) as found:
        yield found


@pytest.fixture(scope="module")
def said() -> tuple[Any, torch.Tensor]:
    """The speech that is asked for, and what its stream yields."""
    return toy().say(TEXT, "bdl", 7), torch.cat([chunk.wav for chunk in toy().stream(TEXT, "bdl", 7)])


def ask(address: str, **more: Any) -> Any:
    with client(address) as caller:
        return caller.audio.speech.create(**ASKED | more)


def post(address: str, asked: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{address}/v1/audio/speech", json=ASKED | {"input": "Hi."} | asked, timeout=60)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "aac", "pcm"])
def test_the_client_gets_the_speech_whole_or_in_pieces(served, said, form, stream):
    more = {"response_format": form, "extra_body": {"stream": stream, "seed": 7}, "voice": {"id": "bdl"}}
    with client(served[0]) as caller:
        with caller.audio.speech.with_streaming_response.create(**ASKED | more) as answer:
            pieces = list(answer.iter_bytes())
    data, tag = b"".join(pieces), answer.headers["x-generated"]
    assert tag.startswith("Generated speech, not a recording") and "voice bdl" in tag
    whole, expected = said
    if stream and form != "flac":  # whose header contains the length
        assert len(pieces) > 1
    else:
        expected = whole.wav
        assert stream or answer.headers["x-finish-reason"] == whole.finish_reason
    if form == "pcm":
        assert len(data) == 2 * round(len(expected) * 24_000 / 16_000)
        return
    wav, rate, comment = heard(data)
    assert rate == 16_000 and comment == ("" if form == "aac" or (form == "wav" and stream) else tag)
    if form in ("wav", "flac"):
        assert len(wav) == len(expected) and np.abs(wav - expected.numpy()).max() < 1e-4
    assert abs(len(wav) - len(expected)) <= 4_000
    if form == "wav":  # the samples begin at byte 44
        assert data[:4] == b"RIFF" and data[8:16] == b"WAVEfmt " and data[36:40] == b"data"
        assert struct.unpack("<I", data[40:44])[0] in (2 * len(wav), 0xFFFFFFFF)
    assert places(served[1]) == 0


@pytest.mark.parametrize("more", [{}, {"response_format": "flac"}, {"speed": 2.0}])
def test_events_are_those_of_openai(served, said, more):
    answer = ask(served[0], stream_format="sse", extra_body={"seed": 7}, **more)
    assert answer.response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = [json.loads(line[6:]) for line in answer.content.decode().split("\n\n") if line]
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
    wav, _, _ = heard(b"".join(base64.b64decode(event["audio"]) for event in deltas))
    if more:  # these need the whole speech, which is then sent at once
        assert len(deltas) == 1 and abs(len(wav) - len(said[0].wav) / more.get("speed", 1)) <= 2
    else:
        assert len(wav) == len(said[1])


NULLS = dict.fromkeys(("speed", "instructions", "stream_format", "seed"))


@pytest.mark.parametrize(
    ("asked", "ignored"),
    [
        ({"instructions": "whisper"}, "instructions"),
        ({"voice": "marin"}, "voice"),
        ({"voice": {"id": "Cedar"}}, "voice"),
        ({"model": "tts-1-hd"}, "model"),
        (
            {"model": "gpt-4o-mini-tts-2025-12-15", "instructions": "cheerful", "voice": "nova"},
            "instructions, model, voice",
        ),
        ({"language": "en", "colour\r\nX-A: b": [1], "": 1}, "language, colour??X-A??b, ?"),
        (NULLS, None),
        ({"voice": {"id": "BDL", "object": "audio.voice"}}, None),
        ({"input": "A List<String>, if a<b and b>c, <b>bold</b>"}, None),
    ],
)
def test_what_cannot_be_honoured_is_ignored_and_named(served, asked, ignored):
    answer = post(served[0], asked)
    assert answer.status_code == 200 and heard(answer.content)[0].size
    assert answer.headers.get("x-ignored-fields") == ignored


def test_openais_voices_are_the_models_first_voice(served):
    sounds = [heard(post(served[0], {"voice": name}).content)[0] for name in ("Kathleen", "bdl", "alloy")]
    assert np.array_equal(sounds[0], sounds[2]) and not np.array_equal(sounds[0], sounds[1])


def test_malformed_bodies_are_bad_requests(served):
    fields = rb'"model": "toy", "voice": "bdl", "response_format": "wav"'
    for body in (
        rb'{"\ud800": 1, "input": "a", %b}' % fields,
        rb'{"input": "\ud800", %b}' % fields,
        rb'{"input": "a", "voice": {"\ud800": 1}}',
        rb'{"input": "a", "model": "toy", "voice": "\ud800"}',
        rb'{"input": "a", "speed": "\ud800", %b}' % fields,
        rb'{"input": {"\ud800": 1}, %b}' % fields,
        b'{"speed": 1' + b"0" * 5_000 + b"}",
        *(b"{", b"[" * 40_000, b"\xff", rb'"\ud800"', b"[1]", b"null"),
    ):
        kind = {"Content-Type": "application/json"}
        answer = httpx.post(f"{served[0]}/v1/audio/speech", content=body, headers=kind, timeout=60)
        assert answer.status_code == 400 and error_of(answer)["message"], body


REFUSED: dict[str, list[Any]] = {
    "voice": ["nobody", {}, 5, None],
    "input": ["", "?!", "a" * 4097, "<speak>Hello</speak>", 'Hello <break time="1s"/> you', "a\x00b"],
    "response_format": ["ogg"],
    "speed": [9.0, "1.0", True],
    "stream": ["yes"],
    "seed": [1 << 63],
    "model": ["gpt-9"],
}


@pytest.mark.parametrize("param", REFUSED)
def test_what_cannot_be_done_is_refused_by_field(served, param):
    address, app = served
    for value in REFUSED[param]:
        for answer in (post(address, {param: value}), post(address, {"stream": True, param: value})):
            assert answer.status_code == (404 if param == "model" else 400), value
            assert error_of(answer)["param"] == param and places(app) == 0
            assert error_of(answer)["type"] == "invalid_request_error"


def test_a_full_queue_says_when_to_come_back(synthesizer):
    slow = Slow(synthesizer)
    with serving(synthesizer, ServeLimits(queue=2)) as (address, app):
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(address).content)) for _ in range(2)]
        [thread.start() for thread in threads]
        until(lambda: places(app) == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(address)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        slow.go.set()
        [thread.join() for thread in threads]
        assert len(answers) == 2 and places(app) == 0
        assert b"tts_lm_queue 0.0" in httpx.get(f"{address}/metrics").content


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_client_that_leaves_frees_its_place(synthesizer, more):
    slow = Slow(synthesizer)
    with serving(synthesizer, ServeLimits(queue=2)) as (address, app):
        # The batch of another client is being synthesized, so that this request cannot be answered.
        other = threading.Thread(target=ask, args=(address,))
        other.start()
        assert slow.inside.wait(30)
        body = json.dumps(ASKED | more).encode()
        head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as line:
            line.sendall(f"POST /v1/audio/speech HTTP/1.1\r\n{head}".encode() + body)
            until(lambda: places(app) == 2)
        until(lambda: places(app) == 1)
        slow.go.set()
        other.join()
        assert places(app) == 0 and all(len(batch) == 2 for batch in slow.batches)
        until(lambda: LEFT in httpx.get(f"{address}/metrics").content)


def test_a_stream_whose_client_left_is_closed(synthesizer):
    first, closed = next(synthesizer.stream(TEXT, "bdl", 0)), threading.Event()

    def endless(*_: Any) -> Any:
        try:
            while True:
                yield first
        finally:
            closed.set()

    synthesizer.stream = endless  # type: ignore[method-assign]
    asked = ASKED | {"response_format": "pcm", "stream": True}
    with serving(synthesizer, ServeLimits()) as (address, app):
        with httpx.stream("POST", f"{address}/v1/audio/speech", json=asked) as answer:
            next(answer.iter_raw(1000))
            assert places(app) == 1
        until(lambda: places(app) == 0)
        assert closed.wait(30)


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stream_format": "sse"}])
def test_a_late_answer_is_an_error(synthesizer, capsys, more):
    first, slow = next(synthesizer.stream(TEXT, "bdl", 0)), Slow(synthesizer)

    def stalled(*_: Any) -> Any:
        yield first
        assert slow.go.wait(30)

    synthesizer.stream = stalled  # type: ignore[method-assign]
    with serving(synthesizer, ServeLimits(timeout_seconds=0.5)) as (address, app):
        try:
            answer = post(address, {"response_format": "pcm", **more})
            error = json.loads(answer.text.strip().rpartition("data: ")[2])
            assert error["error"]["code"] == "timeout" and answer.status_code in (200, 503)
        except httpx.RemoteProtocolError:  # a stream breaks off, and no client takes a part for the whole
            assert more
        slow.go.set()
        until(lambda: places(app) == 0)
    assert "Traceback" not in capsys.readouterr().err


def test_voices_are_added_with_consent_kept_and_removed(synthesizer, tmp_path):
    fields = {"name": "anna", "text": "so many words of hers", "consent": CONSENT, "license": "CC0-1.0"}
    settings = {"limits": ServeLimits(voices=1), "voices_folder": tmp_path / "voices"}
    noise = io.BytesIO()
    soundfile.write(noise, 0.1 * np.random.default_rng(0).standard_normal(32_000), 16_000, format="WAV")

    def add(data: bytes | None = None, **more: Any) -> httpx.Response:
        files = {"file": ("../../etc/passwd", data or clip())}
        return httpx.post(f"{address}/v1/voices", data=fields | more, files=files, timeout=60)

    with serving(synthesizer, **settings) as (address, _):
        assert error_of(add(consent=""))["code"] == "consent_required"
        names = ("../anna", "a/b", "<b>anna</b>", "Anna", "", "a" * 41, "con.txt")
        for answer, field in (
            (add(consent="yes"), "consent"),
            (add(text="words\x00"), "text"),
            (add(noise.getvalue()), "file"),
            (add(b"no sound"), "file"),
            *((add(name=name), "name") for name in names),
        ):
            assert answer.status_code == 400 and error_of(answer)["param"] == field
        added = add()
        assert added.status_code == 201, added.text
        assert added.json()["consent"] == CONSENT and added.json()["added"] is True
        assert [add(name=name).status_code for name in ("anna", "bdl", "berta")] == [409, 409, 400]
        said = ask(address, voice="Anna").content
    with serving(synthesizer, **settings) as (address, _):
        for path in ("/v1/voices", "/v1/audio/voices"):
            listed = httpx.get(address + path).json()
            assert [voice["id"] for voice in listed["data"]] == ["kathleen", "bdl", "anna"]
            assert {voice["id"]: voice["name"] for voice in listed["voices"]}["anna"] == "anna"
        assert ask(address, voice="anna").content == said and heard(said)[0].size
        removed = [httpx.delete(f"{address}/v1/voices/{name}") for name in ("anna", "anna", "bdl")]
        assert [answer.status_code for answer in removed] == [200, 404, 404] and removed[0].json()["deleted"]


def test_the_openapi_document_lists_the_routes_and_errors(served):
    address, _ = served
    document = httpx.get(f"{address}/openapi.json").json()
    paths = ["/health", "/metrics", "/v1/models", "/v1/voices", "/v1/audio/voices"]
    assert {*paths, "/v1/audio/speech"} <= set(document["paths"]) and "422" not in json.dumps(document)
    for path, status in (("/nowhere", 404), ("/v1/models/", 404), ("/v1/audio/speech", 405)):
        answer = httpx.get(f"{address}{path}")
        assert answer.status_code == status and error_of(answer)
    assert httpx.put(f"{address}/v1/audio/speech").headers["allow"] == "POST"
    with client(address) as caller:
        assert [model.id for model in caller.models.list()] == [caller.models.retrieve("toy").id] == ["toy"]
    for path in (*paths, "/v1/models/toy"):
        answer = httpx.head(f"{address}{path}")
        assert answer.status_code == 200 and answer.content == b"" and answer.headers["content-type"]
        assert httpx.head(f"{address}{path}x").status_code == 404


def test_a_fault_of_the_server_shows_no_details(synthesizer):
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    synthesizer.speak = broken  # type: ignore[method-assign]
    with serving(synthesizer) as (address, app):
        with pytest.raises(openai.InternalServerError) as caught:
            ask(address)
        assert "secret" not in caught.value.response.text
        assert error_of(caught.value.response)["type"] == "server_error" and places(app) == 0
        assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page calls curl")
def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("clip.wav").write_bytes(clip(2.0))
    names: dict[str, object] = {"__name__": "__main__"}
    with serving(toy(), model="tts-lm") as (address, _):
        for block in read_blocks(ROOT / "docs/how-to/serve.md"):
            text = block.text.replace("http://127.0.0.1:8000", address)
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + text, block.page, "exec"), names)
            elif block.language == "sh":
                subprocess.run(shlex.split(text), check=True, timeout=60)
        names["server"].close()  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "Generated speech" in printed and "'id': 'anna'" in printed
    assert heard(Path("morning.mp3").read_bytes())[0].size and heard(Path("morning.wav").read_bytes())[0].size
    assert Path("morning.pcm").stat().st_size > 1000


def test_the_program_serves_and_stops(tmp_path, capsys):
    def use(address: str) -> None:
        asked = {"model": "toy-model", "voice": "bdl", "input": "Hello there.", "response_format": "flac"}
        site = {"Origin": "https://app.example"}
        answer = httpx.post(f"{address}/v1/audio/speech", json=asked, headers=site, timeout=60)
        assert heard(answer.content)[0].size
        assert answer.headers["access-control-allow-origin"] == site["Origin"]
        assert httpx.get(f"{address}/health", headers={"Host": "evil.example"}).status_code == 403
        port = address.rpartition(":")[2]
        assert main(["serve", "--port", port]) == 1  # it is in use
        assert port in capsys.readouterr().err

    toy().save_pretrained(tmp_path / "toy-model")
    command = ["serve", "--model", str(tmp_path / "toy-model"), "--cors-origin", "https://app.example/"]
    assert run_program(command, use, capsys) == 0 and capsys.readouterr().err == "tts-lm: stopped\n"
    assert main(["serve", "--port", "0", "--cors-origin", "app.example"]) == 1
