"""A policy scored on recordings: what it would have served and paid, with no model call."""
