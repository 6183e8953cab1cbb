// What the CDN serves, beneath what it would serve without viewers' help.
import { CDN, P2P, rate } from "/dashboard/format.js";

const WINDOWS_S = [60, 120, 300];
const WINDOW_S_MAX = WINDOWS_S.at(-1);
const SMOOTH_S = 12;
const PAD = { left: 78, right: 10, top: 10, bottom: 22 };

/** Sums of bytes over time, and what they say of rates. */
export class History {
  samples = [];

  /** Sums that fall are those of another set of viewers: what was before says nothing any more. */
  add(t, cdn, p2p) {
    const last = this.samples.at(-1);
    if (last && (cdn < last.cdn || p2p < last.p2p)) this.samples = [];
    this.samples.push({ t, cdn, p2p });
    while (t - this.samples[0].t > WINDOW_S_MAX + SMOOTH_S) this.samples.shift();
  }

  /** Bits in a second, smoothed over several reports. */
  rates() {
    const { samples } = this;
    let from = 0;
    return samples.slice(1).map((now, i) => {
      while (now.t - samples[from].t > SMOOTH_S && from < i) from += 1;
      const before = samples[from];
      const per = (a, b) => ((a - b) * 8) / Math.max(0.5, now.t - before.t);
      const [cdn, p2p] = [per(now.cdn, before.cdn), per(now.p2p, before.p2p)];
      return { t: now.t, cdn, p2p, all: cdn + p2p };
    });
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

export function drawTraffic(canvas, points) {
  const { context, width, height } = sharp(canvas);
  const plot = { x: PAD.left, y: PAD.top, w: width - PAD.left - PAD.right, h: height - PAD.top - PAD.bottom };
  if (plot.w < 40 || plot.h < 40) return;
  const top = niceTop(Math.max(1e6, ...points.map((p) => p.all)));
  const end = points.at(-1)?.t ?? 0;
  const age = end - (points[0]?.t ?? 0);
  const span = WINDOWS_S.find((window) => age <= window) ?? WINDOW_S_MAX;
  const x = (t) => plot.x + plot.w * (1 - (end - t) / span);
  const y = (bps) => plot.y + plot.h * (1 - bps / top);
  grid(context, plot, y, top, span);
  if (points.length < 2) return;
  context.save();
  context.beginPath();
  context.rect(plot.x, plot.y - 4, plot.w + 2, plot.h + 8);
  context.clip();
  area(context, points, x, y, (p) => p.all, (p) => p.cdn, `${P2P}2e`);
  area(context, points, x, y, (p) => p.cdn, () => 0, `${CDN}66`);
  line(context, points, x, y, (p) => p.cdn, CDN, 2, []);
  line(context, points, x, y, (p) => p.all, "#c7d3e2", 1.5, [5, 4]);
  context.restore();
}

function niceTop(highest) {
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 6, 8, 10, 12].map((n) => n * power).find((top) => top >= highest * 1.08);
}

function grid(context, plot, y, top, span) {
  context.lineWidth = 1;
  context.textBaseline = "middle";
  for (let i = 0; i <= 4; i += 1) {
    const at = Math.round(y((top * i) / 4)) + 0.5;
    context.strokeStyle = i === 0 ? "#2c3a4a" : "#1b2531";
    context.beginPath();
    context.moveTo(plot.x, at);
    context.lineTo(plot.x + plot.w, at);
    context.stroke();
    if (i % 2 !== 0) continue;
    context.fillStyle = "#7b8a9c";
    context.textAlign = "right";
    context.fillText(i === 0 ? "0" : rate((top * i) / 4).replace(".0 ", " "), plot.x - 8, at);
  }
  for (const back of [span, span / 2, 0]) {
    context.textAlign = back === span ? "left" : back === 0 ? "right" : "center";
    const label = back === 0 ? "now" : back < 60 ? `${back} s ago` : `${back / 60} min ago`;
    context.fillText(label, plot.x + plot.w * (1 - back / span), plot.y + plot.h + 13);
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
