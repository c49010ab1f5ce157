<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <rasterTransparency />
      <colorPalette>
        <paletteEntry value="0" color="#e69f00" alpha="255" label="class 0" />
        <paletteEntry value="1" color="#56b4e9" alpha="255" label="class 1" />
        <paletteEntry value="2" color="#009e73" alpha="255" label="class 2" />
      </colorPalette>
    </rasterrenderer>
    <provider>
      <resampling enabled="false" zoomedInResamplingMethod="nearestNeighbour" zoomedOutResamplingMethod="nearestNeighbour" />
    </provider>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
