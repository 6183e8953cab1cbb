// A stream's groups, or one group's viewers, and how they are linked.
import { sharp } from "/dashboard/chart.js";
import { CDN, P2P, make, ofIsp, percent, rate, seconds } from "/dashboard/format.js";
import { placeGroups, placeViewers } from "/dashboard/layout.js";

export class MeshView {
  #view = null;
  #pointer = null;
  #calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** `onGroup` and `onViewer` hear of clicks. */
  constructor(canvas, tip, { onGroup, onViewer }) {
    Object.assign(this, { canvas, tip });
    canvas.addEventListener("pointermove", (event) => (this.#pointer = [event.offsetX, event.offsetY]));
    canvas.addEventListener("pointerleave", () => (this.#pointer = null));
    canvas.addEventListener("click", (event) => {
      const node = this.#nearest(event.offsetX, event.offsetY);
      if (node?.group) onGroup(node.group);
      if (node?.viewer) onViewer(node.viewer);
    });
    const frame = (now) => {
      this.#draw(now);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  showGroups({ groups, bridges }) {
    this.#view = { kind: "groups", groups, bridges };
    this.#place();
  }

  showGroup({ viewers, links_up: links }, group, selected) {
    this.#view = { kind: "group", viewers, links, group, selected };
    this.#place();
  }

  clear() {
    this.#view = null;
  }

  /** What is drawn, for tests: how many things of which kind, and where the first one is. */
  get shown() {
    const { kind, nodes = [], lines = [] } = this.#view ?? {};
    return { kind, nodes: nodes.length, lines: lines.length, at: nodes[0] && [nodes[0].x, nodes[0].y] };
  }

  #place() {
    const view = this.#view;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!view || width === 0) return;
    Object.assign(view, { width, height });
    if (view.kind === "groups") {
      Object.assign(view, placeGroups(view.groups, width, height));
      const key = (node, group) => `${node}/${group}`;
      const at = new Map(view.nodes.map((node) => [key(node.group.node, node.group.group), node]));
      view.lines = view.bridges.flatMap(({ node, a, b, links }) => {
        const ends = [at.get(key(node, a)), at.get(key(node, b))];
        return ends.every(Boolean) ? [{ from: ends[0], to: ends[1], links }] : [];
      });
    } else {
      view.nodes = placeViewers(view.viewers, view.group, width, height);
      const at = new Map(view.nodes.map((node) => [node.viewer.id, node]));
      view.lines = view.links.flatMap((link) => {
        const ends = [at.get(link.a), at.get(link.b)];
        return ends.every(Boolean) ? [{ from: ends[0], to: ends[1], link }] : [];
      });
    }
  }

  #nearest(x, y) {
    let best = null;
    for (const node of this.#view?.nodes ?? []) {
      const distance = Math.hypot(node.x - x, node.y - y);
      if (distance < node.r + 7 && distance < (best?.distance ?? Infinity)) best = { node, distance };
    }
    return best?.node;
  }

  #draw(now) {
    const view = this.#view;
    const { context, width, height } = sharp(this.canvas);
    if (!view) {
      this.tip.hidden = true;
      return;
    }
    if (width !== view.width || height !== view.height) this.#place();
    if (view.kind === "groups") this.#drawGroups(context, view);
    else this.#drawGroup(context, view, now);
    this.#showTip(width);
  }

  #drawGroups(context, { nodes, clusters, lines }) {
    const hot = this.#pointer && this.#nearest(...this.#pointer);
    for (const { from, to } of lines) {
      const mine = hot && (from === hot || to === hot);
      stroke(context, from, to, mine ? "#e8eef5" : lines.length > 900 ? "#5d7a9926" : "#5d7a9955", mine ? 1.6 : 0.8);
    }
    for (const { x, y, radius } of clusters) {
      circle(context, x, y, radius);
      context.fillStyle = "#ffffff05";
      context.fill();
    }
    for (const { x, y, r, group } of nodes) {
      circle(context, x, y, r + 2.5);
      context.fillStyle = "#0d131b";
      context.fill();
      circle(context, x, y, r);
      context.fillStyle = ofIsp(group.asn);
      context.fill();
      // The rim: how much of the bytes came from viewers.
      const turn = 2 * Math.PI * group.offload;
      context.lineWidth = Math.max(1.5, r / 4);
      for (const [from, to, colour] of [[0, turn, P2P], [turn, 2 * Math.PI, CDN]]) {
        context.beginPath();
        context.arc(x, y, r + 1.2, from - Math.PI / 2, to - Math.PI / 2);
        context.strokeStyle = colour;
        context.stroke();
      }
      if (group.stalling > 0) {
        circle(context, x, y, r * 0.4);
        context.fillStyle = "#ff6b7a";
        context.fill();
      }
    }
    context.fillStyle = "#b9c7d8";
    context.textAlign = "center";
    context.textBaseline = "bottom";
    for (const { x, y, radius, country } of clusters) context.fillText(country || "unknown", x, y - radius - 2);
  }

  #drawGroup(context, { nodes, lines, selected, width }, now) {
    const cdn = { x: width / 2, y: 22 };
    const strength = (kbps) => Math.min(1, kbps / 3000);
    for (const node of nodes) {
      const glow = strength(node.viewer.cdn_kbps);
      if (glow < 0.01) continue;
      stroke(context, cdn, node, alpha(CDN, 0.1 + 0.5 * glow), 0.8 + 1.6 * glow);
      this.#dots(context, cdn, node, glow, CDN, now);
    }
    for (const { from, to, link } of lines) {
      const mine = selected && (link.a === selected || link.b === selected);
      const glow = Math.min(strength(from.viewer.p2p_kbps + to.viewer.p2p_kbps), 1);
      stroke(context, from, to, mine ? "#e8eef5" : link.long ? "#b18cff66" : "#3a4b5f", mine ? 1.8 : 1);
      this.#dots(context, from, to, glow * 0.5, ofIsp(from.viewer.asn), now + 37 * from.x);
      this.#dots(context, to, from, glow * 0.5, ofIsp(to.viewer.asn), now + 53 * to.y);
    }
    for (const node of nodes) drawViewer(context, node, node.viewer.id === selected);
    context.beginPath();
    context.roundRect(cdn.x - 34, cdn.y - 15, 68, 30, 15);
    context.fillStyle = "#1f1710";
    context.fill();
    context.strokeStyle = CDN;
    context.lineWidth = 1.5;
    context.stroke();
    context.fillStyle = CDN;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("CDN", cdn.x, cdn.y + 0.5);
  }

