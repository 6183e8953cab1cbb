// How the player is doing, from its media element.
import { now } from "../core";
import type { HlsLike } from "./types";

/** How often it is looked at, in milliseconds. */
const INTERVAL_MS = 400;
/** `HTMLMediaElement.HAVE_FUTURE_DATA`. */
const HAVE_FUTURE_DATA = 3;

export class Playback {
  bufferMs = 0;
  lagMs = 0;
  stalls = 0;
  stalledMs = 0;
  startupMs = 0;
  private readonly started = now();
  private stalledSince = 0;
  private readonly timer: ReturnType<typeof setInterval>;

  /** `report` is called several times a second. */
  constructor(
    private readonly hls: HlsLike,
    private readonly report: (stalled: boolean) => void,
  ) {
    this.timer = setInterval(() => this.look(), INTERVAL_MS);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  look(): void {
    const { media } = this.hls;
    if (!media) return;
    this.bufferMs = bufferAheadMs(media.buffered, media.currentTime);
    const details = this.hls.latestLevelDetails;
    this.lagMs = details ? Math.max(0, (details.edge - media.currentTime) * 1000) : 0;
    const plays = media.readyState >= HAVE_FUTURE_DATA;
    if (plays && !media.paused && this.startupMs === 0) this.startupMs = now() - this.started;
    const wanted = this.startupMs > 0 && !media.paused && !media.ended && !media.seeking;
    this.onStalled(wanted && !plays);
  }

  private onStalled(stalled: boolean): void {
    const at = now();
    if (this.stalledSince > 0) this.stalledMs += at - this.stalledSince;
    if (stalled && this.stalledSince === 0) this.stalls += 1;
    this.stalledSince = stalled ? at : 0;
    this.report(stalled);
  }
}

/** Media ahead of `at` (in seconds), in milliseconds. Gaps of a tenth of a second do not count. */
export function bufferAheadMs(buffered: TimeRanges, at: number): number {
  let end = at;
  for (let i = 0; i < buffered.length; i++) {
    if (buffered.start(i) <= end + 0.1) end = Math.max(end, buffered.end(i));
  }
  return Math.round((end - at) * 1000);
}
