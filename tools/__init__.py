"""Commands around the pipeline: get the data, serve the demo, check results, print a summary."""
