// The last segments as bars, stacked by who sent their bytes.
import { bytes } from "/format.js";

const SEGMENTS_MAX = 40;

export class Strip {
  constructor(element) {
    this.element = element;
    for (let i = 0; i < SEGMENTS_MAX; i += 1) element.append(document.createElement("i"));
  }

  /** Adds a segment; `parts` are `{name, colour, bytes}`, the CDN's part first. */
  push(segment) {
    const total = segment.parts.reduce((sum, part) => sum + part.bytes, 0);
    if (total === 0) return;
    const column = document.createElement("i");
    const bar = document.createElement("b");
    let from = 0;
    const stops = segment.parts.filter((part) => part.bytes > 0).map((part) => {
      const start = from;
      from += (part.bytes / total) * 100;
      return `${part.colour} ${start.toFixed(1)}% ${from.toFixed(1)}%`;
    });
    bar.style.background = `linear-gradient(to top, ${stops.join(",")})`;
    column.title = [segment.title, ...segment.parts.filter((part) => part.bytes > 0)
      .map((part) => `${part.name}: ${bytes(part.bytes)}`)].join("\n");
    column.dataset.bytes = total;
    column.append(bar);
    this.element.firstElementChild.remove();
    this.element.append(column);
    this.#scale();
  }

  #scale() {
    const columns = [...this.element.children];
    const largest = Math.max(...columns.map((column) => Number(column.dataset.bytes ?? 0)));
    for (const column of columns) {
      const share = Number(column.dataset.bytes ?? 0) / largest;
      if (column.firstElementChild) column.firstElementChild.style.height = `${18 + 82 * share}%`;
    }
  }
}
