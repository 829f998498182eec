"""The part of the demo that needs no browser: requests and trajectories."""
