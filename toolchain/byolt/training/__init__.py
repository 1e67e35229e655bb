"""The run: ``loop`` calls, in order, the schedules, the method's step, the optimizer and the checkpoint."""
