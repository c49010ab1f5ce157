"""The catalogue: every class that ever got an id, how it is called, and how it is recognised in later runs."""
