// What an SM cap costs one tenant and gives a crowd, and what it does to the memory of a context.
import { disclosure, h, type Child } from "../dom.ts";
import { count, memory, milliseconds, percent, rate } from "../format.ts";
import { section } from "../page.ts";
import { lengthAxis } from "../scale.ts";
import { table, type Column } from "../table.ts";
import {
  bestCap,
  contexts,
  knee,
  KNEE_PART,
  sweeps,
  type Sweep,
  type SweepPoint,
} from "./curves.ts";
import { lineChart, lineKey, type ChartPoint } from "./line_chart.ts";
import type { LabDocument } from "./measurement.ts";
import { unitsOf } from "./runs.ts";

// Of the lines (signs.ts): one alone, the first crowd, contexts.
const ALONE_SIGN = 1;
const CROWD_SIGN = 2;
const CONTEXT_SIGN = 4;
// A workload beside the first is worth a chart from so many caps on.
const CAPS_MIN = 3;

export function sweepSection(document: LabDocument): Child {
  const [first, ...others] = sweeps(document);
  const memories = contexts(document);
  if (first === undefined && memories.length < 2) return undefined;
  const rest = others.filter((sweep) => sweep.alone.length >= CAPS_MIN);
  return section(
    "sweep",
    "The right SM cap",
    "Under MPS a cap limits each tenant to a part of the SMs. Up to a point that costs a tenant " +
      "nothing, and a crowd gains, because its tenants no longer queue for the same SMs.",
    ...(first
      ? sweepCharts(first, document, memories)
      : [h("div", { class: "charts three" }, contextChart(memories))]),
    rest.length > 0 && h("h3", { class: "workload" }, "Others, alone"),
    rest.length > 0 &&
      h(
        "div",
        { class: "charts three" },
        ...rest.map((sweep) => aloneChart(sweep, document, sweep.workload)),
      ),
    rest.length > 0 && h("p", { class: "note" }, "100 % is one alone without a cap."),
    rest.length > 0 && figures(rest, memories),
  );
}

type Contexts = ReturnType<typeof contexts>;

const pointWith =
  (units: string) =>
  (p: SweepPoint): ChartPoint => ({
    x: p.cap,
    y: p.rate,
    words: `${p.cap} % of the SMs: ${rate(p.rate)} ${units} a second`,
    ...(p.low !== undefined && p.high !== undefined && { low: p.low, high: p.high }),
  });

function sweepCharts(sweep: Sweep, document: LabDocument, memories: Contexts): Child[] {
  const units = unitsOf(document, sweep.workload);
  const crowds = sweep.crowds.filter(({ points }) => points.length > 1);
  return [
    h("h3", { class: "workload" }, sweep.workload),
    sweepSentence(sweep, units),
    crowds.length > 1 &&
      lineKey(
        crowds.map((c) => `${count(c.tenants)} together`),
        false,
        CROWD_SIGN,
      ),
    h(
      "div",
      { class: "charts three" },
      sweep.alone.length > 1 && aloneChart(sweep, document, `One alone: ${units} a second`),
      crowds.length > 0 && crowdChart(crowds, units),
      memories.length > 1 && contextChart(memories),
    ),
    figures([sweep], memories),
  ];
}

function aloneChart(sweep: Sweep, document: LabDocument, title: string): HTMLElement {
  const units = unitsOf(document, sweep.workload);
  const bend = knee(sweep.alone);
  return lineChart([{ sign: ALONE_SIGN, points: sweep.alone.map(pointWith(units)) }], {
    title,
    words: `${sweep.workload} alone under a cap. ${sweepWords(sweep.alone)}`,
    x: capAxis(sweep.alone.map((p) => p.cap)),
    y: lengthAxis(
      sweep.alone.map((p) => p.rate),
      5,
    ),
    yWords: rate,
    // Where only all of the SMs do, there is no knee to show.
    ...(bend && bend.cap < 100 && { mark: { x: bend.cap, words: `knee: ${bend.cap} %` } }),
  });
}

function crowdChart(crowds: Sweep["crowds"], units: string): HTMLElement {
  const largest = crowds.at(-1)!;
  const best = bestCap(largest.points);
  const names = crowds.map((c) => count(c.tenants)).join(" and ");
  return lineChart(
    crowds.map(({ points }, i) => ({
      sign: CROWD_SIGN + i,
      points: points.map(pointWith(units)),
    })),
    {
      title: `${names} together: ${units} a second`,
      words: `${count(largest.tenants)} together, capped. ${sweepWords(largest.points)}`,
      x: capAxis(crowds.flatMap((c) => c.points.map((p) => p.cap))),
      y: lengthAxis(
        crowds.flatMap((c) => c.points.map((p) => p.rate)),
        5,
      ),
      yWords: rate,
      ...(best && { mark: { x: best.cap, words: `best: ${best.cap} %` } }),
    },
  );
}

