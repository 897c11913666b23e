// What the report says about a plan beyond drawing it: the headline, the latency rows, the colours,
// the rejections folded together. Pure functions of the plan.
import { boardName, capitalised, count, NBSP, dollars, percent, plural } from "../format.ts";
import type { Plan, PlannedReplica, Rejection, SharingMode } from "./plan.ts";

// The colours of the style sheet, --hue-0 and on.
export const HUES = 10;

// More keys than this are a list, not a legend.
const LEGEND_MAX = 24;

export interface Colouring {
  by: "tenant" | "workload";
  keys: string[]; // In the order of the plan; the n-th has colour n modulo HUES.
  hueOf(replica: { tenant: string; workload: string }): number;
  complete: boolean; // Whether a legend of all keys is short enough to show.
}

// By tenant where there are several. A single tenant's few workloads are told apart instead; many
// would only be confetti, so they stay in their tenant's colour.
export function colouring(plan: Plan): Colouring {
  const tenants = [...new Set(plan.workloads.map((w) => w.tenant))];
  const workloads = plan.workloads.map((w) => w.name);
  const by = tenants.length <= 1 && workloads.length <= 8 ? "workload" : "tenant";
  const keys = by === "tenant" ? tenants : workloads;
  const index = new Map(keys.map((key, i) => [key, i]));
  return {
    by,
    keys,
    complete: keys.length <= LEGEND_MAX,
    hueOf: (replica) => (index.get(replica[by]) ?? 0) % HUES,
  };
}

export interface Headline {
  sentence: string;
  saving: string; // Empty where one GPU for each replica would not cost more.
  verdict: string;
  bound: string;
}

export function headline(plan: Plan): Headline {
  const { summary } = plan;
  const replicas = plural(summary.replicas, "replica");
  const shares = summary.replicas > summary.gpus ? "share" : "run on";
  const one = shares === "run on" && summary.replicas === 1;
  const alone = plan.strategies.find((s) => s.name === "exclusive");
  const saved = alone?.feasible ? alone.cost_month_usd - summary.cost_month_usd : 0;
  const bound = dollars(summary.lower_bound_month_usd);
  return {
    sentence: `${replicas} ${one ? "runs on" : shares} ${plural(summary.gpus, "GPU")}`,
    saving:
      alone && saved >= 0.005
        ? `A GPU for each would be ${plural(alone.gpus, "GPU")} and ` +
          `${dollars(alone.cost_month_usd)} a month: this saves ${dollars(saved)}, ` +
          `or ${percent((100 * saved) / alone.cost_month_usd)}.`
        : "",
    verdict: capitalised(summary.verdict),
    bound:
      summary.gap_percent <= 0
        ? "No plan for this fleet costs less; that is proven."
        : `No plan for this fleet costs less than ${bound} a month; ` +
          `this one is ${percent(summary.gap_percent)} above.`,
  };
}

export interface Tightest {
  replica: PlannedReplica;
  headroom: number;
}

export function replicasOf(plan: Plan): PlannedReplica[] {
  return plan.gpus.flatMap((gpu) => gpu.partitions.flatMap((partition) => partition.replicas));
}

// The replica with the smallest latency headroom; undefined where nobody set a target.
export function tightest(plan: Plan): Tightest | undefined {
  let found: Tightest | undefined;
  for (const replica of replicasOf(plan)) {
    const headroom = replica.prediction.headroom_percent;
    if (headroom !== undefined && (found === undefined || headroom < found.headroom)) {
      found = { replica, headroom };
    }
  }
  return found;
}

export interface LatencyRow {
  workload: string;
  p50?: number; // Milliseconds; the worst replica's, like all others here.
  p99?: number;
  p50Target?: number;
  p99Target?: number;
  headroom?: number; // Percent.
  kept: boolean; // Whether every replica is predicted to keep its targets.
}

const larger = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined ? b : b === undefined ? a : Math.max(a, b);
const smaller = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined ? b : b === undefined ? a : Math.min(a, b);

type Predicted = Pick<LatencyRow, "p50" | "p99" | "headroom">;

