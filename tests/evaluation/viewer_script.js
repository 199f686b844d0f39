// What tests/evaluation/test_viewer.py does in the page; PLACES and HOTTEST are put in.
const values = () => JSON.parse(byId("values").dataset.values);
const picture = (id) => byId(id).toDataURL();
const set = (id, value, type = "input") => { byId(id).value = value; byId(id).dispatchEvent(new Event(type)); };
const press = (name) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const at = (id, x, y, more = {}) => {
  const box = byId(id).getBoundingClientRect();
  return { clientX: box.left + box.width * x, clientY: box.top + box.height * y, pointerId: 1, bubbles: true, ...more };
};
const point = (id, kind, ...where) => byId(id).dispatchEvent(new PointerEvent(kind, at(id, ...where)));
const lit = () => [...document.querySelectorAll("#tables tr.chosen")].map((row) => row.cells[1].textContent);
const listed = () => [...document.querySelectorAll("#lesions tbody tr")].map((row) => row.cells[0].textContent);
HTMLElement.prototype.setPointerCapture = () => {};

// A laptop's screen: all of the viewer is on it, with many lesions, too.
const box = byId("viewer").getBoundingClientRect();
seen.fits = [box.bottom <= innerHeight, byId("lesion-list").scrollHeight > 0, document.querySelector(".side").getBoundingClientRect().bottom <= innerHeight];
seen.summary = byId("summary").textContent;
seen.banner = [byId("banner").hidden, byId("banner").textContent];

// Keys without a click first.
viewer.setPlace([5, 6, 7]);
press("ArrowUp"); seen.keyed = viewer.state.place[0];
press("n"); seen.first = [viewer.chosenLesion.key, ...lit()];
press("n"); seen.second = [viewer.chosenLesion.key, ...lit()];

// Letters, and a scale of the right length.
seen.letters = viewer.sheets.map((sheet) => sheet.letters.map((span) => span.textContent).join(""));
seen.scales = viewer.sheets.map((sheet) => {
  const mm = +sheet.scale.dataset.mm, perMm = sheet.canvas.getBoundingClientRect().width / sheet.widthMm;
  return sheet.scale.getBoundingClientRect().width / (mm * perMm);
});

// A row goes to its lesion, a lesion lights its row; sorted by any measure.
document.querySelector('#tables tr[data-lesion="3"]').click();
while (viewer.chosenLesion.key !== "3") await wait(5);
seen.row = [...viewer.state.place];
viewer.setPlace(PLACES["1"]);
seen.lit = lit();
seen.listLit = [...document.querySelectorAll("#lesions tr.chosen")].map((row) => row.cells[0].textContent);
seen.marks = [...document.querySelectorAll("figure:first-child .marks button")].map((mark) => mark.textContent);
seen.allMarks = [...document.querySelectorAll("figure:last-child .marks button")].length;
const heads = [...document.querySelectorAll("#lesions th button")].map((head) => head.textContent);
seen.heads = heads;
seen.orders = Object.fromEntries(heads.map((head, i) => {
  document.querySelectorAll("#lesions th button")[i].click();
  return [head, listed()];
}));
const last = byId("lesions").tBodies[0].rows[0];
last.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
seen.entered = [viewer.chosenLesion.key, last.cells[0].textContent, last.tabIndex];

// Windows: by presets, numbers, and the right button.
seen.presets = [...byId("above-window").options].map((option) => option.textContent);
set("above-window", "SUV 0-15"); seen.preset = viewer.window.above;
set("above-high", 7.5, "change"); seen.typed = [viewer.window.above, byId("above-window").value];
set("above-high", -3, "change"); seen.refused = viewer.window.above;
const before = viewer.window.above[1];
byId("axial").dispatchEvent(new PointerEvent("pointermove", { buttons: 2, movementX: 40, movementY: 0 }));
seen.dragged = viewer.window.above[1] > before && byId("above-high").value == +viewer.window.above[1].toFixed(2);
set("fusion", 0);
byId("axial").dispatchEvent(new PointerEvent("pointermove", { buttons: 2, movementX: 0, movementY: 20 }));
seen.draggedBelow = viewer.window.below;

