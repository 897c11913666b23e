// What one run says: which way of sharing it is a run of, what worked in it, how slow its units
// were. Pure functions.
import { modeName } from "../format.ts";
import type { LabDocument, Run } from "./measurement.ts";

// One way of sharing, as a reader tells them apart: the mode, the SM cap, the number of servers.
export interface Way {
  key: string;
  mode: string;
  cap?: number; // Percent of the SMs that each tenant may use; absent: all.
  servers: number;
}

// The cap of all tenants; undefined where they have none or different ones. 100 % is no cap.
export function capOf(run: Run): number | undefined {
  const caps = new Set(run.tenants.map((t) => t.sm_percent ?? 100));
  const [cap] = caps;
  return caps.size === 1 && cap !== 100 ? cap : undefined;
}

export function wayOf(run: Run): Way {
  const cap = capOf(run);
  const servers = run.servers ?? 1;
  const key = [run.mode, cap ?? "", servers > 1 ? `${servers} servers` : ""].join("/");
  return { key, mode: run.mode, servers, ...(cap !== undefined && { cap }) };
}

const MODES = ["exclusive", "streams", "time-slicing", "mps", "mig"];

// From the loosest mode to the strictest, no cap before the smallest: the lab shuffles its runs,
// and a reader of two reports wants the same colour for the same thing.
export function byWay(a: Way, b: Way): number {
  return (
    MODES.indexOf(a.mode) - MODES.indexOf(b.mode) ||
    a.servers - b.servers ||
    (a.cap ?? 0) - (b.cap ?? 0)
  );
}

// "Time-slicing", "MPS", "MPS at 10 % of the SMs".
export function wayName(way: Way): string {
  const mode = way.mode === "exclusive" ? "Alone" : modeName(way.mode);
  const servers = way.servers > 1 ? `, ${way.servers} servers` : "";
  return `${mode}${way.cap === undefined ? "" : ` at ${way.cap}\u00a0% of the SMs`}${servers}`;
}

// The workload of all tenants; undefined where they differ.
export function workloadOf(run: Run): string | undefined {
  const [first] = run.tenants;
  return run.tenants.every((t) => t.workload === first?.workload) ? first?.workload : undefined;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1
    ? sorted[Math.floor(middle)]!
    : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

// p50 of the median tenant; p99 and the slowest unit of the worst one.
export const p50Of = (run: Run): number => median(run.tenants.map((t) => t.latency_ms_p50));
export const p99Of = (run: Run): number => Math.max(...run.tenants.map((t) => t.latency_ms_p99));
export const slowestOf = (run: Run): number =>
  Math.max(...run.tenants.map((t) => t.latency_ms_max));

// The largest of those tenants that have the figure.
export function largestOf(
  run: Run,
  field: "memory_mib" | "startup_ms" | "slowdown",
): number | undefined {
  const values = run.tenants.map((t) => t[field]).filter((v) => v !== undefined);
  return values.length > 0 ? Math.max(...values) : undefined;
}

// Each workload's run alone on the GPU, in the order of the measurement.
export function aloneRuns(runs: readonly Run[]): Map<string, Run> {
  const alone = new Map<string, Run>();
  for (const run of runs) {
    const workload = workloadOf(run);
    if (run.series === "alone" && workload !== undefined && !alone.has(workload)) {
      alone.set(workload, run);
    }
  }
  return alone;
}

const UNITS: Record<string, string> = {
  small: "kernel",
  big: "kernel",
  mem: "pass",
  gemm: "product",
  transformer: "forward pass",
  transfer: "round trip",
};

// What a workload does, in the plural: "forward passes".
export function unitsOf(document: LabDocument, workload: string): string {
  const profile = document.calibration?.profiles?.find((p) => p.name === workload);
  const unit = profile?.unit ?? UNITS[workload] ?? "unit";
  return unit.endsWith("s") ? `${unit}es` : `${unit}s`;
}
