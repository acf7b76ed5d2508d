// Shows where a table or a wide figure goes on beyond its edge.
"use strict";
(() => {
  const SLACK = 2;

  function mark(box) {
    const edges = box.parentElement.classList;
    edges.toggle("left", box.scrollLeft > SLACK);
    edges.toggle("right", box.scrollLeft + box.clientWidth < box.scrollWidth - SLACK);
    edges.toggle("below", box.scrollTop + box.clientHeight < box.scrollHeight - SLACK);
  }

  document.querySelectorAll(".edges > *").forEach((box) => {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    const resized = new ResizeObserver(() => mark(box));
    resized.observe(box);
    resized.observe(box.firstElementChild);
  });
})();
