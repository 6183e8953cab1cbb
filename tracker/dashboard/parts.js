// Pieces that several views have.
import { CDN, P2P, make, number, percent, rate } from "/dashboard/format.js";

/** Figures as `[name, value, remark, tone]`. */
export function showTiles(element, tiles) {
  element.replaceChildren(...tiles.map(([name, value, remark = "", tone = ""]) =>
    make("div", { class: "tile", "data-tone": tone }, make("span", {}, name), make("b", {}, value), make("small", {}, remark))));
}

export function showTrafficLegend(element, now) {
  const item = (look, text, bps) => make("li", {}, make("i", look), text, make("b", {}, now ? rate(bps) : "–"));
  const filled = (colour) => ({ style: { background: colour } });
  element.replaceChildren(
    item({ class: "line" }, "without P2P", now?.all), item(filled(CDN), "CDN now", now?.cdn),
    item(filled(P2P), "carried by viewers", now?.p2p));
}

/** Lines as `{name, count, colour}`, the longest first. */
export function showShares(element, lines) {
  const total = lines.reduce((sum, line) => sum + line.count, 0);
  const most = Math.max(1, ...lines.map((line) => line.count));
  element.replaceChildren(...lines.map(({ name, count, colour }) => {
    const bar = make("i", { style: { background: colour, width: `${(count / most) * 100}%` } });
    return make("li", {},
      make("span", { class: "name", title: name }, name), make("span", { class: "rail" }, bar),
      make("span", { class: "count" }, number(count)), make("span", { class: "part" }, percent(count / Math.max(1, total))));
  }));
}

/** A histogram; `tone` says how good a class is by its upper edge. */
export function showBars(element, { edges, counts }, tone) {
  const most = Math.max(1, ...counts);
  element.replaceChildren(...counts.map((count, i) => {
    const edge = edges[i] ?? Infinity;
    const label = edge === Infinity ? `${edges.at(-1) / 1000}+` : `<${edge / 1000}`;
    const bar = make("i", { style: { height: `${(count / most) * 72}%` } });
    return make("div", { "data-tone": tone(edge) }, make("b", {}, count ? number(count) : ""), bar, make("span", {}, label));
  }));
}
