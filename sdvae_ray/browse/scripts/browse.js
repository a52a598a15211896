// Search, neighbours with pictures, a new image and the table of marked wells: questions to the server of this page, answers as text.
(() => {
  history.replaceState(null, "", location.pathname + location.hash); // the token of the address has become a cookie
  const part = (id) => document.getElementById(id);
  const element = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), { textContent: text, ...properties });
  const say = (text) => { if (part("says")) part("says").textContent = text; };
  let marked = [], firstMarked = "", asked = 0;

  const answerOf = async (response) => {
    const answer = response.headers.get("Content-Type").startsWith("application/json") ? await response.json() : { error: await response.text() };
    if (!response.ok) throw new Error(answer.error);
    return answer;
  };
  const ask = async (path, values, body) => {
    const query = new URLSearchParams(values.filter(([, value]) => value !== ""));
    return answerOf(await fetch(`${path}?${query}`, body ? { method: "POST", body } : {}));
  };
  // Runs an action; its failure, or the server's reason, is said in one line. An answer that a later question overtook is dropped.
  const trying = async (waiting, action, isQuestion = true) => {
    const number = isQuestion ? ++asked : asked;
    say(waiting);
    try {
      const words = await action(() => number === asked);
      if (number === asked) say(words);
    } catch (error) {
      if (number === asked) say(error.message);
    }
  };

  const settings = () => [["space", part("space").value], ["count", part("count").value]];
  const titleOf = (well) => `${well.well}: ${well.name || well.role}`;

  const drawInto = (place, well, side) => {
    if (!well.field) { place.append(element("p", "no usable field of view", { className: "muted" })); return Promise.resolve(); }
    const sides = side ? [["side", side]] : [];
    return ask("/pictures", [["fov", well.field], ...sides]).then((pictures) => {
      for (const [name, picture] of Object.entries(pictures)) {
        const figure = element("figure");
        const words = name === "image" ? "original" : name;
        figure.append(picture.png ? Object.assign(element("img"), { src: `data:image/png;base64,${picture.png}`, alt: `${words} of ${titleOf(well)}`, width: 256 }) : element("p", picture.why, { className: "muted" }), element("figcaption", words));
        place.append(figure);
      }
    }).catch((error) => place.append(element("p", error.message, { className: "muted" })));
  };

  const card = (well) => {
    const article = element("article", "", { className: "example" });
    const button = element("button", titleOf(well), { type: "button", className: "link" });
    button.addEventListener("click", () => neighboursOf(well.well));
    const head = element("h3");
    head.append(button);
    const alike = well.similarity === undefined ? "the query" : `cosine ${well.similarity.toFixed(3)}`;
    const pictures = element("div", "", { className: "pair" });
    article.append(head, element("p", [alike, well.role, well.group, well.field].filter((word) => word).join("; "), { className: "muted" }), pictures);
    return [article, pictures];
  };

  const show = async (answer, isCurrent) => {
    const wells = [...answer.query, ...answer.neighbours];
    const gallery = element("div", "", { className: "gallery" });
    const cards = wells.map((well) => [well, ...card(well)]);
    gallery.append(...cards.map(([, article]) => article));
    const facts = Object.entries(answer.facts).map(([name, value]) => `${name}: ${value}`).join("; ");
    part("answer").replaceChildren(element("p", facts, { className: "muted" }), gallery);
    const numbers = wells.map((well) => well.number).filter((number) => number !== null);
    document.dispatchEvent(new CustomEvent("wells:mark", { detail: numbers }));
    const side = part("side").value;
    for (const [well, , pictures] of cards) {
      if (!isCurrent()) return "";
      say(`pictures: ${titleOf(well)}`);
      await drawInto(pictures, well, side);
    }
    return `${answer.neighbours.length} nearest wells`;
  };

  const neighboursOf = (well) => trying(`looking for the neighbours of ${well}`, async (isCurrent) => {
    const answer = await ask("/neighbours", [["well", well], ...settings()]);
    return isCurrent() ? show(answer, isCurrent) : "";
  });

  const find = () => trying("searching", async (isCurrent) => {
    const answer = await ask("/find", [["text", part("text").value]]);
    if (!isCurrent()) return "";
    part("found").replaceChildren(...answer.wells.map((well) => {
      const button = element("button", titleOf(well), { type: "button", className: "link" });
      button.addEventListener("click", () => neighboursOf(well.well));
      const item = element("li");
      item.append(button);
      return item;
    }));
    document.dispatchEvent(new CustomEvent("wells:mark", { detail: answer.wells.map((well) => well.number).filter((number) => number !== null) }));
    return answer.total === 0 ? "no such well or treatment" : answer.total > answer.wells.length ? `the first ${answer.wells.length} of ${answer.total} wells; choose one` : `${answer.total} wells; choose one`;
  });

  const searchImage = () => trying("reading and embedding the image; the first time takes longest", async (isCurrent) => {
    const files = [...document.querySelectorAll("#image-form input[type=file]")].filter((input) => input.files.length);
    const parts = files.map((input) => ["part", `${input.dataset.stain}:${input.files[0].size}`]);
    const answer = await ask("/image", [...parts, ["plate", part("plate").value], ...settings()], new Blob(files.map((input) => input.files[0])));
    if (!isCurrent()) return "";
    part("search").scrollIntoView();
    return show(answer, isCurrent);
  });

  const save = () => trying("writing the table", async () => {
    if (!marked.length) return "no well is marked: draw a box or a lasso on the map or a plate";
    const response = await fetch("/wells.csv", { method: "POST", body: JSON.stringify(marked), headers: { "Content-Type": "application/json" } });
    if (!response.ok) await answerOf(response);
    const address = URL.createObjectURL(await response.blob());
    element("a", "", { href: address, download: "wells.csv" }).click();
    URL.revokeObjectURL(address);
    return `${marked.length} wells saved`;
  }, false);

  const onSubmit = (id, action) => part(id)?.addEventListener("submit", (event) => { event.preventDefault(); action(); });
  onSubmit("search-form", find);
  onSubmit("image-form", searchImage);
  part("save")?.addEventListener("click", save);
  part("ask")?.addEventListener("click", () => firstMarked ? neighboursOf(firstMarked) : say("no well is marked: click one on the map or a plate"));
  document.addEventListener("wells:marked", (event) => { marked = event.detail.wells; firstMarked = event.detail.first; });
})();
