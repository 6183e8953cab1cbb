// Generated from player-shim/src/abi.rs by its tests (SHOAL_UPDATE=1). Do not edit.

export type Action =
  | { kind: "fetchCdn"; fetch: number; name: string; first: number; length: number }
  | { kind: "cancelFetch"; fetch: number }
  | { kind: "deliverSegment"; request: number; segment: string; reportedBps: number }
  | { kind: "deliverFetch"; request: number; fetch: number; reportedBps: number }
  | { kind: "bypass"; request: number }
  | { kind: "fail"; request: number; fetch: number }
  | { kind: "connect"; slot: number; peer: string; offer: boolean; native: boolean }
  | { kind: "close"; slot: number; reason: "lost" | "setup-timeout" | "silent" | "misbehaved" | "left" | "leaving" | "replaced" }
  | { kind: "signal"; slot: number; payload: Uint8Array }
  | { kind: "sendFrame"; slot: number; frame: Uint8Array }
  | { kind: "sendRecord"; slot: number; segment: string }
  | { kind: "sendPiece"; slot: number; segment: string; piece: number }
  | { kind: "trackerConnect" }
  | { kind: "trackerClose" }
  | { kind: "sendTracker"; frame: Uint8Array }
  | { kind: "evict"; segment: string }
  | { kind: "useStun"; servers: Uint8Array }
  | { kind: "useRelays"; servers: Uint8Array; only: boolean }
  | { kind: "useTracker"; place: Uint8Array }
  | { kind: "release"; request: number; segment: string; pieces: number }
  | { kind: "delivered"; name: string; track: number; seq: number; bytesP2p: number; bytesCdn: number; waitedMs: number }
  | { kind: "joined"; peer: string }
  | { kind: "trackerLost"; retryMs: number }
  | { kind: "refused" }
  | { kind: "peerUp"; slot: number; peer: string }
  | { kind: "peerDown"; slot: number; peer: string; reason: "lost" | "setup-timeout" | "silent" | "misbehaved" | "left" | "leaving" | "replaced" }
  | { kind: "backstop"; name: string; missing: number };

/** A field: its name, and 0 number, 1 boolean, 2 id, 3 wide number, 4 bytes, or the names of a choice. */
export type Field = readonly [string, number | readonly string[]];

export const KINDS: readonly (readonly [Action["kind"], readonly Field[]])[] = [
  ["fetchCdn", [["fetch", 0], ["name", 2], ["first", 0], ["length", 0]]],
  ["cancelFetch", [["fetch", 0]]],
  ["deliverSegment", [["request", 0], ["segment", 2], ["reportedBps", 3]]],
  ["deliverFetch", [["request", 0], ["fetch", 0], ["reportedBps", 3]]],
  ["bypass", [["request", 0]]],
  ["fail", [["request", 0], ["fetch", 0]]],
  ["connect", [["slot", 0], ["peer", 2], ["offer", 1], ["native", 1]]],
  ["close", [["slot", 0], ["reason", ["lost", "setup-timeout", "silent", "misbehaved", "left", "leaving", "replaced"]]]],
  ["signal", [["slot", 0], ["payload", 4]]],
  ["sendFrame", [["slot", 0], ["frame", 4]]],
  ["sendRecord", [["slot", 0], ["segment", 2]]],
  ["sendPiece", [["slot", 0], ["segment", 2], ["piece", 0]]],
  ["trackerConnect", []],
  ["trackerClose", []],
  ["sendTracker", [["frame", 4]]],
  ["evict", [["segment", 2]]],
  ["useStun", [["servers", 4]]],
  ["useRelays", [["servers", 4], ["only", 1]]],
  ["useTracker", [["place", 4]]],
  ["release", [["request", 0], ["segment", 2], ["pieces", 0]]],
  ["delivered", [["name", 2], ["track", 0], ["seq", 3], ["bytesP2p", 0], ["bytesCdn", 0], ["waitedMs", 0]]],
  ["joined", [["peer", 2]]],
  ["trackerLost", [["retryMs", 0]]],
  ["refused", []],
  ["peerUp", [["slot", 0], ["peer", 2]]],
  ["peerDown", [["slot", 0], ["peer", 2], ["reason", ["lost", "setup-timeout", "silent", "misbehaved", "left", "leaving", "replaced"]]]],
  ["backstop", [["name", 2], ["missing", 0]]],
];

export const STATS = ["bytesP2p", "bytesCdn", "bytesUp", "bytesWasted", "badPieces", "segments", "backstops", "stalls", "stalledMs", "links"] as const;
export const NEIGHBOUR = ["slot", "peerHigh", "peerLow", "native", "ready", "rttMs", "bytesIn", "bytesOut"] as const;
export const RECORD_KIND = 16;
export const CHUNK_KIND = 17;
export const CHUNK_HEADER_LEN = 14;
export const CHUNK_LEN_MAX = 49152;
export const PEER_FRAME_LEN_MAX = 65535;
export const TRACKER_FRAME_LEN_MAX = 8192;
export const SEGMENT_LEN_MAX = 67108864;
export const REQUESTS_MAX = 32;
export const NEIGHBOURS_MAX = 32;
export const RECORD_HEADER = "Shoal-Record";
export const SUBPROTOCOL = "shoal.v1";
