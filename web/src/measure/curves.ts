// The measurement as curves: throughput and latency against the number of tenants and against the
// SM cap, with what the planner had predicted. Pure functions.
import type { Calibration, LabDocument, Run, WorkloadProfile } from "./measurement.ts";
import { aloneRuns, byWay, capOf, p99Of, wayOf, workloadOf, type Way } from "./runs.ts";

// The workload that the answer is about where it was measured: the one that is like a model.
const FIRST = "transformer";

export interface Scaling {
  workload: string;
  ways: { way: Way; runs: Run[] }[]; // In the order of byWay, each by rising number of tenants.
}

// One for each workload that was measured in growing numbers, the model-like one first.
export function scalings(runs: readonly Run[]): Scaling[] {
  const byWorkload = new Map<string, Map<string, { way: Way; runs: Run[] }>>();
  for (const run of runs) {
    const workload = workloadOf(run);
    if (run.series !== "scaling" || workload === undefined) continue;
    const ways = byWorkload.get(workload) ?? new Map<string, { way: Way; runs: Run[] }>();
    byWorkload.set(workload, ways);
    const way = wayOf(run);
    const entry = ways.get(way.key) ?? { way, runs: [] };
    ways.set(way.key, entry);
    entry.runs.push(run);
  }
  const order = [...byWorkload].map(([workload, ways]) => ({
    workload,
    ways: [...ways.values()].sort((a, b) => byWay(a.way, b.way)),
  }));
  for (const { ways } of order) {
    for (const { runs: list } of ways) list.sort((a, b) => a.tenants.length - b.tenants.length);
  }
  return order.sort((a, b) => Number(b.workload === FIRST) - Number(a.workload === FIRST));
}

// Runs whose rates differ by less do the same: rounds of one run differ by as much.
export const SAME_PART = 0.98;

export interface SweepPoint {
  cap: number;
  everySize?: boolean; // This cap was also measured in growing numbers: it is among the curves.
  rate: number;
  low?: number;
  high?: number;
  p99?: number;
}

export interface Sweep {
  workload: string;
  alone: SweepPoint[]; // By rising cap.
  crowds: { tenants: number; points: SweepPoint[] }[]; // By rising number of tenants.
}

const byCap = (a: SweepPoint, b: SweepPoint): number => a.cap - b.cap;

// What each SM cap gives one tenant and a crowd, from the runs; of a workload without such runs,
// from its profile. A cap that was measured in growing numbers, and no cap at all, aren't swept
// again: those points are runs of the curves.
export function sweeps(document: LabDocument): Sweep[] {
  const { runs } = document.measurement;
  const found = new Map<string, Map<number, SweepPoint[]>>();
  for (const run of runs.filter((r) => r.series === "sm-sweep")) {
    const workload = workloadOf(run);
    if (workload === undefined) continue;
    const crowds = found.get(workload) ?? new Map<number, SweepPoint[]>();
    found.set(workload, crowds);
    crowds.set(run.tenants.length, [...(crowds.get(run.tenants.length) ?? []), sweepPoint(run)]);
  }
  for (const run of runs.filter((r) => r.series === "scaling" && r.mode === "mps")) {
    const points = found.get(workloadOf(run) ?? "")?.get(run.tenants.length);
    const point = sweepPoint(run);
    if (wayOf(run).servers > 1 || points?.some((p) => p.cap === point.cap)) continue;
    points?.push({ ...point, everySize: point.cap !== 100 });
  }
  const profiles = document.calibration?.profiles ?? [];
  const sweep = [...found].map(([workload, crowds]) => ({
    workload,
    alone: withoutCap(
      crowds.get(1) ?? [],
      profiles.find((p) => p.name === workload),
      aloneRuns(runs).get(workload),
    ).sort(byCap),
    crowds: [...crowds]
      .filter(([tenants]) => tenants > 1)
      .sort(([a], [b]) => a - b)
      .map(([tenants, points]) => ({ tenants, points: points.sort(byCap) })),
  }));
  return [...sweep, ...profileSweeps(document.calibration, found)].sort(
    (a, b) => Number(b.workload === FIRST) - Number(a.workload === FIRST),
  );
}

function sweepPoint(run: Run): SweepPoint {
  const { value, low, high } = run.total_per_s;
  return { cap: capOf(run) ?? 100, rate: value, low, high, p99: p99Of(run) };
}

