// What an SM cap costs one tenant and gives a crowd, and what it does to the memory of a context.
import { disclosure, h, type Child } from "../dom.ts";
import { count, memory, milliseconds, percent, rate } from "../format.ts";
import { section } from "../page.ts";
import { lengthAxis } from "../scale.ts";
import { table } from "../table.ts";
import {
  bestCap,
  contexts,
  knee,
  KNEE_PART,
  sweeps,
  type Sweep,
  type SweepPoint,
} from "./curves.ts";
import { lineChart, lineKey } from "./line_chart.ts";
import type { LabDocument } from "./measurement.ts";
import { unitsOf } from "./runs.ts";

export function sweepSection(document: LabDocument): Child {
  const all = sweeps(document);
  const memories = contexts(document);
  if (all.length === 0 && memories.length < 2) return undefined;
  return section(
    "sweep",
    "The right SM cap",
    "Under MPS a cap limits each tenant to a part of the SMs. Up to a point that costs a tenant " +
      "nothing, and a crowd gains, because its tenants no longer queue for the same SMs.",
    ...all.flatMap((sweep, i) => sweepCharts(sweep, document, i === 0 ? memories : [])),
    all.length === 0 && h("div", { class: "charts three" }, contextChart(memories)),
  );
}

type Contexts = ReturnType<typeof contexts>;

function sweepCharts(sweep: Sweep, document: LabDocument, memories: Contexts): Child[] {
  const units = unitsOf(document, sweep.workload);
  const point = (p: SweepPoint) => ({
    x: p.cap,
    y: p.rate,
    words: `${p.cap} % of the SMs: ${rate(p.rate)} ${units} a second`,
    ...(p.low !== undefined && p.high !== undefined && { low: p.low, high: p.high }),
  });
  const bend = knee(sweep.alone);
  const crowd = sweep.crowds.at(-1);
  const best = crowd && bestCap(crowd.points);
  return [
    h("h3", { class: "workload" }, sweep.workload),
    sweepSentence(sweep, units),
    h(
      "div",
      { class: "charts three" },
      sweep.alone.length > 1 &&
        lineChart([{ sign: 1, points: sweep.alone.map(point) }], {
          title: `One alone: ${units} a second`,
          words: `${sweep.workload} alone under a cap. ${sweepWords(sweep.alone)}`,
          x: capAxis(sweep.alone.map((p) => p.cap)),
          y: lengthAxis(
            sweep.alone.map((p) => p.rate),
            5,
          ),
          yWords: rate,
          ...(bend && { mark: { x: bend.cap, words: `knee: ${bend.cap} %` } }),
        }),
      crowd &&
        crowd.points.length > 1 &&
        lineChart(
          sweep.crowds.map(({ points }, i) => ({ sign: 2 + i, points: points.map(point) })),
          {
            title: `${together(sweep)} together: ${units} a second`,
            words: `${count(crowd.tenants)} together under a cap each. ${sweepWords(crowd.points)}`,
            x: capAxis(crowd.points.map((p) => p.cap)),
            y: lengthAxis(
              sweep.crowds.flatMap((c) => c.points.map((p) => p.rate)),
              5,
            ),
            yWords: rate,
            ...(best && { mark: { x: best.cap, words: `best: ${best.cap} %` } }),
          },
        ),
      memories.length > 1 && contextChart(memories),
    ),
    sweep.crowds.length > 1 &&
      lineKey(
        sweep.crowds.map((c) => `${count(c.tenants)} together`),
        false,
        2,
      ),
    figures(sweep, memories),
  ];
}

// "16 and 40".
const together = ({ crowds }: Sweep): string => crowds.map((c) => count(c.tenants)).join(" and ");

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
  return lineChart([{ sign: 3, points }], {
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

function figures(sweep: Sweep, memories: Contexts): HTMLElement {
  const caps = [
    ...new Set([...sweep.alone, ...sweep.crowds.flatMap((c) => c.points)].map((p) => p.cap)),
  ].sort((a, b) => a - b);
  const at = (points: readonly SweepPoint[], cap: number): SweepPoint | undefined =>
    points.find((p) => p.cap === cap);
  const words = (value: number | undefined, format: (v: number) => string): string =>
    value === undefined ? "–" : format(value);
  return disclosure(`The figures of ${sweep.workload} by cap`, () => [
    table(
      caps,
      [
        { title: "SM cap", heading: true, cell: (cap) => percent(cap) },
        {
          title: "Alone, a second",
          kind: "number",
          cell: (cap) => words(at(sweep.alone, cap)?.rate, rate),
        },
        {
          title: "Alone, p99",
          kind: "number",
          cell: (cap) => words(at(sweep.alone, cap)?.p99, milliseconds),
        },
        ...sweep.crowds.flatMap(({ tenants, points }) => [
          {
            title: `${count(tenants)}, a second`,
            kind: "number" as const,
            cell: (cap: number) => words(at(points, cap)?.rate, rate),
          },
          {
            title: `${count(tenants)}, p99`,
            kind: "number" as const,
            cell: (cap: number) => words(at(points, cap)?.p99, milliseconds),
          },
        ]),
        {
          title: "Context",
          kind: "number",
          cell: (cap) => words(memories.find((m) => m.cap === cap)?.mib, memory),
        },
      ],
      { caption: `${sweep.workload} under SM caps` },
    ),
  ]);
}
