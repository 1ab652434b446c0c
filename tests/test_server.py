"""The server from outside: the real OpenAI client, voices, tokens, and everything that is refused."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="its client is what the server is for")

import openai
from lm_toys import toy_synthesizer
from server_toys import TEXT, Slow, client, clip, heard, places, serving, until

from tts_lm import Synthesizer
from tts_lm.server.security import Door
from tts_lm.server.limits import ServeLimits

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
CONSENT = "the speaker, a colleague, agreed in writing"


@pytest.fixture
def synthesizer(tiny_codec) -> Synthesizer:
    return toy_synthesizer(tiny_codec)


@pytest.fixture
def served(synthesizer) -> Iterator[tuple[str, Any]]:
    with serving(synthesizer, ServeLimits(queue=8)) as found:
        yield found


def ask(address: str, **more: Any) -> Any:
    asked = {"model": "toy", "voice": "bdl", "input": TEXT, "response_format": "wav"} | more
    with client(address) as caller:
        return caller.audio.speech.create(**asked)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "pcm"])
def test_the_openai_client_gets_what_say_says(served, synthesizer, form):
    address, app = served
    whole = synthesizer.say(TEXT, "bdl", 7)
    answer = ask(address, response_format=form, extra_body={"seed": 7})
    mark = answer.response.headers["x-generated"]
    assert mark.startswith("Generated speech, not a recording") and "voice bdl" in mark
    if form == "pcm":
        assert len(answer.content) == 2 * round(len(whole.wav) * 24_000 / 16_000)
    else:
        wav, rate, comment = heard(answer.content)
        assert rate == 16_000 and comment == mark
        assert abs(len(wav) - len(whole.wav)) <= (1 if form in ("wav", "flac") else 2_500)
        if form in ("wav", "flac"):
            assert np.abs(wav - whole.wav.numpy()).max() < 1e-4
    again = ask(address, response_format=form, extra_body={"seed": 7}).content
    assert len(again) == len(answer.content) and (form == "opus" or again == answer.content)
    assert places(app) == 0


@pytest.mark.parametrize("form", ["pcm", "wav", "mp3", "opus"])
def test_the_openai_client_hears_a_stream_while_it_is_made(served, synthesizer, form):
    address, _ = served
    whole = torch.cat([chunk.wav for chunk in synthesizer.stream(TEXT, "bdl", 3)])
    asked = {"model": "tts-1", "voice": {"id": "bdl"}, "input": TEXT, "response_format": form}
    more = {"extra_body": {"stream": True, "seed": 3}}
    with client(address) as caller:
        with caller.audio.speech.with_streaming_response.create(**asked, **more) as answer:
            pieces = list(answer.iter_bytes())
    assert len(pieces) > 1
    data = b"".join(pieces)
    if form == "pcm":
        assert len(data) == 2 * round(len(whole) * 24_000 / 16_000)
        return
    wav, rate, comment = heard(data)
    assert rate == 16_000 and comment.startswith("Generated speech")
    assert abs(len(wav) - len(whole)) <= (0 if form == "wav" else 4_000)
    if form == "wav":
        assert np.abs(wav - whole.numpy()).max() < 1e-4


def test_openais_voices_are_the_models_own(served):
    address, _ = served
    sounds = {
        name: ask(address, voice=name, response_format="wav").content for name in ("kathleen", "bdl", "alloy")
    }
    assert sounds["alloy"] == sounds["kathleen"] != sounds["bdl"]


def test_a_stream_of_events_is_openais(served, synthesizer):
    address, _ = served
    answer = ask(address, stream_format="sse", response_format="wav")
    assert answer.response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.content.decode().split("\n\n") if line]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"} and done[
        "type"
    ] == "speech.audio.done"
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
    wav, _, _ = heard(b"".join(base64.b64decode(event["audio"]) for event in deltas))
    assert len(wav) == sum(len(chunk.wav) for chunk in synthesizer.stream(TEXT, "bdl", 0))


def test_speed_changes_the_length(served, synthesizer):
    address, _ = served
    whole = synthesizer.say(TEXT, "bdl", 0)
    for speed in (0.5, 2.0):
        wav, _, _ = heard(ask(address, speed=speed).content)
        assert abs(len(wav) - len(whole.wav) / speed) <= 2


@pytest.mark.parametrize(
    ("asked", "error", "param", "message"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model", "expected the model 'toy'"),
        ({"voice": "nobody"}, openai.BadRequestError, "voice", "expected a voice of kathleen, bdl"),
        ({"input": ""}, openai.BadRequestError, "input", "at least 1 character"),
        ({"input": "?!"}, openai.BadRequestError, "input", "something to say"),
        ({"input": "a" * 4097}, openai.BadRequestError, "input", "at most 4096 characters, got 4097"),
        (
            {"input": "<script>alert(1)</script>"},
            openai.BadRequestError,
            "input",
            "got markup at character 0",
        ),
        ({"input": "a\x00b"}, openai.BadRequestError, "input", "control characters"),
        ({"response_format": "aac"}, openai.BadRequestError, "response_format", "'mp3', 'opus'"),
        ({"speed": 9.0}, openai.BadRequestError, "speed", "less than or equal to 4"),
        ({"instructions": "whisper"}, openai.BadRequestError, "instructions", "at most 0"),
        ({"stream_format": "audio", "speed": 2.0}, openai.BadRequestError, "speed", "speed 1 for a stream"),
        (
            {"stream_format": "sse", "response_format": "flac"},
            openai.BadRequestError,
            "response_format",
            "got flac",
        ),
        ({"stream_format": "audio", "input": "?!"}, openai.BadRequestError, "input", "something to say"),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "colour", "not permitted"),
        ({"extra_body": {"seed": 1 << 63}}, openai.BadRequestError, "seed", "less than"),
    ],
)
def test_what_cannot_be_said_is_refused_in_openais_words(served, asked, error, param, message):
    address, app = served
    with pytest.raises(error) as caught:
        ask(address, **asked)
    body: Any = caught.value.body
    assert body["param"] == param and message in body["message"] and body["type"] == "invalid_request_error"
    assert places(app) == 0


def test_a_key_is_asked_for_where_there_is_one(synthesizer):
    with serving(synthesizer, door=Door(api_key="s3cret")) as (address, _):
        with client(address, "wrong") as caller:
            with pytest.raises(openai.AuthenticationError, match="this server's key"):
                caller.models.list()
        with client(address, "s3cret") as caller:
            assert [model.id for model in caller.models.list()] == ["toy"]
            assert caller.models.retrieve("toy").object == "model"
        assert httpx.get(f"{address}/health").json() == {"status": "ok", "model": "toy", "queue": 0}
        assert httpx.get(f"{address}/metrics").status_code == 401


def test_a_page_of_another_site_is_refused(synthesizer):
    with serving(synthesizer, door=Door(hosts=("127.0.0.1",))) as (address, _):
        own = {"Origin": address}
        assert httpx.get(f"{address}/v1/voices", headers=own).status_code == 200
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Host": "[[x"}):
            answer = httpx.get(f"{address}/v1/voices", headers=headers)
            assert answer.status_code in (400, 403) and "voice" not in answer.text


def test_a_full_queue_says_when_to_come_back(synthesizer):
    slow = Slow(synthesizer)
    with serving(synthesizer, ServeLimits(queue=2)) as (address, app):
        answers: list[bytes] = []
        threads = [
            threading.Thread(
                target=lambda seed=seed: answers.append(ask(address, extra_body={"seed": seed}).content)
            )
            for seed in range(2)
        ]
        [thread.start() for thread in threads]
        until(lambda: places(app) == 2)
        with pytest.raises(openai.RateLimitError, match="expected a free place in the queue") as caught:
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
        # Someone else's batch is being spoken, so that neither request can be answered.
        other = threading.Thread(target=ask, args=(address,))
        other.start()
        assert slow.inside.wait(30)
        asked = {"model": "toy", "voice": "bdl", "input": TEXT, "response_format": "pcm", **more}
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{address}/v1/audio/speech", json=asked, timeout=0.3)
        until(lambda: places(app) == 1)
        slow.go.set()
        other.join()
        assert places(app) == 0 and all(len(batch) == 2 for batch in slow.batches)
        until(lambda: b"tts_lm_left_total 1.0" in httpx.get(f"{address}/metrics").content)


def test_a_stream_that_is_not_listened_to_any_more_is_given_up(served, synthesizer):
    address, app = served
    long = "One sentence after another. " * 100
    asked = {"model": "toy", "voice": "bdl", "input": long, "response_format": "pcm", "stream": True}
    with httpx.stream("POST", f"{address}/v1/audio/speech", json=asked) as answer:
        next(answer.iter_raw(1000))
        assert places(app) == 1
    until(lambda: places(app) == 0)


def test_an_answer_that_is_late_is_an_error(synthesizer):
    slow = Slow(synthesizer)
    with serving(synthesizer, ServeLimits(timeout_seconds=0.3)) as (address, app):
        with pytest.raises(openai.InternalServerError, match="took too long") as caught:
            ask(address)
        assert caught.value.status_code == 503 and places(app) == 0
        slow.go.set()


def test_voices_are_added_with_consent_and_removed(served, tmp_path):
    address, _ = served
    fields = {"name": "anna", "text": "so many words of hers", "consent": CONSENT, "license": "CC0-1.0"}

    def add(**more: Any) -> httpx.Response:
        files = {"file": ("../../etc/passwd", clip())}
        return httpx.post(f"{address}/v1/voices", data=fields | more, files=files)

    refused = add(consent="")
    assert refused.status_code == 400 and error_of(refused)["param"] == "consent"
    assert error_of(add(consent="yes"))["code"] == "consent_required"
    for name in ("../anna", "a/b", "<b>anna</b>", "Anna", "", "a" * 41):
        assert add(name=name).status_code == 400
    assert error_of(add(text="<img src=x onerror=alert(1)>"))["param"] == "text"
    added = add()
    assert added.status_code == 201, added.text
    assert added.json()["consent"] == CONSENT and added.json()["added"] is True
    assert add().status_code == 409 and add(name="bdl").status_code == 409
    listed = httpx.get(f"{address}/v1/voices").json()["data"]
    assert [voice["id"] for voice in listed] == ["kathleen", "bdl", "anna"]
    assert heard(ask(address, voice="anna").content)[0].size
    assert httpx.delete(f"{address}/v1/voices/anna").json()["deleted"] is True
    assert httpx.delete(f"{address}/v1/voices/anna").status_code == 404
    assert httpx.delete(f"{address}/v1/voices/bdl").status_code == 404


def test_only_so_many_voices_are_kept_and_they_outlive_the_server(synthesizer, tmp_path):
    fields = {"text": "so many words of hers", "consent": CONSENT}
    folder = tmp_path / "voices"
    with serving(synthesizer, ServeLimits(voices=1), voices_folder=folder) as (address, _):
        for name, status in (("anna", 201), ("berta", 400)):
            files = {"file": ("clip.wav", clip())}
            answer = httpx.post(f"{address}/v1/voices", data=fields | {"name": name}, files=files)
            assert answer.status_code == status
        said = ask(address, voice="anna").content
    (folder / ".adding-x").mkdir()  # of a server that was killed while it wrote
    with serving(synthesizer, ServeLimits(voices=1), voices_folder=folder) as (address, _):
        assert ask(address, voice="anna").content == said
    assert sorted(path.name for path in folder.iterdir()) == ["anna"]


def test_a_sound_becomes_codes_and_they_become_sound(served, synthesizer):
    address, _ = served
    files = {"file": ("clip.flac", clip(1.0, "FLAC"))}
    found = httpx.post(f"{address}/v1/audio/tokens", files=files).json()
    wav = torch.from_numpy(heard(files["file"][1])[0])
    codec = synthesizer.codec
    assert found["codes"] == codec.encode(wav[None, None]).audio_codes[0].tolist()
    asked = {key: found[key] for key in ("codes", "codes_fingerprint", "num_samples")}
    answer = httpx.post(f"{address}/v1/audio/tokens/decode", json=asked)
    back, rate, comment = heard(answer.content)
    assert len(back) == 16_000 and rate == 16_000 and comment.startswith("Generated speech")
    whole = codec.decode(torch.tensor(found["codes"])[None], num_samples=16_000).audio_values[0, 0]
    assert np.abs(back - whole.clamp(-1, 1).detach().numpy()).max() < 1e-4
    fewer = httpx.post(f"{address}/v1/audio/tokens", files=files, data={"n_q": "2"}).json()
    assert fewer["codes"] == found["codes"][:2]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"codes_fingerprint": "0ther"}, "codes_fingerprint"),
        ({"codes": [[1], [1, 2]]}, "codes"),
        ({"codes": [[]]}, "codes"),
        ({"codes": [[64]]}, "codes"),
        ({"codes": [[-1]]}, "codes.0.0"),
        ({"codes": [[0]] * 5}, "codes"),
        ({"codes": [[0] * 3001]}, "codes"),
        ({"num_samples": 321}, "num_samples"),
    ],
)
def test_codes_that_are_none_of_ours_are_refused(served, synthesizer, change, param):
    address, _ = served
    asked = {"codes": [[0]], "codes_fingerprint": synthesizer.codec.codes_fingerprint}
    answer = httpx.post(f"{address}/v1/audio/tokens/decode", json=asked | change)
    assert answer.status_code == 400 and error_of(answer)["param"] == param


def test_bodies_are_bounded_with_and_without_a_length(synthesizer):
    limits = ServeLimits(upload_bytes=50_000)
    with serving(synthesizer, limits) as (address, _):
        large = b"x" * 60_000
        answer = httpx.post(f"{address}/v1/audio/tokens", files={"file": ("a.wav", large)})
        assert answer.status_code == 413 and error_of(answer)["code"] == "request_too_large"
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=b"}

        def drip() -> Iterator[bytes]:
            yield head
            for _ in range(60):
                yield b"x" * 1_000

        answer = httpx.post(f"{address}/v1/audio/tokens", content=drip(), headers=kind)
        assert answer.status_code == 413 and "at most 50000 bytes" in error_of(answer)["message"]
        text = json.dumps({"model": "toy", "voice": "bdl", "input": "a" * 5_000_000})
        json_kind = {"Content-Type": "application/json"}
        for body in (text.encode(), (piece.encode() for piece in (text[:100], text[100:]))):
            answer = httpx.post(f"{address}/v1/audio/speech", content=body, headers=json_kind)
            assert answer.status_code == 413
        for broken in (b"{", b"[" * 500_000, b'{"speed": 1' + b"0" * 5_000 + b"}", b"\xff", b'"\\ud800"'):
            answer = httpx.post(f"{address}/v1/audio/speech", content=broken, headers=json_kind)
            assert answer.status_code == 400 and error_of(answer)["message"]


def test_the_document_says_what_is_sent(served):
    address, _ = served
    document = httpx.get(f"{address}/openapi.json").json()
    assert {"/v1/audio/speech", "/v1/models", "/v1/voices", "/v1/audio/tokens", "/health", "/metrics"} <= set(
        document["paths"]
    )
    assert "422" not in json.dumps(document)
    for path in ("/nowhere", "/v1/audio/speech"):
        answer = httpx.get(f"{address}{path}")
        assert answer.status_code in (404, 405) and error_of(answer)


def test_our_own_failure_tells_nothing_of_the_inside(synthesizer):
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    synthesizer.speak = broken  # type: ignore[method-assign]
    with serving(synthesizer) as (address, app):
        with pytest.raises(openai.InternalServerError) as caught:
            ask(address)
        assert "secret" not in caught.value.response.text
        assert error_of(caught.value.response)["type"] == "server_error" and places(app) == 0
        assert httpx.get(f"{address}/health").status_code == 200


def test_going_down_finishes_what_was_begun(synthesizer):
    slow = Slow(synthesizer)
    answers: list[bytes] = []
    with serving(synthesizer) as (address, app):
        thread = threading.Thread(target=lambda: answers.append(ask(address).content))
        thread.start()
        assert slow.inside.wait(30)
        threading.Timer(0.3, slow.go.set).start()
    thread.join()
    assert heard(answers[0])[0].size and io.BytesIO(answers[0]).read(4) == b"RIFF"
