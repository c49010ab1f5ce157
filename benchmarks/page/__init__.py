"""How long the report of a published map takes, how much memory, and how large the page is, by the size of the map."""