function worst(replicas: readonly PlannedReplica[]): Predicted {
  let p50: number | undefined;
  let p99: number | undefined;
  let headroom: number | undefined;
  for (const { prediction } of replicas) {
    p50 = larger(p50, prediction.latency_ms_p50);
    p99 = larger(p99, prediction.latency_ms_p99);
    headroom = smaller(headroom, prediction.headroom_percent);
  }
  return {
    ...(p50 !== undefined && { p50 }),
    ...(p99 !== undefined && { p99 }),
    ...(headroom !== undefined && { headroom }),
  };
}

// One row for each workload that has a replica, in the order of the plan.
export function latencyRows(plan: Plan): LatencyRow[] {
  const byWorkload = new Map<string, PlannedReplica[]>();
  for (const replica of replicasOf(plan)) {
    const list = byWorkload.get(replica.workload);
    if (list) list.push(replica);
    else byWorkload.set(replica.workload, [replica]);
  }
  return plan.workloads.flatMap((workload) => {
    const replicas = byWorkload.get(workload.name);
    if (!replicas) return [];
    const row = worst(replicas);
    const p50Target = workload.latency_ms_p50_target;
    const p99Target = workload.latency_ms_p99_target;
    const over = (value?: number, target?: number): boolean =>
      value !== undefined && target !== undefined && value > target;
    return [
      {
        workload: workload.name,
        ...row,
        ...(p50Target !== undefined && { p50Target }),
        ...(p99Target !== undefined && { p99Target }),
        kept: !over(row.p50, p50Target) && !over(row.p99, p99Target),
      },
    ];
  });
}

// The rows worth plotting when there are too many: those closest to their target, tightest first;
// those without a target last, slowest first.
export function tightestRows(rows: readonly LatencyRow[], max: number): LatencyRow[] {
  const plotted = rows.filter((row) => row.p99 !== undefined || row.p50 !== undefined);
  if (plotted.length <= max) return plotted;
  const headroom = (row: LatencyRow): number => row.headroom ?? Number.POSITIVE_INFINITY;
  return [...plotted]
    .sort((a, b) => {
      const [x, y] = [headroom(a), headroom(b)];
      return x === y ? (b.p99 ?? 0) - (a.p99 ?? 0) : x < y ? -1 : 1;
    })
    .slice(0, max);
}

// Predictions of replicas at one place of several equal GPUs, as a range.
export function range(
  replicas: readonly PlannedReplica[],
  field: (replica: PlannedReplica) => number | undefined,
): { low: number; high: number } | undefined {
  let low: number | undefined;
  let high: number | undefined;
  for (const replica of replicas) {
    low = smaller(low, field(replica));
    high = larger(high, field(replica));
  }
  return low === undefined || high === undefined ? undefined : { low, high };
}

export interface RejectionGroup {
  mode: SharingMode;
  reason: string;
  workloads: string[];
}

// Rejections with the same words for the same mode become one; the modes in the order of their
// first rejection, the widest-reaching reason first.
export function groupRejections(rejections: readonly Rejection[]): RejectionGroup[] {
  const groups = new Map<string, RejectionGroup>();
  for (const { workload, mode, reason } of rejections) {
    const key = `${mode}\n${reason}`;
    const group = groups.get(key);
    if (group) group.workloads.push(workload);
    else groups.set(key, { mode, reason, workloads: [workload] });
  }
  const modes = [...new Set(rejections.map((r) => r.mode))];
  return [...groups.values()].sort(
    (a, b) =>
      modes.indexOf(a.mode) - modes.indexOf(b.mode) || b.workloads.length - a.workloads.length,
  );
}

// "3 × A100-80GB, 1 × L4": the boards of the plan, most frequent first.
export function boardsLine(plan: Plan): string {
  return Object.entries(plan.summary.gpus_by_board)
    .sort(([, a], [, b]) => b - a)
    .map(([board, gpus]) => `${count(gpus)}${NBSP}×${NBSP}${boardName(board)}`)
    .join(", ");
}
