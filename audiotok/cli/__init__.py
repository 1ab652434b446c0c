"""The program ``audiotok``: one file a verb. Knows nothing that the library does not; the verbs only read and report."""
