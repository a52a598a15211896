// Tables with tools: sort by a heading, search, filter by side and by the word beside a number, and links to pictures.
(() => {
  const node = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const pictures = new Map([...document.querySelectorAll(".example[data-compound]")].reverse().map((one) => [one.dataset.compound, one.id])); // the first wins
  const textOf = (cell) => cell.innerText.trim();
  const numberOf = (cell) => parseFloat(textOf(cell).replace(/,/g, "").replace("−", "-"));

  const sortBy = (table, column, heading) => {
    const way = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const isNumber = heading.classList.contains("n");
    const rows = [...body.rows].map((row, place) => {
      const value = isNumber ? numberOf(row.cells[column]) : textOf(row.cells[column]).toLowerCase();
      return { row, place, value };
    });
    const isMissing = (value) => Number.isNaN(value);
    rows.sort((a, b) => {
      if (isMissing(a.value) || isMissing(b.value)) return isMissing(a.value) - isMissing(b.value) || a.place - b.place;
      return (a.value < b.value ? -way : a.value > b.value ? way : a.place - b.place);
    });
    body.append(...rows.map(({ row }) => row));
  };

  for (const table of document.querySelectorAll("table.tools")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = node("button", { type: "button" }, ...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, column, heading));
      heading.append(button);
    });
    const rows = [...table.tBodies[0].rows];
    const words = [...new Set([...table.querySelectorAll("td [data-word]")].map((word) => word.dataset.word))];
    const sides = headings.map((heading, column) => [column, textOf(heading)]).filter(([column]) => rows.some((row) => row.cells[column]?.querySelector("[data-word]")));
    const search = node("input", { type: "search", placeholder: "name" });
    const word = node("select", {}, node("option", { value: "" }, "anything"), ...words.map((one) => node("option", { value: one }, one)));
    const side = node("select", {}, node("option", { value: "" }, "any side"), ...sides.map(([column, name]) => node("option", { value: column }, name)));
    const count = node("output", {});
    const show = () => {
      let shown = 0;
      for (const row of rows) {
        const cells = side.value ? [row.cells[side.value]] : [...row.cells];
        const hasWord = !word.value || cells.some((cell) => cell.querySelector("[data-word]")?.dataset.word === word.value);
        row.hidden = !(hasWord && row.cells[0].textContent.toLowerCase().includes(search.value.toLowerCase()));
        shown += !row.hidden;
      }
      count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    };
    for (const part of [search, word, side]) part.addEventListener("input", show);
    table.parentElement.before(node("div", { className: "find" }, node("label", {}, "search ", search), node("label", {}, "show ", word), node("label", {}, "by ", side), count));
    show();
    for (const row of rows) {
      const picture = pictures.get(row.dataset.compound);
      if (picture) row.cells[0].append(" ", node("a", { href: `#${picture}` }, "picture"));
    }
  }
})();
