"""Weights in and out; the shipped model, its card and its curves lie here, too."""
