"use strict";
// The four pictures: three planes, and the projection. Each is a canvas on a sheet that zooms and
// moves in its frame, with letters, a scale and the lesions' numbers over it.

const PLANES = [
  { name: "axial", across: 0, rows: 1, columns: 2, headUp: false, letters: "APRL" },
  { name: "coronal", across: 1, rows: 0, columns: 2, headUp: true, letters: "HFRL" },
  { name: "sagittal", across: 2, rows: 0, columns: 1, headUp: true, letters: "HFAP" },
];
const SCALES_MM = [10, 20, 50, 100, 200, 500];
const NEAR_MM = 6; // of a lesion's centre, in which its number is shown

class Sheet {
  constructor(viewer, name, letters) {
    Object.assign(this, { viewer, name, zoom: 1, moved: [0, 0] });
    this.canvas = byId(name);
    this.figure = this.canvas.closest("figure");
    this.frame = this.figure.querySelector(".frame");
    this.sheet = made("div", { class: "sheet" });
    this.marks = made("div", { class: "marks" });
    this.frame.append(this.sheet);
    this.sheet.append(this.canvas, this.marks);
    this.letters = [..."tbse"].map((side) => made("span", { class: `letter ${side}` }));
    this.scale = made("span", { class: "scale" });
    this.frame.append(...this.letters, this.scale);
    this.say(letters);
    this.listenToView();
  }

  // Letters at the top, the bottom, the left and the right.
  say(letters) { this.letters.forEach((span, i) => { span.textContent = letters[i]; }); }

  // The sheet has the patient's proportions, whatever the voxels are; the scale says how large.
  fit(widthMm, heightMm) {
    this.widthMm = widthMm;
    this.sheet.style.setProperty("--ratio", widthMm / heightMm);
    this.place();
  }

  place() {
    this.sheet.style.transform = `translate(${this.moved[0]}px, ${this.moved[1]}px) scale(${this.zoom})`;
    this.marks.style.setProperty("--zoom", this.zoom);
    const perMm = this.canvas.getBoundingClientRect().width / this.widthMm;
    const most = this.frame.clientWidth / 3;
    const length = SCALES_MM.filter((mm) => mm * perMm <= most).at(-1) || SCALES_MM[0];
    this.scale.style.width = `${length * perMm}px`;
    this.scale.textContent = length % 10 ? `${length} mm` : `${length / 10} cm`;
    this.scale.dataset.mm = length;
  }

  // By a factor, around a point of the window; of no point, around the middle.
  zoomBy(factor, at) {
    const frame = this.frame.getBoundingClientRect(), zoom = within(this.zoom * factor, 1, 12);
    const from = at ? [at.clientX - frame.left - frame.width / 2, at.clientY - frame.top - frame.height / 2] : [0, 0];
    this.moved = this.moved.map((m, i) => (zoom === 1 ? 0 : from[i] - (from[i] - m) * (zoom / this.zoom)));
    this.zoom = zoom;
    this.place();
  }

  listenToView() {
    const canvas = this.canvas;
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("dblclick", () => { this.zoom = 1; this.moved = [0, 0]; this.place(); });
    canvas.addEventListener("pointerenter", () => { this.viewer.active = this; });
    canvas.addEventListener("focus", () => { this.viewer.active = this; });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      if (e.ctrlKey) this.zoomBy(e.deltaY < 0 ? 1.2 : 1 / 1.2, e); else this.step(Math.sign(e.deltaY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (e) => {
      if (e.pointerType !== "touch") canvas.setPointerCapture(e.pointerId);
      this.viewer.active = this;
      this.press(e);
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!this.viewer.volumes) return;
      if (e.buttons & 4 || (e.buttons & 1 && e.shiftKey)) {
        this.moved = [this.moved[0] + e.movementX, this.moved[1] + e.movementY];
        this.place();
      } else if (e.buttons & 2) this.viewer.dragWindow(e.movementX, e.movementY);
      else this.move(e);
    });
  }

