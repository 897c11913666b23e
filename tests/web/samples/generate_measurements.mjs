// Writes the sample measurements beside this file: of an H200's size, consistent with themselves
// and with the format, and no run of the lab. They cover what the page must be able to draw.
//
//   node tests/web/samples/generate_measurements.mjs
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = dirname(fileURLToPath(import.meta.url));
const CORES = 16;
const round = (value, digits = 4) => Number(value.toPrecision(digits));

// The same numbers each time: a small generator with a fixed start (Lehmer's, modulo 2^31 - 1).
let state = 20261121;
function wobble(part) {
  state = (state * 48271) % 2147483647;
  return 1 + part * ((2 * state) / 2147483647 - 1);
}

// Alone: units a second, p99 over p50, energy of a unit at full power, memory beside the context.
const workloads = {
  small: { rate: 10013, tail: 1.06, mj: 22, mib: 2, sms: 0.12 },
  big: { rate: 2391, tail: 1.03, mj: 210, mib: 2, sms: 0.917 },
  mem: { rate: 6823, tail: 1.04, mj: 76, mib: 514, sms: 0.9 },
  gemm: { rate: 4310, tail: 1.05, mj: 155, mib: 98, sms: 0.93 },
  transformer: { rate: 4244, tail: 1.09, mj: 64, mib: 96, sms: 0.165 },
  transfer: { rate: 1480, tail: 1.05, mj: 180, mib: 34, sms: 0.3 },
};
const SWITCH_MS = 0.13;

const estimate = (value, part = 0.008) => ({
  value: round(value),
  low: round(value * (1 - part)),
  high: round(value * (1 + part)),
});

function context(cap) {
  return Math.round(365 + (588 * (cap ?? 100)) / 100);
}

// What `count` copies get together, as a share of one alone.
function capacity(name, mode, count, cap) {
  const { rate, sms } = workloads[name];
  if (count === 1 && cap === undefined) return mode === "mps" ? 0.97 : 1;
  if (mode === "time-slicing") return 1 / (1 + SWITCH_MS * rate * 1e-3);
  const share = (cap ?? 100) / 100;
  // Under a cap a kernel takes as long as its blocks need on so many SMs, and disturbs nobody else.
  const alone = cap === undefined ? 1 : Math.min(1, (1.35 * share) / (share + 0.35 * sms));
  const uncapped = Math.min(1 / sms, 2.54);
  const capped = (share < 0.08 ? 5.2 : 6.65) * (1 - 0.62 * share);
  const full = cap === undefined ? (name === "small" ? 16 : uncapped) : capped;
  return Math.min(count * alone, full);
}

// One process's figures when `count` of them work.
function tenant(name, mode, count, { cap, rate, tail = 1, server, profile, beside = 1 } = {}) {
  const alone = workloads[name];
  const own = (rate ?? (alone.rate * capacity(name, mode, count, cap)) / count) * wobble(0.004);
  const p50 = 1000 / own;
  const crowded = count > CORES ? (mode === "time-slicing" ? 1.75 : 8) : 1;
  const p99 = p50 * alone.tail * tail * crowded;
  return {
    workload: name,
    ...(cap !== undefined && { sm_percent: cap }),
    server: server ?? 0,
    mig_profile: profile ?? "",
    rate_per_s: estimate(own),
    latency_ms_p50: round(p50, 3),
    latency_ms_p99: round(p99 * wobble(0.03), 3),
    latency_ms_max: round(p99 * (1.6 + 2 * Math.abs(wobble(1) - 1)), 3),
    memory_mib: (mode === "mps" ? context(cap) : 530) + alone.mib * beside,
    startup_ms: round((mode === "mps" ? 210 : 260) * (1 + count / 30) * wobble(0.08), 3),
    slowdown: round(alone.rate / own, 3),
  };
}

function run(id, series, mode, tenants, more = {}) {
  const total = tenants.reduce((sum, t) => sum + t.rate_per_s.value, 0);
  const parts = tenants.map((t) => 1 / t.slowdown);
  const sum = parts.reduce((a, b) => a + b, 0);
  const squares = parts.reduce((a, b) => a + b * b, 0);
  const { mj, rate } = workloads[tenants[0].workload];
  // Of a unit's energy, some 40 % is the idle card's; that part shrinks as more units share it.
  const energy = mj * (0.6 + (0.4 * rate) / total);
  return {
    id,
    series,
    mode,
    servers: 1,
    streams: 1,
    tenants,
    total_per_s: estimate(total, 0.006),
    fairness: round((sum * sum) / (tenants.length * squares), 4),
    rounds: 9,
    round_ms: 250,
    settled: true,
    energy_mj_per_unit: round(energy, 3),
    ...more,
  };
}

