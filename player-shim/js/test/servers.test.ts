import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { Signalling } from "../src/signalling";
import { Transport, type TransportOptions } from "../src/transport";

const global = globalThis as unknown as Record<string, unknown>;
const before = { WebSocket: global["WebSocket"], RTCPeerConnection: global["RTCPeerConnection"] };

afterEach(() => Object.assign(global, before));

/** Where WebSockets were opened to. */
function watchSockets(): string[] {
  const opened: string[] = [];
  class Socket {
    static readonly OPEN = 1;
    readyState = 0;
    constructor(url: string) {
      opened.push(url);
    }
    close(): void {}
  }
  global["WebSocket"] = Socket;
  return opened;
}

test("the tracker's word on where to go counts, but not from an encrypted one to a plain one", () => {
  const opened = watchSockets();
  const events = { onUp: () => {}, onDown: () => {}, onFrame: () => {} };
  const visit = (home: string, places: string[]): string[] => {
    const signalling = new Signalling(home, events);
    signalling.open();
    for (const place of places) {
      signalling.useTracker(place);
      signalling.open();
    }
    signalling.close();
    return opened.splice(0);
  };
  const places = ["wss://b.example/", "ws://c.example/", "", "http://d.example/", "javascript:0"];
  const safe = "wss://a.example/";
  assert.deepEqual(visit(safe, places), [safe, "wss://b.example/", safe, safe, safe, safe]);
  const plain = "ws://a.example/";
  assert.deepEqual(visit(plain, places), [plain, "wss://b.example/", "ws://c.example/", plain, plain, plain]);
});

/** What connections were set up with; none comes about. */
function watchConnections(): RTCConfiguration[] {
  const made: RTCConfiguration[] = [];
  global["RTCPeerConnection"] = class {
    constructor(config: RTCConfiguration) {
      made.push(config);
      throw new Error("no connections here");
    }
  };
  return made;
}

test("relays come to the page's own servers, and alone where nothing else may be used", () => {
  const made = watchConnections();
  const own = [{ urls: "turn:own.example", username: "me", credential: "mine" }];
  const create = (relayOnly: boolean): Transport => {
    const options = { iceServers: own, relayOnly, enabled: true, connectionsMax: 4 };
    const events = { onDown: () => {} };
    return new Transport(options as unknown as TransportOptions, events as never);
  };
  const transport = create(false);
  transport.useStun(["s.example:1"]);
  transport.connect(1, true);
  transport.useRelays("7:name\nsecret\nturn:r.example\nturns:r.example", true);
  transport.connect(1, true);
  transport.useRelays("\n", false);
  transport.connect(1, true);
  const stun = { urls: "stun:s.example:1" };
  const relay = { urls: ["turn:r.example", "turns:r.example"], username: "7:name", credential: "secret" };
  assert.deepEqual(made.map(({ iceServers }) => iceServers), [
    [...own, stun],
    [...own, stun, relay],
    [...own, stun],
  ]);
  const policies = made.splice(0).map(({ iceTransportPolicy }) => iceTransportPolicy);
  assert.deepEqual(policies, ["all", "relay", "all"]);
  const shy = create(true);
  shy.connect(1, true);
  shy.useRelays("\n", false);
  shy.connect(1, true);
  assert.ok(made.every(({ iceTransportPolicy }) => iceTransportPolicy === "relay"));
});
