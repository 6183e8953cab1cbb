// Keeps hls.js from giving up a load that is slow on purpose: the machine hands out the pieces of a segment
// shortly before the player needs them. The rule of hls.js's ABR logic for slow loads
// (`_abandonRulesCheck`) looks ten times a second at how long a load has taken, and expects what remains of
// it before the buffer is empty.
import { now } from "../core";
import type { LoaderStats } from "./types";

/** How often it is looked at, in milliseconds: more often than the rule's half of a segment, or of a part. */
const LOOK_MS = 100;
/** With less ahead of the playhead, in milliseconds, the pieces are late. */
const LATE_BUFFER_MS = 100;

export class Pace {
  private readonly asked = now();
  private first = 0;
  private readonly timer: ReturnType<typeof setInterval>;

  /** `bufferMs` tells how much media is ahead of the playhead. */
  constructor(
    private readonly stats: LoaderStats,
    private readonly bufferMs: () => number,
  ) {
    this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  /** Bytes go to the player. */
  onBytes(): void {
    this.first ||= now();
    this.look();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** While all is in time the load looks as if it had just begun; when it is late, as it is. */
  private look(): void {
    const { loading } = this.stats;
    const late = this.bufferMs() < LATE_BUFFER_MS;
    loading.start = late ? this.asked : now();
    if (this.first > 0) loading.first = late ? this.first : loading.start;
  }
}
