// Naming, colouring and merging: fields that change classes, and all places that show them.

const percent = (share) => `${(100 * share).toFixed(1)}%`;

function areaText({ km2, pixels }) {
  if (km2 === null) return `${pixels.toLocaleString("en")} px`;
  const digits = km2 >= 100 || km2 <= 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(km2)));
  return `${km2.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} km²`;
}

const each = (selector, change) => document.querySelectorAll(selector).forEach(change);

// Offer every class that is not merged itself; a select knows its class by data-id.
function fillMerge(select) {
  const id = Number(select.dataset.id);
  const options = [new Option("Its own class", "")];
  for (const other of roots()) {
    if (other !== id) options.push(new Option(`Merge into ${nameOf(other)}`, other));
  }
  select.replaceChildren(...options);
  select.value = mergedInto(id) ?? "";
}

function showClasses() {
  const totals = new Map(roots().map((id) => [id, totalOf(id)]));
  each("[data-fill]", (node) => node.setAttribute("fill", colorOf(rootOf(Number(node.dataset.fill)))));
  each("[data-stroke]", (node) => node.setAttribute("stroke", colorOf(rootOf(Number(node.dataset.stroke)))));
  each("[data-name]", (node) => { node.textContent = nameOf(rootOf(Number(node.dataset.name))); });
  each("[data-share]", (node) => {
    node.textContent = percent((totals.get(Number(node.dataset.share)) ?? classes.get(Number(node.dataset.share))).share);
  });
  each("[data-area]", (node) => {
    node.textContent = areaText(totals.get(Number(node.dataset.area)) ?? classes.get(Number(node.dataset.area)));
  });
  each("[data-length]", (node) => {
    node.setAttribute("width", 100 * (totals.get(Number(node.dataset.length)) ?? classes.get(Number(node.dataset.length))).share);
  });
  each("[data-class]", (node) => node.classList.toggle("merged", mergedInto(Number(node.dataset.class)) !== null));
  each("[data-edit][data-id]", showField);
  each("[data-merge]", (node) => {
    node.disabled = rootOf(Number(node.dataset.merge)) === rootOf(Number(node.dataset.into));
    node.textContent = node.disabled ? "Merged" : "Merge";
  });
}

function showField(field) {
  const id = Number(field.dataset.id);
  if (field.dataset.edit === "merge") {
    fillMerge(field);
    return;
  }
  field.disabled = mergedInto(id) !== null;
  field.value = field.dataset.edit === "name" ? nameOf(rootOf(id)) : colorOf(rootOf(id)).toLowerCase();
}

function showBar() {
  const count = countEdits();
  $("edits").hidden = !count && !past.length && !future.length;
  $("edit-count").textContent = count ? `${count} ${count === 1 ? "change" : "changes"}.` : "No changes.";
  $("undo").disabled = !past.length;
  $("redo").disabled = !future.length;
  $("save").disabled = !count;
}

function showPicked() {
  const id = show.picked;
  each("[data-select][aria-pressed]", (node) => node.setAttribute("aria-pressed", String(Number(node.dataset.select) === id)));
  each(".card", (node) => node.classList.toggle("picked", Number(node.dataset.class) === id));
  $("show-all").hidden = id === null;
  $("inspector").hidden = id === null;
  if (id === null) return;
  for (const field of $("inspector").querySelectorAll("[data-edit]")) {
    field.dataset.id = id;
    showField(field);
  }
}

function save() {
  const blob = new Blob([`${JSON.stringify(exported(), null, 1)}\n`], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "class-edits.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  announce("Saved as class-edits.json");
}

const announce = (text) => { $("status").textContent = text; };
