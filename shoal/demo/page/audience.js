// Everybody who watches, from three sides: the tracker's mesh (ISPs, places, groups), the demo's
// state (what went over each link) and this tab's own statistics.
import * as palette from "/palette.js";

/** How much of the old rate is kept each time, so that figures move and do not jump. */
const INERTIA = 0.55;

/** Turns counters that only grow into smooth rates in bit/s. */
class Rates {
  constructor() {
    this.known = new Map();
  }

  of(key, bytes, now) {
    const last = this.known.get(key);
    if (!last || bytes < last.bytes) {
      this.known.set(key, { bytes, now, bps: 0 });
      return 0;
    }
    const passed = (now - last.now) / 1000;
    if (passed < 0.3) return last.bps;
    const bps = INERTIA * last.bps + ((1 - INERTIA) * (bytes - last.bytes) * 8) / passed;
    this.known.set(key, { bytes, now, bps });
    return bps;
  }

  forget(now) {
    for (const [key, { now: at }] of this.known) if (now - at > 30_000) this.known.delete(key);
  }
}

export class Audience {
  constructor() {
    this.rates = new Rates();
    this.places = new Map();
    this.viewers = [];
    this.links = [];
  }

  /** The ISP of a viewer, as far as the tracker has said. */
  isp(peer) {
    const { asn, isp } = this.places.get(peer) ?? {};
    return { name: isp || (asn ? `AS ${asn}` : "unknown ISP"), colour: palette.ofIsp(asn) };
  }

  /** `mesh` may be null while the tracker does not answer; what it said last stays true. */
  update(state, mesh, me, now) {
    for (const viewer of mesh?.viewers ?? []) this.places.set(viewer.id, viewer);
    const found = new Map();
    for (const viewer of mesh?.viewers ?? []) if (viewer.connected) found.set(viewer.id, {});
    for (const viewer of state.viewers) if (viewer.peer) found.set(viewer.peer, viewer);
    this.viewers = [...found].map(([id, seen]) => this.#viewer(id, seen, me, now));
    this.links = this.#links(state, mesh, now);
    this.rates.forget(now);
  }

  /** `[{name, colour, viewers, bytes}]`: who is there and what they have sent. */
  isps() {
    const by = new Map();
    for (const viewer of this.viewers) {
      const entry = by.get(viewer.isp) ?? { name: viewer.isp, colour: viewer.colour, viewers: 0, up: 0 };
      entry.viewers += 1;
      entry.up += viewer.bytes_up;
      by.set(viewer.isp, entry);
    }
    return [...by.values()].sort((a, b) => a.name.localeCompare(b.name));
  }

  #viewer(id, seen, me, now) {
    const place = this.places.get(id) ?? {};
    const { name, colour } = this.isp(id);
    const figure = (of) => seen[of] ?? place[of] ?? 0;
    return {
      id, colour, isp: name, you: id === me,
      native: seen.native ?? place.native ?? false,
      group: place.group ?? null,
      place: place.country ?? "",
      buffer_s: figure("buffer_ms") / 1000,
      lag_s: figure("lag_ms") / 1000,
      stalled: seen.stalled ?? false,
      bytes_cdn: figure("bytes_cdn"),
      bytes_p2p: figure("bytes_p2p"),
      bytes_up: figure("bytes_up"),
      cdn_bps: this.rates.of(`cdn ${id}`, figure("bytes_cdn"), now),
      up_bps: this.rates.of(`up ${id}`, figure("bytes_up"), now),
    };
  }

  #links(state, mesh, now) {
    const links = new Map();
    const link = (from, to) => {
      const [a, b] = from < to ? [from, to] : [to, from];
      const key = `${a} ${b}`;
      if (!links.has(key)) links.set(key, { key, a, b, up: true, ab: 0, ba: 0 });
      return links.get(key);
    };
    for (const { a, b } of mesh?.links_up ?? []) link(a, b);
    for (const { peer, flows } of state.viewers) {
      if (!peer) continue;
      for (const flow of flows) {
        const seen = link(peer, flow.peer);
        const [out, into] = seen.a === peer ? ["ab", "ba"] : ["ba", "ab"];
        // Both ends count; the larger figure is the newer one.
        seen[out] = Math.max(seen[out], flow.bytes_out);
        seen[into] = Math.max(seen[into], flow.bytes_in);
      }
    }
    return [...links.values()].map((seen) => ({
      ...seen,
      ab_bps: this.rates.of(`${seen.key} ab`, seen.ab, now),
      ba_bps: this.rates.of(`${seen.key} ba`, seen.ba, now),
    }));
  }
}
