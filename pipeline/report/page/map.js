// The map: layers on a canvas that can be moved, zoomed, laid over each other and wiped.

const canvas = $("canvas");
const stage = $("stage");
const pen = canvas.getContext("2d");
const MAX_ZOOM = 24;
const view = { scale: 1, x: 0, y: 0, width: 0, height: 0 };
const show = { mode: "overlay", layer: "labels", opacity: Number($("opacity").value) / 100, left: $("left").value,
  right: $("right").value, split: 0.5, outlines: false, picked: null };
const layers = {};
let labels, confidence, queued = false;

const hex = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
const RAMP = ["#5B1A45", "#B33B4A", "#E58A4F", "#F4D58D", "#FBF6E4"].map(hex);

function rampColor(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((value, band) => Math.round(value + (at - low) * (RAMP[low + 1][band] - value)));
}

// Paint one layer from its values by a table from value to colour, [r, g, b, a].
function paint(name, values, tableOf) {
  const layer = layers[name] ?? Object.assign(document.createElement("canvas"), { width: data.width, height: data.height });
  layers[name] = layer;
  const brush = layer.getContext("2d");
  const image = brush.createImageData(data.width, data.height);
  const colors = new Uint32Array(values.BYTES_PER_ELEMENT === 2 ? 65536 : 256);
  const bytes = new Uint8Array(colors.buffer);
  for (const [value, color] of tableOf) bytes.set(color, value * 4);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = colors[values[i]];
  brush.putImageData(image, 0, 0);
}

function paintLabels() {
  if (!labels) return;
  const table = [...classes.keys()].map((id) => {
    const faint = show.picked !== null && rootOf(id) !== show.picked;
    return [id, [...hex(colorOf(rootOf(id))), faint ? 28 : 255]];
  });
  paint("labels", labels, table);
  redraw();
}

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    draw();
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = stage;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (show.mode === "swipe") {
    const x = show.split * width;
    drawClipped(0, x, () => drawLayer(show.left, 1));
    drawClipped(x, width - x, () => drawLayer(show.right, 1));
  } else {
    if (layers.image) drawLayer("image", 1);
    drawLayer(show.layer, show.opacity);
  }
  if (show.outlines) drawOutlines();
  if (canvas.matches(":focus-visible")) drawCross(width / 2, height / 2);
}

function drawClipped(x, width, drawing) {
  pen.save();
  pen.beginPath();
  pen.rect(x, 0, width, view.height);
  pen.clip();
  drawing();
  pen.restore();
}

function drawLayer(name, opacity) {
  if (!layers[name]) return;
  pen.globalAlpha = opacity;
  pen.imageSmoothingEnabled = view.scale < 1;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(layers[name], view.x, view.y, data.width * view.scale, data.height * view.scale);
  pen.globalAlpha = 1;
}

function drawOutlines() {
  pen.beginPath();
  for (const row of data.rows) line(view.x, at("y", row), view.x + data.width * view.scale, at("y", row));
  for (const column of data.columns) line(at("x", column), view.y, at("x", column), view.y + data.height * view.scale);
  for (const [color, width] of [["rgb(0 0 0 / 55%)", 3], ["#fff", 1.25]]) {
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  }
}
const at = (axis, pixel) => view[axis] + (pixel / data.factor) * view.scale;

function line(x0, y0, x1, y1) {
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
}

function drawCross(x, y) {
  pen.beginPath();
  line(x - 9, y, x + 9, y);
  line(x, y - 9, x, y + 9);
  for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  }
}

const fitScale = () => Math.min(view.width / data.width, view.height / data.height);

function fit() {
  view.scale = fitScale();
  view.x = (view.width - data.width * view.scale) / 2;
  view.y = (view.height - data.height * view.scale) / 2;
  settle();
}

// Keep the map in sight; on touch screens a map that fits leaves the vertical drag to the page.
function settle() {
  for (const [axis, size, room] of [["x", data.width, view.width], ["y", data.height, view.height]]) {
    const extent = size * view.scale;
    view[axis] = extent <= room ? (room - extent) / 2 : Math.min(0, Math.max(room - extent, view[axis]));
  }
  canvas.style.touchAction = view.scale > fitScale() * 1.01 ? "none" : "pan-y";
  redraw();
}

function zoom(factor, x = view.width / 2, y = view.height / 2) {
  const scale = Math.min(Math.max(view.scale * factor, fitScale()), Math.max(MAX_ZOOM, fitScale()));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  settle();
}

function move(x, y) {
  view.x += x;
  view.y += y;
  settle();
}

