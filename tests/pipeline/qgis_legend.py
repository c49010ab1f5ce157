"""Run by QGIS' own Python: open a raster, print its legend as JSON, and draw map and legend into a picture."""

import json
import os
import sys

from qgis.core import (
    QgsApplication,
    QgsLayoutExporter,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsUnitTypes,
)

application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer(sys.argv[1], "texture classes")
project = QgsProject.instance()
project.addMapLayer(layer)
layout = QgsPrintLayout(project)
layout.initializeDefaults()
picture = QgsLayoutItemMap(layout)
picture.attemptMove(QgsLayoutPoint(5, 5, QgsUnitTypes.LayoutMillimeters))
picture.attemptResize(QgsLayoutSize(200, 200, QgsUnitTypes.LayoutMillimeters))
picture.setExtent(layer.extent())
layout.addLayoutItem(picture)
legend = QgsLayoutItemLegend(layout)
legend.attemptMove(QgsLayoutPoint(215, 5, QgsUnitTypes.LayoutMillimeters))
layout.addLayoutItem(legend)
settings = QgsLayoutExporter.ImageExportSettings()
settings.dpi = 96
drawn = QgsLayoutExporter(layout).exportToImage(sys.argv[2], settings)
found = {
    "valid": layer.isValid(),
    "drawn": drawn == QgsLayoutExporter.Success,
    "crs": layer.crs().authid(),
    "renderer": layer.renderer().type(),
    "classes": [[int(each.value), each.label, each.color.name().upper()] for each in layer.renderer().classes()],
}
print(json.dumps(found), flush=True)
os._exit(0)  # QGIS' own clean-up of a layout without a screen is not always safe
