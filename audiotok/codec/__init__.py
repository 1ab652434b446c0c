"""Neural audio codecs: encoder, residual vector quantiser and decoder."""
