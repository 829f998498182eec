"""Show results: the figures of the report, its page, and the table of experiments."""
