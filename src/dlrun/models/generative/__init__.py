"""Models that generate images: autoencoders and GANs."""
