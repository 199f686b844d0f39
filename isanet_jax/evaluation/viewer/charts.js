"use strict";
// Charts that answer: box plots with a dot for every case, and curves, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";
const LINE_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"]; // lines differ without their colours, too
const WIDTH = 900, RIGHT = 110, ROW = 30, LINES_HEIGHT = 300;

function svg(name, attributes, parent, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// Round values of an axis, and the range that they span.
function ticksOf(low, high) {
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  const power = 10 ** Math.floor(Math.log10((high - low) / 5));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => (high - low) / s <= 6);
  const first = Math.floor(low / step), last = Math.ceil(high / step), values = [];
  for (let i = first; i <= last; i++) values.push(+(i * step).toPrecision(10));
  return values;
}

// Of values that rise, as NumPy's percentile.
function quantile(values, share) {
  const at = share * (values.length - 1), below = Math.floor(at), above = Math.ceil(at);
  return values[below] + (values[above] - values[below]) * (at - below);
}

// Quartiles, whiskers to the last value within 1.5 times their range, and the mean.
function boxOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => quantile(sorted, share));
  const reach = 1.5 * (high - low), within = sorted.filter((v) => v >= low - reach && v <= high + reach);
  return { low, middle, high, from: within[0], to: within.at(-1), mean: sorted.reduce((a, b) => a + b, 0) / sorted.length };
}

class Chart {
  constructor(description, number) {
    this.panels = description.panels;
    this.id = `chart-${number}`;
    this.hidden = new Set();
    const section = document.createElement("section"), head = document.createElement("h2");
    section.id = this.id;
    section.className = "chart";
    head.textContent = description.heading;
    this.choice = document.createElement("select");
    this.choice.ariaLabel = `what is shown of: ${description.heading}`;
    this.choice.append(...this.panels.map((panel, i) => new Option(panel.name, i)));
    this.choice.addEventListener("input", () => this.draw());
    this.keys = document.createElement("div");
    this.keys.className = "controls";
    this.said = document.createElement("output");
    this.picture = svg("svg", { tabindex: 0, role: "img", "aria-label": description.heading });
    this.picture.addEventListener("keydown", (event) => this.key(event));
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerdown", (event) => this.point(event));
    const controls = document.createElement("div");
    controls.className = "controls";
    if (this.panels.length > 1) controls.append(this.choice);
    controls.append(this.said);
    section.append(head, controls, this.picture, this.keys);
    document.getElementById("charts").append(section);
    this.draw();
  }

  get panel() { return this.panels[+this.choice.value]; }

  start(height, left) {
    this.picture.replaceChildren();
    this.picture.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    this.left = left;
    this.said.textContent = this.panels.length > 1 ? " " : this.panel.name;
  }

  // Where an event is, in the picture's own units.
  at(event) {
    const box = this.picture.getBoundingClientRect();
    const { width, height } = this.picture.viewBox.baseVal;
    return [(event.clientX - box.left) * (width / box.width), (event.clientY - box.top) * (height / box.height)];
  }

  across(ticks) {
    const low = ticks[0], high = ticks.at(-1);
    return (value) => this.left + ((value - low) / (high - low)) * (WIDTH - this.left - RIGHT);
  }
}

