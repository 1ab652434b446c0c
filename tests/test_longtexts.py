"""Long readings: every line in one text, every second heard, and what was skipped or repeated found by alignment."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lm_toys import toy_synthesizer

from tts_lm.cli.main import main
from tts_lm.longtexts import InPieces, count_lost, cut_at_pauses, join_lines
from tts_lm.text import split_sentences

LINES = ["One two three four", "Five, six; seven.", "Is it eight?", "Nine ten -", "The rest"]
SENTENCES = ["the cat sat on the mat", "a dog ran to the river", "nobody knew what to say", "it was late"]


def test_lines_become_texts_of_sentences():
    first, second = join_lines(LINES, 30)
    assert first.text == "One two three four. Five, six; seven."
    assert second.text == "Is it eight? Nine ten . The rest." and second.lines == tuple(LINES[2:])
    assert [text.lines for text in join_lines(LINES, 45)] == [tuple(LINES[:3])]  # the short rest is left out
    assert len(split_sentences(first.text)) == 2
    with pytest.raises(ValueError, match="expected lines of 900 letters together, got"):
        join_lines(LINES, 900)


def test_a_long_sound_is_cut_where_it_is_quiet_and_nothing_is_lost():
    rate, wav = 1000, torch.ones(30_000)
    pauses = (7_000, 14_000, 22_000)
    for at in pauses:
        wav[at : at + 200] = 0.0
    pieces = cut_at_pauses(wav, rate, 10.0)
    assert torch.equal(torch.cat(pieces), wav) and max(map(len, pieces)) <= 10_000
    edges = torch.tensor([len(piece) for piece in pieces]).cumsum(0)[:-1].tolist()
    assert len(edges) == 3 and all(at <= edge <= at + 200 for at, edge in zip(pauses, edges, strict=True))
    assert [len(piece) for piece in cut_at_pauses(wav[:500], rate)] == [500]
    assert all(len(piece) for piece in cut_at_pauses(torch.zeros(50_000), rate))


class Counting:
    """Says how many whole seconds it heard."""

    def transcribe(self, wav, sampling_rate):
        return f"{len(wav) / sampling_rate:.2f}"


def test_a_recogniser_hears_all_pieces():
    heard = InPieces(Counting)().transcribe(torch.randn(40 * 1000), 1000).split()
    assert len(heard) >= 4 and sum(map(float, heard)) == pytest.approx(40.0, abs=0.05)
    assert all(float(seconds) <= 12.0 for seconds in heard)


@pytest.mark.parametrize(
    ("heard", "skipped", "repeated"),
    [
        (SENTENCES, [], []),
        ([SENTENCES[0], *SENTENCES[2:]], [SENTENCES[1]], []),
        ([SENTENCES[0], SENTENCES[1], SENTENCES[1], *SENTENCES[2:]], [], [SENTENCES[1]]),
        ([SENTENCES[0], "a dog ran", *SENTENCES[1:]], [], [SENTENCES[1]]),  # half of it again
        ([SENTENCES[0], "a fog run too a liver", *SENTENCES[2:]], [], []),  # said wrongly, not skipped
        (SENTENCES[:2], SENTENCES[2:], []),
        ([], SENTENCES, []),
        ([SENTENCES[0], "and so on and so forth", *SENTENCES[1:]], [], []),  # too many, but nobody's
    ],
)
def test_lost_sentences_are_found(heard, skipped, repeated):
    pytest.importorskip("jiwer")
    assert count_lost(SENTENCES, " ".join(heard)) == (skipped, repeated)


class Parrot:
    """Hears the same words in everything."""

    def transcribe(self, wav, sampling_rate):
        return "hello there my friend"


def test_eval_reads_long_texts_and_all_voices(tiny_codec, tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("jiwer")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("Hello there, my friend.\nYou and me\nAnd one more.\nAnd the last.\n")
    command = ["eval", "--model", str(tmp_path / "model"), "--lines", str(tmp_path / "lines.txt")]
    command += ["--recogniser", "test_longtexts:Parrot", "--workers", "0", "--best-of", "1"]
    assert main([*command, "--voices", "all", "--long", "20", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = [outcome["name"] for outcome in report["outcomes"]]
    rows = ("as written", "texts of 20 letters")
    assert names == [f"{row}, {voice}" for voice in ("kathleen", "bdl") for row in rows]
    long = report["outcomes"][1]
    assert long["lines"] == 2 and long["sentences"]["sentences"] == 3 and long["sentences"]["skipped"] <= 2
    assert long["details"][0]["skipped"] == [] and long["details"][0]["text"] == "Hello there, my friend."
    assert main([*command, "--voices", "bdl", "--long", "20"]) == 0
    assert "texts of 20 letters, bdl: 3 sentences, " in capsys.readouterr().out
    for wrong, message in (
        (["--voices", "all", "--voice", "bdl"], "expected --voice, --voices or a .lst"),
        (["--voices", "bob"], "expected a voice of kathleen, bdl; got 'bob'"),
        (["--long", "900"], "expected lines of 900 letters"),
    ):
        assert main([*command, *wrong]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of resemblyzer's own imports
def test_the_drift_of_a_voice_is_between_the_ends(tmp_path: Path, make_speech):
    if find_spec("resemblyzer") is None:
        pytest.skip("the judges are an extra: pip install 'audiotok[judge]'")
    from tts_lm.quality import Drift, SpeakerEar

    drift = Drift(SpeakerEar())
    one, other = make_speech(3.0, seed=1)[0], make_speech(3.0, seed=7)[0]
    steady = drift(0, torch.cat([one] * 5), 16000)
    assert steady == pytest.approx(1.0, abs=1e-3) and drift(0, torch.cat([one] * 4 + [other]), 16000) < steady
    assert drift(0, one[:8000], 16000) != drift(0, one[:8000], 16000)  # too short: NaN
