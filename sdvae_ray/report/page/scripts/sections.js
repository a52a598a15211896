// Navigation: the section in view is marked, and a link to a folded part unfolds it. On paper everything is unfolded.
(() => {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const inView = new Set();
  const mark = () => {
    const first = [...links.keys()].find((id) => inView.has(id));
    for (const [id, link] of links) {
      if (id === first) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const nav = document.querySelector("nav");
    const link = links.get(first);
    if (link && nav.scrollWidth > nav.clientWidth) nav.scrollLeft = link.offsetLeft - nav.clientWidth / 3;
  };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) inView[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    mark();
  }, { rootMargin: "-60px 0px -55% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);

  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    const folds = target.tagName === "SECTION" ? target.querySelectorAll(":scope > details.more") : [];
    const hasMore = [...target.children].some((part) => !["H2", "DETAILS"].includes(part.tagName));
    if (folds.length && !hasMore) folds[0].open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
