// The mesh of viewers as a picture: groups as islands, viewers in the colour of their ISP, links
// that light up with what flows over them, the CDN above.
import { bytes, rate, seconds } from "/format.js";
import { CDN, withAlpha } from "/palette.js";
import { sharp } from "/chart.js";
import { Layout } from "/layout.js";

const FRAME_MS = 40;
/** A rate at which a link is as bright as it gets, in bit/s. */
const BRIGHT_BPS = 600_000;

export class MeshView {
  constructor(canvas, tip) {
    this.canvas = canvas;
    this.tip = tip;
    this.layout = new Layout();
    this.links = [];
    this.cdn = { x: 0, y: 0 };
    this.pointer = null;
    this.drawnAt = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    canvas.addEventListener("pointermove", (event) => { this.pointer = [event.offsetX, event.offsetY]; });
    canvas.addEventListener("pointerleave", () => { this.pointer = null; });
    requestAnimationFrame((now) => this.#frame(now));
  }

  /**
   * `viewers`: `{id, you, native, group, colour, isp, country, buffer_s, lag_s, cdn_bps, ...}`;
   * `links`: `{a, b, ab_bps, ba_bps, rtt_ms}`.
   */
  set(viewers, links) {
    this.layout.set(viewers, links);
    this.links = links;
    this.canvas.setAttribute("aria-label", `${viewers.length} viewers and ${links.length} links`);
  }

  #frame(now) {
    requestAnimationFrame((next) => this.#frame(next));
    if (now - this.drawnAt < FRAME_MS) return;
    this.drawnAt = now;
    const { context, width, height } = sharp(this.canvas);
    this.cdn = { x: width / 2, y: 30 };
    this.layout.step(width, height, 96);
    this.#drawGroups(context);
    this.#drawCdn(context, now);
    this.#drawLinks(context, now);
    for (const node of this.layout.nodes.values()) drawNode(context, node);
    this.#showTip(width);
  }

  #drawGroups(context) {
    for (const { label, nodes } of this.layout.groups()) {
      const hull = hullOf(nodes);
      context.beginPath();
      for (const [x, y] of hull) context.lineTo(x, y);
      context.closePath();
      context.lineJoin = "round";
      context.lineWidth = 72;
      context.strokeStyle = context.fillStyle = "#141d29";
      context.stroke();
      context.fill();
      if (!label) continue;
      const lowest = Math.max(...nodes.map((node) => node.y));
      const middle = nodes.reduce((sum, node) => sum + node.x, 0) / nodes.length;
      context.fillStyle = "#5d6b7d";
      context.textAlign = "center";
      context.fillText(label, middle, lowest + 29);
    }
  }

