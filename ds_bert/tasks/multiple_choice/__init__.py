"""RACE, DREAM and questions of a user's own, with options to choose among."""
