// Draws a page's figures when they come into view, follows the colour scheme, its controls and its choice of a writer.
"use strict";
(() => {
  const { read, themes } = looks;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)");
  const figures = new Map();

  const figuresOf = (card) => {
    if (!figures.has(card)) figures.set(card, read(`${card}-figures`));
    return figures.get(card);
  };

  // a card's controls, less those of its other panels, then what is fixed about this panel
  const chosen = ({ dataset: place }) => {
    const controls = [...document.querySelectorAll(`[data-control="${place.card}"]`)];
    const own = controls.filter(({ dataset }) => dataset.panel === undefined || dataset.panel === place.panel);
    const fixed = place.key === undefined ? [] : [place.key];
    return [...own.map((control) => control.value), ...fixed].join(".") || "0";
  };

  function draw(plot) {
    const card = plot.dataset.card;
    const key = chosen(plot);
    const figure = figuresOf(card)[key];
    const layout = {
      ...figure.layout,
      autosize: true,
      template: dark.matches ? themes.dark : themes.light,
      // on a touch screen a finger scrolls the page; it does not zoom the figure
      ...(coarse.matches ? { dragmode: false } : {}),
    };
    const config = {
      responsive: true,
      displaylogo: false,
      // plotly's own default offers to upload the chart to its makers
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["toImage", "sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
      ...(coarse.matches ? { displayModeBar: false } : {}),
    };
    const sentence = document.getElementById(`${card}-sentence`);
    if (sentence && plot.dataset.panel === undefined) sentence.textContent = (figure.layout.meta || {}).sentence || "";
    plot.style.height = `${figure.layout.height}px`;
    // a fresh copy each time: plotly writes into what it is given
    const copy = JSON.parse(JSON.stringify({ data: figure.data, layout }));
    if (dark.matches) looks.onDark(copy);
    looks.fit(copy, plot.parentElement.clientWidth, plot.clientWidth);
    return Plotly.react(plot, copy.data, copy.layout, config).then(() => {
      plot.dataset.drawn = key;
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const isDrawn = (plot) => plot.dataset.drawn !== undefined;
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver(
      (entries) => {
        entries
          .filter((entry) => entry.isIntersecting)
          .forEach((entry) => {
            seen.unobserve(entry.target);
            draw(entry.target);
          });
      },
      { rootMargin: "400px" },
    );
    plots.forEach((plot) => seen.observe(plot));
  } else {
    plots.forEach(draw);
  }
  dark.addEventListener("change", () => plots.filter(isDrawn).forEach(draw));
  window.addEventListener("beforeprint", () => plots.forEach(draw));

  // the text of the chosen key, or the one that says there is none
  function show(card) {
    const bodies = [...document.querySelectorAll(`[data-card="${card}"][data-body]`)];
    if (!bodies.length) return;
    const key = chosen(bodies[0]);
    const one = bodies.find(({ dataset }) => dataset.body === key) || bodies.at(-1);
    bodies.forEach((body) => { body.hidden = body !== one; });
  }

  function tell(control) {
    if (!control.dataset.steps) return;
    const name = JSON.parse(control.dataset.steps)[control.value];
    control.parentElement.querySelector("output").textContent = name;
    control.setAttribute("aria-valuetext", name);
  }

  function follow(control) {
    tell(control);
    show(control.dataset.control);
    // those not drawn yet will ask for their key when they come into view
    plots.filter((plot) => plot.dataset.card === control.dataset.control && isDrawn(plot)).forEach(draw);
  }

  const controls = [...document.querySelectorAll("[data-control]")];
  controls.forEach((control) => {
    tell(control);
    control.addEventListener("input", () => follow(control));
  });

  const whole = document.getElementById("page-writer");
  const parts = controls.filter((control) => control.dataset.writers !== undefined);
  const sliders = controls.filter((control) => control.dataset.layers !== undefined);
  const missing = new Map();

  const layerOf = (writer) => (/\d/.test(writer) ? `layer ${/\d+/.exec(writer)[0]}` : "embeddings");
  const namesOf = (control) => [...control.options].map((option) => option.text.split(" ←")[0]);

  function say(control, said) {
    if (!missing.has(control)) {
      const note = document.createElement("span");
      note.className = "absent";
      control.parentElement.append(note);
      missing.set(control, note);
    }
    missing.get(control).textContent = said;
  }

  function remember(writer) {
    const address = writer ? `#writer=${encodeURIComponent(writer)}` : location.href.split("#")[0];
    try {
      history.replaceState(null, "", address);
    } catch {
      // a frame without an address of its own has none to keep it in
    }
  }

  function absence(control, writer) {
    const shown = namesOf(control)[control.selectedIndex];
    return `${writer} is not shown here; ${shown.includes(" ") ? "these are" : "this is"} ${shown}`;
  }

  // a slider over layers goes to the writer's
  function slide(slider, writer) {
    const at = writer ? JSON.parse(slider.dataset.steps).indexOf(layerOf(writer)) : Number(slider.defaultValue);
    if (at < 0 || at === Number(slider.value)) return;
    slider.value = at;
    follow(slider);
  }

  // every part shows this writer; one that has none of it stays as it is and says so; "" is each part's own beginning
  function choose(writer) {
    whole.closest("label").classList.remove("told");
    sliders.forEach((slider) => slide(slider, writer));
    parts.forEach((control) => {
      const names = namesOf(control);
      const at = writer ? names.indexOf(writer) : [...control.options].findIndex((option) => option.defaultSelected);
      say(control, at < 0 ? absence(control, writer) : "");
      const isThere = names[control.selectedIndex] === writer;
      if (at < 0 || isThere || at === control.selectedIndex) return;
      control.selectedIndex = at;
      follow(control);
    });
  }

  // who comes for a writer begins at the first figure of it, and sees where it was chosen
  function lead(writer) {
    const control = parts.find((one) => namesOf(one).includes(writer) && one.closest(".card").querySelector(".plot"));
    whole.closest("label").classList.add("told");
    control?.closest(".card").scrollIntoView({ behavior: "instant" });
  }

  function fromAddress() {
    const asked = /^#writer=(.*)$/.exec(location.hash);
    if (!asked) return;
    let writer = "";
    try { writer = decodeURIComponent(asked[1]); } catch { return; }
    const isOffered = [...whole.options].some((option) => option.value === writer);
    document.getElementById("page-writer-note").textContent = isOffered ? "" : `${writer} has no figures of its own`;
    whole.value = isOffered ? writer : "";
    choose(whole.value);
    if (whole.value) lead(whole.value);
  }

  if (whole) {
    whole.closest("label").hidden = false;
    whole.addEventListener("input", () => {
      document.getElementById("page-writer-note").textContent = "";
      choose(whole.value);
      remember(whole.value);
    });
    // a part that goes its own way: the page no longer has one writer
    parts.forEach((control) => {
      control.addEventListener("input", () => {
        if (whole.value && namesOf(control)[control.selectedIndex] !== whole.value) {
          whole.value = "";
          remember("");
          parts.forEach((other) => say(other, ""));
        }
      });
    });
    window.addEventListener("hashchange", fromAddress);
    fromAddress();
  }

  const list = document.querySelector("nav details");
  if (list) {
    const close = () => { list.open = false; };
    list.addEventListener("click", (event) => { if (event.target.closest("a")) close(); });
    list.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !list.open) return;
      close();
      list.querySelector("summary").focus();
    });
    document.addEventListener("pointerdown", (event) => { if (!list.contains(event.target)) close(); });
    list.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !list.contains(relatedTarget)) close();
    });
  }

  document.querySelectorAll("[data-save]").forEach((button) => {
    button.addEventListener("click", () => {
      const panel = button.closest(".figure");
      const plot = panel.querySelector(".plot");
      const name = panel.querySelector("h3")?.textContent ?? panel.querySelector("select")?.selectedOptions[0].text;
      const parts = plot.dataset.panel === undefined ? [] : [name ?? Number(plot.dataset.panel) + 1];
      save.figure(save.nameOf(plot.dataset.card, ...parts), plot, themes.light, button.dataset.save);
    });
  });

  // in a viewer that shows the page under a name of its own, relative links lead nowhere, and nothing can be saved
  if (!["file:", "http:", "https:"].includes(location.protocol)) {
    document.documentElement.classList.add("viewer");
    const isFramed = window.parent !== window;
    document.querySelectorAll("a[href]").forEach((link) => {
      const href = link.getAttribute("href");
      const isKept = href.startsWith("#") || (!isFramed && /^https?:/i.test(href));
      if (!isKept) link.replaceWith(...link.childNodes);
    });
    // nor may it go to a place in itself by address
    document.addEventListener("click", (event) => {
      const href = event.target.closest?.('a[href^="#"]')?.getAttribute("href");
      const part = href && document.getElementById(decodeURIComponent(href.slice(1)));
      if (!part) return;
      event.preventDefault();
      part.scrollIntoView();
      part.querySelector("h2").tabIndex = -1;
      part.querySelector("h2").focus({ preventScroll: true });
    });
  }
})();