const crowd = (count, make) => Array.from({ length: count }, (_, i) => make(i));
const names = Object.keys(workloads);

function aloneRuns(series = "alone", rounds = 9) {
  return names.map((name) =>
    run(`${series}/${name}`, series, "exclusive", [tenant(name, "exclusive", 1)], { rounds }),
  );
}

function streamRuns() {
  const gains = { small: 1.95, big: 1.04, mem: 1.05, gemm: 1.02, transformer: 1.86 };
  const streams = Object.entries(gains).map(([name, gain]) => {
    const rate = (workloads[name].rate * gain) / 2;
    const tenants = crowd(2, () => tenant(name, "streams", 2, { rate }));
    return run(`streams/${name}/x2`, "streams", "streams", tenants, { streams: 2 });
  });
  const pipeline = [1, 3].map((count) => {
    const rate = (workloads.transfer.rate * (count === 3 ? 2.06 : 1)) / count;
    const tenants = crowd(count, () => tenant("transfer", "streams", count, { rate }));
    const id = `pipeline/transfer/x${count}`;
    return run(id, "pipeline", "streams", tenants, { streams: count });
  });
  return [...streams, ...pipeline];
}

function scalingRuns() {
  const runs = [];
  const add = (label, name, mode, count, cap) => {
    const tenants = crowd(count, () => tenant(name, mode, count, { cap }));
    const more = count >= 40 ? { rounds: 14, settled: mode !== "time-slicing" } : {};
    runs.push(run(`${label}/${name}/x${count}`, "scaling", mode, tenants, more));
  };
  for (const count of [1, 2, 4, 8, 16, 40]) {
    add("time-slicing", "transformer", "time-slicing", count);
    add("mps", "transformer", "mps", count);
    add("mps-10", "transformer", "mps", count, 10);
  }
  for (const name of ["small", "big", "mem", "gemm"]) {
    for (const count of [2, 4, 8]) {
      add("time-slicing", name, "time-slicing", count);
      add("mps", name, "mps", count);
    }
  }
  return runs;
}

// The transformer at 10 % and without a cap has its runs among the curves.
const CAPS = [5, 10, 15, 25, 35, 50, 75];
function sweepRuns() {
  const at = (name, cap, count, series = "sm-sweep") => {
    const tenants = crowd(count, () => tenant(name, "mps", count, { cap }));
    return run(`mps-${cap}/${name}/x${count}`, series, "mps", tenants);
  };
  return CAPS.flatMap((cap) => [
    ...(cap === 10 ? [] : [1, 16, 40].map((count) => at("transformer", cap, count))),
    ...["small", "big", "mem"].map((name) => at(name, cap, 1)),
    ...(cap === 25 ? ["small", "big", "mem"].map((name) => at(name, cap, 2, "scaling")) : []),
  ]);
}

// p99 of a row beside a column under MPS, over its p99 alone.
const besideUnderMps = {
  small: [1.0, 3.1, 1.3, 2.6, 1.1],
  big: [1.2, 1.8, 1.6, 2.1, 1.4],
  mem: [1.1, 1.9, 1.9, 1.7, 1.3],
  gemm: [1.1, 2.2, 1.5, 2.1, 1.3],
  transformer: [1.1, 4.6, 1.8, 3.9, 1.2],
};

function pairRuns() {
  const five = Object.keys(besideUnderMps);
  const runs = [];
  for (const mode of ["time-slicing", "mps"]) {
    for (const [i, a] of five.entries()) {
      for (const [j, b] of five.entries()) {
        if (j < i) continue;
        const one = (name, other, factor) =>
          mode === "mps"
            ? tenant(name, mode, 2, { rate: workloads[name].rate / (0.4 + 0.6 * factor), tail: 1 })
            : tenant(name, mode, 2, {
                rate:
                  1000 /
                  (1000 / workloads[name].rate + 2.2 * SWITCH_MS + 600 / workloads[other].rate),
              });
        const tenants = [one(a, b, besideUnderMps[a][j]), one(b, a, besideUnderMps[b][i])];
        if (mode === "mps") {
          const alone = (name) => (1000 / workloads[name].rate) * workloads[name].tail;
          tenants[0].latency_ms_p99 = round(alone(a) * besideUnderMps[a][j], 3);
          tenants[1].latency_ms_p99 = round(alone(b) * besideUnderMps[b][i], 3);
        }
        runs.push(run(`${mode}/${a}+${b}`, "pair", mode, tenants));
      }
    }
  }
  return runs;
}

