"""Time, memory and parity of applying a model to scenes of many sizes, and the books of very many blocks."""
