// One chart of lines over a number: throughput against tenants, speed against the SM cap.
import { axisX, axisY, dot, gridY, line, plot, ruleX, ruleY, text } from "@observablehq/plot";

import { drawnToWidth } from "../chart.ts";
import { h, type Child } from "../dom.ts";
import type { Axis } from "../scale.ts";
import { SIGNS, signClass } from "./signs.ts";

export interface ChartPoint {
  x: number;
  y: number;
  low?: number;
  high?: number;
  words: string; // What the pointer reads there.
}

export interface ChartLine {
  sign: number; // Which colour and shape (signs.ts).
  points: ChartPoint[];
  predicted?: boolean; // Dashed, without dots.
}

export interface ChartOptions {
  title: string;
  words: string; // The chart for those who don't see it.
  x: { ticks: number[]; log: boolean; label: string; unit?: string };
  y: Axis;
  yWords(value: number): string;
  ends?: boolean; // Write each line's last value beside it.
  mark?: { x: number; words: string }; // A place on the x axis that matters.
  level?: { y: number; words: string }; // A height to compare with; named among the ends.
  heightPx?: number;
}

const HEIGHT_PX = 280;
const LABEL_PX = 14; // Least distance of two labels.
const MARGIN = { top: 10, bottom: 42, right: 56 };
const MARK_PX = 14; // Above the chart, for the words of a mark.

export function lineChart(lines: readonly ChartLine[], options: ChartOptions): HTMLElement {
  return h(
    "div",
    { class: "chart" },
    h("h3", {}, options.title),
    drawnToWidth((width) => draw(lines, options, width)),
  );
}

const hue = (sign: number): string => `var(--hue-${SIGNS[sign % SIGNS.length]!.hue})`;

function draw(lines: readonly ChartLine[], options: ChartOptions, width: number): Element {
  const { x, y, yWords, mark, level } = options;
  const height = options.heightPx ?? HEIGHT_PX;
  // A single point has no end that would be worth a label among the lines.
  const measured = lines.filter((l) => !l.predicted && l.points.length > 1);
  const [first, last] = [Math.min(...x.ticks), Math.max(...x.ticks)];
  const widest = Math.max(...y.ticks.map((tick) => yWords(tick).length));
  const chart = plot({
    width,
    height,
    marginLeft: 14 + 7 * widest,
    marginRight: options.ends ? MARGIN.right : 24,
    marginTop: MARGIN.top + (mark ? MARK_PX : 0),
    marginBottom: MARGIN.bottom,
    style: { fontSize: "12px", overflow: "visible" },
    ariaLabel: options.words,
    x: x.log
      ? { type: "log", base: 2, domain: [first / 1.06, last * 1.06] }
      : { type: "linear", domain: [0, last] },
    y: { type: y.log ? "log" : "linear", domain: y.domain },
    marks: [
      gridY(y.ticks, { stroke: "var(--line)", strokeOpacity: 1 }),
      axisX(ticksThatFit(x.ticks, x.log, width), {
        // As text: on a logarithmic axis a tickFormat names only some of the ticks.
        text: (value: number) => `${value}${x.unit ?? ""}`,
        tickSize: 0,
        fill: "var(--quiet)",
        label: x.label,
        labelAnchor: "center",
        labelArrow: "none",
        labelOffset: 38,
      }),
      axisY(y.ticks, { text: yWords, tickSize: 0, fill: "var(--quiet)", label: null }),
      ...(level ? [levelMark(level.y)] : []),
      ...(mark ? markMarks(mark, last) : []),
      ...lines.flatMap(lineMarks),
      ...(options.ends ? endLabels(measured, level, options, height) : []),
    ],
  });
  chart.setAttribute("role", "img");
  return chart;
}

