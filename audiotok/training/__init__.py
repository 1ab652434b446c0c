"""Training of the codecs and the entropy model: data, losses, discriminators, the loop and its recipes."""
