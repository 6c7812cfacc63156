"""Microphone and camera."""
