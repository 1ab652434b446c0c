"""The verbs of ``tts-lm``, one file each; nothing is imported until a verb is asked for."""
