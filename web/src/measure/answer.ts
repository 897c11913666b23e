// The answer at the top of the report: how many share the GPU, what they get, in which way, and
// what that saves; and what a reader must know before relying on it. Pure functions.
import {
  count,
  listOf,
  memory,
  milliseconds,
  NBSP,
  percent,
  plural,
  rate,
  times,
} from "../format.ts";
import { SAME_PART, scalings, sweeps } from "./curves.ts";
import type { GpuConditions, LabDocument, Measurement, Run } from "./measurement.ts";
import {
  aloneRuns,
  largestOf,
  p50Of,
  p99Of,
  unitsOf,
  wayName,
  wayOf,
  workloadOf,
  type Way,
} from "./runs.ts";

// A p99 of up to this many p50 is a tail that nobody complains about.
const CALM = 2;
// Less than this is no gain: runs of the same thing differ by a few percent.
const GAIN_MIN = 1.05;
// Alone runs that differ by more between start and end say that the GPU changed under the lab.
const DRIFT_PERCENT_MAX = 5;

export interface Answer {
  workload: string;
  units: string; // "forward passes"
  best: Run;
  way: Way;
  alone?: Run;
  overAlone?: number; // Rate of all together over that of one alone.
  others: { way: Way; run: Run; factor: number }[]; // As many tenants in other ways; best over it.
  calm?: Run; // The most tenants in the best way whose tail is calm, where that is not `best`.
  fit?: Fit;
}

// How many of them the GPU takes.
export interface Fit {
  replicas: number;
  byMemory: number;
  byClients?: number; // Under MPS: how many clients its servers take, where that is known.
  probed: boolean; // Whether the lab counted these clients itself.
}

// What sharing gives the workload that the answer is about; undefined where no sharing of it was
// measured. The number of tenants is the largest that was measured in two ways, so that there is
// something to compare with; otherwise the largest.
export function answer(document: LabDocument): Answer | undefined {
  const { runs } = document.measurement;
  const workload = scalings(runs)[0]?.workload ?? sweeps(document)[0]?.workload;
  if (workload === undefined) return undefined;
  const shared = sharedRuns(runs, workload);
  const byTenants = new Map<number, Run[]>();
  for (const run of shared) {
    byTenants.set(run.tenants.length, [...(byTenants.get(run.tenants.length) ?? []), run]);
  }
  const numbers = [...byTenants.keys()].sort((a, b) => b - a);
  const tenants = numbers.find((n) => byTenants.get(n)!.length >= 2) ?? numbers[0];
  if (tenants === undefined) return undefined;
  const rivals = byTenants.get(tenants)!;
  const best = bestOf(rivals);
  const way = wayOf(best);
  const alone = aloneRuns(runs).get(workload);
  const same = shared.filter((run) => wayOf(run).key === way.key);
  const calm = calmest(same, best);
  const fit = fitOf(document, best, way);
  return {
    workload,
    units: unitsOf(document, workload),
    best,
    way,
    ...(alone && { alone, overAlone: best.total_per_s.value / alone.total_per_s.value }),
    others: rivals
      .filter((run) => run !== best && run.total_per_s.value > 0)
      .map((run) => ({
        way: wayOf(run),
        run,
        factor: best.total_per_s.value / run.total_per_s.value,
      })),
    ...(calm && { calm }),
    ...(fit && { fit }),
  };
}

// The one that does most; of those that do the same, one of the curves rather than of the sweep.
function bestOf(rivals: readonly Run[]): Run {
  const most = (runs: readonly Run[]): Run =>
    runs.reduce((a, b) => (b.total_per_s.value > a.total_per_s.value ? b : a));
  const first = most(rivals);
  const same = rivals.filter(
    (run) =>
      run.series === "scaling" && run.total_per_s.value >= SAME_PART * first.total_per_s.value,
  );
  return same.length > 0 ? most(same) : first;
}

// Runs of several tenants of the workload, one for each way and number; where a number was also a
// point of the sweep, the scaling run stands for both.
function sharedRuns(runs: readonly Run[], workload: string): Run[] {
  const found = new Map<string, Run>();
  for (const series of ["scaling", "sm-sweep"]) {
    for (const run of runs) {
      if (run.series !== series || workloadOf(run) !== workload || run.tenants.length < 2) continue;
      const key = `${wayOf(run).key} x${run.tenants.length}`;
      if (!found.has(key)) found.set(key, run);
    }
  }
  return [...found.values()];
}

const isCalm = (run: Run): boolean => p99Of(run) <= CALM * p50Of(run);

