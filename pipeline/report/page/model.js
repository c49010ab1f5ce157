// What the page knows: the classes as the map holds them, and what the analyst changed about them.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const classes = new Map(data.classes.map((each) => [each.id, each]));

// Changes by class id: { name, color, merge_into }, only what differs from the map. Replaced, never altered.
let edits = {};
const past = [];
const future = [];
const listeners = [];
const remembered = `ktextures-class-edits:${data.key}`;

const mergedInto = (id) => edits[id]?.merge_into ?? null;
const rootOf = (id) => mergedInto(id) ?? id;
const nameOf = (id) => edits[id]?.name ?? classes.get(id).name;
const colorOf = (id) => edits[id]?.color ?? classes.get(id).color;
const roots = () => [...classes.keys()].filter((id) => mergedInto(id) === null);
const countEdits = () => Object.values(edits).reduce((sum, each) => sum + Object.keys(each).length, 0);

// The class with all that is merged into it.
function totalOf(id) {
  const parts = [...classes.values()].filter((each) => rootOf(each.id) === id);
  const sum = (name) => parts.reduce((total, each) => total + each[name], 0);
  return { share: sum("share"), pixels: sum("pixels"), km2: parts[0]?.km2 === null ? null : sum("km2") };
}

function replaceEdits(next) {
  edits = next;
  try {
    localStorage.setItem(remembered, JSON.stringify(edits));
  } catch {
    // A browser that keeps nothing for local files: the page itself still does.
  }
  listeners.forEach((listen) => listen());
}

function commit(next) {
  if (JSON.stringify(next) === JSON.stringify(edits)) {
    listeners.forEach((listen) => listen());
    return;
  }
  past.push(edits);
  future.length = 0;
  replaceEdits(next);
}

function step(from, to) {
  if (!from.length) return;
  to.push(edits);
  replaceEdits(from.pop());
}
const undo = () => step(past, future);
const redo = () => step(future, past);

// A copy of the edits in which one value of one class is set, or dropped where it is what the map has anyway.
function withValue(id, key, value, original) {
  const next = structuredClone(edits);
  const own = { ...next[id], [key]: value };
  if (value === original) delete own[key];
  if (Object.keys(own).length) next[id] = own;
  else delete next[id];
  return next;
}

function rename(id, text) {
  const name = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, " ").trim().slice(0, 80);
  commit(withValue(id, "name", name || classes.get(id).name, classes.get(id).name));
}

const recolor = (id, color) => commit(withValue(id, "color", color.toUpperCase(), classes.get(id).color));

// What was merged into a class goes with it; a class that is merged has no name or colour of its own any more.
function merge(id, target) {
  if (target === null) {
    commit(withValue(id, "merge_into", null, null));
    return;
  }
  const into = rootOf(target);
  if (into === id) return;
  const next = structuredClone(edits);
  for (const each of [id, ...[...classes.keys()].filter((other) => mergedInto(other) === id)]) {
    next[each] = { merge_into: into };
  }
  commit(next);
}

const exported = () => ({
  format: "ktextures-class-edits",
  version: 1,
  edits: Object.keys(edits)
    .map(Number)
    .sort((a, b) => a - b)
    .map((id) => ({ id, ...edits[id] })),
});

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(remembered) ?? "{}");
    const known = Object.entries(found).every(
      ([id, each]) => classes.has(Number(id)) && (each.merge_into === undefined || classes.has(each.merge_into)),
    );
    if (known) edits = found;
  } catch {
    edits = {};
  }
}

async function unpack(id, bytes) {
  const packed = Uint8Array.from(atob($(id).textContent.trim()), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return bytes === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer);
}