// A workload whose sweep has no point without a cap has it in its profile; otherwise its run alone
// stands for it, which is faster by the few percent that MPS costs one client.
function withoutCap(
  points: SweepPoint[],
  profile: WorkloadProfile | undefined,
  alone: Run | undefined,
): SweepPoint[] {
  if (points.length === 0 || points.some((p) => p.cap === 100)) return points;
  const open = profile?.points.find((p) => p.sm_percent === 100);
  if (open) return [...points, { cap: 100, rate: open.alone_per_s, p99: open.latency_ms_p99 }];
  return alone ? [...points, { ...sweepPoint(alone), cap: 100 }] : points;
}

function profileSweeps(
  calibration: Calibration | undefined,
  found: ReadonlyMap<string, unknown>,
): Sweep[] {
  return (calibration?.profiles ?? [])
    .filter((profile) => !found.has(profile.name) && profile.points.length > 1)
    .map((profile) => {
      const points = [...profile.points].sort((a, b) => a.sm_percent - b.sm_percent);
      const crowd = points
        .filter((p) => p.crowd_per_s !== undefined)
        .map((p) => ({ cap: p.sm_percent, rate: p.crowd_per_s! }));
      return {
        workload: profile.name,
        alone: points.map((p) => ({
          cap: p.sm_percent,
          rate: p.alone_per_s,
          p99: p.latency_ms_p99,
        })),
        crowds: crowd.length > 0 ? [{ tenants: profile.crowd ?? 0, points: crowd }] : [],
      };
    });
}

// Of the speed without a cap, the part that a tenant at the knee keeps.
export const KNEE_PART = 0.95;

// The smallest cap that keeps KNEE_PART of the speed without one; undefined where nothing was
// measured without a cap, or nothing with one.
export function knee(alone: readonly SweepPoint[]): SweepPoint | undefined {
  const last = alone.at(-1);
  if (last?.cap !== 100 || alone.length < 2) return undefined;
  return alone.find((point) => point.rate >= KNEE_PART * last.rate);
}

// The cap that gives a crowd most; of those that do the same, one that is among the curves, then
// the one that does most, then the smallest, which leaves more memory.
export function bestCap(crowd: readonly SweepPoint[]): SweepPoint | undefined {
  if (crowd.length < 2) return undefined;
  const most = Math.max(...crowd.map((point) => point.rate));
  const same = crowd.filter((point) => point.rate >= SAME_PART * most);
  return same.find((point) => point.everySize) ?? same.find((point) => point.rate === most);
}

// Memory of a CUDA context by SM cap, from the calibration; otherwise as the profile of the
// workload has it.
export function contexts(document: LabDocument): { cap: number; mib: number }[] {
  const calibration = document.calibration;
  const points =
    (calibration?.contexts ?? []).length > 0
      ? calibration!.contexts.map((c) => ({ cap: c.sm_percent, mib: c.memory_mib }))
      : (calibration?.profiles?.[0]?.points ?? []).map((p) => ({
          cap: p.sm_percent,
          mib: p.context_mib,
        }));
  return points.sort((a, b) => a.cap - b.cap);
}

export interface Compared {
  run: Run;
  rate?: number; // Predicted, of all tenants.
  rateError?: number; // Percent; above 0: predicted too high.
  p50?: number; // Predicted, milliseconds.
  p50Error?: number;
}

const errorOf = (predicted: number, measured: number): number =>
  (100 * (predicted - measured)) / measured;

// Each prediction beside its run, in the order of the runs; predictions of runs that didn't take
// place are left out. `p50Of` gives the measured latency.
export function compared(document: LabDocument, p50Of: (run: Run) => number): Compared[] {
  const predictions = new Map(document.predictions.map((p) => [p.run, p]));
  return document.measurement.runs.flatMap((run) => {
    const predicted = predictions.get(run.id);
    if (predicted === undefined) return [];
    const { rate_per_s: rate, latency_ms_p50: p50 } = predicted;
    return [
      {
        run,
        ...(rate !== undefined && { rate, rateError: errorOf(rate, run.total_per_s.value) }),
        ...(p50 !== undefined && { p50, p50Error: errorOf(p50, p50Of(run)) }),
      },
    ];
  });
}
