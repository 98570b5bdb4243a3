"use strict";
(async () => {
  const at = (id) => document.getElementById(id);
  const told = (text) => { at("told").textContent = text; };

  // The bytes of a volume, which lies in the page as base64. Its text is dropped, because it is large.
  function bytes(id) {
    const coded = atob(at(id).textContent);
    at(id).remove();
    const found = new Uint8Array(coded.length);
    for (let i = 0; i < coded.length; i++) found[i] = coded.charCodeAt(i);
    return found.buffer;
  }

  // Colours of the n-th labels; those that are not in `hidden` can be seen.
  function colours(labels, hidden) {
    const all = [{ name: "", colour: [0, 0, 0] }, ...labels];
    const channel = (place) => all.map((label) => label.colour[place]);
    const A = all.map((_, n) => (n === 0 || hidden.has(n) ? 0 : 255));
    return { R: channel(0), G: channel(1), B: channel(2), A, I: all.map((_, n) => n), labels: all.map((l) => l.name) };
  }

  const facts = JSON.parse(at("facts").textContent);
  if (!document.createElement("canvas").getContext("webgl2")) {
    document.body.dataset.state = "failed";
    told("This browser has no WebGL 2, which the viewer draws with. Open the page in another browser.");
    return;
  }
  const nv = new niivue.Niivue({
    isRadiologicalConvention: true,
    multiplanarPadPixels: 14, // letters of two slices stand beside each other
    multiplanarShowRender: niivue.SHOW_RENDER.NEVER, // slow where the browser draws without a GPU
    dragAndDropEnabled: false,
    showAllOrientationMarkers: true,
    crosshairColor: [1, 1, 1, 1],
    crosshairWidth: 0.35,
    crosshairWidthUnit: "percent",
    fontColor: [0.85, 0.85, 0.85, 1],
    logLevel: "error",
  });
  nv.onLocationChange = (location) => {
    const [value, place] = location.values.map((one) => one.value);
    const label = facts.labels[place - 1];
    const mm = Array.from(location.mm).slice(0, 3);
    const sides = [["L", "R"], ["P", "A"], ["I", "S"]];
    const words = mm.map((v, axis) => `${sides[axis][v < 0 ? 0 : 1]} ${Math.abs(v).toFixed(1)}`);
    at("where").textContent = `${words.join(", ")} mm: ${Number(value.toPrecision(5))}${label ? `, ${label.name}` : ""}`;
  };
  await nv.attachToCanvas(at("canvas"));
  await nv.loadFromArrayBuffer(bytes("scan"), "scan.nii.gz");
  await nv.loadFromArrayBuffer(bytes("mask"), "mask.nii.gz");
  [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = facts.window;

  const hidden = new Set();
  function show() {
    nv.volumes[1].setColormapLabel(colours(facts.labels, hidden));
    nv.volumes[1].opacity = Number(at("opacity").value);
    nv.opts.atlasOutline = at("borders").checked ? 1 : 0;
    nv.updateGLVolume();
  }
  function go(mm) {
    nv.scene.crosshairPos = nv.mm2frac(mm);
    nv.drawScene();
    nv.createOnLocationChange();
  }

  const planes = {
    "three planes": "MULTIPLANAR", axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", "in 3D": "RENDER",
  };
  for (const [name, type] of Object.entries(planes)) at("planes").add(new Option(name, type));
  at("planes").onchange = () => nv.setSliceType(niivue.SLICE_TYPE[at("planes").value]);
  at("opacity").oninput = show;
  at("borders").onchange = show;
  facts.labels.forEach((label, index) => {
    const row = at("labels").tBodies[0].insertRow();
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.ariaLabel = `show ${label.name}`;
    box.onchange = () => { box.checked ? hidden.delete(index + 1) : hidden.add(index + 1); show(); };
    row.insertCell().append(box);
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${label.colour.join(" ")})`;
    const button = document.createElement("button");
    button.title = "go to it";
    button.append(swatch, label.name);
    button.onclick = () => go(label.centre_mm);
    row.insertCell().append(button);
    row.insertCell().textContent = `${label.ml.toFixed(label.ml < 10 ? 2 : 1)} ml`;
  });
  if (facts.labels.length === 0) at("labels").tBodies[0].insertRow().insertCell().textContent = "no voxel is labelled";
  show();
  go(facts.middle_mm);
  told("");
  document.body.dataset.state = "shown";
})().catch((error) => {
  document.body.dataset.state = "failed";
  document.getElementById("told").textContent = `The scan cannot be shown: ${error.message}`;
});
