// Throughput and latency as tenants are added: the first workload large, the others small, each
// with its figures as a table.
import { disclosure, h, type Child } from "../dom.ts";
import { count, milliseconds, percent, rate, times } from "../format.ts";
import { section } from "../page.ts";
import { latencyAxis, lengthAxis } from "../scale.ts";
import { table } from "../table.ts";
import { compared, scalings, type Scaling } from "./curves.ts";
import { lineChart, lineKey, type ChartLine } from "./line_chart.ts";
import type { LabDocument, Prediction, Run } from "./measurement.ts";
import {
  aloneRuns,
  byWay,
  p50Of,
  p99Of,
  slowestOf,
  unitsOf,
  wayName,
  wayOf,
  type Way,
} from "./runs.ts";

interface Context {
  document: LabDocument;
  ways: Way[]; // Of all workloads, so that a way keeps its colour from chart to chart.
  predictions: Map<string, Prediction>;
}

export function scalingSection(document: LabDocument): Child {
  const all = scalings(document.measurement.runs);
  const [first, ...rest] = all;
  if (first === undefined) return undefined;
  const ways = new Map(all.flatMap((s) => s.ways).map(({ way }) => [way.key, way]));
  const context: Context = {
    document,
    ways: [...ways.values()].sort(byWay),
    predictions: new Map(document.predictions.map((p) => [p.run, p])),
  };
  return section(
    "scaling",
    "More of them on one GPU",
    "What all get together, and how long the slowest hundredth of the units of the worst-served " +
      "tenant takes, as tenants are added.",
    lineKey(
      context.ways.map((way) => wayName(way)),
      context.predictions.size > 0,
    ),
    h("h3", { class: "workload" }, first.workload),
    h(
      "div",
      { class: "charts two" },
      throughputChart(first, context, false),
      latencyChart(first, context, "p99", false),
    ),
    figures([first], context),
    rest.length > 0 &&
      h(
        "div",
        { class: "workloads" },
        ...rest.map((scaling) =>
          h(
            "div",
            {},
            h("h3", { class: "workload" }, scaling.workload),
            h(
              "div",
              { class: "charts two" },
              throughputChart(scaling, context, true),
              latencyChart(scaling, context, "p99", true),
            ),
          ),
        ),
      ),
    rest.length > 0 && figures(rest, context),
  );
}

const sign = (context: Context, way: Way): number =>
  context.ways.findIndex((known) => known.key === way.key);

function tenantTicks(scaling: Scaling): number[] {
  const numbers = scaling.ways.flatMap(({ runs }) => runs.map((run) => run.tenants.length));
  return [...new Set(numbers)].sort((a, b) => a - b);
}

// A line for each way, and a dashed one where the planner has predicted it.
function linesOf(
  scaling: Scaling,
  context: Context,
  point: (run: Run) => ChartLine["points"][number],
  predicted: (prediction: Prediction) => number | undefined,
): ChartLine[] {
  return scaling.ways.flatMap(({ way, runs }) => {
    const expected = runs.flatMap((run) => {
      const prediction = context.predictions.get(run.id);
      const y = prediction && predicted(prediction);
      if (y === undefined || y <= 0) return [];
      return [{ ...point(run), y, words: `${point(run).words}; predicted here` }];
    });
    const lines: ChartLine[] = [{ sign: sign(context, way), points: runs.map(point) }];
    if (expected.length > 1) {
      lines.unshift({ sign: sign(context, way), points: expected, predicted: true });
    }
    return lines;
  });
}

function throughputChart(scaling: Scaling, context: Context, small: boolean): HTMLElement {
  const units = unitsOf(context.document, scaling.workload);
  const alone = aloneRuns(context.document.measurement.runs).get(scaling.workload);
  const lines = linesOf(
    scaling,
    context,
    (run) => ({
      x: run.tenants.length,
      y: run.total_per_s.value,
      low: run.total_per_s.low,
      high: run.total_per_s.high,
      words: `${runWords(run)}: ${rate(run.total_per_s.value)} ${units} a second`,
    }),
    (prediction) => prediction.rate_per_s,
  );
  const level = alone?.total_per_s.value;
  const values = [...lines.flatMap((l) => l.points.map((p) => p.y)), level ?? 0];
  return lineChart(lines, {
    title: `${capital(units)} a second${small ? "" : ", all together"}`,
    words: chartWords(scaling, (run) => `${rate(run.total_per_s.value)} a second`),
    x: { ticks: tenantTicks(scaling), log: true, label: "tenants" },
    y: lengthAxis(values, 5),
    yWords: rate,
    ends: true,
    ...(level !== undefined && { level: { y: level, words: "alone" } }),
    ...(small && { heightPx: 190 }),
  });
}

