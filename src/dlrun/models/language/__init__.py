"""Language models, and how text is sampled from them."""
