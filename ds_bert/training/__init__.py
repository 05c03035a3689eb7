"""Arguments, the training loop, learning-rate schedules and logging."""
