"""Is a delivered file the same function as the PyTorch model? Measures, gates, verdicts, the page."""
