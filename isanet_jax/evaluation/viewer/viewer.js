"use strict";
// The viewer: which case is open, where, in which windows; its controls, keys and lesions.

class Viewer {
  constructor() {
    this.hidden = new Set(); // masks whose own tick is off
    this.state = { place: [0, 0, 0] };
    this.window = { below: [0, 1], above: [0, 1] };
    this.planes = PLANES.map((plane) => new Plane(this, plane));
    this.projection = new Projection(this);
    this.active = this.planes[0];
    const draws = ["fusion", "fill", "heat", "doubt", "inverted", "numbers", "show-reference", "show-prediction", "crosshair"];
    for (const id of draws) byId(id).addEventListener("input", () => this.draw());
    for (const which of ["below", "above"]) {
      byId(which).addEventListener("input", () => { this.fillWindows(which); this.draw(); });
      byId(`${which}-window`).addEventListener("input", () => {
        this.setWindow(which, this.volume(which).windows()[byId(`${which}-window`).value]);
      });
      for (const end of ["low", "high"]) {
        byId(`${which}-${end}`).addEventListener("change", () => {
          this.setWindow(which, ["low", "high"].map((e) => +byId(`${which}-${e}`).value));
        });
      }
    }
    byId("case").addEventListener("change", () => this.open(byId("case").value));
    byId("next-lesion").addEventListener("click", () => this.jump(1));
    byId("previous-lesion").addEventListener("click", () => this.jump(-1));
    byId("worst").addEventListener("click", () => this.open(this.worst()));
    byId("closer").addEventListener("click", () => this.zoomAll(1.4));
    byId("farther").addEventListener("click", () => this.zoomAll(1 / 1.4));
    byId("key-image").addEventListener("click", () => this.saveImage());
    document.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => { if (this.volumes) this.sheets.forEach((sheet) => sheet.place()); }).observe(byId("viewer"));
  }

  get sheets() { return [...this.planes, this.projection]; }

  worst() { return cases.reduce((a, b) => (b.score < a.score ? b : a)).name; }

  async open(name, lesion) {
    const data = await this.fetched(name);
    const [d, h, w] = data.shape, count = d * h * w;
    const volumes = await Promise.all(data.images.map(async (image) => new Volume(image, await unpacked(image.data))));
    const masks = await Promise.all(data.masks.map(async (mask) => ({ ...mask, data: bitsOf(await unpacked(mask.data), count) })));
    const probability = data.probability ? await unpacked(data.probability) : null;
    data.lesions.forEach((one, i) => { one.label = one.label || String(i + 1); });
    Object.assign(this, { data, name, shape: data.shape, volumes, masks, probability, chosenLesion: null });
    byId("case").value = name;
    for (const which of ["below", "above"]) byId(which).replaceChildren(...volumes.map((v, i) => new Option(v.name, i)));
    byId("above").value = Math.max(volumes.findIndex((v) => v.kind === "pet"), 0);
    for (const which of ["below", "above"]) this.fillWindows(which);
    byId("heat").disabled = byId("doubt").disabled = !probability;
    this.tell();
    this.keys();
    this.list();
    this.state.place = this.shape.map((n) => n >> 1);
    this.projection.load();
    this.goTo(data.lesions.find((one) => one.key === lesion) || data.lesions[0]);
    this.editor?.opened();
    document.body.dataset.opened = name;
  }

  // What the page holds of a case, or the server that it is from.
  async fetched(name) {
    return JSON.parse(byId(`case-${cases.findIndex((one) => one.name === name)}`).textContent);
  }

  // The patient's figures, and what the network has not seen.
  tell() {
    byId("summary").replaceChildren(...(this.data.summary || []).map(([label, value]) =>
      made("span", {}, made("b", {}, value), ` ${label}`)));
    byId("banner").hidden = !(this.data.warnings || []).length;
    byId("banner").replaceChildren(...(this.data.warnings || []).map((text) => made("p", {}, text)));
  }

  volume(which) { return this.volumes[+byId(which).value]; }

  fillWindows(which) {
    const windows = this.volume(which).windows(), names = Object.keys(windows), choice = byId(`${which}-window`);
    const chosen = names.includes(choice.value) ? choice.value : names[0];
    choice.replaceChildren(...names.map((n) => new Option(n, n)), new Option("as typed", ""));
    choice.value = chosen;
    this.setWindow(which, windows[chosen], false);
  }

  setWindow(which, range, draws = true) {
    if (!range || !(range[1] > range[0])) range = this.window[which];
    this.window[which] = [...range];
    const same = Object.entries(this.volume(which).windows()).find(([, of]) => of[0] === range[0] && of[1] === range[1]);
    byId(`${which}-window`).value = same ? same[0] : "";
    ["low", "high"].forEach((end, i) => { byId(`${which}-${end}`).value = +range[i].toFixed(2); });
    if (draws) this.draw();
  }

  // Sideways its width, upwards its middle; of the upper image while it is seen.
  dragWindow(right, down) {
    const which = +byId("fusion").value && this.volume("above") !== this.volume("below") ? "above" : "below";
    const [low, high] = this.window[which], step = (high - low) / 200;
    const middle = (low + high) / 2 + down * step, half = Math.max((high - low) / 2 + right * step, step);
    // SUV begins at 0: there a window has an upper end alone.
    const isPet = this.volume(which).kind === "pet";
    this.setWindow(which, isPet ? [0, Math.max(high + (right - down) * step, 0.5)] : [middle - half, middle + half]);
  }

  keys() {
    byId("keys").replaceChildren(...this.masks.map((mask) => {
      const name = `${mask.role} ${mask.class}`, mark = made("span", { class: "key" });
      const tick = made("input", { type: "checkbox" });
      tick.checked = !this.hidden.has(name);
      tick.addEventListener("input", () => {
        if (tick.checked) this.hidden.delete(name); else this.hidden.add(name);
        this.draw();
      });
      mark.style.background = this.colour(mask);
      return made("label", {}, tick, mark, name);
    }));
  }

  colour(mask) { return COLOURS[mask.role][mask.number % COLOURS[mask.role].length]; }

  shownMasks() {
    return this.masks.filter((mask) => !this.hidden.has(`${mask.role} ${mask.class}`)
      && byId(mask.role === "reference" ? "show-reference" : "show-prediction").checked);
  }

  index(place) { return (place[0] * this.shape[1] + place[1]) * this.shape[2] + place[2]; }

  draw() {
    if (!this.volumes) return;
    this.drawPlanes();
    this.projection.draw();
  }

  // All that a new place changes: the projection, which costs more, is of all places.
  drawPlanes() {
    this.planes.forEach((plane) => plane.draw());
    this.say();
  }

  // A place that was pointed at; in a lesion, that one is chosen.
  setPlace(place) {
    this.state.place = place;
    const index = this.index(place);
    if (this.masks.some((mask) => mask.data[index])) {
      const s = this.data.spacing, far = (l) => Math.hypot(...l.centre.map((c, i) => (c - place[i]) * s[i]));
      const nearest = this.data.lesions.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
      if (nearest && nearest !== this.chosenLesion) { this.choose(nearest); this.projection.draw(); }
    }
    this.drawPlanes();
  }

  goTo(lesion) {
    if (lesion) { this.state.place = [...lesion.centre]; this.choose(lesion); }
    this.draw();
  }

  jump(step) {
    const { lesions } = this.data;
    if (!lesions.length) return;
    const order = [...byId("lesions").tBodies[0]?.rows || []].map((row) => lesions[+row.dataset.index]);
    const at = order.indexOf(this.chosenLesion);
    this.goTo(order[(at + step + order.length) % order.length]);
  }

  // The lesion's row lights up, in the list and in the page's tables.
  choose(lesion) {
    this.chosenLesion = lesion;
    document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    for (const row of document.querySelectorAll("tr[data-case]")) {
      const own = row.dataset.case === this.name && (!row.dataset.lesion || row.dataset.lesion === lesion?.key);
      row.classList.toggle("chosen", own);
    }
    for (const row of byId("lesions").tBodies[0]?.rows || []) {
      const own = this.data.lesions[+row.dataset.index] === lesion;
      row.classList.toggle("chosen", own);
      row.setAttribute("aria-selected", own);
      if (own) { const box = byId("lesion-list"); box.scrollTop = row.offsetTop - box.clientHeight / 2; }
    }
  }

  // All lesions with their measures.
  list() {
    const { lesions } = this.data, names = [...new Set(lesions.flatMap((l) => Object.keys(l.measures || {})))];
    const several = new Set(lesions.map((l) => l.class)).size > 1;
    const heads = ["#", ...(several ? ["class"] : []), ...(lesions.some((l) => l.what !== "found") ? ["what"] : []), ...names];
    const rows = lesions.map((lesion, index) => {
      const cells = { "#": lesion.label, class: lesion.class, what: lesion.what, ...lesion.measures };
      const row = made("tr", { tabindex: 0, "data-index": index }, ...heads.map((head) => made("td", {}, cells[head] ?? "–")));
      row.addEventListener("click", () => this.goTo(lesion));
      return row;
    });
    const table = byId("lesions");
    table.replaceChildren(made("thead", {}, made("tr", {}, ...heads.map((head) => made("th", {}, head)))), made("tbody", {}, ...rows));
    sortable(table);
  }

  zoomAll(factor) { this.sheets.forEach((sheet) => sheet.zoomBy(factor)); }

  // Keys work wherever the pointer is, but where something is typed or chosen.
  key(event) {
    const target = event.target;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !this.volumes) return;
    if (target.closest?.("input, select, textarea, .chart")) return;
    if (event.key === "Enter" && target.closest?.("tr[tabindex]")) { target.closest("tr").click(); return; }
    if (target.closest?.("tr[tabindex], th") && event.key.startsWith("Arrow")) return;
    const acts = {
      n: () => this.jump(1), p: () => this.jump(-1),
      r: () => byId("show-reference").click(), m: () => byId("show-prediction").click(),
      i: () => byId("inverted").click(), "+": () => this.zoomAll(1.4), "-": () => this.zoomAll(1 / 1.4),
    };
    if (event.key in acts) acts[event.key]();
    else if (!this.isSeen() || !this.active.key(event.key)) return;
    event.preventDefault();
  }

  // Arrow keys scroll the page while the viewer is out of sight.
  isSeen() {
    const box = byId("viewer").getBoundingClientRect();
    return box.top < innerHeight / 2 && box.bottom > innerHeight / 3;
  }

  // The four pictures as one, with what they show.
  image() {
    const side = 700, canvas = made("canvas"), context = canvas.getContext("2d");
    canvas.width = 2 * side;
    canvas.height = 2 * side + 60;
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.sheets.forEach((sheet, i) => {
      const ratio = +getComputedStyle(sheet.sheet).getPropertyValue("--ratio"), x = (i % 2) * side, y = (i >> 1) * side;
      const width = Math.min(side, side * ratio), height = width / ratio;
      context.drawImage(sheet.canvas, x + (side - width) / 2, y + (side - height) / 2, width, height);
      context.fillStyle = "#ffffff";
      context.font = "20px sans-serif";
      const [top, bottom, left, right] = sheet.letters.map((span) => span.textContent);
      [[top, 0.5, 0.04], [bottom, 0.5, 0.98], [left, 0.02, 0.5], [right, 0.96, 0.5]].forEach(([text, a, b]) => {
        context.strokeText(text, x + a * side, y + b * side);
        context.fillText(text, x + a * side, y + b * side);
      });
    });
    context.fillText(`${this.name}: ${byId("summary").innerText.replace(/\s+/g, " ")}`, 10, 2 * side + 25);
    context.fillText(byId("values").textContent, 10, 2 * side + 50);
    return canvas;
  }

  saveImage() {
    const link = made("a", { download: `${this.name}.png`, href: this.image().toDataURL("image/png") });
    link.click();
    return link;
  }

  // What is at a place: values with their units, and the place in mm.
  say(place = this.state.place) {
    const index = this.index(place);
    const shown = this.volumes.map((v) => `${v.name} ${v.at(index).toFixed(v.kind === "ct" ? 0 : 2)} ${v.unit}`);
    if (this.probability) {
      const p = this.probability[index] / 255;
      shown.push(`p ${p.toFixed(2)}, uncertainty ${uncertainty(p).toFixed(2)} bit`);
    }
    const a = this.data.affine, lps = [-1, -1, 1];
    const mm = lps.map((sign, r) => (sign * (a[r][0] * place[0] + a[r][1] * place[1] + a[r][2] * place[2] + a[r][3])).toFixed(1));
    byId("values").textContent = `${shown.join("   ")}   voxel ${place.join(", ")}   LPS ${mm.join(", ")} mm`;
    byId("values").dataset.values = JSON.stringify({ place, values: this.volumes.map((v) => v.at(index)) });
  }
}
