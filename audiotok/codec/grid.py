"""What a grid of codes is worth in frames and bits: the part that the configurations of all codecs share.

Knows nothing of how a codec is built. The law kept: a derived figure is a property, never stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedConfig


class GridConfig(PreTrainedConfig):
    """What every codec's configuration derives from its own numbers.

    Attributes:
        sampling_rate: Hz.
        hop_length: samples per frame.
        n_q: codebooks.
        codebook_size: entries of each (V).
    """

    attribute_map = {"num_codebooks": "n_q", "num_quantizers": "n_q"}

    if TYPE_CHECKING:  # transformers would make arguments of them
        sampling_rate: int
        hop_length: int
        n_q: int
        codebook_size: int

    @property
    def frame_rate(self) -> float:
        """Frames per second, Hz; never rounded. Where segments overlap, a file has some more."""
        return self.sampling_rate / self.hop_length

    @property
    def bits_per_frame(self) -> float:
        """Bits of one frame with all codebooks, before entropy coding."""
        return self.n_q * (self.codebook_size - 1).bit_length()

    @property
    def bitrate_bps(self) -> float:
        """Bits per second with all codebooks, before entropy coding; scales not counted."""
        return self.bits_per_frame * self.frame_rate
