"""Training of the two halves of the language model; nothing above needs it to speak."""
