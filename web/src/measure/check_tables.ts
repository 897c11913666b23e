// What isn't a curve: limits and faults, what a tenant costs, several servers, MIG, the state of
// the GPU, what the planner takes from it all, the lab's lessons, and every run.
import { disclosure, h, type Child } from "../dom.ts";
import {
  count,
  duration,
  memory,
  milliseconds,
  modeName,
  percent,
  plural,
  rate,
  times,
} from "../format.ts";
import { section } from "../page.ts";
import { table, type Column } from "../table.ts";
import { answer } from "./answer.ts";
import type { FaultCheck, GpuConditions, LabDocument, Lesson, Run } from "./measurement.ts";
import {
  aloneRuns,
  byWay,
  largestOf,
  p50Of,
  p99Of,
  slowestOf,
  unitsOf,
  wayName,
  wayOf,
  workloadOf,
  type Way,
} from "./runs.ts";

const absent = (): Child => h("span", { class: "quiet" }, "–");

function shown(value: number | undefined, words: (value: number) => string): Child {
  return value === undefined ? absent() : words(value);
}

function verdict(good: boolean, words: string): HTMLElement {
  return h("span", { class: good ? "holds" : "fails" }, words);
}

export function quotaSection({ measurement }: LabDocument): Child {
  const quotas = [...measurement.quotas].sort(
    (a, b) => a.mode.localeCompare(b.mode) || a.limit_mib - b.limit_mib || (a.how < b.how ? -1 : 1),
  );
  if (quotas.length === 0) return undefined;
  return section(
    "quotas",
    "Do memory limits hold?",
    "A tenant allocates until it is refused. What it could have, with its CUDA context, against " +
      "the limit that was set.",
    table(
      quotas,
      [
        { title: "Limit by", kind: "prose", heading: true, cell: (q) => q.how },
        { title: "Mode", cell: (q) => modeName(q.mode) },
        { title: "Limit", kind: "number", cell: (q) => memory(q.limit_mib) },
        { title: "Context", kind: "number", cell: (q) => memory(q.context_mib) },
        { title: "Allocated", kind: "number", cell: (q) => memory(q.allocated_mib) },
        {
          title: "Error",
          kind: "number",
          cell: (q) => (q.enforced ? percent(q.error_percent) : absent()),
        },
        {
          title: "Enforced",
          cell: (q) => (q.enforced ? verdict(true, "held") : verdict(false, "not enforced")),
        },
      ],
      { caption: "Memory limits against what could be allocated" },
    ),
  );
}

export function faultSection({ measurement }: LabDocument): Child {
  const way = (f: FaultCheck): Way => ({ key: "", mode: f.mode, servers: f.servers ?? 1 });
  const faults = [...measurement.faults].sort((a, b) => byWay(way(a), way(b)));
  if (faults.length === 0) return undefined;
  const survived = (f: FaultCheck): HTMLElement =>
    verdict(
      f.survivors >= f.neighbours,
      f.neighbours === 0 ? "no neighbours" : `${count(f.survivors)} of ${count(f.neighbours)}`,
    );
  return section(
    "faults",
    "Who is hit when one fails",
    "One tenant misbehaves while others work beside it. With two MPS servers the neighbours are " +
      "clients of the other one.",
    table<FaultCheck>(
      faults,
      [
        { title: "Fault", heading: true, cell: (f) => f.fault },
        {
          title: "Way of sharing",
          cell: (f) => wayName(way(f)),
        },
        { title: "Neighbours that survive", cell: survived },
        {
          title: "Longest pause",
          kind: "number",
          cell: (f) => (f.survivors > 0 ? duration(f.pause_ms_max) : absent()),
        },
        {
          title: "New client works after",
          kind: "number",
          cell: (f) => shown(f.recovery_ms, duration),
        },
        { title: "Seen", kind: "prose", cell: (f) => f.note || absent() },
      ],
      { caption: "Faults, who survived them, and the pause" },
    ),
  );
}

