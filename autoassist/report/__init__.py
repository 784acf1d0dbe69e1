"""A run, or a comparison, as one HTML file; ``command`` is where it begins."""
