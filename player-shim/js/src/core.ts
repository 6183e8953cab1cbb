// The owner of the machine: one input at a time, its actions in order, its timer.
import type { Action } from "./abi.gen";
import { decodeActions } from "./codec";
import type { Shim } from "./machine";

/** Monotonic milliseconds. */
export const now = (): number => performance.now();

/** Tells the machine one thing. */
export type Step = (shim: Shim, now: number) => Uint32Array;

/** Longest sleep: timers of far-away wake-ups are set again. */
const SLEEP_MS_MAX = 60_000;

export class Core {
  private readonly queue: Step[] = [];
  private running = false;
  private dead = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** `act` carries out one action; `onFault` hears of the failure that stopped the machine. */
  constructor(
    readonly shim: Shim,
    private readonly act: (action: Action) => void,
    private readonly onFault: (error: unknown) => void,
  ) {
    if (typeof document !== "undefined") {
      document.addEventListener("visibilitychange", this.onVisibility);
    }
  }

  /**
   * Gives the machine an input. From within an action it waits until all actions of the current
   * input are carried out.
   */
  run(step: Step): void {
    if (this.dead) return;
    this.queue.push(step);
    if (this.running) return;
    this.running = true;
    try {
      for (let next = this.queue.shift(); next && !this.dead; next = this.queue.shift()) {
        const words = next(this.shim, now());
        if (words.length === 0) continue;
        const actions = decodeActions(words, () => this.shim.arena());
        for (const action of actions) {
          // What follows on an action that led to the end would outlive it.
          if (this.dead) break;
          this.act(action);
        }
      }
    } catch (error) {
      this.running = false;
      this.stop();
      this.onFault(error);
      return;
    }
    this.running = false;
    if (!this.dead) this.arm();
  }

  /** Takes no more inputs. */
  stop(): void {
    if (this.dead) return;
    this.dead = true;
    this.queue.length = 0;
    clearTimeout(this.timer);
    if (typeof document !== "undefined") {
      document.removeEventListener("visibilitychange", this.onVisibility);
    }
  }

  private arm(): void {
    clearTimeout(this.timer);
    const at = this.shim.next_wakeup_ms();
    if (at < 0) return;
    const wait = Math.min(Math.max(Math.ceil(at - now()), 0), SLEEP_MS_MAX);
    this.timer = setTimeout(() => this.run((shim, at) => shim.tick(at)), wait);
  }

  /** Hidden pages' timers are late: catch up at once. */
  private readonly onVisibility = (): void => {
    if (!document.hidden) this.run((shim, at) => shim.tick(at));
  };
}
