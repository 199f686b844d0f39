// What the scripts of tests/annotate/test_page.py share.
const taken = async () => btoa(String.fromCharCode(...await packed(editor.label)));
const editor = viewer.editor;
const at = (plane, place) => {
  const sheet = viewer.planes[plane], [row, column] = sheet.cell(place), box = sheet.canvas.getBoundingClientRect();
  return { clientX: box.left + box.width * (column + .5) / viewer.shape[sheet.columns],
    clientY: box.top + box.height * (row + .5) / viewer.shape[sheet.rows], pointerId: 1, bubbles: true, button: 0, buttons: 1 };
};
HTMLElement.prototype.setPointerCapture = () => {};
const go = (place) => { viewer.state.place = [...place]; viewer.draw(); };
const press = (place, kind = "pointerdown") => viewer.planes[0].canvas.dispatchEvent(new PointerEvent(kind, at(0, place)));
const release = () => dispatchEvent(new PointerEvent("pointerup"));
const key = (name, more = {}) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...more }));
const until = async (test) => { for (let i = 0; i < 4000 && !test(); i++) await wait(5); };
const set = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("input")); };
