// Pictures: each can be enlarged, with contrast and zoom; the arrow keys go to the next one.
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const image = viewer.querySelector("img");
  const [contrast, zoom] = ["contrast", "zoom"].map((id) => document.getElementById(id));
  const sheet = viewer.querySelector(".sheet");
  let pictures = [];
  let place = 0;

  const show = (next) => {
    place = (next + pictures.length) % pictures.length;
    image.src = pictures[place].src;
    image.alt = pictures[place].alt;
    document.getElementById("legend").textContent = `${pictures[place].alt} (${place + 1} of ${pictures.length})`;
  };
  const adjust = () => {
    image.style.filter = `brightness(${contrast.value})`;
    if (/^(mean )?difference/.test(image.alt)) image.style.filter = `contrast(${contrast.value})`;
    sheet.style.setProperty("--zoom", zoom.value);
  };
  const step = (by) => { show(place + by); adjust(); };

  for (const picture of document.querySelectorAll(".trio img, .pictures img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "open";
    button.setAttribute("aria-label", `enlarge: ${picture.alt}`);
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => {
      pictures = [...button.closest(".trio, .pictures").querySelectorAll("img")];
      show(pictures.indexOf(picture));
      adjust();
      viewer.showModal();
    });
  }
  for (const range of [contrast, zoom]) range.addEventListener("input", adjust);
  document.getElementById("before").addEventListener("click", () => step(-1));
  document.getElementById("after").addEventListener("click", () => step(1));
  document.getElementById("shut").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range" || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    step(event.key === "ArrowRight" ? 1 : -1);
  });
})();
