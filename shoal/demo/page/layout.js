// Places for viewers: groups beside each other, members around the middle of their group, links as
// springs. It comes to rest, and moves again when somebody joins or leaves.

export class Layout {
  constructor() {
    this.nodes = new Map();
    this.links = [];
    this.heat = 0;
    this.shape = "";
  }

  set(viewers, links) {
    const present = new Set(viewers.map((viewer) => viewer.id));
    for (const id of [...this.nodes.keys()]) if (!present.has(id)) this.nodes.delete(id);
    for (const viewer of viewers) {
      const node = this.nodes.get(viewer.id);
      if (node) node.viewer = viewer;
      else this.nodes.set(viewer.id, this.#newNode(viewer));
    }
    this.links = links;
    const shape = JSON.stringify([viewers.map((v) => [v.id, v.group]).sort(), links.map((l) => [l.a, l.b]).sort()]);
    if (shape !== this.shape) {
      this.heat = Math.max(this.heat, this.shape ? 0.5 : 1);
      this.shape = shape;
    }
  }

  /** Moves everything a little, within the area below `top`. */
  step(width, height, top) {
    for (const node of this.nodes.values()) node.age = Math.min(1, node.age + 0.12);
    if (width !== this.width || height !== this.height) this.heat = Math.max(this.heat, 0.6);
    Object.assign(this, { width, height });
    if (this.heat < 0.01) return;
    const area = { x: 44, y: top, w: width - 88, h: height - top - 48 };
    const repeats = this.heat > 0.9 ? 12 : 2; // a quick start, before anybody looks
    for (let i = 0; i < repeats; i += 1) this.#relax(area);
    this.heat *= this.heat > 0.9 ? 0.9 : 0.965;
  }

  groups() {
    const by = new Map();
    for (const node of this.nodes.values()) {
      const key = node.viewer.group ?? "none";
      if (!by.has(key)) by.set(key, []);
      by.get(key).push(node);
    }
    const keys = [...by.keys()].filter((key) => key !== "none").sort((a, b) => a - b);
    return keys.map((key, i) => ({ key, nodes: by.get(key), label: keys.length > 1 ? `group ${i + 1}` : "" }));
  }

  nearest(x, y, within) {
    let best = null;
    for (const node of this.nodes.values()) {
      const distance = Math.hypot(node.x - x, node.y - y);
      if (distance < within && distance < (best?.distance ?? Infinity)) best = { node, distance };
    }
    return best?.node;
  }

  #newNode(viewer) {
    const seed = [...viewer.id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 9973, 7);
    const mates = [...this.nodes.values()].filter((node) => node.viewer.group === viewer.group);
    const near = mates[0] ?? { x: (this.width ?? 600) / 2, y: (this.height ?? 400) / 2 };
    const angle = (seed / 9973) * 2 * Math.PI;
    const phase = (seed % 97) / 97;
    return { x: near.x + 60 * Math.cos(angle), y: near.y + 60 * Math.sin(angle), dx: 0, dy: 0, age: 0, phase, viewer };
  }

  #relax(area) {
    const nodes = [...this.nodes.values()];
    const groups = this.groups();
    const homes = new Map(groups.map(({ key }, i) => [key, (i + 0.5) / groups.length]));
    // Distance that spreads a group well over its part of the area.
    const room = (area.w / Math.max(1, groups.length)) * area.h;
    const ideal = Math.min(170, 0.9 * Math.sqrt(room / Math.max(4, nodes.length / Math.max(1, groups.length))));
    // Weaker across than down, so that a group takes the shape of its part of the area.
    const flat = Math.min(1, (area.h * Math.max(1, groups.length)) / area.w);
    for (let i = 0; i < nodes.length; i += 1) {
      const a = nodes[i];
      const home = area.x + area.w * (homes.get(a.viewer.group ?? "none") ?? 0.5);
      a.dx += (home - a.x) * 0.02 * flat;
      a.dy += (area.y + area.h / 2 - a.y) * 0.026;
      for (let j = i + 1; j < nodes.length; j += 1) {
        const b = nodes[j];
        const far = Math.max(6, Math.hypot(a.x - b.x, a.y - b.y));
        const mates = a.viewer.group === b.viewer.group;
        const push = (mates ? 2.3 : 3.2) * (ideal / far) ** 2;
        const [ux, uy] = [(a.x - b.x) / far, (a.y - b.y) / far];
        a.dx += ux * push; a.dy += uy * push;
        b.dx -= ux * push; b.dy -= uy * push;
      }
    }
    this.#pull(ideal);
    for (const node of nodes) {
      node.x += Math.max(-9, Math.min(9, node.dx * this.heat * 3));
      node.y += Math.max(-9, Math.min(9, node.dy * this.heat * 3));
      node.dx *= 0.6;
      node.dy *= 0.6;
      node.x = Math.max(area.x, Math.min(area.x + area.w, node.x));
      node.y = Math.max(area.y, Math.min(area.y + area.h, node.y));
    }
  }

  #pull(ideal) {
    for (const { a, b } of this.links) {
      const [from, to] = [this.nodes.get(a), this.nodes.get(b)];
      if (!from || !to || from.viewer.group !== to.viewer.group) continue;
      const far = Math.max(1, Math.hypot(to.x - from.x, to.y - from.y));
      const force = ((far - ideal) / far) * 0.008;
      from.dx += (to.x - from.x) * force; from.dy += (to.y - from.y) * force;
      to.dx -= (to.x - from.x) * force; to.dy -= (to.y - from.y) * force;
    }
  }
}
