/**
 * Options of `Shoal.attach`. Only `tracker` and `key` are needed.
 *
 * One setting of hls.js matters to Shoal: with `progressive: true` segments are played while they arrive, so
 * that close to the live edge there is more time to share them. It needs MPEG-TS, or CMAF of several
 * chunks a segment; others are loaded whole as without it.
 */
export interface ShoalOptions {
  /** The tracker's address, `wss://...`. Without it everything comes from the CDN. */
  tracker?: string;
  /**
   * The public keys that sign the stream's records: 32 bytes each, as base64url or 64 hexadecimal
   * digits. Without one nothing can be verified, so everything comes from the CDN.
   */
  key?: string | readonly string[];
  /** What entitles this viewer, if the tracker asks for it; a function is asked at every join. */
  token?: string | (() => string | Promise<string>);
  /** `false`: nothing is shared and nothing is loaded; only statistics are kept. */
  p2p?: boolean;
  /** `false`: no connections to other viewers are made. For tests. */
  rtc?: boolean;
  /** Most that is uploaded, in bit/s. Default 10,000,000. 0 on cellular and data-saving links. */
  uploadBpsMax?: number;
  /** Most connections at a time, those being set up included. Default and maximum 32. */
  connectionsMax?: number;
  /** Memory for segments, in bytes. Default 96 MiB. */
  storeBytesMax?: number;
  /** Where `shoal_bg.wasm` is. Default: beside the script. */
  wasmUrl?: string;
  /** ICE servers (STUN, TURN) beside those that the tracker names. */
  iceServers?: RTCIceServer[];
  /**
   * `true`: connections use relays (TURN) alone, so that other viewers do not learn this one's
   * address. Without a relay there are none.
   */
  relayOnly?: boolean;
  /**
   * Whether the person has agreed to peers. Left out: nobody was asked, and the tracker decides
   * whether that is enough. `false`: everything comes from the CDN until `setConsent(true)`.
   */
  consent?: boolean;
  /**
   * Changes the requests for segments, as `xhrSetup` does for the player's own: credentials, headers.
   */
  request?: (url: string, init: RequestInit) => RequestInit;
  /** Knobs of the machine by name, as `player-shim/src/policy.rs` lists them. For experiments. */
  policy?: Record<string, number | boolean>;
  /** Where messages for developers go. Default: warnings to the console. */
  log?: (level: "debug" | "warn", message: string) => void;
}

/** One segment that went to the player. */
export interface SegmentStats {
  /** Its number in the playlist. */
  seq: number;
  /** The player's index of the quality, -1 for audio and unknown ones. */
  level: number;
  /** Bytes that came from the CDN. */
  bytesCdn: number;
  /** Verified bytes that other viewers sent. */
  bytesP2p: number;
  /** From the player's request to the delivery, in milliseconds. */
  waitedMs: number;
}

/** A connection to another viewer. */
export interface NeighbourStats {
  /** Its name at the tracker, 16 hexadecimal digits. */
  peer: string;
  /** Whether it is a native agent. */
  native: boolean;
  /** Verified new bytes from it. */
  down: number;
  /** Bytes sent to it. */
  up: number;
  /** Round trip in milliseconds, 0 before it is measured. */
  rtt: number;
}

/** `off`: not used. `down`: out of reach, will be tried again. `refused`: will not be. */
export type TrackerState = "off" | "connecting" | "joined" | "down" | "refused";

/** `loading`: everything comes from the CDN until it is `ready`. `off`, `failed`: for good. */
export type EngineState = "loading" | "ready" | "off" | "failed";

/** What `getStats` tells. */
export interface ShoalStats {
  /** Whether the machine runs. */
  state: EngineState;
  /** Why not, and who is at fault; empty while it runs. */
  reason: string;
  /** Share of the media bytes that other viewers sent, 0 to 1. */
  offload: number;
  /** Media bytes from the CDN, the player's own requests included. */
  bytesCdn: number;
  /** Verified bytes from other viewers. */
  bytesP2p: number;
  /** Bytes sent to other viewers. */
  bytesUp: number;
  /** Bytes from other viewers that were there already. */
  bytesWasted: number;
  /** Times that another viewer sent something bad. It was never played. */
  badPieces: number;
  /** Segments whose missing bytes were taken from the CDN because their deadline came near. */
  backstops: number;
  /** Open connections. */
  neighbours: NeighbourStats[];
  /** The last segments, at most 60, newest last. */
  segments: SegmentStats[];
  /** Media ahead of the playhead, in milliseconds. */
  bufferMs: number;
  /** How far the playhead is behind the end of the playlist, in milliseconds. */
  lagMs: number;
  /** Times that playback stopped for want of media. */
  stalls: number;
  /** How long it stood still, in milliseconds. */
  stalledMs: number;
  /** From `attach` to the first frame, in milliseconds; 0 before. */
  startupMs: number;
  /** The tracker. */
  tracker: TrackerState;
  /** This viewer's name at the tracker, empty before it has joined. */
  peer: string;
}

/** What `on` can listen to, and what listeners get. */
export interface ShoalEvents {
  /** A segment went to the player. */
  segment: SegmentStats;
  /** A connection to another viewer opened or closed. */
  peer: { peer: string; up: boolean; reason: string };
  /** The tracker's state changed. */
  tracker: { state: TrackerState };
  /** Once a second. */
  stats: ShoalStats;
}

/** What `attach` returns. */
export interface ShoalHandle {
  /** How it is going. */
  getStats(): ShoalStats;
  /** Listens; the function returned stops it. */
  on<E extends keyof ShoalEvents>(event: E, listener: (value: ShoalEvents[E]) => void): () => void;
  /**
   * The person agrees to peers, or does not any more: then all other viewers are left, and everything
   * comes from the CDN until there is agreement again.
   */
  setConsent(agreed: boolean): void;
  /** Leaves the swarm and gives the player its own loader back. The player goes on playing. */
  destroy(): void;
}
