// Small plans for the tests: every field filled in, those of interest overridden.
import type {
  Plan,
  PlannedGpu,
  PlannedPartition,
  PlannedReplica,
  PlannedWorkload,
} from "../src/plan/plan.ts";

export function replica(id: string, fields: Partial<PlannedReplica> = {}): PlannedReplica {
  return {
    id,
    workload: id.split("/")[0]!,
    tenant: "default",
    memory_mib: 4096,
    context_mib: 512,
    prediction: { service_ms: 1, slowdown_mean: 1, utilisation: 0.5 },
    enforcement: [],
    reason: "",
    ...fields,
  };
}

export function partition(name: string, fields: Partial<PlannedPartition> = {}): PlannedPartition {
  return {
    name,
    profile: "",
    profile_id: 0,
    start: 0,
    size: 0,
    memory_mib: 79872,
    sm_count: 108,
    mode: "time-slicing",
    servers: [],
    replicas: [],
    ...fields,
  };
}

export function gpu(
  name: string,
  partitions: PlannedPartition[],
  fields: Partial<PlannedGpu> = {},
): PlannedGpu {
  return {
    name,
    board: "a100-80gb",
    node: "",
    uuid: "",
    index: -1,
    mig: false,
    memory_mib: 81920,
    sm_count: 108,
    memory_units: 8,
    price_usd_hour: 3.25,
    partitions,
    reason: "",
    ...fields,
  };
}

// A GPU of 80 GiB with instances at the given places.
export function migGpu(
  name: string,
  instances: { start: number; size: number; replicas?: PlannedReplica[] }[],
  fields: Partial<PlannedGpu> = {},
): PlannedGpu {
  const partitions = instances.map(({ start, size, replicas }) =>
    partition(`${name}-${start}`, {
      profile: `${size}u`,
      start,
      size,
      memory_mib: size * 10000,
      mode: "exclusive",
      replicas: replicas ?? [],
    }),
  );
  return gpu(name, partitions, { mig: true, ...fields });
}

export function workload(name: string, fields: Partial<PlannedWorkload> = {}): PlannedWorkload {
  return {
    name,
    tenant: "default",
    replicas: 1,
    isolation: "none",
    priority: 0,
    command: [],
    image: "",
    env: {},
    memory_mib: 3584,
    memory_how: "given",
    ...fields,
  };
}

export function plan(gpus: PlannedGpu[], fields: Partial<Plan> = {}): Plan {
  return {
    version: "sublet.plan/v1",
    fleet: "test",
    summary: {
      gpus: gpus.length,
      replicas: gpus.flatMap((g) => g.partitions.flatMap((p) => p.replicas)).length,
      gpus_by_board: {},
      cost_hour_usd: 3.25,
      cost_month_usd: 2372.5,
      lower_bound_month_usd: 2372.5,
      gap_percent: 0,
      verdict: "optimal",
      headroom_percent_min: 100,
    },
    gpus,
    workloads: [],
    strategies: [],
    rejections: [],
    changes: [],
    warnings: [],
    calibration: "",
    ...fields,
  };
}
