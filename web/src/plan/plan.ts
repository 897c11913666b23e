// The plan as `sublet plan --json` prints it; docs/formats/plan.md explains every field. Memory is
// in MiB. A field that may be absent is one that the planner leaves out when it has nothing to say.

export const PLAN_VERSION = "sublet.plan/v1";

export type SharingMode = "exclusive" | "streams" | "time-slicing" | "mps" | "mig";
export type Isolation = "none" | "memory" | "fault" | "hardware";
export type ChangeKind = "keep" | "move" | "add" | "remove";

export interface Enforcement {
  what: string;
  by: string;
  enforced: boolean;
}

export interface Prediction {
  service_ms: number;
  slowdown_mean: number;
  utilisation: number;
  latency_ms_p50?: number;
  latency_ms_p99?: number;
  headroom_percent?: number;
}

export interface PlannedReplica {
  id: string;
  workload: string;
  tenant: string;
  memory_mib: number;
  context_mib: number;
  memory_limit_mib?: number;
  sm_percent?: number;
  server?: number;
  prediction: Prediction;
  enforcement: Enforcement[];
  reason: string;
}

export interface PlannedServer {
  name: string;
  tenant: string;
}

export interface PlannedPartition {
  name: string;
  profile: string;
  profile_id: number;
  start: number;
  size: number;
  memory_mib: number;
  sm_count: number;
  mode: SharingMode;
  servers: PlannedServer[];
  replicas: PlannedReplica[];
}

export interface PlannedGpu {
  name: string;
  board: string;
  node: string;
  uuid: string;
  index: number;
  mig: boolean;
  memory_mib: number;
  sm_count: number;
  memory_units: number;
  price_usd_hour: number;
  partitions: PlannedPartition[];
  reason: string;
}

export interface PlannedWorkload {
  name: string;
  tenant: string;
  replicas: number;
  isolation: Isolation;
  priority: number;
  command: string[];
  image: string;
  env: Record<string, string>;
  memory_mib: number;
  memory_how: string;
  latency_ms_p50_target?: number;
  latency_ms_p99_target?: number;
}

export interface Strategy {
  name: string;
  feasible: boolean;
  gpus: number;
  cost_month_usd: number;
  isolation: string;
  latency_ms_p50?: number;
  latency_ms_p99?: number;
  holds: number;
  breaks: string[];
}

export interface Rejection {
  workload: string;
  mode: SharingMode;
  reason: string;
}

export interface Change {
  kind: ChangeKind;
  replica: string;
  from: string;
  to: string;
}

export interface PlanSummary {
  gpus: number;
  replicas: number;
  gpus_by_board: Record<string, number>;
  cost_hour_usd: number;
  cost_month_usd: number;
  lower_bound_month_usd: number;
  gap_percent: number;
  verdict: string;
  headroom_percent_min: number;
}

export interface Plan {
  version: string;
  fleet: string;
  summary: PlanSummary;
  gpus: PlannedGpu[];
  workloads: PlannedWorkload[];
  strategies: Strategy[];
  rejections: Rejection[];
  changes: Change[];
  warnings: string[];
  calibration: string;
}
