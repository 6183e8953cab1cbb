// Many light viewers of one tracker: they join, say that their links are up, and report. No media.
//
// A process of its own (`startAudience` starts it): Node.js 20 has WebSockets behind a flag only.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const JOIN = 1, STATUS = 2, LINK = 4;
const INTRODUCE = 0x82;
const REPORT_MS = 2000;

class Viewer {
  constructor({ tracker, stream, address, random }) {
    this.random = random;
    this.links = new Set();
    this.socket = new WebSocket(tracker, { protocols: ["shoal.v1"], headers: { "x-forwarded-for": address } });
    this.socket.binaryType = "arraybuffer";
    this.joined = new Promise((resolve, reject) => {
      this.socket.onopen = () => this.send(this.#join(stream));
      this.socket.onerror = () => reject(new Error("a viewer cannot connect"));
      this.socket.onclose = () => reject(new Error("the tracker closed a viewer"));
      this.socket.onmessage = ({ data }) => {
        resolve();
        this.#hear(new DataView(data));
      };
    });
  }

  send(bytes) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  #join(stream) {
    const native = this.random() < 0.15 ? 1 : 0;
    const message = new DataView(new ArrayBuffer(1 + 1 + 16 + 4 + 2 + 4 + 16 + 2));
    message.setUint8(0, JOIN);
    message.setUint8(1, 1);
    for (let i = 0; i < 16; i += 1) message.setUint8(2 + i, parseInt(stream.slice(2 * i, 2 * i + 2), 16));
    message.setUint32(18, 1);
    message.setUint8(22, native);
    message.setUint8(23, [0, 1, 2, 2, 2, 3][Math.floor(this.random() * 6)]);
    message.setUint32(24, 8000);
    return message;
  }

  #hear(message) {
    if (message.getUint8(0) !== INTRODUCE) return;
    const peer = message.getBigUint64(1);
    this.links.add(peer);
    const link = new DataView(new ArrayBuffer(12));
    link.setUint8(0, LINK);
    link.setBigUint64(1, peer);
    link.setUint16(10, 8 + Math.floor(this.random() * 40));
    this.send(link);
  }

  /** What a viewer of a stream of 5 Mbit/s would say after `ms`. */
  report(ms) {
    const watched = (5_000_000 / 8) * (ms / 1000);
    const share = 0.82 + 0.16 * this.random();
    const stalled = this.random() < 0.004 ? 1 : 0;
    // The last byte, of the NAT, stays 0: nothing new.
    const message = new DataView(new ArrayBuffer(1 + 12 + 2 + 12 + 2 + 4 + 4 + 1));
    message.setUint8(0, STATUS);
    message.setUint32(1, 1);
    message.setUint32(5, stalled ? 300 : 5000 + 9000 * this.random());
    message.setUint32(9, 6000 + 5000 * this.random());
    message.setUint8(13, Math.min(20, this.links.size));
    message.setUint8(14, 0);
    message.setUint32(15, watched * share);
    message.setUint32(19, watched * (1 - share));
    message.setUint32(23, watched * share);
    message.setUint16(27, stalled);
    message.setUint32(29, stalled * 400);
    message.setUint32(33, 8000);
    this.send(message);
  }
}

/** Numbers that look random and are the same each time (mulberry32). */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Networks as `[country, AS number, ISP, share of the viewers]`. The second number of an address,
 * `10.N.x.y`, is its network's place in this list.
 */
export const NETWORKS = [
  ["DE", 64601, "Nordlicht", 22], ["DE", 64602, "Isarnetz", 17], ["FR", 64603, "Lumière", 15], ["FR", 64604, "Marée", 9],
  ["NL", 64605, "Tulip Cable", 8], ["NL", 64606, "Polderfiber", 5], ["GB", 64607, "Thames Broadband", 9], ["ES", 64608, "Meseta", 6],
  ["PL", 64609, "Wisla", 4], ["IT", 64610, "Laguna", 3], ["AT", 64611, "Donaunetz", 2],
];

function addressOf(random) {
  let at = random() * NETWORKS.reduce((sum, [, , , part]) => sum + part, 0);
  const index = NETWORKS.findIndex(([, , , part]) => (at -= part) < 0);
  const byte = () => Math.floor(random() * 254) + 1;
  return `10.${Math.max(0, index)}.${byte()}.${byte()}`;
}

async function main(tracker, stream, count) {
  const random = seeded(count);
  const viewers = [];
  let next = 0;
  const batches = 20;
  // From the start: a viewer that is silent while others join would be given up.
  setInterval(() => {
    for (let i = next; i < viewers.length; i += batches) viewers[i].report(REPORT_MS);
    next = (next + 1) % batches;
  }, REPORT_MS / batches);
  while (viewers.length < count) {
    const some = Array.from({ length: Math.min(100, count - viewers.length) }, () =>
      new Viewer({ tracker, stream, random, address: addressOf(random) }));
    await Promise.all(some.map((viewer) => viewer.joined));
    viewers.push(...some);
  }
  console.log("ready");
}

/** Joins `count` viewers to `stream` (32 hexadecimal digits) and keeps them reporting until `stop`. */
export async function startAudience({ tracker, stream, count }) {
  const file = fileURLToPath(import.meta.url);
  const child = spawn(process.execPath, ["--experimental-websocket", file, tracker, stream, String(count)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const ready = new Promise((resolve) => child.stdout.once("data", resolve));
  await Promise.race([ready, ended.then((code) => Promise.reject(new Error(`the audience ended with ${code}`)))]);
  return {
    async stop() {
      child.kill();
      await ended;
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [tracker, stream, count] = process.argv.slice(2);
  await main(tracker, stream, Number(count));
}
