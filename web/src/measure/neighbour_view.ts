// The noisy-neighbour matrix as a map for each way of sharing, and what streams overlap.
import { axisX, axisY, barX, cell, plot, ruleX, text } from "@observablehq/plot";

import { drawnToWidth, NARROW_PX } from "../chart.ts";
import { disclosure, h, type Child } from "../dom.ts";
import { milliseconds, percent, plural, rate, times } from "../format.ts";
import { section } from "../page.ts";
import { table } from "../table.ts";
import type { LabDocument } from "./measurement.ts";
import {
  neighbourMaps,
  overlaps,
  worstCell,
  type Cell,
  type NeighbourMap,
  type Overlap,
} from "./neighbours.ts";
import { wayName } from "./runs.ts";

// From here on a cell has the full colour, whatever the worst one is.
const FACTOR_FULL = 8;
const CELL_PX = 46;

export function neighbourSection(document: LabDocument): Child {
  const maps = neighbourMaps(document.measurement.runs);
  if (maps.length === 0) return undefined;
  return section(
    "neighbours",
    "Noisy neighbours",
    "The p99 of the workload on the left while the one above runs beside it, as a multiple of " +
      "its p99 alone. 1× is undisturbed.",
    h("div", { class: "charts two" }, ...maps.map(neighbourChart)),
    disclosure("The figures of the neighbours", () => [
      table(
        maps.flatMap((map) => map.cells.map((c) => ({ ...c, way: wayName(map.way) }))),
        [
          { title: "Workload", heading: true, cell: (c) => c.row },
          { title: "Beside", cell: (c) => c.column },
          { title: "Way of sharing", cell: (c) => c.way },
          { title: "p99", kind: "number", cell: (c) => milliseconds(c.p99) },
          { title: "Over p99 alone", kind: "number", cell: (c) => times(c.factor) },
        ],
        { caption: "p99 of each workload beside each other one", rowsMax: 100 },
      ),
    ]),
  );
}

function neighbourChart(map: NeighbourMap): HTMLElement {
  const worst = worstCell(map);
  return h(
    "div",
    { class: "chart" },
    h("h3", {}, wayName(map.way)),
    drawnToWidth((width) => drawMap(map, width)),
    h(
      "p",
      { class: "note" },
      `Worst: ${worst.row} beside ${worst.column}, ${times(worst.factor)}.`,
    ),
  );
}

// How deep the colour is: by the logarithm, because twice is twice wherever it begins.
function depth(factor: number): number {
  return Math.min(Math.max(Math.log(factor) / Math.log(FACTOR_FULL), 0), 1);
}

function drawMap(map: NeighbourMap, width: number): Element {
  const longest = Math.max(...map.workloads.map((name) => name.length));
  const marginLeft = 12 + 7 * longest;
  const words = (c: Cell): string =>
    `${c.row} beside ${c.column}: p99 ${milliseconds(c.p99)}, ${times(c.factor)}`;
  const share = (c: Cell): number => Math.round(100 * depth(c.factor));
  // Names above a narrow cell would run into each other.
  const slanted = (width - marginLeft) / map.workloads.length < 7 * longest + 6;
  const chart = plot({
    width,
    height: map.workloads.length * CELL_PX + (slanted ? 70 : 34),
    marginLeft,
    marginRight: slanted ? 36 : 2,
    marginTop: slanted ? 66 : 30,
    marginBottom: 4,
    padding: 0.05,
    style: { fontSize: "12px", overflow: "visible" },
    ariaLabel: `${wayName(map.way)}. ${map.cells.map(words).join(". ")}.`,
    x: { domain: map.workloads },
    y: { domain: map.workloads },
    color: { type: "identity" },
    marks: [
      axisX({
        anchor: "top",
        tickSize: 0,
        label: null,
        fill: "var(--quiet)",
        ...(slanted && { tickRotate: -50 }),
      }),
      axisY({ tickSize: 0, label: null, fill: "var(--quiet)" }),
      cell(map.cells, {
        x: "column",
        y: "row",
        fill: (c: Cell) => `color-mix(in oklab, var(--heat) ${share(c)}%, var(--faint))`,
        rx: 3,
        title: words,
      }),
      text(map.cells, {
        x: "column",
        y: "row",
        text: (c: Cell) => times(c.factor),
        fill: "var(--ink)",
        fontSize: 12.5,
        fontVariant: "tabular-nums",
        pointerEvents: "none",
      }),
    ],
  });
  chart.setAttribute("role", "img");
  return chart;
}

