"""Where the rows of a corpus come from: folders, tables, trees of public corpora, tars, and what ``datasets`` opens.

Knows nothing of codecs and decodes no sound. The law it keeps: rows come in the order of the source, each with its
number, and a row that names no usable file is still a row (with a problem), so that it can be accounted for.
"""

from __future__ import annotations

from ..rows import FIELDS, Source, SourceRow
from .hub import StreamSource
from .opening import LAYOUTS, open_source

__all__ = ["FIELDS", "LAYOUTS", "Source", "SourceRow", "StreamSource", "open_source"]
