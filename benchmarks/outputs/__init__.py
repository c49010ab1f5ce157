"""What it costs to make outputs of a map: time, and memory as the map grows."""
