// Every tool once; HOT, FROM, TO, LOW and HIGH are put in.
seen.shape = viewer.shape; seen.spacing = viewer.data.spacing; seen.empty = editor.label.every((v) => !v);
// A click: the threshold around the hottest voxel.
key("t"); seen.tool = editor.tool; go(HOT);
press(HOT); await until(() => document.body.dataset.clicked); seen.clicked = await taken();
await until(() => document.body.dataset.measured); seen.measured = JSON.parse(document.body.dataset.measured);
seen.listed = [...document.querySelectorAll("#lesions tbody tr")].length;
// Away again, and back.
key("x"); press(HOT); seen.away = editor.label.every((v) => !v);
key("z", { ctrlKey: true }); seen.back = await taken();
key("y", { ctrlKey: true }); seen.again = editor.label.every((v) => !v);
// The brush, as a stroke from one place to another; the eraser.
key("b"); set("brush-mm", 24); go(FROM); press(FROM); press(TO, "pointermove"); release(); seen.stroke = await taken();
key("e"); set("brush-mm", 16); press(FROM); release(); seen.erased = await taken();
byId("undo").click(); byId("undo").click(); seen.undone = editor.label.every((v) => !v);
byId("redo").click(); byId("redo").click(); seen.redone = await taken();
// Slices between two.
key("b"); set("brush-mm", 30); go(LOW); press(LOW); release(); go(HIGH); set("brush-mm", 18); press(HIGH); release();
seen.two = await taken(); byId("between").click(); seen.between = await taken();
// Lesions: one is deleted, the other alone is kept.
key("l"); go(LOW); byId("keep-lesion").click(); seen.kept = await taken();
byId("delete-lesion").click(); seen.deleted = editor.label.every((v) => !v); byId("undo").click();
// Saved; with somebody beside; another one as the reference.
set("who", "Ann"); key("s", { ctrlKey: true }); await until(() => document.body.dataset.kept?.startsWith("final"));
seen.version = editor.version; seen.said = byId("saved").textContent; seen.final = await taken();
set("compare", String(editor.version)); await until(() => document.body.dataset.compared);
seen.reference = viewer.masks.filter((m) => m.role === "reference").map((m) => m.data.reduce((a, b) => a + b, 0));
// A connection that is lost: nothing is, and it is tried again.
const real = window.fetch; window.fetch = () => Promise.reject(new Error("no connection"));
key("b"); go(FROM); press(FROM); release(); await wait(2500); seen.lost = byId("saved").textContent;
seen.dirty = editor.dirty; delete document.body.dataset.kept; window.fetch = real;
await until(() => document.body.dataset.kept); seen.found = [document.body.dataset.kept, editor.dirty];
seen.draft = await taken();
