"""Thresholds learned from recordings, with a statement that holds; needs numpy (extra `calibrate`). Knows no model, clock or network."""
