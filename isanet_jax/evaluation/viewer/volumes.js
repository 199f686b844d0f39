"use strict";
// What a case holds: images in 256 steps, masks of bits, lesions. Without a network.
// Volumes are (D, H, W), D from feet to head, H from front to back, W from the patient's right.

const WINDOWS = {
  ct: { "soft tissue": [-160, 240], wide: [-1024, 1024], lung: [-1350, 150], bone: [-200, 1800] },
  pet: { "SUV 0-5": [0, 5], "SUV 0-10": [0, 10], "SUV 0-15": [0, 15], "SUV 0-20": [0, 20], "SUV 0-40": [0, 40] },
};
// Okabe and Ito's colours: of references, and of predictions.
const COLOURS = {
  reference: ["#56b4e9", "#009e73", "#f0e442"],
  prediction: ["#e69f00", "#d55e00", "#cc79a7", "#f5c710", "#ffffff", "#9f0162"],
};
const byId = (id) => document.getElementById(id);
const within = (value, low, high) => Math.max(low, Math.min(high, value));

function made(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

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
  const part = (from, width) => within((t - from) / width, 0, 1);
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
  // The share of a window that each of the 256 codes reaches.
  shares([low, high]) { return Float32Array.from(this.values, (v) => within((v - low) / (high - low), 0, 1)); }
}

// Edges between pixels in and out of something, as lines of a context.
function traceEdges(context, inside, rows, columns) {
  context.beginPath();
  for (let row = 0; row <= rows; row++) {
    for (let column = 0; column <= columns; column++) {
      const here = inside(row, column);
      if (here !== inside(row - 1, column)) { context.moveTo(column, row); context.lineTo(column + 1, row); }
      if (here !== inside(row, column - 1)) { context.moveTo(column, row); context.lineTo(column, row + 1); }
    }
  }
  context.stroke();
}