  #drawCdn(context, now) {
    for (const node of this.layout.nodes.values()) {
      const glow = Math.min(1, (node.viewer.cdn_bps ?? 0) / BRIGHT_BPS);
      if (glow < 0.01) continue;
      stroke(context, this.cdn, node, withAlpha(CDN, 0.1 + 0.5 * glow), 0.8 + 1.6 * glow);
      this.#drawDots(context, this.cdn, node, glow, CDN, now);
    }
    context.fillStyle = "#1f1710";
    context.strokeStyle = CDN;
    context.lineWidth = 1.5;
    context.beginPath();
    context.roundRect(this.cdn.x - 34, this.cdn.y - 15, 68, 30, 15);
    context.fill();
    context.stroke();
    context.fillStyle = CDN;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("CDN", this.cdn.x, this.cdn.y + 0.5);
  }

  #drawLinks(context, now) {
    for (const link of this.links) {
      const a = this.layout.nodes.get(link.a);
      const b = this.layout.nodes.get(link.b);
      if (!a || !b) continue;
      const glow = Math.min(1, (link.ab_bps + link.ba_bps) / BRIGHT_BPS);
      if (glow < 0.01) {
        stroke(context, a, b, link.up ? "#2b3949" : "#1c2632", 1, link.up ? [] : [3, 5]);
        continue;
      }
      const shade = context.createLinearGradient(a.x, a.y, b.x, b.y);
      shade.addColorStop(0, withAlpha(a.viewer.colour, 0.25 + 0.5 * glow));
      shade.addColorStop(1, withAlpha(b.viewer.colour, 0.25 + 0.5 * glow));
      stroke(context, a, b, shade, 1 + 2 * glow);
      this.#drawDots(context, a, b, link.ab_bps / BRIGHT_BPS, a.viewer.colour, now);
      this.#drawDots(context, b, a, link.ba_bps / BRIGHT_BPS, b.viewer.colour, now);
    }
  }

  /** Dots that travel with the bytes. */
  #drawDots(context, from, to, strength, colour, now) {
    if (this.calm || strength < 0.02) return;
    const dots = strength > 0.5 ? 3 : strength > 0.15 ? 2 : 1;
    context.fillStyle = colour;
    for (let i = 0; i < dots; i += 1) {
      const way = (now / 1700 + i / dots + (from.phase ?? 0)) % 1;
      context.globalAlpha = Math.sin(way * Math.PI);
      context.beginPath();
      context.arc(from.x + (to.x - from.x) * way, from.y + (to.y - from.y) * way, 2.3, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  #showTip(width) {
    const node = this.pointer && this.layout.nearest(...this.pointer, 20);
    this.tip.hidden = !node;
    if (!node) return;
    const { viewer } = node;
    const lines = [
      [viewer.isp, viewer.place].filter(Boolean).join(", "),
      `buffer ${seconds(viewer.buffer_s)}, ${seconds(viewer.lag_s)} behind live`,
      `from the CDN ${bytes(viewer.bytes_cdn)}, from viewers ${bytes(viewer.bytes_p2p)}`,
      `sends ${rate(viewer.up_bps)}`,
    ];
    const title = `${viewer.you ? "This tab" : viewer.native ? "Native viewer" : "Browser viewer"} ${viewer.id.slice(0, 6)}`;
    this.tip.replaceChildren(element("b", title), ...lines.map((text) => element("span", text)));
    const left = Math.min(node.x + 16, width - this.tip.offsetWidth - 4);
    this.tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, node.y - 40)}px)`;
  }
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function stroke(context, from, to, style, width, dash = []) {
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  context.setLineDash(dash);
  context.lineWidth = width;
  context.strokeStyle = style;
  context.stroke();
  context.setLineDash([]);
}

/** Native viewers are hexagons, browsers are discs; this tab wears a ring and a name. */
function drawNode(context, { x, y, age, viewer }) {
  const radius = (viewer.you ? 13 : 11) * Math.min(1, age);
  const shape = (r) => {
    context.beginPath();
    if (viewer.native) {
      for (let i = 0; i < 6; i += 1) context.lineTo(x + r * Math.cos((i * Math.PI) / 3), y + r * Math.sin((i * Math.PI) / 3));
      context.closePath();
    } else {
      context.arc(x, y, r, 0, 7);
    }
  };
  shape(radius + 3);
  context.fillStyle = "#0d131b";
  context.fill();
  shape(radius);
  context.fillStyle = viewer.colour;
  context.globalAlpha = viewer.stalled ? 0.45 : 1;
  context.fill();
  context.globalAlpha = 1;
  if (!viewer.you) return;
  shape(radius + 4);
  context.lineWidth = 2;
  context.strokeStyle = "#fff";
  context.stroke();
  context.fillStyle = "#05080c";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText("you", x, y - 0.5);
}

/** The convex hull of the nodes, Andrew's monotone chain. */
function hullOf(nodes) {
  const points = nodes.map(({ x, y }) => [x, y]).sort((p, q) => p[0] - q[0] || p[1] - q[1]);
  if (points.length < 3) return points;
  const cross = (o, p, q) => (p[0] - o[0]) * (q[1] - o[1]) - (p[1] - o[1]) * (q[0] - o[0]);
  const half = (list) => {
    const chain = [];
    for (const point of list) {
      while (chain.length > 1 && cross(chain.at(-2), chain.at(-1), point) <= 0) chain.pop();
      chain.push(point);
    }
    return chain.slice(0, -1);
  };
  return [...half(points), ...half(points.toReversed())];
}
