// What the CDN serves, beneath what it would serve without viewers' help.
import { rate } from "/format.js";
import { CDN } from "/palette.js";

const WINDOW_S = 180;
const SMOOTH_S = 10;
const PAD = { left: 74, right: 10, top: 12, bottom: 24 };

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = [];
    this.top = 1e6;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** `history` is `[seconds, bytes from the CDN, bytes from viewers]`, cumulative, one a second. */
  set(history) {
    this.points = ratesOf(history);
    this.draw();
    return this.points.at(-1);
  }

  draw() {
    const { context, width, height } = sharp(this.canvas);
    const plot = { x: PAD.left, y: PAD.top, w: width - PAD.left - PAD.right, h: height - PAD.top - PAD.bottom };
    if (plot.w < 40 || plot.h < 40) return;
    const highest = Math.max(1e6, ...this.points.map((p) => p.all));
    this.top = niceTop(highest, this.top);
    const end = this.points.at(-1)?.t ?? 0;
    const x = (t) => plot.x + plot.w * (1 - (end - t) / WINDOW_S);
    const y = (bps) => plot.y + plot.h * (1 - bps / this.top);
    grid(context, plot, y, this.top);
    if (this.points.length < 2) return;
    context.save();
    context.beginPath();
    context.rect(plot.x, plot.y - 4, plot.w + 2, plot.h + 8);
    context.clip();
    area(context, this.points, x, y, (p) => p.all, (p) => p.cdn, "#2dd4bf2e");
    area(context, this.points, x, y, (p) => p.cdn, () => 0, "#ff9f4366");
    line(context, this.points, x, y, (p) => p.cdn, CDN, 2, []);
    line(context, this.points, x, y, (p) => p.all, "#c7d3e2", 1.5, [5, 4]);
    context.restore();
  }
}

/** A canvas scaled to the screen's pixels; cleared. */
export function sharp(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
  return { context, width, height };
}

function ratesOf(history) {
  const points = [];
  let from = 0;
  for (let i = 1; i < history.length; i += 1) {
    const [t, cdn, p2p] = history[i];
    while (t - history[from][0] > SMOOTH_S) from += 1;
    const [t0, cdn0, p2p0] = history[from];
    if (t <= t0) continue;
    const bps = (now, before) => (Math.max(0, now - before) * 8) / (t - t0);
    const point = { t, cdn: bps(cdn, cdn0), p2p: bps(p2p, p2p0) };
    points.push({ ...point, all: point.cdn + point.p2p });
  }
  return points;
}

/** Rises at once, falls only when much lower: a scale that does not breathe. */
function niceTop(highest, current) {
  if (highest <= current && highest > current * 0.4) return current;
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 6, 8, 10, 12].map((n) => n * power).find((top) => top >= highest * 1.08);
}

function grid(context, plot, y, top) {
  context.lineWidth = 1;
  context.textBaseline = "middle";
  for (let i = 0; i <= 4; i += 1) {
    const bps = (top * i) / 4;
    const at = Math.round(y(bps)) + 0.5;
    context.strokeStyle = i === 0 ? "#2c3a4a" : "#1b2531";
    context.beginPath();
    context.moveTo(plot.x, at);
    context.lineTo(plot.x + plot.w, at);
    context.stroke();
    if (i % 2 === 0) {
      context.fillStyle = "#7b8a9c";
      context.textAlign = "right";
      context.fillText(i === 0 ? "0" : rate(bps).replace(".0 ", " "), plot.x - 8, at);
    }
  }
  for (const back of plot.w < 320 ? [180, 90, 0] : [180, 120, 60, 0]) {
    context.textAlign = back === 180 ? "left" : back === 0 ? "right" : "center";
    const label = back === 0 ? "now" : back === 90 ? "" : `${back / 60} min ago`;
    context.fillText(label, plot.x + plot.w * (1 - back / WINDOW_S), plot.y + plot.h + 14);
  }
}

function area(context, points, x, y, upper, lower, fill) {
  context.beginPath();
  for (const p of points) context.lineTo(x(p.t), y(upper(p)));
  for (const p of points.toReversed()) context.lineTo(x(p.t), y(lower(p)));
  context.fillStyle = fill;
  context.fill();
}

function line(context, points, x, y, value, colour, width, dash) {
  context.beginPath();
  for (const p of points) context.lineTo(x(p.t), y(value(p)));
  context.setLineDash(dash);
  context.lineWidth = width;
  context.lineJoin = "round";
  context.strokeStyle = colour;
  context.stroke();
  context.setLineDash([]);
}
