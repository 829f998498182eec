"""What `make` runs around the pipeline: getting the data, and the summary at the end."""
