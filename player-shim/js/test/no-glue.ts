// Stands in for the WebAssembly module where it has not been built.
export default function init(): never {
  throw new Error("run `cargo xtask wasm` first");
}
export const initSync = init;
