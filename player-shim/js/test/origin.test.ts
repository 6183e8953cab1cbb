import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { FAILED, Origin, UNVERIFIED, VERIFIED, type Job } from "../src/origin";
import { Store, pieceCount, type Manifest } from "../src/store";
import type { Verifier } from "../src/verify";
import { body, manifestOf } from "./helpers";

const bytes = body(50_000);
const manifest = manifestOf(bytes);
let answer: (request: IncomingMessage, response: ServerResponse) => void = () => {};
const server = createServer((request, response) => answer(request, response));
let base = "";

before(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

after(() => {
  server.closeAllConnections();
  server.close();
});

/** Trusts the header `good`, and hashes for real. */
const verifier = {
  fromHeader: async (text: string) => (text === "good" ? manifest : null),
  isPiece: async (of: Manifest, piece: number, part: Uint8Array) => {
    const own = manifestOf(part).hashes;
    return own.every((byte, at) => byte === of.hashes[piece * 16 + at]);
  },
} as unknown as Verifier;

interface Seen {
  outcome: number;
  bytes: number;
  pieces: number[];
  records: number;
  store: Store;
  asked: (string | undefined)[];
}

async function run(job: Partial<Job>, headers: Record<string, string>, sent = bytes): Promise<Seen> {
  const asked: (string | undefined)[] = [];
  answer = (request, response) => {
    asked.push(request.headers.range);
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
    const ignored = headers["x-ignore-range"];
    const [first, last] = range && !ignored ? [Number(range[1]), Number(range[2])] : [0, sent.length - 1];
    response.writeHead(range && !ignored ? 206 : 200, headers);
    for (let at = first; at <= last; at += 7000) {
      response.write(sent.subarray(at, Math.min(at + 7000, last + 1)));
    }
    response.end();
  };
  return fetchOnce(job, asked);
}

function fetchOnce(job: Partial<Job>, asked: (string | undefined)[] = [], cancel = false): Promise<Seen> {
  const store = new Store(1 << 20);
  const pieces: number[] = [];
  let records = 0;
  return new Promise((resolve) => {
    const origin = new Origin(
      { store, verifier, request: (_url, init) => init, log: () => {} },
      {
        onRecord: () => (records += 1),
        onPiece: (_fetch, _manifest, piece) => pieces.push(piece),
        onDone: (_fetch, outcome, count) =>
          resolve({ outcome, bytes: count, pieces: pieces.sort(), records, store, asked }),
      },
    );
    const located = { url: `${base}/seg.m4s`, first: 0, len: 0 };
    origin.start({ fetch: 1, name: manifest.name, located, first: 0, len: 0, ...job });
    if (cancel) setTimeout(() => origin.cancel(1), 20);
  });
}

test("a whole segment with a record is verified piece by piece", async () => {
  const seen = await run({}, { "Shoal-Record": "good" });
  assert.equal(seen.outcome, VERIFIED);
  assert.deepEqual(seen.pieces, [0, 1, 2, 3]);
  assert.equal(seen.records, 1);
  assert.equal(seen.bytes, 50_000);
  assert.deepEqual(seen.asked, [undefined]);
  assert.deepEqual(new Uint8Array(seen.store.part(manifest.id, 0, pieceCount(manifest)) as ArrayBuffer), bytes);
});

test("a stripe is asked for as a range", async () => {
  const seen = await run({ first: 16_384, len: 32_768 }, { "Shoal-Record": "good" });
  assert.equal(seen.outcome, VERIFIED);
  assert.deepEqual(seen.pieces, [1, 2]);
  assert.deepEqual(seen.asked, ["bytes=16384-49151"]);
});

test("a CDN that ignores ranges is put up with", async () => {
  const seen = await run({ first: 16_384, len: 16_384 }, { "Shoal-Record": "good", "x-ignore-range": "1" });
  assert.equal(seen.outcome, VERIFIED);
  assert.ok(seen.pieces.includes(1));
});

test("without a trusted record the whole body is kept, and only that", async () => {
  for (const headers of [{}, { "Shoal-Record": "forged" }]) {
    const seen = await run({}, headers as Record<string, string>);
    assert.equal(seen.outcome, UNVERIFIED);
    assert.deepEqual(seen.pieces, []);
    assert.deepEqual(new Uint8Array(seen.store.body(1) as ArrayBuffer), bytes);
  }
  const stripe = await run({ first: 0, len: 16_384 }, {});
  assert.equal(stripe.outcome, UNVERIFIED);
  assert.equal(stripe.store.body(1), null);
});

test("bytes that differ from the record are played as without Shoal, and never stored", async () => {
  const spoilt = bytes.slice();
  spoilt[20_000] = 1 ^ (spoilt[20_000] as number);
  const seen = await run({}, { "Shoal-Record": "good" }, spoilt);
  assert.equal(seen.outcome, UNVERIFIED);
  assert.ok(!seen.pieces.includes(1));
  assert.deepEqual(new Uint8Array(seen.store.body(1) as ArrayBuffer), spoilt);
});

test("errors and broken answers fail", async () => {
  answer = (_request, response) => response.writeHead(404).end();
  assert.equal((await fetchOnce({})).outcome, FAILED);
  answer = (_request, response) => {
    response.writeHead(200, { "Shoal-Record": "good", "Content-Length": "50000" });
    response.write(bytes.subarray(0, 20_000), () => response.destroy());
  };
  const broken = await fetchOnce({});
  assert.equal(broken.outcome, FAILED);
  assert.deepEqual(broken.pieces, [0]);
});

test("a cancelled fetch ends as failed, with its bytes counted", async () => {
  answer = (_request, response) => {
    response.writeHead(200, {});
    response.write(bytes.subarray(0, 100));
  };
  const seen = await fetchOnce({}, [], true);
  assert.equal(seen.outcome, FAILED);
});

test("a segment within a larger object is asked for where it is", async () => {
  const located = { url: `${base}/all.mp4`, first: 1000, len: 50_000 };
  const larger = new Uint8Array([...body(1000), ...bytes]);
  const seen = await run({ located, first: 16_384, len: 16_384 }, { "Shoal-Record": "good" }, larger);
  assert.equal(seen.outcome, VERIFIED);
  assert.deepEqual(seen.asked, ["bytes=17384-33767"]);
});
