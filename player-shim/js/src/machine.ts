// What the TypeScript half needs of the WebAssembly module, so that tests can stand in for it.

/** A record as Rust reads it. */
export interface ParsedRecord {
  id(): string;
  stream(): string;
  name(): string;
  len(): number;
  piece_len(): number;
  bytes(): Uint8Array;
  signed(): Uint8Array;
  signature(): Uint8Array;
  hashes(): Uint8Array;
  free(): void;
}

/** A media playlist as Rust reads it. */
export interface Window {
  track(): number;
  stream(): string;
  target_ms(): number;
  is_ended(): boolean;
  segments(): string;
  parts(): Window | undefined;
  free(): void;
}

/** The peer machine: see `player-shim/src/shim.rs`. */
export interface Shim {
  next_wakeup_ms(): number;
  arena(): Uint8Array;
  tick(now: number): Uint32Array;
  environment(now: number, flags: number, uploadBpsMax: number): Uint32Array;
  join(now: number, stream: string, token: Uint8Array): Uint32Array;
  read_playlist(text: string, url: string): Window | undefined;
  timeline(now: number, track: number): Uint32Array;
  track_ended(now: number, track: number): Uint32Array;
  wanted(now: number, request: number, name: string, grainMs: number): Uint32Array;
  abandoned(now: number, request: number): Uint32Array;
  player(now: number, bufferMs: number, lagMs: number, stalled: boolean): Uint32Array;
  tracker_up(now: number): Uint32Array;
  tracker_down(now: number): Uint32Array;
  tracker_frame(now: number, frame: Uint8Array): Uint32Array;
  signal(now: number, slot: number, payload: Uint8Array): Uint32Array;
  link_up(now: number, slot: number): Uint32Array;
  link_down(now: number, slot: number): Uint32Array;
  frame(now: number, slot: number, bytes: Uint8Array): Uint32Array;
  record(now: number, fromPeer: boolean, source: number, bytes: Uint8Array): Uint32Array;
  pieces(
    now: number,
    fromPeer: boolean,
    source: number,
    segment: string,
    bitsLow: number,
    bitsHigh: number,
  ): Uint32Array;
  surplus(now: number, slot: number, len: number): Uint32Array;
  misbehaved(now: number, slot: number): Uint32Array;
  fetch_done(
    now: number,
    fetch: number,
    outcome: number,
    bytes: number,
    ttfbMs: number,
    totalMs: number,
  ): Uint32Array;
  sent(now: number, slot: number, buffered: number): Uint32Array;
  leave(now: number): Uint32Array;
  stats(): Float64Array;
  neighbours(): Float64Array;
  peer_id(): string;
  is_joined(): boolean;
  free(): void;
}

/** The functions of the module. */
export interface Module {
  Shim: new (policy: string, seedLow: number, seedHigh: number, now: number) => Shim;
  parse_record(bytes: Uint8Array): ParsedRecord;
  parse_record_header(text: string): ParsedRecord;
  read_signal(payload: Uint8Array): string;
  signal_of_sdp(text: string): Uint8Array;
  signal_of_candidate(line: string): Uint8Array;
  signal_of_end(): Uint8Array;
  frame_of_reject(segment: string, piece: number): Uint8Array;
  chunk_len_of(pieceLen: number): number;
}
