"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  // Rows come as numbers, and as words by their number in a list.
  for (const spec of Object.values(charts)) {
    for (const [name, data] of Object.entries(spec.datasets ?? {})) {
      const worded = new Set(data.texts);
      spec.datasets[name] = data.rows.map((row) => Object.fromEntries(
        row.map((value, index) => [data.fields[index], worded.has(data.fields[index]) ? data.words[value] : value])));
    }
  }
  const drawn = Object.entries(charts).map(([id, spec]) =>
    vegaEmbed(document.getElementById(id), spec, { actions: false, renderer: "svg", logLevel: 1, tooltip: { theme: "custom" },
      bind: document.getElementById(`${id}-controls`) }));
  Promise.all(drawn).then(() => {
    for (const chart of document.querySelectorAll(".wide, .chart")) {
      // What scrolls has to be reached by keyboard.
      if (chart.scrollHeight > chart.clientHeight + 1 || chart.scrollWidth > chart.clientWidth + 1) chart.tabIndex = 0;
    }
    document.documentElement.dataset.ready = "yes";
  });

  for (const box of document.querySelectorAll("input[data-details]")) {
    box.addEventListener("change", () => document.getElementById(box.dataset.details).classList.toggle("all", box.checked));
  }

  for (const search of document.querySelectorAll("input[data-filters]")) {
    const rows = [...document.querySelectorAll(`#${search.dataset.filters} tbody tr`)];
    const count = search.closest(".tools").querySelector("output");
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    search.addEventListener("input", filter);
    filter();
  }

  const figure = (cell) => {
    const found = /-?\d+(\.\d+)?/.exec(cell.textContent);
    return found ? Number(found[0]) : Number.POSITIVE_INFINITY;
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const index = [...head.parentElement.children].indexOf(head);
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const number = head.classList.contains("right");
      const compare = (a, b) => {
        const x = a.children[index], y = b.children[index];
        return number ? figure(x) - figure(y) : x.textContent.localeCompare(y.textContent);
      };
      const rows = [...body.rows].sort(compare);
      if (down) rows.reverse();
      body.append(...rows);
    });
  }

  const opened = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", opened);
  opened();
  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.print")) fold.open = true;
  });
})();