function lineMarks({ sign, points, predicted }: ChartLine) {
  const stroke = hue(sign);
  if (predicted) {
    const dashes = { strokeDasharray: "5 4", strokeWidth: 1.5 };
    return [
      line(points, { x: "x", y: "y", stroke, ...dashes }),
      dot(points, { x: "x", y: "y", r: 6, fill: "transparent", title: "words" }),
    ];
  }
  const ranged = points.filter((p) => p.low !== undefined && p.high !== undefined);
  return [
    line(points, { x: "x", y: "y", stroke, strokeWidth: 2 }),
    ruleX(ranged, { x: "x", y1: "low", y2: "high", stroke, strokeWidth: 1.5 }),
    dot(points, {
      x: "x",
      y: "y",
      r: 4,
      symbol: SIGNS[sign % SIGNS.length]!.symbol,
      fill: stroke,
      stroke: "var(--paper)",
      strokeWidth: 1,
      title: "words",
    }),
  ];
}

function levelMark(y: number) {
  return ruleY([y], { stroke: "var(--quiet)", strokeDasharray: "1 3", strokeWidth: 1.5 });
}

function markMarks(mark: { x: number; words: string }, last: number) {
  const left = mark.x > last / 2;
  return [
    ruleX([mark.x], { stroke: "var(--accent)", strokeDasharray: "3 3" }),
    text([mark], {
      x: "x",
      text: "words",
      frameAnchor: "top",
      textAnchor: left ? "end" : "start",
      dx: left ? -6 : 6,
      dy: -16,
      fill: "var(--accent)",
      fontWeight: 600,
    }),
  ];
}

// The last value of each line and the name of the level, moved apart where two would cover each
// other.
function endLabels(
  lines: readonly ChartLine[],
  level: ChartOptions["level"],
  { x, y, yWords }: ChartOptions,
  height: number,
) {
  const scaled = (value: number): number => (y.log ? Math.log(value) : value);
  const [low, high] = [scaled(y.domain[0]), scaled(y.domain[1])];
  const span = height - MARGIN.top - MARGIN.bottom;
  const last = Math.max(...x.ticks);
  const ends = [
    ...lines
      .map((l) => l.points.at(-1)!)
      .map((p) => ({ x: p.x, y: p.y, words: yWords(p.y), fill: "var(--ink)" })),
    ...(level ? [{ x: last, ...level, fill: "var(--quiet)" }] : []),
  ]
    .map((end) => ({ ...end, at: span * (1 - (scaled(end.y) - low) / (high - low)) }))
    .sort((a, b) => a.at - b.at);
  let free = Number.NEGATIVE_INFINITY;
  return ends.map((end) => {
    const at = Math.max(end.at, free);
    free = at + LABEL_PX;
    // A line that ends early has its label there, the others have theirs at the frame's edge.
    const place = end.x < last ? { x: "x", dx: 9 } : { frameAnchor: "right" as const, dx: 7 };
    return text([end], {
      ...place,
      y: "y",
      text: "words",
      textAnchor: "start",
      dy: at - end.at,
      fill: end.fill,
      fontVariant: "tabular-nums",
    });
  });
}

// Leaves out ticks that would touch the one before, always keeping the last.
function ticksThatFit(ticks: readonly number[], log: boolean, width: number): number[] {
  const sorted = [...ticks].sort((a, b) => b - a);
  const scaled = (value: number): number => (log ? Math.log(value) : value);
  const first = log ? scaled(sorted.at(-1)!) : 0;
  const span = scaled(sorted[0]!) - first || 1;
  let edge = Number.POSITIVE_INFINITY;
  return sorted.filter((tick) => {
    const at = ((scaled(tick) - first) / span) * (width - 90);
    if (at > edge - 30) return false;
    edge = at;
    return true;
  });
}

// The key of a chart's lines: colour, shape and name; `predicted` adds the dashes.
export function lineKey(names: readonly string[], predicted: boolean, firstSign = 0): Child {
  return h(
    "ul",
    { class: "line-key", "aria-label": "Lines" },
    ...names.map((name, i) => h("li", { class: signClass(firstSign + i) }, name)),
    predicted && h("li", { class: "predicted" }, "as the planner predicts it"),
  );
}
