"""Makes the toy corpus, 40 sentences spoken by the shipped TTS model, and prepares it."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

from audiotok import save_audio
from audiotok.cli.main import main as audiotok

SENTENCES = Path(__file__).with_name("sentences.txt")
LICENCE = "text public domain; sound made by tts-lm"


def speak(folder: Path, sentences: list[str], voices: list[str]) -> None:
    """Write a clip for each sentence, in turn in each voice, and then ``metadata.csv``. Every tenth is validation."""
    from tts_lm import Synthesizer

    synthesizer = Synthesizer.from_pretrained()
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".metadata.csv"
    with aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "transcription", "speaker_id", "language", "split"))
        for number, text in enumerate(sentences):
            voice, name = voices[number % len(voices)], f"{number:02d}.flac"
            speech = synthesizer.say(text, voice, seed=number, best_of=1)
            save_audio(folder / name, speech.wav, speech.sampling_rate)
            table.writerow((name, text, voice, "en", "train" if number % 10 else "validation"))
    os.replace(aside, folder / "metadata.csv")


def main() -> int:
    """Speak, prepare, check the number of rows; 1 if it is not that of the sentences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and tokens/")
    parser.add_argument("--voices", default="slt,bdl", help="voices of tts-lm (default slt,bdl)")
    parser.add_argument("--limit", type=int, help="only the first sentences")
    args, further = parser.parse_known_args()
    audio, sentences = args.out / "audio", SENTENCES.read_text(encoding="utf-8").splitlines()[: args.limit]
    # The table is written last, so all clips are there if it exists.
    if not (audio / "metadata.csv").exists():
        speak(audio, sentences, args.voices.split(","))
    given = ["prepare", str(audio), "--out", str(args.out / "tokens"), "--licence", LICENCE]
    return audiotok([*given, "--expect-rows", str(len(sentences)), *further])


if __name__ == "__main__":
    sys.exit(main())
