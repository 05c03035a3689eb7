"""What several tests share: real processes, a toy model and its data, and the reference implementation."""