// A row for each method or class: a box, a dot for each case, the same case joined over the rows.
class Boxes extends Chart {
  draw() {
    const { groups, name } = this.panel, longest = Math.max(...groups.map((g) => g.name.length));
    const height = groups.length * ROW + 50;
    this.start(height, Math.min(320, 20 + longest * 7.5));
    const finite = groups.flatMap((g) => g.cases.map(([, v]) => v)).filter((v) => v !== null);
    const ticks = ticksOf(Math.min(...finite), Math.max(...finite));
    if (!finite.length) { this.dots = []; this.said.textContent = "no finite value"; return; }
    const x = this.across(ticks), bottom = groups.length * ROW + 10;
    for (const tick of ticks) {
      svg("line", { x1: x(tick), x2: x(tick), y1: 5, y2: bottom, class: "grid" }, this.picture);
      svg("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle" }, this.picture, tick);
    }
    svg("text", { x: (x(ticks[0]) + x(ticks.at(-1))) / 2, y: bottom + 33, "text-anchor": "middle" }, this.picture, name);
    this.joined = svg("polyline", { class: "joined" }, this.picture);
    this.dots = [];
    groups.forEach((group, row) => this.drawGroup(group, row, x));
    this.order = this.dots.map((_, i) => i).sort((a, b) => this.dots[a].value - this.dots[b].value);
  }

  drawGroup(group, row, x) {
    const y = row * ROW + ROW / 2 + 5;
    svg("text", { x: this.left - 10, y: y + 4, "text-anchor": "end" }, this.picture, group.name);
    const kept = group.cases.filter(([, value]) => value !== null), none = group.cases.length - kept.length;
    if (none) svg("text", { x: WIDTH - 5, y: y + 4, "text-anchor": "end", class: "none" }, this.picture, `${none} infinite`);
    if (!kept.length) return;
    const box = boxOf(kept.map(([, value]) => value));
    const marks = svg("g", { class: "box", "data-box": JSON.stringify(box) }, this.picture);
    const line = (x1, x2, y1, y2) => svg("line", { x1, x2, y1, y2 }, marks);
    line(x(box.from), x(box.low), y, y);
    line(x(box.high), x(box.to), y, y);
    svg("rect", { x: x(box.low), y: y - 9, width: x(box.high) - x(box.low), height: 18 }, marks);
    line(x(box.middle), x(box.middle), y - 9, y + 9);
    svg("path", { d: `M${x(box.mean)} ${y - 5}l5 5l-5 5l-5 -5z`, class: "mean" }, marks);
    kept.forEach(([name, value], i) => {
      const cy = y + ((i * 7) % 13) - 6; // apart, so that equal values are seen as several
      const dot = svg("circle", { cx: x(value), cy, r: 3.5, class: "dot" }, this.picture);
      dot.addEventListener("click", () => this.open(name));
      this.dots.push({ name, value, row, group: group.name, dot, x: x(value), y: cy });
    });
  }

  point(event) {
    const [x, y] = this.at(event), far = (d) => (d.x - x) ** 2 + (d.y - y) ** 2;
    const nearest = this.dots.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    if (nearest && far(nearest) < 400) this.choose(nearest);
  }

  choose(chosen) {
    this.chosen = chosen;
    const same = this.dots.filter((d) => d.name === chosen.name);
    this.dots.forEach((d) => d.dot.classList.toggle("chosen", d.name === chosen.name));
    this.joined.setAttribute("points", same.map((d) => `${d.x},${d.y}`).join(" "));
    const { digits, name } = this.panel;
    this.said.textContent = `${chosen.name}: ${name} ${chosen.value.toFixed(digits)} (${chosen.group})`;
  }

  // Along a row by value, between rows with the same case.
  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
    if (event.key === "Enter" && this.chosen) this.open(this.chosen.name);
    if (!(event.key in steps) || !this.dots.length) return;
    event.preventDefault();
    if (!this.dots.includes(this.chosen)) { this.choose(this.dots[this.order[0]]); return; }
    const here = this.chosen, sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
    const line = sideways
      ? this.order.map((i) => this.dots[i]).filter((d) => d.row === here.row)
      : this.dots.filter((d) => d.name === here.name);
    const next = line[line.indexOf(here) + steps[event.key]];
    if (next) this.choose(next);
  }

  open(name) {
    if (!window.viewer || !cases.some((one) => one.name === name)) return;
    window.viewer.open(name);
    byId("viewer").scrollIntoView();
  }
}

// Bland–Altman: the difference of two measurements over their mean, with bias and limits.
class Differences extends Boxes {
  draw() {
    const { cases, bias, limits, name } = this.panel, bottom = LINES_HEIGHT - 45;
    this.start(LINES_HEIGHT, 80);
    const xs = ticksOf(Math.min(...cases.map((c) => c[1])), Math.max(...cases.map((c) => c[1])));
    const heights = [...cases.map((c) => c[2]), ...limits, 0];
    const ys = ticksOf(Math.min(...heights), Math.max(...heights)), x = this.across(xs);
    const y = (value) => bottom - ((value - ys[0]) / (ys.at(-1) - ys[0])) * (bottom - 10);
    const across = (value, look) =>
      svg("line", { x1: this.left, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), ...look }, this.picture);
    for (const tick of ys) {
      across(tick, { class: "grid" });
      svg("text", { x: this.left - 8, y: y(tick) + 4, "text-anchor": "end" }, this.picture, tick);
    }
    for (const tick of xs) svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, this.picture, tick);
    const middle = (this.left + WIDTH - RIGHT) / 2;
    svg("text", { x: middle, y: bottom + 37, "text-anchor": "middle" }, this.picture, `mean of prediction and reference: ${name}`);
    for (const [value, text, dash] of [[bias, "bias", ""], [limits[0], "-1.96 SD", "7 3"], [limits[1], "+1.96 SD", "7 3"]]) {
      across(value, { stroke: LINE_COLOURS[3], "stroke-width": 1.5, "stroke-dasharray": dash });
      svg("text", { x: WIDTH - RIGHT + 5, y: y(value) + 4 }, this.picture, `${text} ${value.toPrecision(3)}`);
    }
    this.joined = svg("polyline", { class: "joined" }, this.picture);
    this.dots = cases.map(([of, mean, difference]) => {
      const dot = svg("circle", { cx: x(mean), cy: y(difference), r: 4, class: "dot" }, this.picture);
      dot.addEventListener("click", () => this.open(of));
      return { name: of, value: difference, row: 0, group: `mean ${mean.toPrecision(4)}`, dot, x: x(mean), y: y(difference) };
    });
    this.order = this.dots.map((_, i) => i).sort((a, b) => this.dots[a].x - this.dots[b].x);
  }

  choose(chosen) {
    this.panel.digits = 3;
    super.choose(chosen);
  }
}