function calmest(same: readonly Run[], best: Run): Run | undefined {
  if (isCalm(best)) return undefined;
  return same
    .filter((run) => run.tenants.length < best.tenants.length && isCalm(run))
    .sort((a, b) => b.tenants.length - a.tenants.length)[0];
}

function fitOf({ measurement, calibration }: LabDocument, best: Run, way: Way): Fit | undefined {
  const each = largestOf(best, "memory_mib");
  if (each === undefined || each <= 0 || !(measurement.memory_mib > 0)) return undefined;
  const free = measurement.memory_mib - (measurement.device_reserve_mib ?? 0);
  const byMemory = Math.max(Math.floor(free / each), best.tenants.length);
  const probed = measurement.mps_clients_max > 0;
  const clients = probed ? measurement.mps_clients_max : (calibration?.mps_clients_max ?? 0);
  if (way.mode !== "mps" || clients === 0) return { replicas: byMemory, byMemory, probed };
  const byClients = Math.max(clients * way.servers, best.tenants.length);
  return { replicas: Math.min(byMemory, byClients), byMemory, byClients, probed };
}

// How many GPUs would do the work of the best run in the `way` of another one.
export function gpusInstead(factor: number): number {
  return Math.ceil(factor - 0.005);
}

export function gpuName(measurement: Measurement): string {
  return measurement.gpu_name || measurement.board || "this GPU";
}

export interface Headline {
  sentence: string;
  accent: string;
  detail: string;
}

export function headline(document: LabDocument): Headline {
  const found = answer(document);
  const gpu = gpuName(document.measurement);
  if (found === undefined) return headlineAlone(document, gpu);
  const { best, way, workload, units } = found;
  return {
    sentence: `${plural(best.tenants.length, `${workload} replica`)} share one ${gpu}:`,
    accent: `${rate(best.total_per_s.value)} ${units} a second`,
    detail: [
      `${found.others.length > 0 ? "Best way" : "Measured in one way"}: ${wayName(way)}` +
        `${way.cap === undefined ? "" : " each"}.`,
      ...gains(found),
    ]
      .filter((s) => s !== "")
      .join(" "),
  };
}

// "It gives 9.7 times what ..., 2.5 times ...", and what that means in GPUs.
function gains(found: Answer): string[] {
  const { best, others, overAlone } = found;
  const sliced = others.find((o) => o.way.mode === "time-slicing");
  const plain = others.find((o) => o.way.mode === "mps" && o.way.cap === undefined);
  const against = [
    sliced && `${times(sliced.factor)} what time-slicing gives`,
    plain && plain.factor >= GAIN_MIN && `${times(plain.factor)} plain MPS`,
    overAlone !== undefined && `${times(overAlone)} one replica with the GPU to itself`,
  ].filter((words) => typeof words === "string");
  const gain = against.length > 0 ? `It gives ${joined(against)}.` : "";
  const instead = sliced && sliced.factor >= GAIN_MIN ? gpusInstead(sliced.factor) : 1;
  const saved =
    instead > 1
      ? `Time-sliced, the same work takes ${plural(instead, "GPU")}; a GPU for each ` +
        `replica would be ${plural(best.tenants.length, "GPU")}.`
      : "";
  return [gain, saved];
}