  #dots(context, from, to, strength, colour, now) {
    if (this.#calm || strength < 0.03) return;
    context.fillStyle = colour;
    for (let i = 0; i < (strength > 0.4 ? 2 : 1); i += 1) {
      const way = (now / 2100 + i / 2) % 1;
      context.globalAlpha = Math.sin(way * Math.PI) * 0.9;
      circle(context, from.x + (to.x - from.x) * way, from.y + (to.y - from.y) * way, 2);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  #showTip(width) {
    const node = this.#pointer && this.#nearest(...this.#pointer);
    this.tip.hidden = !node;
    this.canvas.style.cursor = node ? "pointer" : "";
    if (!node) return;
    const [title, ...lines] = node.group ? aboutGroup(node.group) : aboutViewer(node.viewer);
    this.tip.replaceChildren(make("b", {}, title), ...lines.map((text) => make("span", {}, text)));
    const left = Math.min(node.x + 16, width - this.tip.offsetWidth - 4);
    this.tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, node.y - 40)}px)`;
  }
}

function aboutGroup(group) {
  return [
    `Group ${group.group}: ${group.viewers} viewers`,
    [group.isp || (group.asn && `AS ${group.asn}`), group.country].filter(Boolean).join(", ") || "place not known",
    `offload ${percent(group.offload)}, ${group.links_up} links`,
    `${rate(group.p2p_kbps * 1000)} from viewers, ${rate(group.cdn_kbps * 1000)} from the CDN`,
    `smallest buffer ${seconds(group.buffer_ms_min)}${group.stalling ? `, ${group.stalling} stalling` : ""}`,
  ];
}

function aboutViewer(viewer) {
  return [
    `${viewer.native ? "Native viewer" : "Browser viewer"} ${viewer.id.slice(0, 6)}`,
    [viewer.isp || (viewer.asn && `AS ${viewer.asn}`), viewer.country].filter(Boolean).join(", ") || "place not known",
    `buffer ${seconds(viewer.buffer_ms)}, ${seconds(viewer.lag_ms)} behind live`,
    `${rate(viewer.p2p_kbps * 1000)} from viewers, ${rate(viewer.cdn_kbps * 1000)} from the CDN`,
    `sends ${rate(viewer.up_kbps * 1000)}`,
  ];
}

/** Native viewers are hexagons, browsers are discs; one that is not connected is hollow. */
function drawViewer(context, { x, y, r, viewer }, selected) {
  const shape = (radius) => {
    context.beginPath();
    if (!viewer.native) return context.arc(x, y, radius, 0, 7);
    for (let i = 0; i < 6; i += 1) context.lineTo(x + radius * Math.cos((i * Math.PI) / 3), y + radius * Math.sin((i * Math.PI) / 3));
    context.closePath();
  };
  shape(r + 3);
  context.fillStyle = "#0d131b";
  context.fill();
  shape(r);
  context.lineWidth = 2;
  context.strokeStyle = context.fillStyle = ofIsp(viewer.asn);
  if (viewer.connected) context.fill();
  context.stroke();
  if (!selected) return;
  shape(r + 5);
  context.strokeStyle = "#fff";
  context.stroke();
}

function circle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
}

function stroke(context, from, to, style, width) {
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  context.lineWidth = width;
  context.strokeStyle = style;
  context.stroke();
}

const alpha = (hex, share) => hex + Math.round(share * 255).toString(16).padStart(2, "0");
