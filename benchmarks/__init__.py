"""Benchmarks: what the product is measured by. `python -m benchmarks` runs all, `python -m benchmarks.NAME` one."""

BENCHMARKS = {
    "align": "ids of simulated blocks against their truth, our solver beside plain baselines",
    "catalogue": "classes of later runs against those of a catalogue: errors, time, and ids over dates",
    "chaos": "workers killed at random, runs killed at each stage: the same bytes",
    "outputs": "what the outputs of a map cost: seconds, and memory as the map grows",
    "page": "the report of published maps by their size: time, memory and size of the page",
    "peers": "one scene to a label GeoTIFF by our model and by others: time, memory, agreement with the truth",
    "quality": "label maps of scenes with a truth, our presets beside clustering without a model",
    "samples": "networks trained on samples of a map, and on the labelled pixels alone, scored in other places",
    "scale": "time, memory, parity and books of applying a model to large scenes",
    "train": "seconds of training and prediction, beside the published preset and the machine's own rates",
}
"""Name and purpose of each benchmark; `benchmarks.NAME` is run as a module and takes the options of `report.parser`."""
