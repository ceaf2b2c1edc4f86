"""Notebooks: who has which, start, stop, and what became of them."""
