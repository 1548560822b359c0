"""Models that make things: autoencoders and GANs."""
