// Drawing of wells: colours, the map and the plates on canvases, and boxes and lassos that are drawn over them.
const wellColours = (data) => {
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis: van der Walt and Smith 2015
  const ramp = Array.from({ length: 255 }, (_, code) => {
    const at = (code / 254) * 4;
    const low = Math.min(3, Math.floor(at));
    return `rgb(${stops[low].map((value, part) => Math.round(value + (stops[low + 1][part] - value) * (at - low))).join(",")})`;
  });
  ramp.push("#9994");
  const names = ["#2a6fcb", "#c9561b", "#2a8a5c", "#8b51c2", "#a67c00", "#c0356f", "#4f7f8a", "#7a5230", "#5b5fd6", "#6f8f1d", "#b04a4a", "#777777"];
  const few = (column, texts, label) => ({ label, of: (well) => names[column[well] % names.length], legend: texts.length <= names.length ? texts.map((text, number) => [names[number], text]) : [], value: (well) => texts[column[well]] });
  const position = (column, label) => {
    let most = 1;
    for (let well = 0; well < data.count; well++) if (column[well] !== 255) most = Math.max(most, column[well]);
    return { label, of: (well) => ramp[column[well] === 255 ? 255 : Math.round((254 * column[well]) / most)], legend: [[ramp[0], "1"], [ramp[254], String(most + 1)]], value: (well) => column[well] === 255 ? "–" : column[well] + 1 };
  };
  const measure = (one) => ({ label: one.label, of: (well) => ramp[one.codes[well]], legend: [[ramp[0], one.low.toPrecision(3)], [ramp[127], ""], [ramp[254], one.high.toPrecision(3)], ["#9994", "no value"]], value: (well) => data.valueOf(one, well) });
  return [
    few(data.role, data.roles, "role"), few(data.compound, data.names.map((name) => name || "no compound"), "compound"),
    few(data.plate, data.plates, "plate"), few(data.batch, data.batches, "batch"), position(data.row, "row of the plate"), position(data.column, "column of the plate"),
    ...data.measures.map(measure),
  ];
};

// The number of a colour in a picture's memory: alpha, blue, green, red from the highest byte down.
const pixelOf = (() => {
  const known = new Map();
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  return (colour) => {
    if (!known.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      known.set(colour, new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0]);
    }
    return known.get(colour);
  };
})();
const dimmed = (pixel) => ((pixel & 0xffffff) | (((pixel >>> 24) * 0.22) << 24)) >>> 0;

