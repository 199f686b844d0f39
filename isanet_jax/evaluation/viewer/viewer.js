"use strict";
// Looks through cases without a network: three planes, fusion, contours, a turning projection.
// Volumes are (D, H, W), D from feet to head, H from front to back, W from the patient's right.

const PLANES = [
  { name: "axial", across: 0, rows: 1, columns: 2, headUp: false },
  { name: "coronal", across: 1, rows: 0, columns: 2, headUp: true },
  { name: "sagittal", across: 2, rows: 0, columns: 1, headUp: true },
];
const WINDOWS = {
  ct: { "soft tissue": [-160, 240], wide: [-1024, 1024], lung: [-1350, 150], bone: [-200, 1800] },
  pet: { "SUV 0-5": [0, 5], "SUV 0-10": [0, 10], "SUV 0-20": [0, 20], "SUV 0-40": [0, 40] },
};
// Okabe and Ito's colours: of references, and of predictions.
const COLOURS = {
  reference: ["#56b4e9", "#009e73", "#f0e442"],
  prediction: ["#e69f00", "#d55e00", "#cc79a7", "#f5c710", "#ffffff", "#9f0162"],
};
const byId = (id) => document.getElementById(id);

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function bitsOf(bytes, count) {
  const mask = new Uint8Array(count);
  for (let i = 0; i < count; i++) mask[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return mask;
}

function hot(t) {
  const part = (from, width) => Math.max(0, Math.min(1, (t - from) / width));
  return [255 * part(0, 0.36), 255 * part(0.36, 0.4), 255 * part(0.76, 0.24)];
}

// The entropy of a probability, in bits.
function uncertainty(p) {
  const bits = (q) => (q > 0 && q < 1 ? -q * Math.log2(q) : 0);
  return bits(p) + bits(1 - p);
}

class Volume {
  constructor(description, codes) {
    Object.assign(this, description); // name, kind, unit, values of the 256 codes
    this.codes = codes;
    this.low = this.values[0];
    this.high = this.values[255];
  }
  at(index) { return this.values[this.codes[index]]; }
  windows() {
    return WINDOWS[this.kind] || { full: [this.low, this.high], half: [this.low, (this.low + this.high) / 2] };
  }
}

class Viewer {
  constructor() {
    this.hidden = new Set(); // masks whose own tick is off
    this.state = { place: [0, 0, 0], angle: 0, fusion: 0.5 };
    this.canvases = PLANES.map((plane) => byId(plane.name));
    this.canvases.forEach((canvas, i) => this.listen(canvas, PLANES[i]));
    byId("mip").addEventListener("pointermove", (e) => { if (e.buttons) this.turn(e.movementX); });
    byId("mip").addEventListener("keydown", (e) => {
      if (e.key === "ArrowLeft") this.turn(-5);
      if (e.key === "ArrowRight") this.turn(5);
    });
    for (const id of ["fusion", "below", "above", "below-window", "above-window", "fill", "heat", "doubt",
      "show-reference", "show-prediction", "crosshair"]) {
      byId(id).addEventListener("input", () => { if (id === "below" || id === "above") this.fillWindows(); this.draw(); });
    }
    byId("angle").addEventListener("input", () => { this.state.angle = +byId("angle").value; this.drawProjection(); });
    byId("play").addEventListener("click", () => this.play());
    byId("case").addEventListener("change", () => this.open(byId("case").value));
    byId("next-lesion").addEventListener("click", () => this.jump(1));
    byId("previous-lesion").addEventListener("click", () => this.jump(-1));
    byId("worst").addEventListener("click", () => this.open(this.worst()));
    byId("theme").addEventListener("click", () => {
      const root = document.documentElement;
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    });
  }

  worst() {
    return cases.reduce((a, b) => (b.score < a.score ? b : a)).name;
  }

  async open(name) {
    const number = cases.findIndex((one) => one.name === name);
    const data = JSON.parse(byId(`case-${number}`).textContent);
    const [d, h, w] = data.shape, count = d * h * w;
    const volumes = [];
    for (const image of data.images) volumes.push(new Volume(image, await unpacked(image.data)));
    const masks = [];
    for (const mask of data.masks) {
      masks.push({ ...mask, data: bitsOf(await unpacked(mask.data), count) });
    }
    const probability = data.probability ? await unpacked(data.probability) : null;
    Object.assign(this, { data, name, shape: data.shape, volumes, masks, probability, lesion: -1 });
    byId("case").value = name;
    document.querySelectorAll("tr[data-case]").forEach((row) => {
      row.classList.toggle("chosen", row.dataset.case === name);
    });
    const options = volumes.map((v, i) => new Option(v.name, i));
    byId("below").replaceChildren(...options.map((o) => o.cloneNode(true)));
    byId("above").replaceChildren(...options.map((o) => o.cloneNode(true)));
    byId("above").value = Math.max(volumes.findIndex((v) => v.kind === "pet"), 0);
    this.fillWindows();
    byId("heat").disabled = byId("doubt").disabled = !probability;
    this.keys();
    this.state.place = data.lesions.length ? [...data.lesions[0].centre] : this.shape.map((n) => n >> 1);
    this.lesion = data.lesions.length ? 0 : -1;
    this.project();
    this.draw();
    document.body.dataset.opened = name;
  }

  fillWindows() {
    for (const id of ["below", "above"]) {
      const names = Object.keys(this.volumes[+byId(id).value].windows());
      const chosen = byId(`${id}-window`).value;
      byId(`${id}-window`).replaceChildren(...names.map((n) => new Option(n, n)));
      if (names.includes(chosen)) byId(`${id}-window`).value = chosen;
    }
  }

  keys() {
    const list = byId("keys");
    list.replaceChildren();
    this.masks.forEach((mask) => {
      const label = document.createElement("label"), tick = document.createElement("input");
      const mark = document.createElement("span"), name = `${mask.role} ${mask.class}`;
      tick.type = "checkbox";
      tick.checked = !this.hidden.has(name);
      tick.addEventListener("input", () => {
        if (tick.checked) this.hidden.delete(name); else this.hidden.add(name);
        this.drawPlanes();
      });
      mark.className = "key";
      mark.style.background = this.colour(mask);
      label.append(tick, mark, name);
      list.append(label);
    });
  }

  colour(mask) {
    return COLOURS[mask.role][mask.number % COLOURS[mask.role].length];
  }

  window(id) {
    const volume = this.volumes[+byId(id).value];
    return volume.windows()[byId(`${id}-window`).value] || Object.values(volume.windows())[0];
  }

  index(place) { return (place[0] * this.shape[1] + place[1]) * this.shape[2] + place[2]; }

  draw() {
    if (!this.volumes) return;
    this.drawPlanes();
    this.drawProjection();
  }

  // All that a new place changes: the projection, which costs more, is of all places.
  drawPlanes() {
    PLANES.forEach((plane, i) => this.drawPlane(this.canvases[i], plane));
    this.say();
  }

  // Row and column of a canvas -> voxel of the plane through the present place.
  voxel(plane, row, column) {
    const place = [...this.state.place];
    place[plane.rows] = plane.headUp ? this.shape[plane.rows] - 1 - row : row;
    place[plane.columns] = column;
    return place;
  }

  drawPlane(canvas, plane) {
    const rows = this.shape[plane.rows], columns = this.shape[plane.columns];
    const spacing = this.data.spacing;
    // Finer than the voxels, for sharp lines; of long voxels, finer along them.
    const scale = Math.max(1, Math.round(600 / Math.max(rows, columns)));
    const image = new OffscreenCanvas(columns, rows);
    canvas.width = columns * scale;
    canvas.height = rows * scale;
    const ratio = (columns * spacing[plane.columns]) / (rows * spacing[plane.rows]);
    const context = canvas.getContext("2d");
    const picture = image.getContext("2d").createImageData(columns, rows);
    const below = this.volumes[+byId("below").value], above = this.volumes[+byId("above").value];
    const [low, high] = this.window("below"), [from, to] = this.window("above");
    const fusion = below === above ? 0 : +byId("fusion").value / 100;
    const doubt = byId("doubt").checked, heat = (doubt || byId("heat").checked) && this.probability;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const index = this.index(this.voxel(plane, row, column));
        const grey = Math.max(0, Math.min(1, (below.at(index) - low) / (high - low))) * 255;
        let pixel = [grey, grey, grey];
        let weight = 0, colours = null;
        if (heat) {
          const p = doubt ? uncertainty(this.probability[index] / 255) : this.probability[index] / 255;
          weight = Math.min(1, p * 1.5) * 0.7;
          colours = [255 * p, 60 + 140 * p, 255 * (1 - p)];
        } else if (fusion) {
          const t = Math.max(0, Math.min(1, (above.at(index) - from) / (to - from)));
          weight = fusion * Math.min(1, 0.25 + t);
          colours = hot(t);
        }
        if (colours) pixel = pixel.map((v, i) => v * (1 - weight) + colours[i] * weight);
        picture.data.set([pixel[0], pixel[1], pixel[2], 255], (row * columns + column) * 4);
      }
    }
    image.getContext("2d").putImageData(picture, 0, 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.drawImage(image, 0, 0);
    this.fit(canvas, ratio);
    for (const mask of this.masks) {
      const shown = byId(mask.role === "reference" ? "show-reference" : "show-prediction").checked;
      if (shown && !this.hidden.has(`${mask.role} ${mask.class}`)) this.outline(context, plane, mask, rows, columns);
    }
    if (byId("crosshair").checked) this.cross(context, plane, rows, columns);
  }

  // A canvas is shown in the patient's proportions, whatever its voxels are.
  fit(canvas, ratio) {
    Object.assign(canvas.style, {
      aspectRatio: ratio, objectFit: "fill", height: "auto", maxHeight: "46vh", margin: "0 auto",
      width: `min(100%, calc(46vh * ${ratio}))`,
    });
  }

  // Edges between voxels in and out of a mask, as lines of the canvas's own pixels.
  outline(context, plane, mask, rows, columns) {
    const inside = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns
      && mask.data[this.index(this.voxel(plane, row, column))] === 1;
    context.strokeStyle = context.fillStyle = this.colour(mask);
    context.lineWidth = Math.max(rows, columns) / 220;
    context.beginPath();
    for (let row = 0; row <= rows; row++) {
      for (let column = 0; column <= columns; column++) {
        const here = inside(row, column);
        if (here !== inside(row - 1, column)) { context.moveTo(column, row); context.lineTo(column + 1, row); }
        if (here !== inside(row, column - 1)) { context.moveTo(column, row); context.lineTo(column, row + 1); }
      }
    }
    context.stroke();
    if (!byId("fill").checked) return;
    context.globalAlpha = 0.35;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) if (inside(row, column)) context.fillRect(column, row, 1, 1);
    }
    context.globalAlpha = 1;
  }

  cross(context, plane, rows, columns) {
    const at = this.state.place;
    const row = (plane.headUp ? rows - 1 - at[plane.rows] : at[plane.rows]) + 0.5;
    const column = at[plane.columns] + 0.5;
    context.strokeStyle = "#ffffff99";
    context.lineWidth = Math.max(rows, columns) / 400;
    context.beginPath();
    context.moveTo(0, row); context.lineTo(columns, row);
    context.moveTo(column, 0); context.lineTo(column, rows);
    context.stroke();
  }

  // The voxels that the projection is made of: all but the lowest.
  project() {
    const volume = this.volumes.find((v) => v.kind === "pet") || this.volumes[0];
    this.projected = volume;
    this.points = [];
    const [d, h, w] = this.shape;
    for (let z = 0; z < d; z++) for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const code = volume.codes[(z * h + y) * w + x];
      if (code > 8) this.points.push(z, y, x, code);
    }
  }

  drawProjection() {
    if (!this.points) return;
    const canvas = byId("mip"), [d, h, w] = this.shape, s = this.data.spacing;
    const size = Math.ceil(Math.hypot(h * s[1], w * s[2]) / s[2]);
    canvas.width = size;
    canvas.height = d;
    const angle = (this.state.angle * Math.PI) / 180, cos = Math.cos(angle), sin = Math.sin(angle);
    const highest = new Uint8Array(size * d);
    for (let i = 0; i < this.points.length; i += 4) {
      const y = (this.points[i + 1] - (h - 1) / 2) * (s[1] / s[2]), x = this.points[i + 2] - (w - 1) / 2;
      const column = Math.round(x * cos + y * sin + size / 2);
      const row = d - 1 - this.points[i];
      if (column >= 0 && column < size && this.points[i + 3] > highest[row * size + column]) {
        highest[row * size + column] = this.points[i + 3];
      }
    }
    const context = canvas.getContext("2d"), picture = context.createImageData(size, d);
    const isPet = this.projected.kind === "pet";
    const [from, to] = isPet ? (byId("above-window").value && this.projected === this.volumes[+byId("above").value]
      ? this.window("above") : [0, 10]) : [this.projected.low, this.projected.high];
    highest.forEach((code, i) => {
      const t = Math.max(0, Math.min(1, (this.projected.values[code] - from) / (to - from)));
      const grey = code ? 255 * (1 - t) : 255;
      picture.data.set([grey, grey, grey, 255], i * 4);
    });
    context.putImageData(picture, 0, 0);
    const ratio = (size * s[2]) / (d * s[0]);
    this.fit(canvas, ratio);
    byId("angle").value = this.state.angle;
  }

  turn(degrees) {
    this.state.angle = (((this.state.angle + degrees) % 360) + 360) % 360;
    this.drawProjection();
  }

  play() {
    if (this.timer) { clearInterval(this.timer); this.timer = null; return; }
    this.timer = setInterval(() => this.turn(4), 60);
  }

  listen(canvas, plane) {
    const move = (event) => {
      if (!this.volumes) return;
      const box = canvas.getBoundingClientRect();
      const voxelAt = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      const row = voxelAt((event.clientY - box.top) / box.height, this.shape[plane.rows]);
      const column = voxelAt((event.clientX - box.left) / box.width, this.shape[plane.columns]);
      const place = this.voxel(plane, row, column);
      if (event.buttons || event.type === "pointerdown") { this.state.place = place; this.drawPlanes(); }
      this.say(place);
    };
    canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); move(e); });
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("wheel", (e) => { e.preventDefault(); this.scroll(plane, Math.sign(e.deltaY)); }, { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
      if (e.key in steps) { e.preventDefault(); this.scroll(plane, steps[e.key]); }
      if (e.key === "n") this.jump(1);
      if (e.key === "p") this.jump(-1);
      if (e.key === "r") byId("show-reference").click();
      if (e.key === "m") byId("show-prediction").click();
    });
  }

  scroll(plane, step) {
    const most = this.shape[plane.across] - 1;
    this.state.place[plane.across] = Math.max(0, Math.min(most, this.state.place[plane.across] + step));
    this.drawPlanes();
  }

  jump(step) {
    const lesions = this.data.lesions;
    if (!lesions.length) return;
    this.lesion = (this.lesion + step + lesions.length) % lesions.length;
    this.state.place = [...lesions[this.lesion].centre];
    this.drawPlanes();
  }

  // What is at a place: values with their units, and the place in mm.
  say(place = this.state.place) {
    const index = this.index(place);
    const shown = this.volumes.map((v) => `${v.name} ${v.at(index).toFixed(v.kind === "ct" ? 0 : 2)} ${v.unit}`);
    if (this.probability) {
      const p = this.probability[index] / 255;
      shown.push(`p ${p.toFixed(2)}, uncertainty ${uncertainty(p).toFixed(2)} bit`);
    }
    const a = this.data.affine;
    const mm = [0, 1, 2].map((r) => (a[r][0] * place[0] + a[r][1] * place[1] + a[r][2] * place[2] + a[r][3]).toFixed(1));
    const lesion = this.lesion >= 0 ? `   lesion ${this.lesion + 1} of ${this.data.lesions.length}` : "";
    byId("values").textContent = `${shown.join("   ")}   voxel ${place.join(", ")}   RAS ${mm.join(", ")} mm${lesion}`;
    byId("values").dataset.values = JSON.stringify({ place, values: this.volumes.map((v) => v.at(index)) });
  }
}

// A click on a heading sorts by it, again the other way; numbers as numbers, what is none last.
function sortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.dataset.order === "rising";
      table.querySelectorAll("thead th").forEach((h) => { delete h.dataset.order; h.removeAttribute("aria-sort"); });
      head.dataset.order = falling ? "falling" : "rising";
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => {
        const x = parseFloat(key(a)), y = parseFloat(key(b));
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
        const order = Number.isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
        return falling ? -order : order;
      });
      body.replaceChildren(...rows);
    });
  });
}

document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
document.querySelectorAll("table.sortable").forEach(sortable);
const cases = JSON.parse(byId("cases").textContent);
if (cases.length) {
  const viewer = new Viewer();
  window.viewer = viewer;
  byId("case").replaceChildren(...cases.map((one) => new Option(one.name, one.name)));
  document.querySelectorAll("tr[data-case]").forEach((row) => {
    row.addEventListener("click", () => { viewer.open(row.dataset.case); byId("viewer").scrollIntoView(); });
  });
  viewer.open(viewer.worst());
}
