"""Measure generated images: distances, scores, and bits per dimension."""
