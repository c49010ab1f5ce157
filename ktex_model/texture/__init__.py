"""The preset ``texture``: classes are regions of one texture each, whatever their colours share.

Cells of the image are assigned to classes by robust statistics of multi-scale features and by their neighbourhood,
in turn with refits of the classes; it begins at colours, or at textures where those tell clearly more about neighbours.
Each class then gets a generator, which turns noise into its texture, and a small network learns the masks.
"""

from ktex_model.texture.config import TextureConfig
from ktex_model.texture.model import TextureModel
from ktex_model.texture.training import train

__all__ = ["TextureConfig", "TextureModel", "train"]
