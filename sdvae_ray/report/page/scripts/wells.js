// The explorer: a map, plates and a list of wells that share what is marked, the well one looks at, and the colour.
(() => {
  const data = readWells();
  if (!data) return;
  const part = (id) => document.getElementById(id);
  const PLATES = 12, ROWS = 200;
  const colours = wellColours(data);
  const first = colours.findIndex((one) => one.label.startsWith("normalised AP"));
  const state = { marked: new Set(), here: -1, colour: colours[Math.max(first, 0)], from: 0, isLasso: false };
  const element = (tag, text, properties = {}) => Object.assign(document.createElement(tag), { textContent: text, ...properties });
  const options = (select, labels, chosen = 0) => labels.forEach((label, number) => select.append(element("option", label, { value: number, selected: number === chosen })));
  options(part("map"), data.maps.map((map) => map.label));
  options(part("map-group"), data.groups);
  options(part("colour"), colours.map((one) => one.label), colours.indexOf(state.colour));
  part("map-group").parentElement.hidden = data.groups.length < 2;
  part("map").parentElement.hidden = part("map-canvas").hidden = !data.maps.length;
  part("compound-names").append(...data.names.filter((name) => name).slice(0, 5000).map((name) => element("option", "", { value: name })));

  const drawings = [];
  let waiting = null;
  const draw = (what) => {
    if (!waiting) requestAnimationFrame(() => { const how = waiting; waiting = null; drawings.forEach((one) => one[how]()); });
    waiting = waiting === "paint" ? waiting : what;
  };
  state.goTo = (well) => { state.here = well; tell(); draw("show"); };
  state.mark = (wells, isMore = false) => {
    if (!isMore) state.marked = new Set(wells);
    else for (const well of wells) if (wells.length > 1 || !state.marked.delete(well)) state.marked.add(well);
    list();
    draw("paint");
  };

  const picture = (well) => data.pictures[well] ? [element("img", "", { src: `data:image/png;base64,${data.pictures[well]}`, alt: `Original of ${data.nameOf(well)}`, className: "thumbnail" })] : [];
  const tell = () => {
    const well = state.here;
    const rows = [["well", data.nameOf(well)], ["compound", data.compoundOf(well)], ["role", data.roles[data.role[well]]], [state.colour.label, state.colour.value(well)]];
    const table = element("table", "");
    for (const [name, text] of rows) {
      const row = table.insertRow();
      row.append(element("th", name, { scope: "row" }), element("td", text));
    }
    const near = element("ol", "");
    for (let rank = 0; rank < data.nearest; rank++) {
      const other = data.neighbours[well * data.nearest + rank];
      if (other < 0) continue;
      const button = element("button", `${data.nameOf(other)} ${data.compoundOf(other)}`, { type: "button" });
      button.addEventListener("click", () => { state.mark([well, other]); state.goTo(other); });
      const item = element("li", "");
      item.append(...picture(other), button);
      near.append(item);
    }
    part("well").replaceChildren(...picture(well), table, ...(near.childElementCount ? [element("h4", "nearest wells"), near] : []));
  };
  const list = () => {
    const wells = [...state.marked];
    part("marked").textContent = wells.length ? `${wells.length.toLocaleString("en")} wells are marked` : `${data.count.toLocaleString("en")} wells`;
    part("value-head").textContent = state.colour.label;
    part("well-rows").replaceChildren(...wells.slice(0, ROWS).map((well) => {
      const row = element("tr", "");
      const button = element("button", data.nameOf(well), { type: "button" });
      button.addEventListener("click", () => state.goTo(well));
      const head = element("th", "", { scope: "row" });
      head.append(button);
      row.append(head, element("td", data.compoundOf(well)), element("td", data.roles[data.role[well]]), element("td", state.colour.value(well), { className: "n" }));
      return row;
    }));
    document.dispatchEvent(new CustomEvent("wells:marked", { detail: { wells, first: wells.length ? data.nameOf(wells[0]) : "" } }));
    part("rows-say").textContent = wells.length > ROWS ? `The first ${ROWS} of ${wells.length.toLocaleString("en")}.` : "";
  };
  const legend = () => part("colours").replaceChildren(`${state.colour.label}: `, ...state.colour.legend.flatMap(([colour, text]) => {
    const swatch = element("i", "", { className: "swatch" });
    swatch.style.background = colour;
    return [swatch, `${text}  `];
  }));

  if (data.maps.length) {
    const places = (width, height) => {
      const map = data.maps[part("map").value].places, group = Number(part("map-group").value), out = [];
      const size = data.count > 20000 ? 2 : data.count > 2000 ? 4 : 8;
      for (let well = 0; well < data.count; well++) if (map[2 * well] !== 65535 && data.group[well] === group) out.push([well, 10 + (map[2 * well] / 65534) * (width - 20), height - 10 - (map[2 * well + 1] / 65534) * (height - 20), size]);
      part("map-says").textContent = `${out.length.toLocaleString("en")} wells; right: first principal component, up: second`;
      return out;
    };
    drawings.push(wellCanvas(part("map-canvas"), state, places, false));
  }
  const byPlate = data.plates.map(() => []);
  for (let well = 0; well < data.count; well++) if (data.isOnPlate(well)) byPlate[data.plate[well]].push(well);
  const showPlates = () => {
    drawings.splice(data.maps.length ? 1 : 0);
    const last = Math.min(state.from + PLATES, data.plates.length);
    const figures = [];
    for (let plate = state.from; plate < last; plate++) {
      const [rows, columns] = data.shapes[plate];
      const canvas = element("canvas", "", { tabIndex: 0 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `Plate ${data.plates[plate]}, ${rows} rows and ${columns} columns`);
      canvas.style.aspectRatio = `${columns} / ${rows}`;
      const figure = element("figure", "");
      figure.append(element("figcaption", `${data.plates[plate]}`), canvas);
      figures.push(figure);
      const places = (width) => byPlate[plate].map((well) => [well, (data.column[well] + 0.5) * (width / columns), (data.row[well] + 0.5) * (width / columns), (width / columns) * 0.88]);
      drawings.push(wellCanvas(canvas, state, places, true));
    }
    part("well-plates").replaceChildren(...figures);
    part("pager").hidden = data.plates.length <= PLATES;
    part("plates-shown").textContent = `plates ${state.from + 1} to ${last} of ${data.plates.length}`;
    draw("paint");
  };
  const page = (by) => { state.from = Math.max(0, Math.min(state.from + by, data.plates.length - 1)); state.from -= state.from % PLATES; showPlates(); };
  part("plates-before").addEventListener("click", () => page(-PLATES));
  part("plates-after").addEventListener("click", () => page(PLATES));
  part("clear").addEventListener("click", () => { part("mark").value = ""; state.mark([]); });
  for (const id of ["map", "map-group"]) part(id).addEventListener("input", () => draw("paint"));
  part("colour").addEventListener("input", (event) => { state.colour = colours[event.target.value]; legend(); list(); if (state.here >= 0) tell(); draw("paint"); });
  const markCompounds = (matches) => {
    const isMatch = data.names.map(matches), wells = [];
    for (let well = 0; well < data.count; well++) if (isMatch[data.compound[well]]) wells.push(well);
    state.mark(wells);
  };
  part("mark").addEventListener("input", (event) => {
    const text = event.target.value.toLowerCase();
    if (text) markCompounds((name) => name.toLowerCase().includes(text));
    else state.mark([]);
  });
  part("brush").addEventListener("input", (event) => { state.isLasso = event.target.value === "lasso"; });
  document.addEventListener("wells:mark", (event) => state.mark(event.detail));
  const numberOf = new Map(data.compounds.map((compound, number) => [compound, number]));
  for (const row of document.querySelectorAll("table.tools tr[data-compound]")) {
    const number = numberOf.get(row.dataset.compound);
    if (number === undefined) continue;
    const button = element("button", "wells", { type: "button", className: "link" });
    button.addEventListener("click", () => {
      markCompounds((_, other) => other === number);
      document.getElementById("wells").scrollIntoView();
    });
    row.cells[0].append(" ", button);
  }
  addEventListener("resize", () => draw("paint"));
  legend();
  list();
  showPlates();
})();
