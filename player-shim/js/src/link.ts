// One connection to another viewer: one negotiated data channel, compact signalling, back-pressure.
import { PEER_FRAME_LEN_MAX } from "./abi.gen";
import type { Module } from "./machine";

/** How long a description waits for first candidates to ride in it, in milliseconds. */
const CANDIDATES_WAIT_MS = 30;
/** Candidates that are kept before the description, and accepted at all. */
const CANDIDATES_MAX = 24;
/** With no more than this waiting in the channel, it has room for more. */
const LOW_BYTES = 32 * 1024;
/** Bytes that may wait in the channel; beyond, the neighbour does not take what is sent. */
const BUFFERED_BYTES_MAX = 4 * 1024 * 1024;
/**
 * How long the first message waits once the channel is open here, in milliseconds. Native agents'
 * WebRTC stack drops what arrives in the instant before its own end of the channel is ready.
 */
const FIRST_SEND_HOLD_MS = 100;
/** How long a goodbye has to leave before the connection is closed, in milliseconds. */
const GOODBYE_MS = 300;

export interface LinkEvents {
  onSignal(payload: Uint8Array): void;
  onUp(): void;
  /** At most once, and not after `close`. */
  onDown(): void;
  onMessage(bytes: Uint8Array): void;
  /** A message that is no frame. */
  onViolation(): void;
  /** What was sent has left, but for so many bytes. */
  onSent(buffered: number): void;
}

export class Link {
  private pc: RTCPeerConnection;
  private channel: RTCDataChannel;
  private closed = false;
  private up = false;
  private sentDue = false;
  /** Whether the own description has gone out: candidates before it ride in it. */
  private described = false;
  private ended = false;
  private remote = false;
  private offered: string | null = null;
  private early: string[] = [];
  private candidates = 0;

  constructor(
    private readonly config: RTCConfiguration,
    private readonly module: Module,
    private readonly events: LinkEvents,
    offer: boolean,
  ) {
    [this.pc, this.channel] = this.create();
    if (offer) this.guard(this.offer());
  }

  /** Takes signalling of the other viewer; what makes no sense is dropped. */
  signal(payload: Uint8Array): void {
    let text: string;
    try {
      text = this.module.read_signal(payload);
    } catch {
      return;
    }
    const split = text.indexOf("\n");
    const [kind, body] = [text.slice(0, split), text.slice(split + 1)];
    if (kind === "offer") this.guard(this.handleOffer(body));
    else if (kind === "answer") this.guard(this.handleAnswer(body));
    else if (kind === "candidate") this.handleCandidate(body);
  }

  /** Sends one message; false if the link is broken. */
  send(frame: Uint8Array): boolean {
    if (this.channel.readyState !== "open" || this.channel.bufferedAmount > BUFFERED_BYTES_MAX) {
      return false;
    }
    try {
      this.channel.send(frame as Uint8Array<ArrayBuffer>);
      return true;
    } catch {
      return false;
    }
  }

  /** Says through `onSent` when there is room again, at once if there is. */
  reportRoom(): void {
    const buffered = this.channel.bufferedAmount;
    this.sentDue = buffered > LOW_BYTES;
    if (!this.sentDue) this.events.onSent(buffered);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    const { pc, channel } = this;
    if (!this.up) return pc.close();
    channel.close();
    setTimeout(() => pc.close(), GOODBYE_MS);
  }

  private create(): [RTCPeerConnection, RTCDataChannel] {
    const pc = new RTCPeerConnection(this.config);
    const channel = pc.createDataChannel("shoal", { negotiated: true, id: 0, ordered: true });
    channel.binaryType = "arraybuffer";
    channel.bufferedAmountLowThreshold = LOW_BYTES;
    const current = (): boolean => this.pc === pc && !this.closed;
    pc.onicecandidate = ({ candidate }) => current() && this.onCandidate(candidate);
    pc.onconnectionstatechange = () => {
      if (current() && ["failed", "closed"].includes(pc.connectionState)) this.down();
    };
    channel.onopen = () => {
      if (!current()) return;
      this.up = true;
      setTimeout(() => current() && this.events.onUp(), FIRST_SEND_HOLD_MS);
    };
    channel.onclose = () => current() && this.down();
    channel.onbufferedamountlow = () => {
      if (current() && this.sentDue) this.reportRoom();
    };
    channel.onmessage = ({ data }) => {
      if (!current()) return;
      if (!(data instanceof ArrayBuffer) || data.byteLength > PEER_FRAME_LEN_MAX) {
        return this.events.onViolation();
      }
      this.events.onMessage(new Uint8Array(data));
    };
    return [pc, channel];
  }

  private async offer(): Promise<void> {
    const { pc } = this;
    await pc.setLocalDescription(await pc.createOffer());
    this.offered = ufragOf(pc.localDescription?.sdp);
    await this.describe(pc);
  }

  private async handleOffer(sdp: string): Promise<void> {
    if (this.remote) return;
    if (this.offered !== null) {
      // Both offer: the side with the lower user name fragment answers.
      if (this.offered > (ufragOf(sdp) ?? "")) return;
      this.pc.close();
      this.offered = null;
      this.described = this.ended = false;
      [this.pc, this.channel] = this.create();
    }
    const { pc } = this;
    this.remote = true;
    await pc.setRemoteDescription({ type: "offer", sdp });
    this.addEarly(pc);
    await pc.setLocalDescription(await pc.createAnswer());
    await this.describe(pc);
  }

  private async handleAnswer(sdp: string): Promise<void> {
    if (this.remote || this.offered === null) return;
    const { pc } = this;
    this.remote = true;
    await pc.setRemoteDescription({ type: "answer", sdp });
    this.addEarly(pc);
  }

  private handleCandidate(line: string): void {
    this.candidates += 1;
    if (this.candidates > CANDIDATES_MAX) return;
    if (!this.pc.remoteDescription) this.early.push(line);
    else this.addCandidate(this.pc, line);
  }

  private addEarly(pc: RTCPeerConnection): void {
    for (const line of this.early.splice(0)) this.addCandidate(pc, line);
  }

  /** A candidate that the browser does not take is one way less, no more. */
  private addCandidate(pc: RTCPeerConnection, candidate: string): void {
    pc.addIceCandidate({ candidate, sdpMid: "0", sdpMLineIndex: 0 }).catch(() => {});
  }

  /** Sends the local description with the candidates found so far. */
  private async describe(pc: RTCPeerConnection): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, CANDIDATES_WAIT_MS));
    if (this.closed || this.pc !== pc || !pc.localDescription) return;
    this.described = true;
    this.events.onSignal(this.module.signal_of_sdp(pc.localDescription.sdp));
    if (this.ended) this.events.onSignal(this.module.signal_of_end());
  }

  private onCandidate(candidate: RTCIceCandidate | null): void {
    if (!candidate?.candidate) {
      this.ended = true;
      if (this.described) this.events.onSignal(this.module.signal_of_end());
    } else if (this.described) {
      let payload: Uint8Array;
      try {
        payload = this.module.signal_of_candidate(candidate.candidate);
      } catch {
        return;
      }
      this.events.onSignal(payload);
    }
  }

  private guard(step: Promise<void>): void {
    step.catch(() => this.down());
  }

  private down(): void {
    if (this.closed) return;
    this.up = false;
    this.close();
    this.events.onDown();
  }
}

function ufragOf(sdp: string | undefined): string | null {
  return /^a=ice-ufrag:(\S+)/m.exec(sdp ?? "")?.[1] ?? null;
}
