/** What wasm-bindgen makes of the Rust crate: player-shim/dist/player_shim.js. */
declare module "#glue" {
  export default function init(input: { module_or_path: unknown }): Promise<unknown>;
  export function initSync(input: { module: unknown }): unknown;
}
