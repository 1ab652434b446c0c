"""Decoding of the AR model: KV cache, batching, sampling."""
