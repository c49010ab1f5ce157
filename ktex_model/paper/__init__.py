"""The preset `paper`: the model of Wagner et al. 2022 as published, the baseline that others are measured against."""

from ktex_model.paper.config import PaperConfig
from ktex_model.paper.model import PaperModel
from ktex_model.paper.training import train

__all__ = ["PaperConfig", "PaperModel", "train"]
