// Wires.

function pick(id) {
  show.picked = id === null || show.picked === rootOf(id) ? null : rootOf(id);
  showPicked();
  paintLabels();
}

listeners.push(showClasses, showBar, () => {
  if (show.picked !== null) show.picked = rootOf(show.picked);
  showPicked();
  paintLabels();
});

document.addEventListener("change", (event) => {
  const { edit, id } = event.target.dataset;
  if (edit === "name") rename(Number(id), event.target.value);
  else if (edit === "color") recolor(Number(id), event.target.value);
  else if (edit === "merge") merge(Number(id), event.target.value === "" ? null : Number(event.target.value));
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-select], [data-merge]");
  if (!button) return;
  if (button.dataset.merge) merge(Number(button.dataset.merge), Number(button.dataset.into));
  else pick(Number(button.dataset.select));
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=text]") && event.key === "Enter") event.target.blur();
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input[type=text]")) return;
  event.preventDefault();
  (event.shiftKey ? redo : undo)();
});

document.querySelectorAll("[name=mode]").forEach((radio) => radio.addEventListener("change", () => {
  show.mode = radio.value;
  document.querySelectorAll("[data-mode]").forEach((tool) => { tool.hidden = tool.dataset.mode !== show.mode; });
  $("divider").hidden = show.mode !== "swipe";
  showRamp();
  redraw();
}));
for (const name of ["layer", "left", "right"]) {
  $(name).addEventListener("change", () => {
    show[name] = $(name).value;
    showRamp();
    redraw();
  });
}
$("opacity").addEventListener("input", () => {
  show.opacity = Number($("opacity").value) / 100;
  redraw();
});
$("outlines")?.addEventListener("change", () => {
  show.outlines = $("outlines").checked;
  redraw();
});

function showRamp() {
  const seen = show.mode === "swipe" ? [show.left, show.right] : [show.layer];
  $("ramp").hidden = !seen.includes("confidence");
}

$("zoom-in").addEventListener("click", () => zoom(1.6));
$("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
$("zoom-fit").addEventListener("click", fit);
$("show-all").addEventListener("click", () => pick(null));
$("undo").addEventListener("click", undo);
$("redo").addEventListener("click", redo);
$("save").addEventListener("click", save);

followPointers(pick);
followKeys(pick, announce);
followDivider();
new ResizeObserver(resize).observe(stage);

recall();
showClasses();
showBar();
try {
  await loadLayers();
  $("loading").remove();
  paintLabels();
  resize();
  stage.dataset.ready = "yes";
} catch (error) {
  $("loading").textContent = "The map cannot be drawn by this browser; a current one can.";
  throw error;
}
