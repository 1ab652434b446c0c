"""What a half in training sounds like: it speaks with the other parts of a whole model, and a recogniser listens.

Knows nothing of the loop. The law it keeps: it only reads what was exported; a run with it and one without learn the
same.

Losses do not tell whether a speech model speaks: error rates do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import AutoModelForCausalLM

from ..evaluate import evaluate_lines
from ..folder import load_part
from ..models.nar import NarConfig, NarModel
from ..recognise import PocketSphinx, Recogniser
from ..synthesizer import Synthesizer


class Hearing:
    """Lets an exported half speak some lines.

    Args:
        kind: ``ar`` or ``nar``, which half it is.
        model: a whole synthesizer, by name or folder, whose other parts are used.
        lines: what is said; ten are enough to see a trend.
        codes_fingerprint: of the codes that the half is trained on.
        recogniser: makes what listens.

    Raises:
        FileNotFoundError: no such model.
        ModuleNotFoundError: the recogniser's package is missing; better now than at the first checkpoint.
        ValueError: the verifier is trained, there is no line, or the model has other codes.
    """

    def __init__(
        self,
        kind: str,
        model: str | Path,
        lines: Sequence[str],
        codes_fingerprint: str,
        recogniser: Callable[[], Recogniser] = PocketSphinx,
    ) -> None:
        if kind not in ("ar", "nar") or not lines:
            raise ValueError(
                f"expected lines for a half that speaks, ar or nar; got {len(lines)} for {kind!r}"
            )
        recogniser()
        self._kind, self._lines, self._recogniser = kind, list(lines), recogniser
        self._whole = Synthesizer.from_pretrained(model)
        theirs = self._whole.codec.codes_fingerprint
        if theirs != codes_fingerprint:
            raise ValueError(
                f"expected a model that speaks the codes {codes_fingerprint} of the corpora, {model} speaks {theirs}; "
                "bundle one for this codec"
            )

    def __call__(self, folder: Path) -> dict[str, float]:
        """Speak and listen.

        Args:
            folder: the exported half.

        Returns:
            ``held_out/wer`` and ``held_out/ended``, the share of lines that ended by themselves, with one reading each.
        """
        whole, ar, nar = self._whole, self._whole.ar, self._whole.nar
        if self._kind == "ar":
            ar = load_part(AutoModelForCausalLM, folder, "llama")
        else:
            nar = load_part(NarModel, folder, NarConfig.model_type)
        parts = (whole.codec, whole.tokenizer, whole.voices, whole.codec_name)
        speaker = Synthesizer(ar, nar, *parts, sampling=replace(whole.sampling, best_of=1))
        outcome = evaluate_lines(speaker, self._lines, recogniser=self._recogniser, workers=0)
        ended = outcome.finish_reasons.get("eos", 0) / outcome.lines
        return {"held_out/wer": outcome.wer.rate, "held_out/ended": ended}
