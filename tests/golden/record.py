"""Writes the golden ``.atok`` files. Run it for a new version of the format only: what is here must stay readable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import atok_toys  # noqa: E402

from audiotok.bitstream import save_atok  # noqa: E402
from audiotok.bitstream.format import ADAPTIVE  # noqa: E402


def main() -> None:
    """Write everything anew."""
    model = atok_toys.toy_model()
    model.save(HERE / "entropy.safetensors")
    codes = atok_toys.toy_codes(model, 53, 20)
    still = codes.clone()
    still[:, 20:] = still[:, 20:21]
    facts = {"num_samples": 53 * 320 - 11, "metadata": {"licence": "CC0", "transcript": "Grüße"}}
    files = {
        "raw": (codes, atok_toys.toy_header(**facts), ()),
        "adaptive": (still, atok_toys.toy_header(coding=ADAPTIVE, **facts), ()),
        "learnt": (codes, atok_toys.toy_header(model, **facts), ()),
        "scales": (
            codes,
            atok_toys.toy_header(model, channels=2, scale_frames=10),
            (1.0, 0.5, 0.25, 2.0, 3.5, 0.125),
        ),
    }
    for name, (values, header, scales) in files.items():
        save_atok(HERE / f"{name}.atok", values, header, model, scales)
        expected = {"codes": values.tolist(), "scales": list(scales)}
        (HERE / f"{name}.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
