// A ring that fills with the share of bytes that did not come from the CDN.
import { percent } from "/format.js";

const RADIUS = 62;
const TURN = 0.75; // three quarters of a circle
const LENGTH = 2 * Math.PI * RADIUS * TURN;

export class Gauge {
  constructor(figure) {
    const ring = (name) => `<circle class="${name}" cx="80" cy="80" r="${RADIUS}" fill="none"
      stroke-width="13" stroke-linecap="round" stroke-dasharray="${LENGTH} 999"
      transform="rotate(135 80 80)"/>`;
    figure.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 160 140" role="img">${ring("track")}
      ${ring("value")}<text x="80" y="88">–</text><text class="unit" x="80" y="108">offload</text></svg>`);
    this.svg = figure.querySelector("svg");
    this.value = figure.querySelector(".value");
    this.text = figure.querySelector("text");
    this.set(NaN);
  }

  set(share) {
    const known = Number.isFinite(share);
    this.value.style.strokeDashoffset = LENGTH * (1 - (known ? share : 0));
    this.value.style.opacity = known && share > 0.004 ? 1 : 0;
    this.text.textContent = percent(share);
    this.svg.setAttribute("aria-label", `offload ${percent(share)}`);
  }
}
