"""Training samples for supervised segmentation: chips of imagery with masks of the analyst's classes.

`mapping` says which ids are which class; `folds` divides the scene into places for training, validation and test;
`chips` chooses windows; `write` writes the data set with its card; `loader` gives it to TensorFlow.
"""

from pipeline.samples.chips import Rules
from pipeline.samples.loader import load_samples
from pipeline.samples.mapping import ClassMapping
from pipeline.samples.write import write_samples

__all__ = ["ClassMapping", "Rules", "load_samples", "write_samples"]
