"""Codecs and models as ONNX files, and running them with onnxruntime and numpy alone.

What reads a bundle (runtime, synthesis, bundle) imports no torch; what writes one (export) does. The law it keeps: a
bundle gives the codes and the sound of what it was made of.
"""

from .bundle import NOT_STATED, Bundle, check_target, open_bundle, save_bundle
from .graph import Graph
from .runtime import OnnxCodec, load_onnx

__all__ = [
    "NOT_STATED",
    "Bundle",
    "Graph",
    "OnnxCodec",
    "check_target",
    "load_onnx",
    "open_bundle",
    "save_bundle",
]