function serverRuns() {
  return [
    [1, 2369],
    [2, 2190],
  ].map(([each, rate]) => {
    const tenants = crowd(2 * each, (i) =>
      tenant("small", "mps", 2 * each, { rate, server: Math.floor(i / each) }),
    );
    return run(`mps-servers/small/${each}+${each}`, "servers", "mps", tenants, { servers: 2 });
  });
}

const conditions = (time, rest) => ({
  time,
  sm_clock_mhz: 1980,
  memory_clock_mhz: 3201,
  temperature_c: 31,
  power_w: 118.4,
  throttle_reasons: [],
  ...rest,
});

function measurement(fields) {
  return {
    version: "sublet.measurement/v1",
    board: "h200",
    gpu_name: "NVIDIA H200",
    gpu_uuid: "GPU-5f2c3d1e-8a4b-4c6d-9e7f-0a1b2c3d4e5f",
    driver_version: "580.159.04",
    cuda_version: 13000,
    sm_count: 132,
    memory_mib: 143771,
    cpu_cores: CORES,
    effort: "full",
    seed: 7,
    duration_s: 412.6,
    simulated: false,
    partial: false,
    disturbed: false,
    disturbed_by: [],
    before: conditions("2026-11-21T09:12:04Z"),
    after: conditions("2026-11-21T09:18:57Z", { temperature_c: 47, power_w: 204.1 }),
    device_reserve_mib: 627,
    mps_clients_max: 0,
    runs: [],
    quotas: [],
    faults: [],
    skipped: [],
    ...fields,
  };
}

const quota = (mode, how, limit, context_, allocated, enforced = true) => ({
  mode,
  how,
  limit_mib: limit,
  context_mib: context_,
  allocated_mib: allocated,
  error_percent: round((100 * (allocated + context_ - limit)) / limit, 3),
  enforced,
});

const fault = (mode, what, neighbours, survivors, pause, more = {}) => ({
  mode,
  servers: 1,
  fault: what,
  neighbours,
  survivors,
  pause_ms_max: pause,
  recovery_ms: 412,
  note: "",
  ...more,
});

const lesson = (name, statement, measured, required, passed = true) => ({
  name,
  statement,
  passed,
  measured,
  required,
});

const fullRuns = [
  ...aloneRuns(),
  ...streamRuns(),
  ...scalingRuns(),
  ...sweepRuns(),
  ...pairRuns(),
  ...serverRuns(),
  ...aloneRuns("drift", 5),
];

function profileOf(runs, name) {
  const find = (cap, count) =>
    runs.find((r) => r.id === `mps${cap === 100 ? "" : `-${cap}`}/${name}/x${count}`) ??
    (cap === 100 && count === 1 ? runs.find((r) => r.id === `alone/${name}`) : undefined);
  return {
    name,
    board: "h200",
    source: "NVIDIA H200, driver 580.159.04, 2026-11-21",
    unit: { transformer: "forward pass", mem: "pass" }[name] ?? "kernel",
    service_ms: round(1000 / workloads[name].rate),
    steps: 1,
    memory_mib: workloads[name].mib,
    copy_to_device_mib_s: 0,
    copy_from_device_mib_s: 0,
    crowd: find(100, 40) ? 40 : 0,
    points: [...CAPS, 100].map((cap) => ({
      sm_percent: cap,
      alone_per_s: find(cap, 1).total_per_s.value,
      latency_ms_p50: find(cap, 1).tenants[0].latency_ms_p50,
      latency_ms_p99: find(cap, 1).tenants[0].latency_ms_p99,
      ...(find(cap, 40) && { crowd_per_s: find(cap, 40).total_per_s.value }),
      context_mib: context(cap),
    })),
  };
}

