// All streams and all nodes.
import { get, post, remove } from "/dashboard/api.js";
import { History, drawTraffic } from "/dashboard/chart.js";
import { bytes, duration, make, number, percent } from "/dashboard/format.js";
import { showTiles, showTrafficLegend } from "/dashboard/parts.js";

export class Overview {
  #history = new History();

  constructor($, say) {
    Object.assign(this, { $, say });
  }

  load() {
    return get("streams");
  }

  show(_here, { streams, count }, nodes) {
    const sum = (key) => streams.reduce((total, stream) => total + stream[key], 0);
    this.#history.add(performance.now() / 1000, sum("bytes_cdn"), sum("bytes_p2p"));
    const points = this.#history.rates();
    drawTraffic(this.$("traffic"), points);
    showTrafficLegend(this.$("traffic-legend"), points.at(-1));
    const viewers = sum("viewers");
    const all = sum("bytes_p2p") + sum("bytes_cdn");
    showTiles(this.$("tiles"), [
      ["Viewers", number(viewers), `${number(nodes.reduce((n, node) => n + node.connections, 0))} connections`],
      ["Streams", number(count), count > streams.length ? `the largest ${streams.length} are shown` : "with viewers now"],
      ["Offload", percent(sum("bytes_p2p") / Math.max(1, all)), `${bytes(sum("bytes_p2p"))} from viewers`, "p2p"],
      ["From the CDN", bytes(sum("bytes_cdn")), `of ${bytes(all)} watched`, "cdn"],
      ["Stalls", number(sum("stalls")), `${duration(sum("stalled_ms") / 1000)} in all`, sum("stalls") ? "bad" : ""],
      ["Groups", number(nodes.reduce((n, node) => n + node.groups, 0)), "viewers that share"],
    ]);
    this.$("streams-note").textContent = count > streams.length ? `${streams.length} of ${count}` : "";
    this.$("streams").replaceChildren(head(["Stream", "Viewers|n", "Offload", "From viewers|n", "From the CDN|n", "Stalls|n"]),
      make("tbody", {}, ...streams.map((stream) => this.#streamRow(stream))));
    this.$("nodes").replaceChildren(head(["Node", "Version", "Up|n", "Connections|n", "Viewers|n", "Groups|n", "Streams|n", ""]),
      make("tbody", {}, ...nodes.map((node) => this.#nodeRow(node))));
  }

  #streamRow(stream) {
    const href = `#/stream/${stream.stream}`;
    const meter = make("span", { class: "meter" }, make("i", { style: { width: `${stream.offload * 100}%` } }));
    return make("tr", { class: "go", onclick: () => (location.hash = href) },
      make("td", {}, make("a", { href, title: stream.stream }, stream.name || make("code", {}, stream.stream))),
      cell(number(stream.viewers)),
      make("td", {}, meter, percent(stream.offload)),
      cell(bytes(stream.bytes_p2p)), cell(bytes(stream.bytes_cdn)), cell(number(stream.stalls)));
  }

  #nodeRow(node) {
    const name = node.name || node.node.slice(0, 8);
    const path = `nodes/${node.node}/drain`;
    const act = async () => {
      if (!node.draining && !confirm(`Send the ${node.connections} viewers of ${name} away, over 30 seconds?`)) return;
      try {
        await (node.draining ? remove(path) : post(path, { over_ms: 30_000 }));
      } catch (error) {
        this.say(`${name} was not told: ${error.message || "the admin token is needed"}.`);
      }
    };
    return make("tr", {},
      make("td", {}, name), make("td", {}, node.version), cell(duration(node.uptime_s)),
      cell(number(node.connections)), cell(number(node.viewers)), cell(number(node.groups)), cell(number(node.streams)),
      make("td", { class: "n" }, make("button", { class: node.draining ? "" : "alarm", onclick: act }, node.draining ? "End the drain" : "Drain")));
  }
}

const cell = (text) => make("td", { class: "n" }, text);

export function head(names) {
  const cells = names.map((name) => {
    const [text, kind] = name.split("|");
    return make("th", { class: kind }, text);
  });
  return make("thead", {}, make("tr", {}, ...cells));
}

