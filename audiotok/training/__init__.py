"""Training of the codecs and the entropy model: data, losses, discriminators, training loop and recipes."""
