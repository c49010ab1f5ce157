"""The k-textures model: k hard masks times k generated textures simulate an image, without labels.

The public names are `train`, `save`, `load` and the values they take and return; see `ktex_model.model`.
"""
