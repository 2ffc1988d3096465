"""Whether what a calibrated policy was certified for still holds while it serves, and which policy serves. Knows no model and no network."""