  // Row and column under an event.
  under(event, rows, columns) {
    const box = this.canvas.getBoundingClientRect();
    const at = (share, count) => within(Math.floor(share * count), 0, count - 1);
    return [at((event.clientY - box.top) / box.height, rows), at((event.clientX - box.left) / box.width, columns)];
  }

  // Numbers of lesions, each at (row, column) of the canvas.
  number(lesions, rows, columns) {
    this.marks.replaceChildren(...lesions.map(([lesion, row, column]) => {
      const mark = made("button", { type: "button", "aria-label": `lesion ${lesion.label}`, tabindex: -1 }, lesion.label);
      mark.style.left = `${((column + 0.5) / columns) * 100}%`;
      mark.style.top = `${((row + 0.5) / rows) * 100}%`;
      mark.classList.toggle("chosen", lesion === this.viewer.chosenLesion);
      mark.addEventListener("click", () => this.viewer.goTo(lesion));
      return mark;
    }));
  }
}

class Plane extends Sheet {
  constructor(viewer, plane) {
    const { name, letters, ...axes } = plane;
    super(viewer, name, letters);
    Object.assign(this, axes);
    this.slider = this.figure.querySelector("input[type=range]");
    this.slider.addEventListener("input", () => {
      this.viewer.state.place[this.across] = +this.slider.value;
      this.viewer.drawPlanes();
    });
  }

  // Row and column of the canvas -> voxel of the plane through the present place.
  voxel(row, column) {
    const place = [...this.viewer.state.place];
    place[this.rows] = this.headUp ? this.viewer.shape[this.rows] - 1 - row : row;
    place[this.columns] = column;
    return place;
  }

  // (row, column) of a voxel.
  cell(place) {
    const row = this.headUp ? this.viewer.shape[this.rows] - 1 - place[this.rows] : place[this.rows];
    return [row, place[this.columns]];
  }

  // Where the plane begins in the arrays, and the steps to the next row and column.
  strides() {
    const [, h, w] = this.viewer.shape, of = [h * w, w, 1];
    const start = this.viewer.index(this.voxel(0, 0));
    return [start, this.headUp ? -of[this.rows] : of[this.rows], of[this.columns]];
  }

