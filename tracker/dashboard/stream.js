// One stream: sums, then its groups, then one group's viewers, then one viewer.
import { get, post, remove } from "/dashboard/api.js";
import { History, drawTraffic } from "/dashboard/chart.js";
import { CDN, P2P, bytes, duration, make, number, ofIsp, percent, rate, seconds } from "/dashboard/format.js";
import { MeshView } from "/dashboard/mesh.js";
import { head } from "/dashboard/overview.js";
import { showBars, showShares, showTiles, showTrafficLegend } from "/dashboard/parts.js";

/** Shares that are drawn; the others are one line. */
const SHARES_MAX = 9;
/** As many groups as the tracker lists. */
const GROUPS_MAX = 1000;
const DISTANCES = { household: "#3ddc97", site: "#3ddc97", metro: P2P, isp: "#4cc9f0", country: "#5b8cff", far: "#b18cff" };

export class StreamView {
  #histories = new Map();

  constructor($, say) {
    Object.assign(this, { $, say });
    this.mesh = new MeshView($("mesh"), $("tip"), {
      onGroup: ({ node, group }) => (location.hash = `#/stream/${this.here.stream}/group/${node}/${group}`),
      onViewer: ({ id, group }) => {
        const node = this.here.node ?? this.only?.node;
        location.hash = `#/stream/${this.here.stream}/group/${node}/${group}/viewer/${id}`;
      },
    });
    $("kick").addEventListener("click", () => (this.gone ? this.#letIn() : this.#kick()));
  }

  async load({ stream, node, group, viewer }) {
    const [detail, groups] = await Promise.all([get(`streams/${stream}`), get(`streams/${stream}/groups`)]);
    // A stream of one group is seen from close by.
    const [only] = groups?.groups.length === 1 ? groups.groups : [];
    const chosen = group === undefined ? only : { node, group };
    const [mesh, around] = await Promise.all([
      chosen && get(`streams/${stream}/mesh?group=${chosen.group}&node=${chosen.node}`),
      viewer && get(`viewers/${viewer}`),
    ]);
    return { detail, groups, mesh, chosen, only, around };
  }

  show(here, { detail, groups, mesh, chosen, only, around }) {
    Object.assign(this, { here, only });
    if (!detail) return this.#showNothing();
    this.#showFigures(detail);
    this.#showDistributions(detail);
    this.#showMesh(here, { detail, groups, mesh, chosen });
    if (here.viewer) this.#showViewer(around);
  }

  #showNothing() {
    showTiles(this.$("tiles"), [["Viewers", "0", "nobody watches this stream now"]]);
    this.mesh.clear();
    for (const id of ["mesh-note", "isps", "countries", "distances", "nats", "buffer", "lag", "mesh-legend"]) this.$(id).replaceChildren();
  }

  #showFigures(detail) {
    if (!this.#histories.has(detail.stream)) this.#histories.set(detail.stream, new History());
    const history = this.#histories.get(detail.stream);
    history.add(performance.now() / 1000, detail.bytes_cdn, detail.bytes_p2p);
    const points = history.rates();
    drawTraffic(this.$("traffic"), points);
    showTrafficLegend(this.$("traffic-legend"), points.at(-1));
    const now = detail.p2p_kbps / Math.max(1, detail.p2p_kbps + detail.cdn_kbps);
    const browsers = detail.viewers - detail.native;
    showTiles(this.$("tiles"), [
      ["Viewers", number(detail.viewers), `${number(browsers)} browsers, ${number(detail.native)} native`],
      ["Offload now", percent(now), `${percent(detail.offload)} since its start`, "p2p"],
      ["From viewers", rate(detail.p2p_kbps * 1000), `${bytes(detail.bytes_p2p)} in all`, "p2p"],
      ["From the CDN", rate(detail.cdn_kbps * 1000), `${bytes(detail.bytes_cdn)} in all`, "cdn"],
      ["Stalling now", number(detail.stalling), `${number(detail.stalls)} stalls, ${duration(detail.stalled_ms / 1000)} in all`, detail.stalling ? "bad" : ""],
      ["Links", number(detail.links_up), `${(2 * detail.links_up / Math.max(1, detail.viewers)).toFixed(1)} a viewer, ${number(detail.links_pending)} coming`],
    ]);
  }

  #showDistributions(detail) {
    const isps = detail.isps.map((share) => ({
      name: share.key === "0" ? "not known" : share.name || (share.key === "other" ? "others" : `AS ${share.key}`),
      count: share.viewers, colour: ofIsp(share.key),
    }));
    const names = new Intl.DisplayNames(["en"], { type: "region" });
    const countries = detail.countries.map((share) => ({
      name: /^[A-Z]{2}$/.test(share.key) ? names.of(share.key) : share.key === "other" ? "others" : "not known",
      count: share.viewers, colour: "#5b8cff",
    }));
    showShares(this.$("isps"), few(isps));
    showShares(this.$("countries"), few(countries));
    const distances = Object.entries(DISTANCES).map(([name, colour]) => ({
      name: name === "isp" ? "ISP" : name, colour, count: detail.distances[name] ?? 0,
    }));
    showShares(this.$("distances"), distances);
    const nats = Object.entries(detail.nats).map(([name, count]) => ({ name, count, colour: name === "blocked" ? "#ff6b7a" : "#7b8a9c" }));
    showShares(this.$("nats"), nats.toSorted((a, b) => b.count - a.count));
    showBars(this.$("buffer"), detail.buffer_ms, (edge) => (edge <= 2000 ? "bad" : edge <= 4000 ? "thin" : ""));
    showBars(this.$("lag"), detail.lag_ms, (edge) => (edge > 40_000 ? "thin" : ""));
  }

