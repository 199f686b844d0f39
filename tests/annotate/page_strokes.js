// 500 strokes at random places.
seen.opened = await taken(); seen.note = byId("saved").textContent; editor.label.fill(0);
let state = 1; const random = (n) => { state = (state * 48271) % 2147483647; return state % n; };
seen.strokes = [];
set("brush-mm", 14);
for (let i = 0; i < 500; i++) {
  const place = viewer.shape.map(random), erases = i % 3 === 2;
  editor.take(erases ? "eraser" : "brush");
  viewer.state.place = place; press(place); release();
  seen.strokes.push([place, erases]);
}
seen.all = await taken();
