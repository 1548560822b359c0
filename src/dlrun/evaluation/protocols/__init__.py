"""Evaluation protocols: which rows are trained on, which are held out, and which fit comes next."""