  draw() {
    const { viewer } = this, { shape, data: { spacing } } = viewer;
    const rows = shape[this.rows], columns = shape[this.columns];
    // Finer than the voxels, for sharp lines.
    const scale = Math.max(1, Math.round(600 / Math.max(rows, columns)));
    const image = new OffscreenCanvas(columns, rows), context = this.canvas.getContext("2d");
    this.canvas.width = columns * scale;
    this.canvas.height = rows * scale;
    const picture = image.getContext("2d").createImageData(columns, rows);
    this.fill(picture.data, rows, columns);
    image.getContext("2d").putImageData(picture, 0, 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.drawImage(image, 0, 0);
    const [start, down, right] = this.strides();
    for (const mask of viewer.shownMasks()) {
      const inside = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns
        && mask.data[start + row * down + column * right] === 1;
      this.outline(context, mask, inside, rows, columns);
    }
    if (byId("crosshair").checked) this.cross(context, rows, columns);
    this.fit(columns * spacing[this.columns], rows * spacing[this.rows]);
    const at = viewer.state.place[this.across];
    const near = viewer.data.lesions.filter((l) => Math.abs(l.centre[this.across] - at) * spacing[this.across] <= NEAR_MM);
    this.number(byId("numbers").checked ? near.map((l) => [l, ...this.cell(l.centre)]) : [], rows, columns);
    Object.assign(this.slider, { max: shape[this.across] - 1, value: at });
    this.canvas.setAttribute("aria-label", `${this.name} slice ${at + 1} of ${shape[this.across]} of ${viewer.name}`);
  }

  // Pixels of the plane: the lower image in grey, over it the upper one in colours.
  fill(pixels, rows, columns) {
    const { viewer } = this, below = viewer.volume("below"), above = viewer.volume("above");
    const greys = below.shares(viewer.window.below), parts = above.shares(viewer.window.above);
    const isInverted = below.kind === "pet" && byId("inverted").checked;
    const fusion = below === above ? 0 : +byId("fusion").value / 100;
    const doubt = byId("doubt").checked, heat = (doubt || byId("heat").checked) && viewer.probability;
    const colours = Array.from({ length: 256 }, (_, code) => hot(parts[code]));
    const [start, down, right] = this.strides();
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const index = start + row * down + column * right, at = (row * columns + column) * 4;
        const share = greys[below.codes[index]], grey = 255 * (isInverted ? 1 - share : share);
        let weight = 0, colour = null;
        if (heat) {
          const p = doubt ? uncertainty(viewer.probability[index] / 255) : viewer.probability[index] / 255;
          weight = Math.min(1, p * 1.5) * 0.7;
          colour = [255 * p, 60 + 140 * p, 255 * (1 - p)];
        } else if (fusion) {
          const code = above.codes[index];
          // From the lower image alone to the upper one alone.
          weight = fusion * (fusion + (1 - fusion) * Math.min(1, 0.25 + parts[code]));
          colour = colours[code];
        }
        for (let i = 0; i < 3; i++) pixels[at + i] = colour ? grey * (1 - weight) + colour[i] * weight : grey;
        pixels[at + 3] = 255;
      }
    }
  }

  outline(context, mask, inside, rows, columns) {
    context.strokeStyle = context.fillStyle = this.viewer.colour(mask);
    context.lineWidth = Math.max(rows, columns) / 220;
    traceEdges(context, inside, rows, columns);
    if (!byId("fill").checked) return;
    context.globalAlpha = 0.35;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) if (inside(row, column)) context.fillRect(column, row, 1, 1);
    }
    context.globalAlpha = 1;
  }

  cross(context, rows, columns) {
    const [row, column] = this.cell(this.viewer.state.place).map((n) => n + 0.5);
    for (const [colour, width] of [["#00000099", 200], ["#ffffffcc", 400]]) { // seen on grey of both kinds
      context.strokeStyle = colour;
      context.lineWidth = Math.max(rows, columns) / width;
      context.beginPath();
      context.moveTo(0, row); context.lineTo(columns, row);
      context.moveTo(column, 0); context.lineTo(column, rows);
      context.stroke();
    }
  }

  at(event) {
    return this.voxel(...this.under(event, this.viewer.shape[this.rows], this.viewer.shape[this.columns]));
  }

  press(event) {
    if (event.button !== 0 || event.shiftKey || !this.viewer.volumes) return;
    const place = this.at(event);
    if (!this.viewer.editor?.press(place, this)) this.viewer.setPlace(place);
  }

  move(event) {
    const place = this.at(event);
    if (!(event.buttons & 1)) this.viewer.say(place);
    else if (!this.viewer.editor?.drag(place, this)) this.viewer.setPlace(place);
  }

  step(count) {
    const { place } = this.viewer.state;
    place[this.across] = within(place[this.across] + count, 0, this.viewer.shape[this.across] - 1);
    this.viewer.drawPlanes();
  }

  key(name) {
    const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    if (name in steps) this.step(steps[name]);
    return name in steps;
  }
}

// The highest value along each line of sight, seen from any side.
class Projection extends Sheet {
  constructor(viewer) {
    super(viewer, "mip", "HFRL");
    this.angle = 0;
    byId("angle").addEventListener("input", () => this.look(+byId("angle").value));
    byId("from-front").addEventListener("click", () => this.look(0));
    byId("from-side").addEventListener("click", () => this.look(90));
    byId("play").addEventListener("click", () => this.play());
  }

  // The voxels that it is made of: all but the lowest.
  load() {
    const { volumes, shape: [d, h, w] } = this.viewer;
    this.volume = volumes.find((v) => v.kind === "pet") || volumes[0];
    const kept = [];
    this.volume.codes.forEach((code, index) => { if (code > 8) kept.push(index); });
    this.kept = Int32Array.from(kept);
    this.ofMask = new Map(this.viewer.masks.map((mask) => {
      const inside = [];
      mask.data.forEach((bit, index) => { if (bit) inside.push(index); });
      return [mask, Int32Array.from(inside)];
    }));
    this.size = Math.ceil(Math.hypot(h * this.viewer.data.spacing[1], w * this.viewer.data.spacing[2]) / this.viewer.data.spacing[2]);
    this.depth = d;
  }