export function aloneSection(document: LabDocument): Child {
  const runs = [...aloneRuns(document.measurement.runs)];
  if (runs.length === 0) return undefined;
  return section(
    "alone",
    "Alone on the GPU",
    "What everything else is compared with.",
    table(
      runs,
      [
        { title: "Workload", heading: true, cell: ([workload]) => workload },
        { title: "Unit", cell: ([workload]) => unitsOf(document, workload) },
        { title: "A second", kind: "number", cell: ([, run]) => rate(run.total_per_s.value) },
        {
          title: "95 % interval",
          kind: "number",
          cell: ([
            ,
            {
              total_per_s: { low, high },
            },
          ]) => `${rate(low)} – ${rate(high)}`,
        },
        { title: "p50", kind: "number", cell: ([, run]) => milliseconds(p50Of(run)) },
        { title: "p99", kind: "number", cell: ([, run]) => milliseconds(p99Of(run)) },
        { title: "Slowest", kind: "number", cell: ([, run]) => milliseconds(slowestOf(run)) },
      ],
      { caption: "Each workload alone on the GPU" },
    ),
  );
}

// What a tenant costs beside its share: alone, and in the numbers that the answer is about.
export function costSection(document: LabDocument): Child {
  const found = answer(document);
  const alone = [...aloneRuns(document.measurement.runs).values()];
  const rivals = found?.others.map((other) => other.run) ?? [];
  const shared = found ? [found.best, ...rivals.filter((run) => run.series === "scaling")] : [];
  const rows = [...shared, ...alone];
  if (rows.length === 0) return undefined;
  const each = (run: Run): number | undefined => largestOf(run, "memory_mib");
  return section(
    "cost",
    "Start-up, memory and energy",
    "Memory is what the driver shows for a process: context and buffers. Energy is the whole " +
      "GPU's, idle power included, for one unit of work.",
    table<Run>(
      rows,
      [
        { title: "Workload", heading: true, cell: (run) => workloadOf(run) ?? run.id },
        { title: "Way of sharing", cell: (run) => wayName(wayOf(run)) },
        { title: "Tenants", kind: "number", cell: (run) => count(run.tenants.length) },
        {
          title: "Slowest start-up",
          kind: "number",
          cell: (run) => shown(largestOf(run, "startup_ms"), duration),
        },
        { title: "Memory each", kind: "number", cell: (run) => shown(each(run), memory) },
        {
          title: "Memory of all",
          kind: "number",
          cell: (run) => shown(sumOf(run.tenants.map((t) => t.memory_mib)), memory),
        },
        {
          title: "Energy a unit",
          kind: "number",
          cell: (run) => shown(run.energy_mj_per_unit, (mj) => `${rate(mj)}\u00a0mJ`),
        },
      ],
      {
        caption: "Start-up time, memory and energy",
        rowClass: (run) => (run === found?.best ? "chosen" : undefined),
      },
    ),
  );
}

// The sum where every value is there; a part of it would read as the whole.
function sumOf(values: readonly (number | undefined)[]): number | undefined {
  let sum = 0;
  for (const value of values) {
    if (value === undefined) return undefined;
    sum += value;
  }
  return sum;
}

export function serverSection(document: LabDocument): Child {
  const runs = document.measurement.runs.filter((run) => run.series === "servers");
  if (runs.length === 0) return undefined;
  return section(
    "servers",
    "Several MPS servers on one GPU",
    "Each server is a fault domain of its own. Between servers the GPU is time-sliced, and that " +
      "is the price.",
    table<Run>(runs, serverColumns(document), { caption: "Runs with several MPS servers" }),
  );
}

