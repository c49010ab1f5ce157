"""Label maps of scenes with a truth."""
