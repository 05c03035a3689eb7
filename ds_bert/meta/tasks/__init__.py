"""Tasks to meta-learn from: made of text, read from files, dealt out as episodes."""