// Whether a point is inside a lasso, [[x, y], ...]: a line from the point to the right crosses its edge an odd number of times.
const isInside = (lasso, x, y) => {
  let inside = false;
  for (let here = 0, before = lasso.length - 1; here < lasso.length; before = here++) {
    const [x1, y1] = lasso[here], [x2, y2] = lasso[before];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
};

// A canvas of marks. places(width, height): [[well, x, y, size]] in CSS pixels. Marks are painted on a layer of their own when they
// change; the box and the well one looks at are drawn over it.
const wellCanvas = (canvas, state, places, isFramed) => {
  const pen = canvas.getContext("2d");
  const layer = document.createElement("canvas");
  let drawn = [];
  let box = null, lasso = [];
  const nearest = (x, y, most) => {
    let best = -1, least = most * most;
    for (const [well, left, top] of drawn) {
      const far = (left - x) ** 2 + (top - y) ** 2;
      if (far < least) { least = far; best = well; }
    }
    return best;
  };
  const paint = () => {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.max(1, Math.round(canvas.clientWidth * ratio)), Math.max(1, Math.round(canvas.clientHeight * ratio))];
    Object.assign(layer, { width, height });
    drawn = places(canvas.clientWidth, canvas.clientHeight);
    const layerPen = layer.getContext("2d");
    const image = layerPen.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const put = ([well, x, y, size], pixel) => {
      const [left, top] = [Math.max(0, Math.round((x - size / 2) * ratio)), Math.max(0, Math.round((y - size / 2) * ratio))];
      const [right, bottom] = [Math.min(width, Math.round((x + size / 2) * ratio)), Math.min(height, Math.round((y + size / 2) * ratio))];
      for (let row = top; row < bottom; row++) pixels.fill(pixel, row * width + left, row * width + right);
    };
    const isAny = state.marked.size > 0;
    for (const one of drawn) if (!isAny || !state.marked.has(one[0])) put(one, isAny ? dimmed(pixelOf(state.colour.of(one[0]))) : pixelOf(state.colour.of(one[0])));
    if (isAny) for (const one of drawn) if (state.marked.has(one[0])) put(one, pixelOf(state.colour.of(one[0])));
    layerPen.putImageData(image, 0, 0);
    show();
  };
  const show = () => {
    const ratio = devicePixelRatio || 1;
    Object.assign(canvas, { width: layer.width, height: layer.height });
    pen.drawImage(layer, 0, 0);
    pen.scale(ratio, ratio);
    pen.strokeStyle = getComputedStyle(document.body).color;
    if (isFramed) {
      pen.globalAlpha = 0.35;
      pen.strokeRect(0.5, 0.5, canvas.clientWidth - 1, canvas.clientHeight - 1);
      pen.globalAlpha = 1;
    }
    const here = drawn.find(([well]) => well === state.here);
    pen.lineWidth = 2;
    if (here) pen.strokeRect(here[1] - here[3] / 2 - 2, here[2] - here[3] / 2 - 2, here[3] + 4, here[3] + 4);
    if (!box) return;
    pen.setLineDash([4, 3]);
    if (state.isLasso) {
      pen.beginPath();
      for (const [x, y] of lasso) pen.lineTo(x, y);
      pen.closePath();
      pen.stroke();
      return;
    }
    pen.strokeRect(Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.abs(box[2] - box[0]), Math.abs(box[3] - box[1]));
  };
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    box = [...at(event), ...at(event)];
    lasso = [at(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!box) {
      const well = nearest(...at(event), 14);
      if (well >= 0 && well !== state.here) state.goTo(well);
      return;
    }
    [box[2], box[3]] = at(event);
    lasso.push([box[2], box[3]]);
    requestAnimationFrame(show);
  });
  canvas.addEventListener("pointerup", (event) => {
    const [left, right] = [Math.min(box[0], box[2]), Math.max(box[0], box[2])];
    const [top, bottom] = [Math.min(box[1], box[3]), Math.max(box[1], box[3])];
    const isClick = right - left < 4 && bottom - top < 4 && lasso.length < 8;
    const isBrushed = state.isLasso ? ([, x, y]) => isInside(lasso, x, y) : ([, x, y]) => x >= left && x <= right && y >= top && y <= bottom;
    const wells = isClick ? [nearest(left, top, 14)].filter((well) => well >= 0) : drawn.filter(isBrushed).map(([well]) => well);
    box = null;
    state.mark(wells, event.shiftKey);
    if (isClick && wells.length) state.goTo(wells[0]);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Enter" && state.here >= 0) state.mark([state.here], true);
    else if (event.key === "Escape") state.mark([]);
    else if (way && drawn.length) {
      const from = drawn.find(([well]) => well === state.here);
      let best = from ? -1 : drawn[0][0], least = Infinity;
      for (const [well, x, y] of from ? drawn : []) {
        const ahead = (x - from[1]) * way[0] + (y - from[2]) * way[1];
        const aside = Math.abs((x - from[1]) * way[1]) + Math.abs((y - from[2]) * way[0]);
        if (ahead > 0.5 && ahead + 3 * aside < least) { least = ahead + 3 * aside; best = well; }
      }
      if (best >= 0) state.goTo(best);
    } else return;
    event.preventDefault();
  });
  return { paint, show };
};
