"""What a person sees in a terminal: progress lines, tables, summaries."""
