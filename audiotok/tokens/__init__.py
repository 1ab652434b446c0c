"""codes <-> ids: layouts, and one vocabulary for text and sound. Knows nothing of waveforms."""
