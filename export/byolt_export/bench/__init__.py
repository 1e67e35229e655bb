"""Speed and memory of functions from images to outputs, side by side, with their accuracy."""