function serverColumns(document: LabDocument): Column<Run>[] {
  const oneServer = (run: Run): Run | undefined =>
    document.measurement.runs.find(
      (r) =>
        r.series === "scaling" &&
        r.mode === "mps" &&
        wayOf(r).cap === undefined &&
        r.tenants.length === run.tenants.length &&
        workloadOf(r) === workloadOf(run),
    );
  return [
    { title: "Workload", heading: true, cell: (run) => workloadOf(run) ?? run.id },
    { title: "Servers", kind: "number", cell: (run) => count(run.servers) },
    { title: "Tenants", kind: "number", cell: (run) => count(run.tenants.length) },
    { title: "A second, all", kind: "number", cell: (run) => rate(run.total_per_s.value) },
    {
      title: "With one server",
      kind: "number",
      cell: (run) => shown(oneServer(run)?.total_per_s.value, rate),
    },
    {
      title: "Slowdown of each",
      kind: "number",
      cell: (run) => shown(largestOf(run, "slowdown"), times),
    },
    { title: "p99", kind: "number", cell: (run) => milliseconds(p99Of(run)) },
  ];
}

export function migSection({ measurement }: LabDocument): Child {
  const runs = measurement.runs.filter((run) => run.series === "mig");
  if (runs.length === 0) return undefined;
  const rows = runs.flatMap((run) => run.tenants.map((tenant) => ({ run, tenant })));
  return section(
    "mig",
    "MIG instances",
    "Each instance with work of its own: one at a time, and all at once.",
    table(
      rows,
      [
        { title: "Run", heading: true, cell: ({ run }) => run.id },
        { title: "Instance", cell: ({ tenant }) => tenant.mig_profile || absent() },
        { title: "Workload", cell: ({ tenant }) => tenant.workload },
        { title: "A second", kind: "number", cell: ({ tenant }) => rate(tenant.rate_per_s.value) },
        {
          title: "Slowdown",
          kind: "number",
          cell: ({ tenant }) => shown(tenant.slowdown, times),
        },
        {
          title: "p99",
          kind: "number",
          cell: ({ tenant }) => milliseconds(tenant.latency_ms_p99),
        },
      ],
      { caption: "Work in MIG instances", rowsMax: 60 },
    ),
  );
}

export function lessonSection({ lessons }: LabDocument): Child {
  if (lessons.length === 0) return undefined;
  const words = (value: string | number | undefined): Child =>
    value === undefined ? absent() : typeof value === "number" ? rate(value) : value;
  const passed = lessons.filter((lesson) => lesson.passed).length;
  return section(
    "lessons",
    "Lessons checked",
    `What sharing is known to do, tested on this card: ${count(passed)} of ` +
      `${plural(lessons.length, "lesson")} hold.`,
    table<Lesson>(
      lessons,
      [
        { title: "Lesson", heading: true, cell: (l) => l.name },
        { title: "Statement", kind: "prose", cell: (l) => l.statement },
        { title: "Measured", cell: (l) => words(l.measured) },
        { title: "Required", cell: (l) => words(l.required) },
        {
          title: "Holds",
          cell: (l) => (l.passed ? verdict(true, "holds") : verdict(false, "does not hold")),
        },
      ],
      { caption: "The lab's lessons and their grades" },
    ),
  );
}

export function skippedSection({ measurement }: LabDocument): Child {
  const { skipped } = measurement;
  if (skipped.length === 0) return undefined;
  return section(
    "skipped",
    "Not measured",
    "",
    table(
      skipped,
      [
        { title: "What", heading: true, cell: (s) => s.what },
        { title: "Why", kind: "prose", cell: (s) => s.reason },
      ],
      { caption: "What was not measured, and why" },
    ),
  );
}

