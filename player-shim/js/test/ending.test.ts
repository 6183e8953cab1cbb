// What Shoal still does when a page gives it up.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Engine, type EngineEvents, type EngineOptions } from "../src/engine";
import type { Module, Window } from "../src/machine";
import type { Waiting } from "../src/requests";
import { Session } from "../src/session";

const NAME = "00000000000000aa";
const REQUEST = 1;

/** A machine that leaves as the real one may: it drops its neighbour, and goes on for the player from the CDN alone. */
class Leaving {
  next_wakeup_ms = (): number => -1;
  arena = (): Uint8Array => new Uint8Array(0);
  environment = (): Uint32Array => new Uint32Array(0);
  timeline = (): Uint32Array => new Uint32Array(0);
  wanted = (): Uint32Array => new Uint32Array(0);
  leave = (): Uint32Array =>
    // peerDown, fetchCdn, bypass.
    new Uint32Array([25, 3, 0, 7, 5, 0, 9, 0, 0xaa, 16_384, 16_384, 4, REQUEST]);

  read_playlist(): Window {
    return {
      track: () => 1,
      stream: () => "",
      target_ms: () => 4000,
      is_ended: () => false,
      segments: () => `${NAME} 1 4000 0 0 https://cdn.example/seg-1.m4s`,
      parts: () => undefined,
      free: () => {},
    };
  }
}

function engineWith(shim: new () => object, events: Partial<EngineEvents>): Engine {
  const options: Partial<EngineOptions> = {
    module: { Shim: shim } as unknown as Module,
    verifier: {} as NonNullable<EngineOptions["verifier"]>,
    tracker: "",
    consent: null,
    policy: "",
    request: (_url, init) => init,
    log: () => {},
  };
  const none: EngineEvents = { onSegment() {}, onPeer() {}, onTracker() {}, onFault() {} };
  return new Engine(options as EngineOptions, { ...none, ...events });
}

/** A request that notes what becomes of it. */
function waitingFor(log: string[]): Waiting {
  return {
    onReleased: () => log.push("released"),
    onDelivered: () => log.push("delivered"),
    onBypass: () => log.push("bypass"),
    onStopped: () => log.push("stopped"),
  };
}

test("an engine that stops says goodbye and fetches nothing: the player's own loader does", (t) => {
  const log: string[] = [];
  t.mock.method(globalThis, "fetch", async () => {
    log.push("fetched");
    throw new Error("no network here");
  });
  const engine = engineWith(Leaving, { onPeer: (peer, _up, reason) => log.push(`${peer} ${reason}`) });
  engine.playlist("", "", 0, false);
  assert.equal(engine.want(NAME, waitingFor(log), 500), REQUEST);
  engine.stop();
  assert.deepEqual(log, ["0000000000000007 leaving", "stopped"]);
});

test("a machine that fails while it leaves stops nothing from ending", () => {
  const log: string[] = [];
  const engine = engineWith(
    class extends Leaving {
      override leave = (): Uint32Array => {
        throw new Error("unreachable");
      };
    },
    { onFault: (reason) => log.push(reason) },
  );
  engine.want(NAME, waitingFor(log), 500);
  engine.stop();
  assert.deepEqual(log, ["stopped"]);
});

test("a page hears nothing of a module that does not load after it gave Shoal up", async () => {
  const log: string[] = [];
  const gone = Promise.reject(new Error("no module"));
  const options = { tracker: "ws://tracker.example", key: "00".repeat(32), rtc: false };
  const session = new Session({ ...options, log: (_level, message) => log.push(message) }, () => gone);
  session.destroy();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(session.getStats().state, "off");
  assert.deepEqual(log, []);
});
