"""Codes <-> ids: layouts, tokenizers, chat templates, constrained generation and the processor."""
