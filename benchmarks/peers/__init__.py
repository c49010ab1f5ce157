"""One scene on disk turned into a label GeoTIFF by us and by others: time, memory, agreement with the truth."""
