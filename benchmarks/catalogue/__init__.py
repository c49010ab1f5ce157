"""The catalogue: how often it is wrong about a class, how long attaching takes, and whether ids hold over dates."""
