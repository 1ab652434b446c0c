"""Command line program ``audiotok``, with one module per verb."""
