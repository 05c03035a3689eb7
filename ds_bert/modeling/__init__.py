"""Models as pipeline layers, and the Carry between stages. Knows no engine."""
