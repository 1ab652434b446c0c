"""Sound <-> codes: a causal encoder, a residual vector quantiser and an ISTFT-head decoder, each in its own file."""