  // (row, column) of a voxel, by its index or place.
  where() {
    const { shape: [d, h, w], data: { spacing: s } } = this.viewer;
    const angle = (this.angle * Math.PI) / 180, cos = Math.cos(angle), sin = Math.sin(angle), ratio = s[1] / s[2];
    return (z, y, x) => [d - 1 - z, within(Math.round((x - (w - 1) / 2) * cos
      + (y - (h - 1) / 2) * ratio * sin + (this.size - 1) / 2), 0, this.size - 1)];
  }

  draw() {
    if (!this.kept) return;
    const { shape: [d, h, w], data: { spacing: s } } = this.viewer, { size } = this, where = this.where();
    const place = (index) => where(Math.floor(index / (h * w)), Math.floor(index / w) % h, index % w);
    const highest = new Uint8Array(size * d);
    this.origin = new Int32Array(size * d).fill(-1);
    for (const index of this.kept) {
      const [row, column] = place(index), at = row * size + column;
      if (this.volume.codes[index] > highest[at]) {
        highest[at] = this.volume.codes[index];
        this.origin[at] = index;
      }
    }
    this.canvas.width = size;
    this.canvas.height = d;
    const context = this.canvas.getContext("2d"), picture = context.createImageData(size, d);
    const isAbove = this.volume === this.viewer.volume("above");
    const shares = this.volume.shares(isAbove ? this.viewer.window.above
      : this.volume.kind === "pet" ? [0, 10] : [this.volume.low, this.volume.high]);
    const isInverted = byId("inverted").checked;
    highest.forEach((code, i) => {
      const share = code ? shares[code] : 0, grey = 255 * (isInverted ? 1 - share : share);
      picture.data.set([grey, grey, grey, 255], i * 4);
    });
    context.putImageData(picture, 0, 0);
    for (const mask of this.viewer.shownMasks()) {
      const seen = new Uint8Array(size * d);
      for (const index of this.ofMask.get(mask)) {
        const [row, column] = place(index);
        seen[row * size + column] = 1;
      }
      context.strokeStyle = this.viewer.colour(mask);
      context.lineWidth = Math.max(size, d) / 250;
      traceEdges(context, (r, c) => r >= 0 && c >= 0 && r < d && c < size && seen[r * size + c] === 1, d, size);
    }
    this.fit(size * s[2], d * s[0]);
    const lesions = byId("numbers").checked ? this.viewer.data.lesions : [];
    this.number(lesions.map((l) => [l, ...where(...l.centre)]), d, size);
    byId("angle").value = this.angle;
    const side = Math.round(this.angle / 90) % 4;
    this.say(`HF${["RL", "AP", "LR", "PA"][side]}`);
    this.canvas.setAttribute("aria-label", `projection of ${this.viewer.name} from ${this.angle} degrees`);
  }

  look(angle) { this.angle = ((angle % 360) + 360) % 360; this.draw(); }

  step(count) { this.look(this.angle + 5 * count); }

  // A click goes to where the highest value is.
  press(event) {
    if (event.button !== 0 || event.shiftKey || !this.origin) return;
    const [, h, w] = this.viewer.shape, [row, column] = this.under(event, this.depth, this.size);
    const index = this.origin[row * this.size + column];
    if (index >= 0) this.viewer.setPlace([Math.floor(index / (h * w)), Math.floor(index / w) % h, index % w]);
  }

  move(event) { if (event.buttons & 1) this.look(this.angle + event.movementX); }

  key(name) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 1, ArrowDown: -1 };
    if (name in steps) this.step(steps[name]);
    return name in steps;
  }

  play() {
    if (this.timer) { clearInterval(this.timer); this.timer = null; return; }
    this.timer = setInterval(() => this.look(this.angle + 4), 60);
  }
}
