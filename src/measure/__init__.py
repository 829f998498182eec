"""Measuring generated images: distances, scores, and bits per dimension."""
