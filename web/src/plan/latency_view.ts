// Predicted latency against target: a line a workload, from its p50 to its p99, with the target as
// a tick. Observable Plot draws it; it is drawn anew when the window's width changes.
import { axisX, axisY, dot, gridX, link, plot, text, tickX } from "@observablehq/plot";

import { drawnToWidth, NARROW_PX } from "../chart.ts";
import { h } from "../dom.ts";
import { count, milliseconds, percent } from "../format.ts";
import { latencyAxis } from "../scale.ts";
import { tightestRows, type LatencyRow } from "./analysis.ts";

// More lines than this are a texture; the table of workloads has them all.
const ROWS_MAX = 24;
const ROW_PX = 26;
// Of one character of a workload's name; an upper bound for most.
const CHARACTER_PX = 7;

export function latencyFigure(rows: readonly LatencyRow[]): HTMLElement {
  const shown = tightestRows(rows, ROWS_MAX);
  if (shown.length === 0) {
    const words = "The fleet gives no service times, so there is nothing to predict.";
    return h("p", { class: "lead" }, words);
  }
  const left = rows.length - shown.length;
  return h(
    "figure",
    { class: "latency" },
    h(
      "div",
      { class: "key", "aria-hidden": true },
      h("span", { class: "key-p50" }, "p50"),
      h("span", { class: "key-p99" }, "p99"),
      rows.some((row) => row.p99Target !== undefined) &&
        h("span", { class: "key-target" }, "p99 target"),
      rows.some((row) => !row.kept) && h("span", { class: "key-late" }, "target missed"),
    ),
    drawnToWidth((width) => draw(shown, width)),
    left > 0 &&
      h(
        "figcaption",
        {},
        `The ${shown.length} workloads closest to their targets; `,
        `${count(left)} more are in the table of workloads.`,
      ),
  );
}

function draw(rows: readonly LatencyRow[], width: number): Element {
  const narrow = width < NARROW_PX;
  const axis = latencyAxis(
    rows.flatMap((r) => [r.p50, r.p99, r.p99Target]).filter((v) => v !== undefined),
    narrow ? 5 : 9,
  );
  const longest = Math.max(...rows.map((row) => row.workload.length));
  const marginLeft = Math.min(18 + CHARACTER_PX * longest, Math.round(width * 0.3), 200);
  const y = (row: LatencyRow): string => row.workload;
  const p50 = (row: LatencyRow): number | undefined => row.p50;
  const p99 = (row: LatencyRow): number | undefined => row.p99;
  const colour = (row: LatencyRow): string => (row.kept ? "var(--accent)" : "var(--bad)");
  const withP50 = rows.filter((row) => row.p50 !== undefined);
  const withP99 = rows.filter((row) => row.p99 !== undefined);
  const withTarget = rows.filter((row) => row.p99Target !== undefined);
  const chart = plot({
    width,
    height: rows.length * ROW_PX + 52,
    marginLeft,
    marginRight: narrow ? 24 : 150,
    marginTop: 4,
    marginBottom: 46,
    style: { fontSize: "12px" },
    ariaLabel: "Predicted latency of each workload against its target",
    ariaDescription: rows.map(rowWords).join("; "),
    x: { type: axis.log ? "log" : "linear", domain: axis.domain },
    y: { type: "band", domain: rows.map(y), padding: 0.2 },
    marks: [
      gridX(axis.ticks, { stroke: "var(--line)", strokeOpacity: 1 }),
      axisX(axis.ticks, {
        // As text: on a logarithmic axis a tickFormat names only some of the ticks.
        text: tickWords,
        tickSize: 0,
        fill: "var(--quiet)",
        label: axis.log ? "milliseconds, logarithmic" : "milliseconds",
        labelAnchor: "center",
        labelArrow: "none",
        labelOffset: 38,
      }),
      axisY({
        label: null,
        tickSize: 0,
        tickPadding: 10,
        lineWidth: (marginLeft - 10) / 12,
        textOverflow: "ellipsis",
      }),
      link(withP99, {
        x1: p50,
        x2: p99,
        y1: y,
        y2: y,
        stroke: colour,
        strokeWidth: 5,
        strokeOpacity: 0.35,
        strokeLinecap: "round",
      }),
      tickX(withTarget, { x: "p99Target", y, stroke: "var(--ink)", strokeWidth: 2, inset: 1 }),
      dot(withP50, { x: p50, y, r: 3.5, stroke: colour, fill: "var(--paper)" }),
      dot(withP99, { x: p99, y, r: 5, fill: colour, title: rowWords }),
      ...(narrow ? [] : [figuresBeside(rows)]),
    ],
  });
  chart.setAttribute("role", "img");
  return chart;
}

function figuresBeside(rows: readonly LatencyRow[]) {
  return text(rows, {
    y: "workload",
    text: sideWords,
    frameAnchor: "right",
    textAnchor: "start",
    dx: 14,
    fill: "var(--quiet)",
    fontVariant: "tabular-nums",
  });
}

// "0.5", "20", "1,000".
function tickWords(ms: number): string {
  return milliseconds(ms).replace(/\sms$/, "");
}

// "1,240 of 4,000 ms".
function sideWords(row: LatencyRow): string {
  if (row.p99 === undefined) return "";
  if (row.p99Target === undefined) return milliseconds(row.p99);
  return `${tickWords(row.p99)} of ${milliseconds(row.p99Target)}`;
}

function rowWords(row: LatencyRow): string {
  const words = [row.workload];
  if (row.p50 !== undefined) words.push(`p50 ${milliseconds(row.p50)}`);
  if (row.p99 !== undefined) words.push(`p99 ${milliseconds(row.p99)}`);
  if (row.p99Target !== undefined) words.push(`p99 target ${milliseconds(row.p99Target)}`);
  if (row.headroom !== undefined) words.push(`headroom ${percent(row.headroom)}`);
  return words.join(", ");
}
