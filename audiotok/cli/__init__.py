"""The program ``audiotok``: one file a verb. It knows nothing that the library does not."""
