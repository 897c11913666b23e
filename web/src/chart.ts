// Where charts are drawn: Observable Plot makes a picture of a given width, and this has it drawn
// anew when the window's width changes.
import { h } from "./dom.ts";

// Below this width a chart drops what stands beside it and gets fewer ticks.
export const NARROW_PX = 560;

// Narrower than this is no place for a chart, only a moment while the page is laid out.
const LEAST_PX = 120;

export function drawnToWidth(draw: (width: number) => Element): HTMLElement {
  const holder = h("div", { class: "plot" });
  let drawnWidth = 0;
  new ResizeObserver(() => {
    const width = Math.floor(holder.clientWidth);
    if (width < LEAST_PX || width === drawnWidth) return;
    drawnWidth = width;
    holder.replaceChildren(draw(width));
  }).observe(holder);
  return holder;
}