// Fusion from the CT alone to the PET alone; a PET below is black on white.
const pixel = (id, row, column) => {
  const canvas = byId(id), context = canvas.getContext("2d");
  const [rows, columns] = [viewer.shape[1], viewer.shape[2]];
  return [...context.getImageData(Math.floor((column + .5) * canvas.width / columns), Math.floor((row + .5) * canvas.height / rows), 1, 1).data].slice(0, 3);
};
for (const id of ["crosshair", "show-prediction", "numbers"]) byId(id).click();
set("above-window", "SUV 0-10"); set("below-window", "wide");
viewer.state.place = [24, 14, 12];
set("fusion", 0); seen.ctAlone = pixel("axial", 14, 12); seen.ctGrey = viewer.volume("below").at(viewer.index([24, 14, 12]));
set("fusion", 100); seen.petAlone = pixel("axial", 14, 12); seen.outside = pixel("axial", 35, 30);
set("below", 1); set("below-window", "SUV 0-10"); seen.inverted = pixel("axial", 14, 12);
byId("inverted").click(); seen.upright = pixel("axial", 14, 12); byId("inverted").click();
set("below", 0);
for (const id of ["crosshair", "show-prediction", "numbers"]) byId(id).click();

// The projection: contours, sides, and a click that goes to the place.
const bare = picture("mip"); byId("show-prediction").click(); seen.contours = bare !== picture("mip"); byId("show-prediction").click();
byId("from-side").click(); seen.side = [viewer.projection.angle, viewer.projection.letters.map((s) => s.textContent).join("")];
byId("from-front").click();
const [, , w] = viewer.shape;
const column = viewer.projection.where()(0, 0, HOTTEST[2])[1];
point("mip", "pointerdown", (column + .5) / viewer.projection.size, (viewer.shape[0] - 1 - HOTTEST[0] + .5) / viewer.shape[0]);
seen.projected = [...viewer.state.place];

// Zoom and pan: the voxel under the pointer stays under it.
point("axial", "pointermove", .31, .41); const under = values().place;
const client = at("axial", .31, .41);
byId("axial").dispatchEvent(new WheelEvent("wheel", { ctrlKey: true, deltaY: -1, ...client, cancelable: true }));
byId("axial").dispatchEvent(new PointerEvent("pointermove", { ...client, buttons: 0 }));
seen.zoomed = [viewer.planes[0].zoom > 1, under, values().place];
byId("axial").dispatchEvent(new PointerEvent("pointermove", { buttons: 4, movementX: 13, movementY: 7 }));
const panned = { ...client, clientX: client.clientX + 13, clientY: client.clientY + 7 };
byId("axial").dispatchEvent(new PointerEvent("pointermove", { ...panned, buttons: 0 }));
seen.panned = values().place;
byId("axial").dispatchEvent(new MouseEvent("dblclick", { bubbles: true })); seen.reset = viewer.planes[0].zoom;
byId("closer").click(); seen.closer = viewer.sheets.every((sheet) => sheet.zoom > 1); byId("farther").click();

// Sliders (touch), screen readers, and an image to keep.
const slider = document.querySelector("figure input"); slider.value = 9; slider.dispatchEvent(new Event("input"));
seen.slider = [viewer.state.place[0], byId("axial").getAttribute("aria-label")];
seen.unlabelled = [...document.querySelectorAll("input, select, button")].filter((one) =>
  !one.labels?.length && !one.ariaLabel && !one.getAttribute("aria-label") && !one.textContent.trim()).map((one) => one.id);
const link = viewer.saveImage();
seen.image = [link.download, link.href.slice(0, 22), link.href.length > 10000];
seen.touch = getComputedStyle(byId("axial")).touchAction;
