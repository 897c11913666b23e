// Tables of the report: semantic, with figures to the right, scrolling inside their own frame where
// the window is narrow, and showing long lists a part at a time.
import { foldable, h, type Child } from "./dom.ts";
import { count } from "./format.ts";

export interface Column<Row> {
  title: string;
  kind?: "text" | "number" | "prose";
  heading?: boolean; // The column that names the row.
  cell(row: Row): Child | Child[];
}

interface Options<Row> {
  caption: string;
  rowClass?(row: Row): string | undefined;
  rowsMax?: number; // Further rows wait behind a button.
}

const ROWS_MAX = 24;

export function table<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  options: Options<Row>,
): HTMLElement {
  const body = h("tbody", { role: "rowgroup" });
  const head = h("tr", { role: "row" });
  for (const column of columns) {
    head.append(
      h("th", { scope: "col", role: "columnheader", class: column.kind ?? "text" }, column.title),
    );
  }
  // The roles repeat what the elements mean, because narrow windows lay them out as blocks and
  // browsers then forget that they are a table.
  const element = h(
    "table",
    { role: "table" },
    h("caption", { class: "unseen" }, options.caption),
    h("thead", { role: "rowgroup" }, head),
    body,
  );
  const frame = h("div", { class: "table" }, element);

  const add = (from: number, to: number): void => {
    for (const row of rows.slice(from, to))
      body.append(rowOf(row, columns, options.rowClass?.(row)));
  };
  const rowsMax = options.rowsMax ?? ROWS_MAX;
  const shown = rows.length <= rowsMax * 1.25 ? rows.length : rowsMax;
  add(0, shown);
  if (shown < rows.length) {
    const more = h("button", { type: "button", class: "more" }, `Show all ${count(rows.length)}`);
    const showAll = (): void => {
      more.remove();
      add(shown, rows.length);
    };
    more.addEventListener("click", showAll, { once: true });
    foldable(more, showAll);
    frame.append(more);
  }
  return frame;
}

function rowOf<Row>(row: Row, columns: readonly Column<Row>[], rowClass?: string): HTMLElement {
  const element = h("tr", { role: "row", class: rowClass });
  for (const column of columns) {
    const content = column.cell(row);
    const children = Array.isArray(content) ? content : [content];
    const kind = column.kind ?? "text";
    element.append(
      column.heading
        ? h("th", { scope: "row", role: "rowheader", class: kind }, ...children)
        : h("td", { role: "cell", class: kind, "data-label": column.title }, ...children),
    );
  }
  return element;
}
