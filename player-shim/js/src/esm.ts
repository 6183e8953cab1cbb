import type { ShoalHandle, ShoalOptions } from "./api";
import { attachAt, VERSION } from "./attach";
import type { HlsLike } from "./hlsjs/types";

export function attach(hls: unknown, options: ShoalOptions): ShoalHandle {
  return attachAt(import.meta.url, hls as HlsLike, options);
}

export const version = VERSION;
export default { attach, version };
