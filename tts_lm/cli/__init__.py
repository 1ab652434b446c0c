"""Commands of ``tts-lm``, one module each, imported on first use."""
