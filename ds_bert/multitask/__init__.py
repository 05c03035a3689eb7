"""Training one model on many tasks: which tasks, which examples when, what the loss is, how it is measured."""
