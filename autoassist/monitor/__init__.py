"""The page of a run: what ``autoassist top`` shows, as live charts in a browser, and the instances. Read-only."""