function joined(parts: readonly string[]): string {
  if (parts.length < 2) return parts.join("");
  return `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

function headlineAlone(document: LabDocument, gpu: string): Headline {
  const alone = aloneRuns(document.measurement.runs);
  const run = alone.get("transformer") ?? [...alone.values()][0];
  const detail = "No sharing of it was measured, so this report can't say how many fit.";
  if (run === undefined) {
    return { sentence: `Nothing was measured on ${gpu}`, accent: "", detail };
  }
  const workload = workloadOf(run)!;
  return {
    sentence: `One ${workload} replica alone on ${gpu}:`,
    accent: `${rate(run.total_per_s.value)} ${unitsOf(document, workload)} a second`,
    detail,
  };
}

export interface Figure {
  id: string;
  label: string;
  value: string;
  note: string;
  kind: "" | "good" | "bad";
}

export function keyFigures(document: LabDocument): Figure[] {
  const found = answer(document);
  if (found === undefined) return [];
  return [
    fitFigure(found, document.measurement),
    rateFigure(found),
    latencyFigure(found, document.measurement),
    savedFigure(found),
  ];
}

function fitFigure({ fit, best, way }: Answer, measurement: Measurement): Figure {
  const base = { id: "figure-fit", label: "Replicas that fit", kind: "" as const };
  const measured = best.tenants.length;
  if (fit === undefined) {
    return { ...base, value: count(measured), note: "As many were measured; more may fit." };
  }
  const each = memory(largestOf(best, "memory_mib")!);
  const limit =
    fit.byClients !== undefined && fit.byClients <= fit.byMemory
      ? `MPS serves ${count(fit.byClients)} clients${fit.probed ? "" : " (not probed here)"}; ` +
        `the memory would do for ${count(fit.byMemory)} of ${each}.`
      : `${each} each, of ${memory(measurement.memory_mib)}` +
        (way.mode === "mps" && fit.byClients === undefined
          ? "; how many clients MPS serves is unknown."
          : ".");
  const upTo = fit.replicas > measured ? ` Measured with ${count(measured)}.` : "";
  return { ...base, value: count(fit.replicas), note: `${limit}${upTo}` };
}

function rateFigure({ best, alone, units }: Answer): Figure {
  const { value, low, high } = best.total_per_s;
  const interval = high > low ? `; ${rate(low)} to ${rate(high)} with 95${NBSP}% confidence` : "";
  return {
    id: "figure-rate",
    label: "Throughput",
    value: `${rate(value)}/s`,
    note:
      `${units}, all together${interval}.` +
      (alone ? ` Alone: ${rate(alone.total_per_s.value)}/s.` : ""),
    kind: "",
  };
}

function latencyFigure({ best, alone, calm }: Answer, { cpu_cores }: Measurement): Figure {
  const notes: string[] = [];
  if (alone) notes.push(`Alone: ${milliseconds(p50Of(alone))} and ${milliseconds(p99Of(alone))}.`);
  if (calm) {
    notes.push(`With ${count(calm.tenants.length)}, p99 is ${milliseconds(p99Of(calm))}.`);
    const crowded = best.tenants.length > cpu_cores && calm.tenants.length <= cpu_cores;
    if (crowded && cpu_cores > 0) {
      notes.push(`${count(best.tenants.length)} processes share ${plural(cpu_cores, "CPU core")}.`);
    }
  }
  return {
    id: "figure-latency",
    label: "Latency: p50, worst p99",
    value: `${milliseconds(p50Of(best))}, ${milliseconds(p99Of(best))}`,
    note: notes.join(" "),
    kind: "",
  };
}

function savedFigure({ others, way, overAlone }: Answer): Figure {
  const base = { id: "figure-saved", label: "GPUs saved" };
  const sliced = others.find((o) => o.way.mode === "time-slicing");
  const factor = sliced?.factor ?? overAlone;
  if (factor === undefined) {
    return { ...base, value: "–", note: "There is nothing to compare with.", kind: "" };
  }
  const instead = gpusInstead(factor);
  const versus = sliced
    ? "time-slicing"
    : way.mode === "time-slicing"
      ? "one replica on each GPU, always busy"
      : "one replica on each GPU";
  if (factor < GAIN_MIN) {
    return { ...base, value: "none", note: `No more throughput than ${versus}.`, kind: "bad" };
  }
  return {
    ...base,
    value: `${count(instead - 1)} of ${count(instead)}`,
    note: `For the same throughput, against ${versus}.`,
    kind: "good",
  };
}

// What a reader must know before relying on the figures, gravest first.
export function caveats({ measurement, lessons }: LabDocument): string[] {
  const sentences: string[] = [];
  if (measurement.simulated) {
    sentences.push(
      "Simulated: a model of the card took the GPU's place. These figures are the model's, not " +
        "those of a card.",
    );
  }
  if (measurement.partial) {
    sentences.push(
      "Partial: the measurement ended early. What is missing is under “Not measured”.",
    );
  }
  if (measurement.disturbed) {
    const by = measurement.disturbed_by;
    const who = by.length > 0 ? `: ${listOf(by, 6)}` : "";
    sentences.push(`Disturbed: other processes were using the GPU${who}.`);
  }
  const drift = measurement.drift_percent;
  if (drift !== undefined && Math.abs(drift) > DRIFT_PERCENT_MAX) {
    const how = drift > 0 ? "slower" : "faster";
    sentences.push(
      `Drift: alone, the GPU was ${percent(Math.abs(drift))} ${how} at the end than at the start.`,
    );
  }
  const throttled = throttleReasons(measurement.before, measurement.after);
  if (throttled.length > 0) sentences.push(`Throttled: ${throttled.join(", ")}.`);
  const failed = lessons.filter((lesson) => !lesson.passed);
  if (failed.length > 0) {
    sentences.push(`Not as expected: ${failed.map((lesson) => lesson.name).join(", ")}.`);
  }
  return sentences;
}

function throttleReasons(...moments: readonly GpuConditions[]): string[] {
  return [...new Set(moments.flatMap((moment) => moment.throttle_reasons ?? []))];
}
