"""Where a sentence that was spoken ends: what follows its last sound is cut to the same length for all.

Knows nothing of codes or texts. The law it keeps: sound that comes in pieces ends where the whole would, and what may
still be cut is never given out.

The AR half says ``</audio>`` 40 to 400 ms after the last sound, as the readers of its recordings let go of the button.
The room behind them, coded, lies 30 to 45 dB below the loudest frame. 30 dB and 100 ms take audible sound from 3 % of
30 recordings of two readers, at most 40 ms of it; a breath that is louder stays.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

TAIL_SECONDS = 0.1
_SILENT = 10 ** (-30.0 / 10)  # of the power of the loudest frame so far


class Ending:
    """Listens to a sentence frame by frame.

    What is loud is measured against the loudest frame before. That is the loudest of all for the last loud frame: a
    louder one after it would be loud itself. So pieces and the whole end at the same frame.

    Args:
        hop_length: samples of a frame.
        frame_rate: Hz.
    """

    def __init__(self, hop_length: int, frame_rate: float) -> None:
        self._hop, self._tail = hop_length, max(1, round(TAIL_SECONDS * frame_rate))
        self._rest = np.zeros(0, dtype=np.float32)
        self._peak, self._frames, self._loud = 0.0, 0, 0

    def push(self, wav: Tensor) -> int:
        """Listen on.

        Args:
            wav: [n] float32, what follows; its last frame may come in two pieces.

        Returns:
            How many frames from the beginning on stay, whatever follows.
        """
        samples = np.concatenate((self._rest, wav.numpy()))
        count = len(samples) // self._hop
        self._rest = samples[count * self._hop :]
        if count:
            power = np.square(samples[: count * self._hop].reshape(count, -1), dtype=np.float64).mean(axis=1)
            peaks = np.maximum.accumulate(np.append(self._peak, power))[1:]
            loud = np.nonzero(power >= _SILENT * peaks)[0]
            self._loud = self._frames + int(loud[-1]) + 1 if len(loud) else self._loud
            self._peak, self._frames = float(peaks[-1]), self._frames + count
        return self._loud + self._tail
