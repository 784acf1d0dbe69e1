"""Looks an installation over and says what to do; ``command`` is where it begins."""
