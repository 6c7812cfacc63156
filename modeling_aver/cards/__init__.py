"""Model cards, their plots, and the push of a finished run."""
