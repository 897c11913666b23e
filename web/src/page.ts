// What every page is made of: sections, key figures, and the start that shows the document or says
// what is wrong with it.
import { h, unfoldAll, type Child } from "./dom.ts";

// Shows `draw(document)` of the JSON that was put into the page. `draw` sets the title and throws
// an Error for a document that it doesn't know.
export function showPage(draw: (document: unknown) => HTMLElement): void {
  const app = document.getElementById("app")!;
  try {
    const data = document.getElementById("sublet-data")?.textContent ?? "";
    app.replaceChildren(draw(JSON.parse(data)));
    window.addEventListener("beforeprint", unfoldAll);
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    app.replaceChildren(
      h("p", { class: "broken", role: "alert" }, `This report can't be shown: ${words}`),
    );
    throw error;
  }
}

export function section(id: string, title: string, lead: string, ...content: Child[]): HTMLElement {
  return h(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title),
    lead !== "" && h("p", { class: "lead" }, lead),
    ...content,
  );
}

export function keyFigure(
  id: string,
  label: string,
  value: string,
  note: string,
  kind = "",
): HTMLElement {
  return h(
    "div",
    { class: `key-figure ${kind}`.trim(), id },
    h("dt", {}, label),
    h("dd", { class: "value" }, value),
    h("dd", { class: "note" }, note),
  );
}

// What a reader must know before the rest; nothing where `sentences` is empty.
export function warnings(sentences: readonly string[]): Child {
  if (sentences.length === 0) return undefined;
  return h(
    "aside",
    { class: "warnings", "aria-label": "Warnings" },
    h("h2", {}, "Before you rely on this"),
    h("ul", {}, ...sentences.map((sentence) => h("li", {}, sentence))),
  );
}
