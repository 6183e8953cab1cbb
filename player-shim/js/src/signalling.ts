// The WebSocket to the tracker: whole binary frames in, whole binary frames out.
import { SUBPROTOCOL, TRACKER_FRAME_LEN_MAX } from "./abi.gen";

/** How long opening may take, in milliseconds. */
const OPEN_MS_MAX = 10_000;
/** Bytes that may wait to be sent; beyond, the tracker is as good as gone. */
const BUFFERED_BYTES_MAX = 1024 * 1024;

export interface SignallingEvents {
  onUp(): void;
  /** At most once after each `open`, and not after `close`. */
  onDown(reason: string): void;
  onFrame(frame: Uint8Array): void;
}

export class Signalling {
  private socket: WebSocket | null = null;
  private url: string;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly home: string,
    private readonly events: SignallingEvents,
  ) {
    this.url = home;
  }

  /**
   * From the next `open` on, the tracker at `place`; the page's own if that is empty, or would lead
   * from an encrypted connection to a plain one.
   */
  useTracker(place: string): void {
    const usable = /^wss:/i.test(this.home) ? /^wss:\/\//.test(place) : /^wss?:\/\//.test(place);
    this.url = usable ? place : this.home;
  }

  open(): void {
    this.close();
    let socket: WebSocket;
    try {
      socket = new WebSocket(this.url, SUBPROTOCOL);
    } catch (error) {
      queueMicrotask(() => this.events.onDown(`page gave a tracker that is no address: ${error}`));
      return;
    }
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    const down = (reason: string): void => {
      if (this.socket !== socket) return;
      this.close();
      this.events.onDown(reason);
    };
    socket.onopen = () => {
      clearTimeout(this.timer);
      if (this.socket === socket) this.events.onUp();
    };
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      if (!(data instanceof ArrayBuffer) || data.byteLength > TRACKER_FRAME_LEN_MAX) {
        return down("tracker sent something that is no frame");
      }
      this.events.onFrame(new Uint8Array(data));
    };
    socket.onerror = () => down("tracker is out of reach");
    socket.onclose = ({ code, reason }) => down(`tracker closed the connection: ${code} ${reason}`);
    this.timer = setTimeout(() => down("tracker does not answer"), OPEN_MS_MAX);
  }

  send(frame: Uint8Array): void {
    const socket = this.socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    if (socket.bufferedAmount > BUFFERED_BYTES_MAX) {
      this.close();
      this.events.onDown("tracker does not take what is sent");
      return;
    }
    socket.send(frame as BufferSource);
  }

  close(): void {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close(1000);
  }
}
