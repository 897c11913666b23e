// Elements in one line each. Text only ever becomes a text node, never markup: what stands in a
// plan was written by somebody else.

export type Child = Node | string | undefined | false;
type Attributes = Record<string, string | number | boolean | undefined>;

// h("td", {class: "number"}, "12"): `class`, `data-*`, `aria-*` and so on as attributes; true is an
// attribute without a value, false and undefined are left out.
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

export function append(parent: Element, children: readonly Child[]): void {
  for (const child of children) {
    if (child !== undefined && child !== false) parent.append(child);
  }
}

// Sets the custom properties by which the style sheet places and sizes an element: place(el, {left:
// 12.5}) sets --left to 12.5%.
export function place(element: HTMLElement, percents: Record<string, number>): HTMLElement {
  for (const [name, value] of Object.entries(percents)) {
    element.style.setProperty(`--${name}`, `${Number(value.toFixed(4))}%`);
  }
  return element;
}

// Marks what waits behind a click: `unfold` shows it, on a click or before printing, because paper
// has nothing to click on. REQUIRES: unfold() does nothing when called again.
export function foldable(element: HTMLElement, unfold: () => void): void {
  element.setAttribute("data-folded", "");
  element.addEventListener("unfold", () => {
    element.removeAttribute("data-folded");
    unfold();
  });
}

// Unfolds everything, also what only appears by unfolding.
export function unfoldAll(): void {
  for (let folded; (folded = document.querySelector("[data-folded]"));) {
    folded.dispatchEvent(new Event("unfold"));
  }
}

// A <details> whose content is made when it is first opened, because a fleet's may be long.
export function disclosure(
  title: string,
  content: () => Child[],
  attributes: Attributes = {},
): HTMLDetailsElement {
  const details = h("details", attributes, h("summary", {}, title));
  let filled = false;
  const fill = (): void => {
    if (filled) return;
    filled = true;
    append(details, content());
  };
  details.addEventListener("toggle", () => {
    if (details.open) fill();
  });
  foldable(details, () => {
    fill();
    details.open = true;
  });
  return details;
}