function resize() {
  const fitted = view.width === 0 || view.scale <= fitScale() * 1.01;
  const centre = [(view.width / 2 - view.x) / view.scale, (view.height / 2 - view.y) / view.scale];
  [view.width, view.height] = [stage.clientWidth, stage.clientHeight];
  if (fitted) {
    fit();
    return;
  }
  view.x = view.width / 2 - centre[0] * view.scale;
  view.y = view.height / 2 - centre[1] * view.scale;
  settle();
}

// What lies under a point of the stage; null outside the map and where there is no class.
function look(x, y) {
  const column = Math.floor((x - view.x) / view.scale);
  const row = Math.floor((y - view.y) / view.scale);
  if (!labels || column < 0 || row < 0 || column >= data.width || row >= data.height) return null;
  const index = row * data.width + column;
  if (labels[index] === data.nodata) return null;
  const [px, py] = [(column + 0.5) * data.factor, (row + 0.5) * data.factor];
  const [a, b, c, d, e, f] = data.transform;
  return { id: rootOf(labels[index]), sure: confidence[index] * data.confidence, east: a * px + b * py + c,
    north: d * px + e * py + f };
}

function tell(found) {
  const readout = $("readout");
  readout.hidden = found === null;
  if (found === null) return;
  const digits = data.degrees ? 5 : 0;
  const name = Object.assign(document.createElement("b"), { textContent: nameOf(found.id) });
  const rest = Object.assign(document.createElement("span"), {
    textContent: `  ${Math.round(found.sure * 100)}% sure · ${found.east.toFixed(digits)}, ${found.north.toFixed(digits)}`,
  });
  readout.replaceChildren(name, rest);
}

function followPointers(pick) {
  const down = new Map();
  let travelled = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [[ax, ay], [bx, by]] = [...down.values()];
    return [Math.hypot(ax - bx, ay - by), (ax + bx) / 2, (ay + by) / 2];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!down.size) travelled = 0;
    down.set(event.pointerId, place(event));
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("moving");
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = place(event);
    const last = down.get(event.pointerId);
    if (!last) {
      tell(look(...here));
      return;
    }
    const before = down.size === 2 ? spread() : null;
    down.set(event.pointerId, here);
    travelled += Math.hypot(here[0] - last[0], here[1] - last[1]);
    if (before) {
      const [distance, x, y] = spread();
      move(x - before[1], y - before[2]);
      zoom(distance / Math.max(before[0], 1), x, y);
    } else if (travelled > 4) move(here[0] - last[0], here[1] - last[1]);
  });
  const up = (event) => {
    const held = down.delete(event.pointerId);
    if (!down.size) canvas.classList.remove("moving");
    if (!held || event.type !== "pointerup" || travelled > 4 || down.size) return;
    const found = look(...place(event));
    tell(found);
    pick(found?.id ?? null);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => tell(null));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), ...place(event));
  }, { passive: false });
}

function followKeys(pick, announce) {
  const keys = { ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60),
    ArrowDown: () => move(0, -60), "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit,
    Escape: () => pick(null) };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const middle = () => look(view.width / 2, view.height / 2);
    if (event.key === "Enter") {
      const found = middle();
      pick(found?.id ?? null);
      announce(found ? `${nameOf(found.id)}, ${Math.round(found.sure * 100)}% sure` : "No class here");
    } else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
    tell(middle());
  });
  canvas.addEventListener("focus", redraw);
  canvas.addEventListener("blur", () => {
    tell(null);
    redraw();
  });
}

function followDivider() {
  const divider = $("divider");
  const put = (share) => {
    show.split = Math.min(Math.max(share, 0), 1);
    divider.style.left = `${show.split * 100}%`;
    divider.setAttribute("aria-valuenow", String(Math.round(show.split * 100)));
    redraw();
  };
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    put((event.clientX - stage.getBoundingClientRect().left) / view.width);
  });
  divider.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
    const to = event.key === "Home" ? 0 : event.key === "End" ? 1 : show.split + (steps[event.key] ?? NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    put(to);
  });
}

async function loadLayers() {
  [labels, confidence] = await Promise.all([unpack("labels", data.bytes), unpack("confidence", 1)]);
  const sure = Array.from({ length: Math.round(1 / data.confidence) + 1 }, (_, i) => [i, [...rampColor(i * data.confidence), 255]]);
  paint("confidence", confidence, sure);
  if ($("image")) {
    const image = new Image();
    image.src = $("image").textContent.trim();
    await image.decode();
    layers.image = image;
  }
  const ramp = $("ramp-bar");
  const brush = ramp.getContext("2d");
  for (let x = 0; x < ramp.width; x += 1) {
    brush.fillStyle = `rgb(${rampColor(x / (ramp.width - 1)).join(" ")})`;
    brush.fillRect(x, 0, 1, ramp.height);
  }
}