const METHOD =
  "Every tenant is a process with a CUDA context of its own and always busy. All tenants of a run " +
  "start together from a barrier and work through a warm-up that is not counted, then through a " +
  "window that is; that is one round. A rate is the median over 9 to 40 rounds, with the interval " +
  "that holds the true median with 95 %. The workloads run alone first, and once more at the end.";

const full = {
  method: METHOD,
  measurement: measurement({
    drift_percent: 0.6,
    mps_clients_max: 48,
    runs: fullRuns,
    quotas: [
      quota("mps", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", 4096, 953, 3142),
      quota("mps", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", 16384, 953, 15430),
      quota("time-slicing", "no limit that the driver knows", 4096, 530, 142614, false),
    ],
    faults: [
      fault("mps", "illegal access", 3, 0, 0, {
        note: "neighbours saw CUDA_ERROR_MPS_CLIENT_TERMINATED",
      }),
      fault("mps", "illegal access", 3, 3, 141, { servers: 2 }),
      fault("mps", "SIGKILL", 3, 3, 12.4),
      fault("mps", "terminate_client", 3, 3, 0.9),
      fault("time-slicing", "illegal access", 3, 3, 8.2),
    ],
    skipped: [
      { what: "mig", reason: "MIG is off; --allow-mig-reconfigure would create instances" },
    ],
  }),
  calibration: {
    version: "sublet.calibration/v1",
    board: "h200",
    source: "NVIDIA H200, driver 580.159.04, 2026-11-21",
    scaled: false,
    switch_ms: SWITCH_MS,
    mps_service_factor: 1.03,
    mps_clients_max: 48,
    contexts: [...CAPS, 100].map((cap) => ({
      sm_percent: cap,
      memory_mib: context(cap),
    })),
    device_reserve_mib: 627,
    profiles: ["small", "big", "mem", "transformer"].map((name) => profileOf(fullRuns, name)),
  },
  predictions: fullRuns
    .filter((r) => r.series === "scaling" && r.tenants[0].workload === "transformer")
    .map((r) => ({
      run: r.id,
      rate_per_s: round(r.total_per_s.value * wobble(0.11)),
      latency_ms_p50: round(r.tenants[0].latency_ms_p50 * wobble(0.11), 3),
    })),
  lessons: [
    lesson(
      "streams",
      "two streams of a small kernel give at least 1.05 times one",
      "1.95",
      "≥ 1.05",
    ),
    lesson(
      "time-slicing",
      "two processes without MPS slow each other 1.2 times or more",
      "4.6",
      "≥ 1.2",
    ),
    lesson(
      "mps",
      "two small processes under MPS slow each other at most 1.1 times",
      "1.00",
      "≤ 1.1",
    ),
    lesson("memory limit", "a memory limit is kept to within 2 %", "0.02 %", "< 2 %"),
  ],
};

// A run on the simulated driver that was interrupted, with another process on the GPU.
const partial = {
  method: METHOD,
  measurement: measurement({
    effort: "quick",
    duration_s: 21.3,
    simulated: true,
    partial: true,
    disturbed: true,
    disturbed_by: ["4121 python3, 812 MiB"],
    drift_percent: 7.4,
    after: conditions("2026-11-21T09:12:26Z", {
      throttle_reasons: ["sw power cap", "hw slowdown"],
    }),
    runs: fullRuns.filter(
      (r) =>
        r.series === "alone" ||
        (r.series === "scaling" && r.mode === "time-slicing" && r.tenants.length <= 4) ||
        (r.series === "pair" &&
          r.mode === "mps" &&
          r.tenants[0].workload !== "transformer" &&
          !/gemm/.test(r.id)),
    ),
    skipped: [
      { what: "mps/transformer/x16", reason: "interrupted" },
      { what: "mig", reason: "MIG is off; --allow-mig-reconfigure would create instances" },
    ],
  }),
  lessons: [
    lesson(
      "mps",
      "two small processes under MPS slow each other at most 1.1 times",
      "1.32",
      "≤ 1.1",
      false,
    ),
    lesson("memory limit", "a memory limit is kept to within 2 %", "not measured", "< 2 %", false),
  ],
};

const alone = {
  method: METHOD,
  measurement: measurement({
    effort: "quick",
    duration_s: 9.8,
    runs: aloneRuns(),
    before: {},
    after: {},
  }),
};

for (const [name, document] of Object.entries({
  "measured-h200": full,
  "measured-partial": partial,
  "measured-alone": alone,
})) {
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(document)}\n`);
}
