"""GLUE, tasks of the same kind, and texts of a user's own: classification and regression of a text or a pair."""
