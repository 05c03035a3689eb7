"""Writing checkpoints that exist whole or not at all, and reading them under any cut."""