  #showMesh(here, { detail, groups, mesh, chosen }) {
    const sampled = detail.sampled > 1 ? `, figures of every ${detail.sampled}th viewer` : "";
    if (chosen && mesh) {
      const inside = mesh.viewers.length;
      this.mesh.showGroup(mesh, chosen.group, here.viewer);
      this.$("mesh-title").textContent = `Group ${chosen.group}`;
      this.$("mesh-note").textContent = `${inside} viewers; click one to see whom it knows`;
    } else {
      this.mesh.showGroups(groups ?? { groups: [], bridges: [] });
      this.$("mesh-title").textContent = `${number(groups?.groups.length ?? 0)} groups`;
      const cut = groups?.truncated ? `; not all ${groups.groups.length < GROUPS_MAX ? "links" : "groups"} are shown` : "";
      this.$("mesh-note").textContent = `each disc is one; click it to see its viewers${cut}${sampled}`;
    }
    const item = (colour, text) => make("li", {}, make("i", { style: { background: colour } }), text);
    const colours = few(detail.isps.filter((isp) => isp.key !== "other").map((isp) => [ofIsp(isp.key), isp.name || (isp.key === "0" ? "not known" : `AS ${isp.key}`)]));
    const shape = (kind, text) => make("li", {}, make("i", { class: kind }), text);
    const rims = chosen
      ? [item(CDN, "from the CDN"), shape("round", "browser"), shape("hexagon", "native")]
      : [item(P2P, "rim: from viewers"), item(CDN, "rim: from the CDN")];
    this.$("mesh-legend").replaceChildren(...colours.map((colour) => item(...colour)), ...rims);
  }

  #showViewer(around) {
    this.$("viewer-title").textContent = `Viewer ${this.here.viewer}`;
    this.gone = !around;
    this.$("kick").textContent = around ? "Kick" : "Let in again";
    if (!around) {
      this.$("viewer").replaceChildren(make("dt", {}, "It has left."));
      return this.$("neighbours").replaceChildren();
    }
    const { viewer } = around;
    const facts = {
      Player: viewer.native ? "native" : "browser", Network: viewer.isp || `AS ${viewer.asn}`, Country: viewer.country || "not known",
      NAT: viewer.nat, Buffer: seconds(viewer.buffer_ms), "Behind live": seconds(viewer.lag_ms),
      Offload: percent(viewer.bytes_p2p / Math.max(1, viewer.bytes_p2p + viewer.bytes_cdn)), Sends: rate(viewer.up_kbps * 1000),
      Stalls: number(viewer.stalls), Here: duration(viewer.age_ms / 1000),
    };
    this.$("viewer").replaceChildren(...Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    const rows = around.neighbours.map(({ viewer: other, up, distance, rtt_ms: rtt, long }) => make("tr", {},
      make("td", {}, make("code", {}, other.id.slice(0, 8))), make("td", {}, other.isp || `AS ${other.asn}`),
      make("td", {}, long ? `${distance}, long` : distance), make("td", { class: "n" }, up ? (rtt ? `${rtt} ms` : "up") : "coming")));
    this.$("neighbours").replaceChildren(head(["Neighbour", "ISP", "Distance", "Link|n"]), make("tbody", {}, ...rows));
  }

  async #letIn() {
    const { viewer } = this.here;
    try {
      const done = await remove(`viewers/${viewer}/kick`);
      this.say(done ? "The viewer may come again." : "This viewer was not kicked, or may come again already.");
    } catch (error) {
      this.say(`Nothing was changed: ${error.message || "the admin token is needed"}.`);
    }
  }

  async #kick() {
    const { viewer, stream } = this.here;
    if (!confirm("Turn this viewer away? It plays on from the CDN alone.")) return;
    try {
      await post(`viewers/${viewer}/kick`);
      location.hash = `#/stream/${stream}`;
    } catch (error) {
      this.say(`The viewer was not kicked: ${error.message || "the admin token is needed"}.`);
    }
  }
}

/** The first lines, and one for the others. */
function few(lines) {
  if (lines.length <= SHARES_MAX) return lines;
  const rest = lines.slice(SHARES_MAX - 1);
  if (Array.isArray(rest[0])) return lines.slice(0, SHARES_MAX);
  const count = rest.reduce((sum, line) => sum + line.count, 0);
  return [...lines.slice(0, SHARES_MAX - 1), { name: `${rest.length} others`, count, colour: "#3a4b5f" }];
}
