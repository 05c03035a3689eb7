"""Stages, transport, the optimizer boundary and the engine that runs them. Knows no BERT."""
