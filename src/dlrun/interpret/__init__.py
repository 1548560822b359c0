"""Looks inside a model: activations, attribution, filters, learning rates, memory."""
