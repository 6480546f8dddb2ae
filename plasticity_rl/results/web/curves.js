/* Interactive curves. The data are JSON in the page: plasticity_rl/results/interactive.py says what they hold. Texts only
   ever become text nodes. Where anything fails, the static figure stays. */
"use strict";
(() => {
  const HEIGHT = 240; // CSS pixels
  const NEAR = 8; // CSS pixels from the line of an event at which its text is shown
  const SHOWN = 8; // events in a tip at most
  const SMALL = 1e-3; // below it numbers are written with a power of ten
  const TOUCHING = 0.05; // height of a tick that stands for one of many events, of that of the panel
  const drawn = [];
  const hidden = new Set(); // keys of lines
  let apart = false; // whether bands and seeds are shown of one arm alone
  let looked = null; // key of that arm: the one whose name is pointed at

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const BLACK = ["#000000", "#222222"]; // not seen on dark paper
  const ink = (colour) => (!colour ? css("--quiet") : BLACK.includes(colour) ? css("--ink") : colour);
  const faint = (colour, part) => long(ink(colour)) + Math.round(part * 255).toString(16).padStart(2, "0");
  const long = (colour) => (colour.length === 4 ? "#" + [...colour.slice(1)].map((one) => one + one).join("") : colour);
  const whole = (frame) => Math.round(frame).toLocaleString("en");

  function short(frames) {
    for (const [size, letter] of [[1e6, "M"], [1e3, "k"]])
      if (Math.abs(frames) >= size) return Number((frames / size).toPrecision(4)) + letter;
    return String(Number(frames.toPrecision(4)));
  }

  /* Ticks of an axis, all with the digits that tell neighbours apart; small ones in units of a power of ten. */
  function labels(ticks, step) {
    const largest = Math.max(...ticks.map(Math.abs));
    const power = largest > 0 && largest < SMALL ? Math.floor(Math.log10(largest)) : 0;
    const unit = step / 10 ** power;
    let digits = 0;
    while (digits < 15 && Math.abs(Math.round(unit * 10 ** digits) / 10 ** digits / unit - 1) > 1e-6) digits++;
    const look = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    const plain = (tick) => (tick / 10 ** power || 0).toLocaleString("en", look);
    return ticks.map((tick) => (power ? (tick ? `${plain(tick)}e${power}` : "0") : plain(tick)));
  }

  function add(parent, tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  /* Values of a curve at the frames of the panel, on the line between its points; null outside. */
  function onGrid(grid, frames, values) {
    let at = 0;
    return grid.map((x) => {
      if (!frames.length || x < frames[0] || x > frames[frames.length - 1]) return null;
      while (frames[at + 1] <= x) at++;
      const [a, b] = [values[at], values[at + 1]];
      if (x === frames[at] || at + 1 === frames.length) return a;
      if (a === null || b === null) return null;
      return a + ((b - a) * (x - frames[at])) / (frames[at + 1] - frames[at]);
    });
  }

  function swatch(canvas, line) {
    const pixels = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [29 * pixels, 12 * pixels];
    const context = canvas.getContext("2d");
    context.scale(pixels, pixels);
    context.strokeStyle = ink(line.colour);
    context.lineWidth = line.thin ? 1 : 2;
    context.setLineDash(line.dash);
    context.beginPath();
    context.moveTo(0, 6);
    context.lineTo(29, 6);
    context.stroke();
  }

  /* What is hidden in one panel is hidden in all. */
  function toggle(key) {
    if (!hidden.delete(key)) hidden.add(key);
    for (const panel of drawn) panel.follow();
  }

  function lookAt(key) {
    looked = key;
    if (apart) for (const panel of drawn) panel.follow();
  }

  function events(plot, chart) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = devicePixelRatio || 1;
    for (const mark of chart.events) {
      if (hidden.has(mark.key)) continue;
      const x = Math.round(plot.valToPos(mark.frame, "x", true));
      ctx.strokeStyle = ink(mark.colour);
      ctx.setLineDash(mark.tick ? [] : [5 * ctx.lineWidth, 3 * ctx.lineWidth]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height * (mark.tick ? TOUCHING : 1));
      ctx.stroke();
    }
    ctx.restore();
  }

  function tell(plot, chart, tip) {
    const { left } = plot.cursor;
    const near = plot.over.matches(":hover") && left >= 0
      ? chart.events.filter((e) => !hidden.has(e.key) && Math.abs(plot.valToPos(e.frame, "x") - left) <= NEAR)
      : [];
    const lines = [...new Set(near.map((e) => (e.text.includes(`frame ${e.frame}`) ? e.text : `frame ${whole(e.frame)}: ${e.text}`)))];
    tip.replaceChildren();
    for (const line of lines.slice(0, SHOWN)) add(tip, "p", "", line);
    if (lines.length > SHOWN) add(tip, "p", "", `and ${lines.length - SHOWN} more`);
    tip.hidden = !lines.length;
    const right = left > plot.over.clientWidth / 2;
    tip.style.left = right ? "auto" : `${left + 12}px`;
    tip.style.right = right ? `${plot.over.clientWidth - left + 12}px` : "auto";
  }

  /* Frames of all panels of a group, so that all of them say their values at the frame that is pointed at. */
  function framesOf(panels) {
    const all = panels.flatMap((panel) => [...panel.frames, ...panel.lines.flatMap((line) => line.frames)]);
    return [...new Set(all)].sort((a, b) => a - b);
  }

  function draw(parent, chart, grid, key) {
    const data = [grid], series = [{}], bands = [], owners = [null], behind = [false];
    const put = (line, values, options, isBehind = true) => {
      data.push(onGrid(grid, line.frames, values));
      series.push({ points: { show: false }, ...options });
      owners.push(line);
      behind.push(isBehind);
      return data.length - 1;
    };
    const mains = new Set();
    for (const line of chart.lines) {
      const band = line.band && [put(line, line.high, { width: 0 }), put(line, line.low, { width: 0 })];
      if (band) bands.push({ series: band, fill: () => faint(line.colour, 0.2) });
      else for (const run of line.runs) put(line, run, { width: 1, stroke: () => faint(line.colour, 0.45) });
    }
    for (const line of chart.lines) {
      const own = new Set(line.frames);
      const few = grid.map((x, index) => (own.has(x) ? index : -1)).filter((index) => index >= 0);
      const stroke = () => ink(line.colour);
      const points = { show: line.points, size: 5, stroke, fill: stroke, filter: () => few };
      line.at = put(line, line.values, { width: line.thin ? 1 : 2, dash: line.dash, stroke, points }, false);
      line.ends = [line.low, line.high].map((values) => values && onGrid(grid, line.frames, values));
      mains.add(line.at);
    }

    const root = add(parent, "section", "chart");
    const label = add(root, "p", "label", chart.title);
    if (chart.unit) add(label, "span", "quiet", ` ${chart.unit}`);
    const place = add(root, "div", "plot");
    const at = add(root, "p", "at");
    const legend = add(root, "div", "legend");
    const rows = chart.lines.map((line) => {
      const button = add(legend, "button");
      button.type = "button";
      button.addEventListener("click", () => toggle(line.key));
      button.addEventListener("pointerenter", () => lookAt(line.key));
      button.addEventListener("pointerleave", () => lookAt(null));
      const canvas = add(button, "canvas");
      add(button, "span", "name", line.name);
      return { line, button, canvas, value: add(button, "span", "value") };
    });
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;

    const largest = Math.max(0, ...chart.lines.flatMap((line) => line.values).map(Math.abs));
    const number = (value) => (largest < SMALL && value ? value.toExponential(2) : value.toFixed(chart.digits));
    function show(plot) {
      const { idx } = plot.cursor;
      const inside = idx !== null && idx !== undefined && plot.cursor.left >= 0;
      at.textContent = inside ? `frame ${whole(grid[idx])}` : "";
      for (const { line, value } of rows) {
        const there = inside ? plot.data[line.at][idx] : null;
        const ends = inside ? line.ends.map((values) => values && values[idx]) : [null, null];
        const interval = ends.every((end) => end !== null) ? ` [${ends.map(number).join(", ")}]` : "";
        value.textContent = there === null ? "" : number(there) + interval;
      }
      tell(plot, chart, tip);
    }

    const axis = { stroke: () => css("--quiet"), font: "12px system-ui, sans-serif", ticks: { stroke: () => css("--line"), width: 1 } };
    const limits = (plot, low, high) => {
      if (low === null) return [0, 1];
      let [a, b] = uPlot.rangeNum(low, high, { min: { pad: 0.08 }, max: { pad: 0.08 } });
      if (chart.from_zero && low >= 0) a = 0;
      if (chart.low !== null) a = Math.max(a, chart.low);
      if (chart.high !== null) b = Math.min(b, chart.high);
      return a < b ? [a, b] : [a, a + 1];
    };
    const plot = new uPlot(
      {
        width: Math.max(place.clientWidth, 100), height: HEIGHT, padding: [10, 14, 0, 0], series, bands,
        scales: { x: { time: false }, y: { range: limits } },
        axes: [
          { ...axis, grid: { show: false }, size: 32, space: 60, values: (_, ticks) => ticks.map(short) },
          { ...axis, grid: { stroke: () => css("--grid"), width: 1 }, values: (_, ticks, at, space, step) => labels(ticks, step),
            size: (_, ticks) => 16 + 7 * Math.max(1, ...(ticks || []).map((tick) => String(tick).length)) },
        ],
        legend: { show: false },
        cursor: {
          sync: { key, scales: ["x", null] }, y: false, drag: { x: true, y: false, dist: 5 },
          dataIdx: (_, index, closest) => (index === 0 || mains.has(index) ? closest : null),
          points: { size: 7 },
        },
        hooks: { drawAxes: [(self) => events(self, chart)], setCursor: [show] },
      },
      data,
      place,
    );
    plot.over.append(tip);

    const panel = {
      root,
      plot,
      follow() {
        plot.batch(() => {
          for (let index = 1; index < series.length; index++) {
            const { key: own } = owners[index];
            const shown = !hidden.has(own) && !(apart && behind[index] && looked !== own);
            if (plot.series[index].show !== shown) plot.setSeries(index, { show: shown });
          }
        });
        plot.redraw(false);
        for (const { line, button } of rows) button.setAttribute("aria-pressed", String(!hidden.has(line.key)));
      },
      recolour() {
        for (const { line, canvas } of rows) swatch(canvas, line);
        plot.redraw(false, true);
      },
      fit() {
        if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: HEIGHT });
      },
    };
    panel.follow();
    panel.recolour();
    drawn.push(panel);
    new ResizeObserver(panel.fit).observe(place);
  }

  try {
    document.documentElement.classList.add("drawn"); // panels have a width only then
    for (const place of document.querySelectorAll("[data-charts]")) {
      const data = JSON.parse(document.getElementById(place.dataset.charts).textContent);
      apart = data.apart;
      data.groups.forEach((group, number) => {
        if (group.title) add(place, "h3", "", group.title);
        const grid = framesOf(group.panels);
        for (const chart of group.panels) draw(place, chart, grid, `${place.dataset.charts}-${number}`);
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((panel) => panel.recolour()));
  } catch (error) {
    document.documentElement.classList.remove("drawn");
    throw error;
  }
})();