const capAxis = (caps: readonly number[]) => ({
  ticks: [...new Set([...caps, 100])].sort((a, b) => a - b),
  log: false,
  label: "SM cap of each tenant",
  unit: " %",
});

const sweepWords = (points: readonly SweepPoint[]): string =>
  points.map((p) => `${p.cap} %: ${rate(p.rate)} a second.`).join(" ");

function sweepSentence({ alone, crowds }: Sweep, units: string): Child {
  const bend = knee(alone);
  const crowd = crowds.at(-1);
  const best = crowd && bestCap(crowd.points);
  const words: string[] = [];
  if (bend && bend.cap < 100) {
    words.push(
      `With ${percent(bend.cap)} of the SMs one keeps ${percent(100 * KNEE_PART)} of its speed.`,
    );
  }
  if (crowd && best) {
    const open = crowd.points.find((p) => p.cap === 100);
    const gain = open && best.cap !== 100 ? `, against ${rate(open.rate)} without a cap` : "";
    words.push(
      `${count(crowd.tenants)} do most with ${percent(best.cap)} each: ` +
        `${rate(best.rate)} ${units} a second${gain}.`,
    );
  }
  return words.length > 0 && h("p", { class: "finding" }, words.join(" "));
}

function contextChart(memories: Contexts): HTMLElement {
  const points = memories.map(({ cap, mib }) => ({
    x: cap,
    y: mib,
    words: `${cap} % of the SMs: ${memory(mib)}`,
  }));
  return lineChart([{ sign: CONTEXT_SIGN, points }], {
    title: "Memory of a CUDA context",
    words: ["Memory of a context by cap.", ...points.map((p) => `${p.words}.`)].join(" "),
    x: capAxis(memories.map((m) => m.cap)),
    y: lengthAxis(
      memories.map((m) => m.mib),
      5,
    ),
    yWords: (mib) => `${count(mib)} MiB`,
  });
}

// A row for each workload and cap.
function figures(all: readonly Sweep[], memories: Contexts): HTMLElement {
  const rows = all.flatMap((sweep) => {
    const points = [...sweep.alone, ...sweep.crowds.flatMap((c) => c.points)];
    const caps = [...new Set(points.map((p) => p.cap))].sort((a, b) => a - b);
    return caps.map((cap) => ({ sweep, cap }));
  });
  type Row = (typeof rows)[number];
  const sizes = [...new Set(all.flatMap((s) => s.crowds.map((c) => c.tenants)))];
  const at = (points: readonly SweepPoint[] | undefined, cap: number): SweepPoint | undefined =>
    points?.find((p) => p.cap === cap);
  const crowd = ({ sweep, cap }: Row, tenants: number): SweepPoint | undefined =>
    at(sweep.crowds.find((c) => c.tenants === tenants)?.points, cap);
  const words = (value: number | undefined, format: (v: number) => string): string =>
    value === undefined ? "–" : format(value);
  const number = (title: string, cell: (row: Row) => string): Column<Row> => ({
    title,
    kind: "number",
    cell,
  });
  const names = all.map((sweep) => sweep.workload).join(", ");
  return disclosure(`The figures of ${names} by cap`, () => [
    table<Row>(
      rows,
      [
        { title: "Workload", heading: true, cell: (row) => row.sweep.workload },
        number("SM cap", ({ cap }) => percent(cap)),
        number("Alone, a second", ({ sweep, cap }) => words(at(sweep.alone, cap)?.rate, rate)),
        number("Alone, p99", ({ sweep, cap }) => words(at(sweep.alone, cap)?.p99, milliseconds)),
        ...sizes.flatMap((size) => [
          number(`${count(size)}, a second`, (row) => words(crowd(row, size)?.rate, rate)),
          number(`${count(size)}, p99`, (row) => words(crowd(row, size)?.p99, milliseconds)),
        ]),
        number("Context", ({ cap }) => words(memories.find((m) => m.cap === cap)?.mib, memory)),
      ],
      { caption: `${names} under SM caps`, rowsMax: 60 },
    ),
  ]);
}