export function overlapSection(document: LabDocument): Child {
  const rows = overlaps(document.measurement.runs);
  if (rows.length === 0) return undefined;
  const pipeline = rows.find((row) => row.kind === "pipeline");
  const saved = pipeline
    ? ` The pipeline of copy in, compute and copy out saves ${percent(pipeline.recovered)} of ` +
      `the wall-clock time with ${plural(pipeline.streams, "stream")}.`
    : "";
  return section(
    "overlap",
    "Streams in one process",
    `What several streams give over one: the gain is what one kernel leaves unused.${saved}`,
    drawnToWidth((width) => drawOverlaps(rows, width)),
    disclosure("The figures of the streams", () => [
      table(
        rows,
        [
          { title: "Workload", heading: true, cell: overlapName },
          { title: "One stream, a second", kind: "number", cell: (r) => rate(r.base) },
          { title: "All streams, a second", kind: "number", cell: (r) => rate(r.rate) },
          { title: "Gain", kind: "number", cell: (r) => times(r.gain) },
          { title: "Wall-clock saved", kind: "number", cell: (r) => percent(r.recovered) },
        ],
        { caption: "Throughput with several streams over one" },
      ),
    ]),
  );
}

const overlapName = (row: Overlap): string =>
  `${row.workload}${row.kind === "pipeline" ? " pipeline" : ""}, ${plural(row.streams, "stream")}`;

function drawOverlaps(rows: readonly Overlap[], width: number): Element {
  const narrow = width < NARROW_PX;
  const high = Math.max(...rows.map((row) => row.gain), 2);
  const longest = Math.max(...rows.map((row) => overlapName(row).length));
  const chart = plot({
    width,
    height: rows.length * 32 + 36,
    marginLeft: Math.min(14 + (narrow ? 5.9 : 6.4) * longest, 0.5 * width),
    marginRight: 60,
    marginTop: 4,
    style: { fontSize: narrow ? "11px" : "12px" },
    ariaLabel: rows.map((row) => `${overlapName(row)}: ${times(row.gain)}.`).join(" "),
    x: { domain: [0, high] },
    y: { domain: rows.map(overlapName), padding: 0.35 },
    marks: [
      axisX(
        [0, 1, 2, 3, 4].filter((tick) => tick <= high),
        {
          tickFormat: (value: number) => `${value}×`,
          tickSize: 0,
          fill: "var(--quiet)",
          label: null,
        },
      ),
      axisY({ tickSize: 0, label: null, fill: "var(--ink)" }),
      barX(rows, {
        x: "gain",
        y: overlapName,
        fill: (row: Overlap) => (row.kind === "pipeline" ? "var(--hue-3)" : "var(--hue-4)"),
        rx: 2,
        title: (row: Overlap) => `${overlapName(row)}: ${times(row.gain)}`,
      }),
      ruleX([1], { stroke: "var(--ink)", strokeDasharray: "2 3" }),
      text(rows, {
        x: "gain",
        y: overlapName,
        text: (row: Overlap) => times(row.gain),
        textAnchor: "start",
        dx: 7,
        fill: "var(--ink)",
        fontVariant: "tabular-nums",
      }),
    ],
  });
  chart.setAttribute("role", "img");
  return chart;
}
