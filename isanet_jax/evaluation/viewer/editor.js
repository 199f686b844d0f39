"use strict";
// The reader's tools: clicks, brush and eraser, lesions, slices; undo, drafts, versions. Masks are
// edited on the first image's own grid, and the server measures and keeps them.

const AUTOSAVE_MS = 1500, MEASURE_MS = 400, AGAIN_MS = 3000, MOST_UNDONE = 200;

async function packed(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Exact squared distances to the nearest 1 of a line of squared distances (Felzenszwalb 2012).
function nearest(line, spacing) {
  const n = line.length, hull = new Int32Array(n), edges = new Float64Array(n + 1), out = new Float64Array(n);
  const at = (i) => i * spacing, meet = (a, b) => (line[a] + at(a) ** 2 - line[b] - at(b) ** 2) / (2 * (at(a) - at(b)));
  let k = -1;
  for (let i = 0; i < n; i++) {
    if (line[i] === Infinity) continue;
    while (k >= 0 && meet(i, hull[k]) <= edges[k]) k--;
    k += 1;
    hull[k] = i;
    edges[k] = k ? meet(i, hull[k - 1]) : -Infinity;
  }
  if (k < 0) return out.fill(Infinity);
  for (let i = 0, j = 0; i < n; i++) {
    while (j < k && edges[j + 1] < at(i)) j++;
    out[i] = (at(i) - at(hull[j])) ** 2 + line[hull[j]];
  }
  return out;
}

// Distance of each pixel of a slice to the nearest one of a kind.
function distances(slice, kind, rows, columns, down, right) {
  const field = Float64Array.from(slice, (v) => (v === kind ? 0 : Infinity));
  for (let c = 0; c < columns; c++) {
    const line = nearest(Float64Array.from({ length: rows }, (_, r) => field[r * columns + c]), down);
    line.forEach((v, r) => { field[r * columns + c] = v; });
  }
  for (let r = 0; r < rows; r++) field.set(nearest(field.slice(r * columns, (r + 1) * columns), right), r * columns);
  return field.map(Math.sqrt);
}

// Positive outside, negative inside.
function signed(slice, rows, columns, down, right) {
  const outside = distances(slice, 1, rows, columns, down, right), inside = distances(slice, 0, rows, columns, down, right);
  return outside.map((v, i) => v - inside[i]);
}

class Editor {
  constructor(viewer) {
    Object.assign(this, { viewer, tool: "look", undone: [], done: [], stroke: null, dirty: false, version: 0 });
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.addEventListener("click", () => this.take(button.dataset.tool));
    }
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("undo", () => this.undo());
    on("redo", () => this.redo());
    on("delete-lesion", () => this.onLesion((inside) => this.change(inside, 0)));
    on("keep-lesion", () => this.onLesion((inside) => this.keepOnly(inside)));
    on("reclass", () => this.onLesion((inside) => this.change(inside, +byId("class").value)));
    on("between", () => this.fillBetween());
    on("save", () => this.save());
    byId("by").addEventListener("input", () => {
      byId("by-value").value = { share: 41, suv: 4, network: 50 }[byId("by").value];
    });
    byId("compare").addEventListener("input", () => this.compare());
    byId("export").addEventListener("input", () => this.get());
    addEventListener("pointerup", () => this.endStroke());
    addEventListener("beforeunload", (event) => { if (this.dirty) event.preventDefault(); });
  }

  take(tool) {
    this.tool = tool;
    document.querySelectorAll("[data-tool]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.tool === tool));
  }

  // A case has been opened: its label is one value for each voxel.
  opened() {
    const { viewer } = this, { data, masks, shape } = viewer;
    this.label = new Uint8Array(shape[0] * shape[1] * shape[2]);
    this.classes = data.classes;
    for (const mask of masks.filter((m) => m.role === "prediction")) {
      mask.data.forEach((bit, i) => { if (bit) this.label[i] = this.classes[mask.class]; });
    }
    Object.assign(this, { clicks: [], done: [], undone: [], dirty: false, version: data.version });
    byId("class").replaceChildren(...Object.entries(this.classes).map(([name, value]) => new Option(name, value)));
    byId("compare").replaceChildren(new Option("nothing", ""), ...data.versions.map((v) =>
      new Option(`${v.number} ${v.tag} ${v.who} ${v.when}`, v.number)));
    const names = ["", "nifti", ...data.formats];
    byId("export").replaceChildren(...names.map((name) => new Option(name || "…", name)));
    byId("by").querySelector("[value=network]").disabled = !data.has_network;
    this.say(data.draft ? "a draft that was not saved" : "");
  }

  say(text) { byId("saved").textContent = text; }

  // What a tool does at a place; whether there was one.
  press(place, sheet) {
    if (this.tool === "look" || !this.label) return false;
    if (this.tool === "tumour" || this.tool === "not") { this.click(place); return true; }
    this.stroke = new Map();
    this.last = place;
    this.paint(place);
    return true;
  }

  drag(place) {
    if (!this.stroke) return this.tool !== "look";
    const steps = Math.max(1, ...place.map((p, i) => Math.abs(p - this.last[i])));
    for (let step = 1; step <= steps; step++) {
      this.paint(place.map((p, i) => Math.round(this.last[i] + ((p - this.last[i]) * step) / steps)), step === steps);
    }
    this.last = place;
    return true;
  }

  // A ball, in mm, around a voxel.
  paint(place, draws = true) {
    const { viewer } = this, { shape, data: { spacing } } = viewer, radius = +byId("brush-mm").value / 2;
    const value = this.tool === "eraser" ? 0 : +byId("class").value;
    const reach = spacing.map((s) => Math.floor(radius / s));
    for (let z = Math.max(0, place[0] - reach[0]); z <= Math.min(shape[0] - 1, place[0] + reach[0]); z++) {
      for (let y = Math.max(0, place[1] - reach[1]); y <= Math.min(shape[1] - 1, place[1] + reach[1]); y++) {
        for (let x = Math.max(0, place[2] - reach[2]); x <= Math.min(shape[2] - 1, place[2] + reach[2]); x++) {
          const far = ((z - place[0]) * spacing[0]) ** 2 + ((y - place[1]) * spacing[1]) ** 2 + ((x - place[2]) * spacing[2]) ** 2;
          if (far > radius ** 2) continue;
          const index = viewer.index([z, y, x]);
          if (this.label[index] === value) continue;
          if (!this.stroke.has(index)) this.stroke.set(index, this.label[index]);
          this.label[index] = value;
        }
      }
    }
    if (draws) { this.show(); viewer.state.place = place; viewer.drawPlanes(); }
  }

  endStroke() {
    if (!this.stroke) return;
    const before = this.stroke;
    this.stroke = null;
    this.note(before);
  }

  // Keeps what was changed (index -> value before) for undo, and has it measured and saved.
  note(before) {
    const changed = [...before].filter(([index, value]) => this.label[index] !== value);
    if (!changed.length) return;
    this.done.push({ before: changed, after: changed.map(([index]) => [index, this.label[index]]) });
    if (this.done.length > MOST_UNDONE) this.done.shift();
    this.undone = [];
    this.changed();
  }

  // Voxels get a value; whole operations.
  change(indices, value) {
    const before = new Map();
    for (const index of indices) {
      if (this.label[index] === value) continue;
      before.set(index, this.label[index]);
      this.label[index] = value;
    }
    this.note(before);
  }

  undo() { this.step(this.done, this.undone, "before"); }
  redo() { this.step(this.undone, this.done, "after"); }

  step(from, to, side) {
    const one = from.pop();
    if (!one) return;
    for (const [index, value] of one[side]) this.label[index] = value;
    to.push(one);
    this.changed();
  }

  changed() {
    this.dirty = true;
    this.show();
    this.viewer.projection.load();
    this.viewer.draw();
    clearTimeout(this.saving);
    clearTimeout(this.measuring);
    this.measuring = setTimeout(() => this.measure(), MEASURE_MS);
    this.saving = setTimeout(() => this.send("draft"), AUTOSAVE_MS);
  }

  // The viewer's masks are bits of the label.
  show() {
    for (const mask of this.viewer.masks.filter((m) => m.role === "prediction")) {
      const values = this.viewer.data.values[mask.class];
      for (let i = 0; i < this.label.length; i++) mask.data[i] = values.includes(this.label[i]) ? 1 : 0;
    }
  }

  // The 26-connected component of any class at the crosshair.
  component() {
    const { viewer } = this, [d, h, w] = viewer.shape, start = viewer.index(viewer.state.place);
    if (!this.label[start]) return null;
    const seen = new Set([start]), waiting = [start];
    while (waiting.length) {
      const index = waiting.pop(), z = Math.floor(index / (h * w)), y = Math.floor(index / w) % h, x = index % w;
      for (let a = Math.max(0, z - 1); a <= Math.min(d - 1, z + 1); a++)
        for (let b = Math.max(0, y - 1); b <= Math.min(h - 1, y + 1); b++)
          for (let c = Math.max(0, x - 1); c <= Math.min(w - 1, x + 1); c++) {
            const next = (a * h + b) * w + c;
            if (this.label[next] && !seen.has(next)) { seen.add(next); waiting.push(next); }
          }
    }
    return seen;
  }

  onLesion(act) {
    const inside = this.component();
    if (inside) act(inside); else this.say("no lesion at the crosshair");
  }

  keepOnly(inside) {
    const others = [];
    this.label.forEach((value, index) => { if (value && !inside.has(index)) others.push(index); });
    this.change(others, 0);
  }

  // Axial slices between two that have the class are filled by the shape halfway between theirs.
  fillBetween() {
    const { viewer } = this, [d, h, w] = viewer.shape, [, down, right] = viewer.data.spacing;
    const value = +byId("class").value, slice = (z) => this.label.slice(z * h * w, (z + 1) * h * w).map((v) => (v === value ? 1 : 0));
    const has = Array.from({ length: d }, (_, z) => slice(z).includes(1));
    const drawn = has.map((is, z) => (is ? z : -1)).filter((z) => z >= 0), filled = [];
    for (let i = 1; i < drawn.length; i++) {
      const [low, high] = [drawn[i - 1], drawn[i]];
      if (high - low < 2) continue;
      const [a, b] = [low, high].map((z) => signed(slice(z), h, w, down, right));
      for (let z = low + 1; z < high; z++) {
        const share = (z - low) / (high - low);
        for (let j = 0; j < h * w; j++) {
          if (a[j] * (1 - share) + b[j] * share < 0 && !this.label[z * h * w + j]) filled.push(z * h * w + j);
        }
      }
    }
    if (filled.length) this.change(filled, value); else this.say("no empty slices between others");
  }

  // By the server.

  url(what, more = "") { return `page/${what}?image=${encodeURIComponent(this.viewer.name)}${more}`; }

  async ask(url, options) {
    const answer = await fetch(url, options);
    const content = await answer.json().catch(() => ({ detail: `status ${answer.status}` }));
    if (!answer.ok) throw new Error(content.detail || `status ${answer.status}`);
    return content;
  }

  async click(place) {
    const index = this.viewer.index(place);
    this.viewer.setPlace(place);
    const guided = byId("by").value === "network";
    if (this.tool === "not" && !guided) { this.onLesion((inside) => this.change(inside, 0)); return; }
    if (guided) this.clicks.push({ place, here: this.tool === "tumour" });
    const name = byId("class").selectedOptions[0].textContent;
    const body = { place, class: name, clicks: guided ? this.clicks : [], by: byId("by").value, value: +byId("by-value").value, radius_mm: +byId("radius").value };
    try {
      const found = await this.ask(this.url("click"), { method: "POST", body: JSON.stringify(body) });
      const bits = bitsOf(await unpacked(found.mask), this.label.length), inside = [];
      bits.forEach((bit, i) => { if (bit) inside.push(i); });
      const value = +byId("class").value;
      if (found.whole) { // all of the class, as the network says with the clicks so far
        const before = new Map(), within = found.within && bitsOf(await unpacked(found.within), this.label.length);
        bits.forEach((bit, i) => {
          if (within && !within[i]) return; // of a whole body, it looked around the click alone
          const now = bit ? value : this.label[i] === value ? 0 : this.label[i];
          if (now !== this.label[i]) { before.set(i, this.label[i]); this.label[i] = now; }
        });
        this.note(before);
        document.body.dataset.clicked = index;
        return;
      }
      if (!inside.length) { this.say("nothing there reaches the threshold"); return; }
      this.change(inside, value);
      document.body.dataset.clicked = index;
    } catch (error) { this.say(error.message); }
  }

  async measure() {
    try {
      const found = await this.ask(this.url("measure"), { method: "POST", body: await packed(this.label) });
      const { viewer } = this, place = viewer.state.place;
      viewer.data.lesions = found.lesions;
      viewer.data.lesions.forEach((one, i) => { one.label = one.label || String(i + 1); });
      viewer.data.summary = found.summary;
      viewer.chosenLesion = null;
      viewer.tell();
      viewer.list();
      viewer.state.place = place;
      viewer.draw();
      document.body.dataset.measured = JSON.stringify(found.summary);
    } catch (error) { this.say(error.message); }
  }

  save() { clearTimeout(this.saving); return this.send("final"); }

  // What could not be sent stays, and is tried again.
  async send(tag) {
    const name = this.viewer.name, body = await packed(this.label), state = this.done.at(-1);
    const more = `&tag=${tag}&base=${this.version}&who=${encodeURIComponent(byId("who").value)}`;
    try {
      const saved = await this.ask(this.url("mask", more), { method: "PUT", body });
      if (this.viewer.name !== name) return;
      if (tag === "final") {
        const beside = saved.beside.length ? `; ${saved.beside.map((v) => v.who || "somebody").join(", ")} saved meanwhile, too` : "";
        this.version = saved.number;
        this.say(`version ${saved.number} is kept${beside}`);
        byId("compare").append(new Option(`${saved.number} ${saved.tag} ${saved.who} ${saved.when}`, saved.number));
      } else this.say("draft kept");
      if (this.done.at(-1) === state) this.dirty = false;
      document.body.dataset.kept = `${tag} ${saved.number}`;
    } catch (error) {
      this.say(`NOT SAVED (${error.message}); tried again`);
      this.saving = setTimeout(() => this.send(tag), AGAIN_MS);
    }
  }

  // Another version is shown as the reference.
  async compare() {
    const { viewer } = this, number = byId("compare").value;
    viewer.masks = viewer.masks.filter((mask) => mask.role !== "reference");
    if (number) {
      try {
        const found = await this.ask(this.url("version", `&number=${number}`));
        const bits = await unpacked(found.label);
        Object.keys(viewer.data.values).forEach((name, i) => {
          const data = Uint8Array.from(bits, (v) => (viewer.data.values[name].includes(v) ? 1 : 0));
          viewer.masks.push({ class: name, role: "reference", number: i, data });
        });
      } catch (error) { this.say(error.message); }
    }
    viewer.keys();
    viewer.projection.load();
    viewer.draw();
    document.body.dataset.compared = number;
  }

  async get() {
    const format = byId("export").value;
    if (!format) return;
    byId("export").value = "";
    await this.send("draft");
    const link = made("a", { href: this.url("export", `&format=${format}`), download: "" });
    link.click();
  }
}

class EditingViewer extends Viewer {
  constructor() {
    super();
    this.editor = new Editor(this);
    document.addEventListener("keydown", (event) => {
      if (event.target.closest?.("input, select")) return;
      const key = event.key.toLowerCase(), held = event.ctrlKey || event.metaKey;
      const acts = { l: "look", t: "tumour", x: "not", b: "brush", e: "eraser" };
      if (held && key === "z") { event.preventDefault(); if (event.shiftKey) this.editor.redo(); else this.editor.undo(); }
      else if (held && key === "y") { event.preventDefault(); this.editor.redo(); }
      else if (held && key === "s") { event.preventDefault(); this.editor.save(); }
      else if (!held && key in acts) this.editor.take(acts[key]);
    });
  }

  async fetched(name) {
    const answer = await fetch(`page/data?image=${encodeURIComponent(name)}`);
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.detail);
    history.replaceState(null, "", `#${encodeURIComponent(name)}`);
    return data;
  }

  async open(name, lesion) {
    if (this.editor?.dirty) await this.editor.send("draft");
    try { await super.open(name, lesion); } catch (error) { byId("saved").textContent = error.message; }
  }
}