// Lines over a common axis; what they are at one place is said.
class Curves extends Chart {
  draw() {
    const { x: label, names } = this.panel;
    this.start(LINES_HEIGHT, 70);
    this.drawKeys();
    const shown = this.ticked(), points = shown.flatMap((line) => line.points);
    this.places = [...new Set(points.map(([x]) => x))].sort((a, b) => a - b);
    if (!points.length) return;
    const xs = names ? names.map((_, i) => i) : ticksOf(this.places[0], this.places.at(-1));
    const low = Math.min(...points.map(([, y, sd]) => y - (sd || 0)));
    const ys = ticksOf(low, Math.max(...points.map(([, y, sd]) => y + (sd || 0))));
    const bottom = LINES_HEIGHT - 45, x = this.across(xs.length > 1 ? xs : [-1, 1]);
    const y = (value) => bottom - ((value - ys[0]) / (ys.at(-1) - ys[0])) * (bottom - 10);
    for (const tick of ys) {
      svg("line", { x1: this.left, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }, this.picture);
      svg("text", { x: this.left - 8, y: y(tick) + 4, "text-anchor": "end" }, this.picture, tick);
    }
    for (const tick of xs) {
      svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, this.picture, names ? names[tick] : tick);
    }
    svg("text", { x: (this.left + WIDTH - RIGHT) / 2, y: bottom + 37, "text-anchor": "middle" }, this.picture, label);
    for (const line of shown) {
      const look = this.look(line);
      const path = line.points.map(([px, py]) => `${x(px)},${y(py)}`).join(" ");
      svg("polyline", { points: path, fill: "none", "stroke-width": 2, ...look }, this.picture);
      for (const [px, py, sd] of line.points) {
        if (sd) svg("line", { x1: x(px), x2: x(px), y1: y(py - sd), y2: y(py + sd), stroke: look.stroke }, this.picture);
        if (line.points.length < 60) svg("circle", { cx: x(px), cy: y(py), r: 3, fill: look.stroke }, this.picture);
      }
    }
    this.x = x;
    this.cursor = svg("line", { x1: -9, x2: -9, y1: 10, y2: bottom, class: "cursor" }, this.picture);
  }

  // Of a single line there is no tick.
  ticked() {
    const { lines } = this.panel;
    return lines.length < 2 ? lines : lines.filter((line) => !this.hidden.has(line.name));
  }

  look(line) {
    const number = this.panel.lines.indexOf(line);
    return { stroke: LINE_COLOURS[number % LINE_COLOURS.length],
      "stroke-dasharray": DASHES[Math.floor(number / LINE_COLOURS.length) % DASHES.length] };
  }

  drawKeys() {
    this.keys.replaceChildren();
    if (this.panel.lines.length < 2) return;
    for (const line of this.panel.lines) {
      const label = document.createElement("label"), tick = document.createElement("input");
      const mark = svg("svg", { width: 28, height: 8, "aria-hidden": true });
      svg("line", { x1: 0, x2: 28, y1: 4, y2: 4, "stroke-width": 2, ...this.look(line) }, mark);
      tick.type = "checkbox";
      tick.checked = !this.hidden.has(line.name);
      tick.addEventListener("input", () => {
        if (tick.checked) this.hidden.delete(line.name); else this.hidden.add(line.name);
        this.draw();
      });
      label.append(tick, mark, line.name);
      this.keys.append(label);
    }
  }

  point(event) {
    const [x] = this.at(event), far = (place) => Math.abs(this.x(place) - x);
    if (this.places.length) this.choose(this.places.reduce((a, b) => (far(a) <= far(b) ? a : b)));
  }

  choose(place) {
    this.place = place;
    this.cursor.setAttribute("x1", this.x(place));
    this.cursor.setAttribute("x2", this.x(place));
    const { names, x, digits } = this.panel;
    const there = this.ticked().flatMap((line) => {
      const found = line.points.find(([px]) => px === place);
      if (!found) return [];
      const shown = digits === null ? found[1].toPrecision(3) : found[1].toFixed(digits);
      return [`${line.name} ${shown}${found[2] ? ` ± ${found[2].toFixed(digits)}` : ""}`];
    });
    this.said.textContent = `${x} ${names ? names[place] : place}: ${there.join("   ")}`;
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.places.length) return;
    event.preventDefault();
    const here = this.places.indexOf(this.place), last = this.places.length - 1;
    this.choose(this.places[here < 0 ? 0 : Math.max(0, Math.min(last, here + step))]);
  }
}

const charts = JSON.parse(byId("chart-data").textContent)
  .map((chart, i) => new { boxes: Boxes, curves: Curves, differences: Differences }[chart.kind](chart, i));