function latencyChart(
  scaling: Scaling,
  context: Context,
  which: "p50" | "p99",
  small: boolean,
): HTMLElement {
  const of = which === "p50" ? p50Of : p99Of;
  const lines = linesOf(
    scaling,
    context,
    (run) => ({
      x: run.tenants.length,
      y: of(run),
      words: `${runWords(run)}: ${which} ${milliseconds(of(run))}`,
    }),
    (prediction) => (which === "p50" ? prediction.latency_ms_p50 : undefined),
  );
  return lineChart(lines, {
    title:
      which === "p50"
        ? "p50 of the median tenant"
        : small
          ? "Worst p99"
          : "p99 of the worst tenant",
    words: chartWords(scaling, (run) => `${which} ${milliseconds(of(run))}`),
    x: { ticks: tenantTicks(scaling), log: true, label: "tenants" },
    y: latencyAxis(
      lines.flatMap((l) => l.points.map((p) => p.y)),
      5,
    ),
    yWords: milliseconds,
    ends: true,
    ...(small && { heightPx: 190 }),
  });
}

const runWords = (run: Run): string => `${wayName(wayOf(run))}, ${count(run.tenants.length)}`;
const capital = (words: string): string => words.slice(0, 1).toUpperCase() + words.slice(1);

// "transformer. Time-slicing with 40: 2,762 a second. ...": the last point of each line.
function chartWords(scaling: Scaling, words: (run: Run) => string): string {
  const ends = scaling.ways.map(({ way, runs }) => {
    const last = runs.at(-1)!;
    return `${wayName(way)} with ${last.tenants.length}: ${words(last)}`;
  });
  return `${scaling.workload}. ${ends.join(". ")}.`;
}

function figures(all: readonly Scaling[], context: Context): HTMLElement {
  const alone = aloneRuns(context.document.measurement.runs);
  const rows = all.flatMap(({ workload, ways }) =>
    ways.flatMap(({ runs }) => runs.map((run) => ({ workload, run }))),
  );
  const overAlone = ({ workload, run }: (typeof rows)[number]): string => {
    const one = alone.get(workload);
    return one ? times(run.total_per_s.value / one.total_per_s.value) : "–";
  };
  const names = all.map((scaling) => scaling.workload).join(", ");
  return disclosure(`The figures of ${names}`, () => [
    table(
      rows,
      [
        { title: "Workload", heading: true, cell: ({ workload }) => workload },
        { title: "Way of sharing", cell: ({ run }) => wayName(wayOf(run)) },
        { title: "Tenants", kind: "number", cell: ({ run }) => count(run.tenants.length) },
        { title: "A second", kind: "number", cell: ({ run }) => rate(run.total_per_s.value) },
        { title: "Over one alone", kind: "number", cell: overAlone },
        { title: "p50", kind: "number", cell: ({ run }) => milliseconds(p50Of(run)) },
        { title: "p99", kind: "number", cell: ({ run }) => milliseconds(p99Of(run)) },
        { title: "Slowest", kind: "number", cell: ({ run }) => milliseconds(slowestOf(run)) },
        { title: "Fairness", kind: "number", cell: ({ run }) => run.fairness.toFixed(3) },
      ],
      { caption: `${names} in growing numbers`, rowsMax: 80 },
    ),
  ]);
}

// What the planner expected, beside what was measured.
export function predictionSection(document: LabDocument): Child {
  const rows = compared(document, p50Of);
  if (rows.length === 0) return undefined;
  const all = scalings(document.measurement.runs);
  const predictions = new Map(document.predictions.map((p) => [p.run, p]));
  const ways = new Map(all.flatMap((s) => s.ways).map(({ way }) => [way.key, way]));
  const context: Context = { document, ways: [...ways.values()].sort(byWay), predictions };
  const first = all.find((s) => s.ways.some(({ runs }) => runs.some((r) => predictions.has(r.id))));
  const worst = (field: "rateError" | "p50Error"): string => {
    const errors = rows.map((row) => row[field]).filter((e) => e !== undefined);
    return errors.length === 0 ? "–" : percent(Math.max(...errors.map(Math.abs)));
  };
  const error = (value: number | undefined): string =>
    value === undefined ? "–" : `${value > 0 ? "+" : ""}${percent(value)}`;
  return section(
    "predictions",
    "Predicted against measured",
    `The planner's forecast from this calibration: at most ${worst("rateError")} off in ` +
      `throughput and ${worst("p50Error")} in p50.`,
    first &&
      lineKey(
        context.ways.map((way) => wayName(way)),
        true,
      ),
    first && latencyChart(first, context, "p50", false),
    disclosure("The predictions", () => [
      table(
        rows,
        [
          { title: "Run", heading: true, cell: (row) => row.run.id },
          { title: "A second", kind: "number", cell: (r) => rate(r.run.total_per_s.value) },
          {
            title: "Predicted",
            kind: "number",
            cell: (r) => (r.rate === undefined ? "–" : rate(r.rate)),
          },
          { title: "Error", kind: "number", cell: (r) => error(r.rateError) },
          { title: "p50", kind: "number", cell: (r) => milliseconds(p50Of(r.run)) },
          {
            title: "p50 predicted",
            kind: "number",
            cell: (r) => (r.p50 === undefined ? "–" : milliseconds(r.p50)),
          },
          { title: "p50 error", kind: "number", cell: (r) => error(r.p50Error) },
        ],
        { caption: "Predicted and measured throughput and p50 of each run", rowsMax: 60 },
      ),
    ]),
  );
}
