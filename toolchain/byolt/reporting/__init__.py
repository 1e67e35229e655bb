"""HTML pages of runs and of studies, their tables and their charts."""
