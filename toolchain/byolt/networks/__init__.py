"""Encoders by name, their weights and heads, and two ways to compute them: with less memory, and faster on a CPU."""