export function conditionSection({ measurement }: LabDocument): Child {
  const moments = [
    { name: "Before", state: measurement.before },
    { name: "After", state: measurement.after },
  ].filter(({ state }) => Object.keys(state).length > 0);
  if (moments.length === 0) return undefined;
  const of =
    (field: keyof GpuConditions, words: (value: number) => string) =>
    ({ state }: (typeof moments)[number]): Child =>
      shown(state[field] as number | undefined, words);
  const mhz = (value: number): string => `${count(value)}\u00a0MHz`;
  return section(
    "conditions",
    "The GPU before and after",
    "",
    table(
      moments,
      [
        { title: "", heading: true, cell: ({ name }) => name },
        {
          title: "Time (UTC)",
          cell: ({ state }) => state.time?.replace("T", " ").replace("Z", ""),
        },
        { title: "SM clock", kind: "number", cell: of("sm_clock_mhz", mhz) },
        { title: "Memory clock", kind: "number", cell: of("memory_clock_mhz", mhz) },
        {
          title: "Temperature",
          kind: "number",
          cell: of("temperature_c", (value) => `${count(value)}\u00a0°C`),
        },
        {
          title: "Power",
          kind: "number",
          cell: of("power_w", (value) => `${count(value)}\u00a0W`),
        },
        {
          title: "Throttled by",
          kind: "prose",
          cell: ({ state }) => (state.throttle_reasons ?? []).join(", ") || "nothing",
        },
      ],
      { caption: "The state of the GPU before and after the measurement" },
    ),
  );
}

// What the planner takes from the measurement.
export function calibrationSection({ calibration, measurement }: LabDocument): Child {
  if (calibration === undefined) return undefined;
  const fact = (name: string, value: string | undefined): Child[] =>
    value === undefined ? [] : [h("div", {}, h("dt", {}, name), h("dd", {}, value))];
  const clients = calibration.mps_clients_max;
  return section(
    "calibration",
    "What the planner takes from this",
    "These figures, and what each SM cap gives, go into every plan that names this calibration.",
    h(
      "dl",
      { class: "facts" },
      ...fact("Lost at each switch, time-sliced", milliseconds(calibration.switch_ms)),
      ...fact("One client under MPS over one without", times(calibration.mps_service_factor)),
      ...fact(
        "Clients that MPS serves",
        `${count(clients)}${measurement.mps_clients_max === 0 ? ", not probed" : ""}`,
      ),
      ...fact("Memory that no tenant gets", memory(calibration.device_reserve_mib)),
    ),
  );
}

export function runSection(document: LabDocument): Child {
  const { runs } = document.measurement;
  if (runs.length === 0) return undefined;
  return section(
    "runs",
    "Every run",
    "",
    disclosure(`All ${plural(runs.length, "run")}`, () => [
      table<Run>(
        runs,
        [
          { title: "Run", heading: true, cell: (run) => run.id },
          { title: "Tenants", kind: "number", cell: (run) => count(run.tenants.length) },
          { title: "A second", kind: "number", cell: rateOf },
          {
            title: "95 % interval",
            kind: "number",
            cell: (run) =>
              workloadOf(run) === undefined
                ? absent()
                : `${rate(run.total_per_s.low)} – ${rate(run.total_per_s.high)}`,
          },
          { title: "p50", kind: "number", cell: (run) => milliseconds(p50Of(run)) },
          { title: "p99", kind: "number", cell: (run) => milliseconds(p99Of(run)) },
          { title: "Slowest", kind: "number", cell: (run) => milliseconds(slowestOf(run)) },
          { title: "Fairness", kind: "number", cell: (run) => run.fairness.toFixed(3) },
          {
            title: "Rounds",
            kind: "number",
            cell: (run) => `${count(run.rounds)}${run.settled ? "" : ", not settled"}`,
          },
        ],
        {
          caption: `Every run; rates are units a second: ${unitWords(document)}`,
          rowsMax: 400,
        },
      ),
    ]),
  );
}

// Of all tenants together; where their units differ, each one's, because a sum would mean nothing.
function rateOf(run: Run): string {
  if (workloadOf(run) !== undefined) return rate(run.total_per_s.value);
  return run.tenants.map((tenant) => rate(tenant.rate_per_s.value)).join(" + ");
}

function unitWords(document: LabDocument): string {
  return [...aloneRuns(document.measurement.runs).keys()]
    .map((workload) => `${workload}: ${unitsOf(document, workload)}`)
    .join(", ");
}
