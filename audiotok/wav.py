"""What counts as a wav, for all who take one: readers of files, preparation, the codec.

Imports nothing, so that the codec and its training run where no sound library is.
"""

MAX_PEAK = 4.0
"""Samples may overshoot full scale a little; this far beyond it they are in another unit."""
