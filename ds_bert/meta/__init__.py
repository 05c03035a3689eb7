"""Meta-learning: adapting to one small task after another, and learning to do so."""
