"""Predictions for media files: recordings, timelines and their formats, explanations, offsets, enrollment."""
