// Places that stay the same while viewers come and go: no forces, only order.

const GOLDEN = Math.PI * (3 - Math.sqrt(5));

/** Groups as discs, those of a country together, the largest country in the middle. */
export function placeGroups(groups, width, height) {
  const countries = new Map();
  for (const group of groups) {
    const list = countries.get(group.country) ?? [];
    list.push(group);
    countries.set(group.country, list);
  }
  const spacing = 26;
  const clusters = [...countries].map(([country, list]) => ({
    country,
    list: list.toSorted((a, b) => a.asn - b.asn || a.group - b.group),
    radius: spacing * (0.62 * Math.sqrt(list.length) + 0.55),
  }));
  clusters.sort((a, b) => b.list.length - a.list.length || a.country.localeCompare(b.country));
  pack(clusters, width / Math.max(1, height));
  const nodes = [];
  for (const cluster of clusters) {
    cluster.list.forEach((group, i) => {
      const far = spacing * 0.6 * Math.sqrt(cluster.list.length === 1 ? 0 : i + 0.35);
      nodes.push({
        group,
        x: cluster.x + far * Math.cos(i * GOLDEN),
        y: cluster.y + far * Math.sin(i * GOLDEN),
        r: Math.min(11, 3.2 + 1.5 * Math.sqrt(group.viewers)),
      });
    });
  }
  return fit(nodes, clusters, width, height);
}

/** Each cluster goes to the first place on a spiral where it touches nobody. */
function pack(clusters, aspect) {
  const placed = [];
  for (const cluster of clusters) {
    for (let step = 0; ; step += 1) {
      const far = 4 * Math.sqrt(step);
      const angle = step * GOLDEN;
      [cluster.x, cluster.y] = [far * Math.cos(angle) * Math.sqrt(aspect), (far * Math.sin(angle)) / Math.sqrt(aspect)];
      const free = (other) => Math.hypot(other.x - cluster.x, other.y - cluster.y) > other.radius + cluster.radius + 10;
      if (placed.every(free)) break;
    }
    placed.push(cluster);
  }
}

function fit(nodes, clusters, width, height) {
  const edge = (list, pick) => list.map(pick);
  const left = Math.min(...edge(clusters, (c) => c.x - c.radius));
  const right = Math.max(...edge(clusters, (c) => c.x + c.radius));
  const top = Math.min(...edge(clusters, (c) => c.y - c.radius - 12));
  const bottom = Math.max(...edge(clusters, (c) => c.y + c.radius));
  const scale = Math.min(2.6, (width - 30) / (right - left), (height - 30) / (bottom - top));
  const move = (item, radius) => {
    item.x = width / 2 + (item.x - (left + right) / 2) * scale;
    item.y = height / 2 + (item.y - (top + bottom) / 2) * scale;
    item[radius] *= scale;
  };
  nodes.forEach((node) => move(node, "r"));
  clusters.forEach((cluster) => move(cluster, "radius"));
  return { nodes, clusters };
}

/** Viewers on a circle, those of an ISP beside each other; neighbours of other groups further out. */
export function placeViewers(viewers, group, width, height) {
  const inside = viewers.filter((viewer) => viewer.group === group);
  const order = (a, b) => a.asn - b.asn || a.id.localeCompare(b.id);
  const middle = { x: width / 2, y: height / 2 + 24 };
  const ring = inside.toSorted(order);
  const far = Math.max(80, Math.min(width / 2 - 70, height / 2 - 70));
  return ring.map((viewer, i) => {
    const angle = -Math.PI / 2 + ((i + 0.5) / ring.length) * 2 * Math.PI;
    const aspect = Math.min(1.5, Math.max(1, (width / height) * 0.9));
    return { viewer, x: middle.x + far * aspect * Math.cos(angle), y: middle.y + far * Math.sin(angle), r: ring.length > 30 ? 7 : 12 };
  });
}
