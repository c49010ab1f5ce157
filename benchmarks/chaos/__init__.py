"""A run whose workers are killed again and again, and one that is killed itself at each stage."""
