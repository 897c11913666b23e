// Writes the sample plans beside this file: plausible, consistent with each other and with the
// plan's format, and no planner's output. They cover what the page must be able to draw; what a
// plan really says is the planner's matter.
//
//   node tests/web/samples/generate.mjs
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HOURS = 730;
const folder = dirname(fileURLToPath(import.meta.url));

const boards = {
  "a100-80gb": { memory_mib: 81920, sm_count: 108, memory_units: 8, price_usd_hour: 3.25 },
  "h100-80gb": { memory_mib: 81559, sm_count: 132, memory_units: 8, price_usd_hour: 4.5 },
  h200: { memory_mib: 143771, sm_count: 132, memory_units: 8, price_usd_hour: 5.5 },
  l4: { memory_mib: 23034, sm_count: 58, memory_units: 0, price_usd_hour: 0.81 },
};

const by = (what, by_, enforced = true) => ({ what, by: by_, enforced });
const mpsRules = (capped) => [
  by("memory", "MPS pinned device memory limit"),
  capped ? by("sm", "MPS active thread percentage") : by("sm", "not enforced", false),
  by("fault", "not enforced", false),
];
const migRules = [
  by("memory", "MIG instance"),
  by("sm", "MIG instance"),
  by("fault", "MIG instance"),
];

function gpu(name, board, partitions, rest = {}) {
  return {
    name,
    board,
    node: "",
    uuid: "",
    index: -1,
    mig: false,
    ...boards[board],
    partitions,
    reason: "",
    ...rest,
  };
}

function partition(name, fields) {
  return {
    name,
    profile: "",
    profile_id: 0,
    start: 0,
    size: 0,
    memory_mib: 0,
    sm_count: 0,
    mode: "exclusive",
    servers: [],
    replicas: [],
    ...fields,
  };
}

function replica(id, tenant, memory_mib, context_mib, fields) {
  return {
    id,
    workload: id.split("/")[0],
    tenant,
    memory_mib,
    context_mib,
    prediction: { service_ms: 0, slowdown_mean: 1, utilisation: 0 },
    enforcement: [],
    reason: "",
    ...fields,
  };
}

function prediction(service_ms, slowdown_mean, utilisation, p50, p99, target) {
  return {
    service_ms,
    slowdown_mean,
    utilisation,
    latency_ms_p50: p50,
    latency_ms_p99: p99,
    ...(target && { headroom_percent: Math.round(1000 * (1 - p99 / target)) / 10 }),
  };
}

function workload(name, tenant, memory_mib, fields = {}) {
  return {
    name,
    tenant,
    replicas: 1,
    isolation: "none",
    priority: 0,
    command: [],
    image: "",
    env: {},
    memory_mib,
    memory_how: "given",
    ...fields,
  };
}

function strategy(name, feasible, gpus, price, isolation, p50, p99, holds, breaks = []) {
  return {
    name,
    feasible,
    gpus: feasible ? gpus : 0,
    cost_month_usd: feasible ? gpus * price * HOURS : 0,
    isolation,
    ...(p50 && { latency_ms_p50: p50 }),
    ...(p99 && { latency_ms_p99: p99 }),
    holds,
    breaks,
  };
}

function plan(fleet, gpus, rest) {
  const gpus_by_board = {};
  for (const { board } of gpus) gpus_by_board[board] = (gpus_by_board[board] ?? 0) + 1;
  const replicas = gpus.flatMap((g) => g.partitions.flatMap((p) => p.replicas));
  const cost_hour_usd = gpus.reduce((sum, g) => sum + g.price_usd_hour, 0);
  const headrooms = replicas
    .map((r) => r.prediction.headroom_percent)
    .filter((x) => x !== undefined);
  return {
    version: "sublet.plan/v1",
    fleet,
    summary: {
      gpus: gpus.length,
      replicas: replicas.length,
      gpus_by_board,
      cost_hour_usd,
      cost_month_usd: cost_hour_usd * HOURS,
      lower_bound_month_usd: cost_hour_usd * HOURS,
      gap_percent: 0,
      verdict: "optimal",
      headroom_percent_min: Math.min(100, ...headrooms),
      ...rest.summary,
    },
    gpus,
    workloads: rest.workloads,
    strategies: rest.strategies,
    rejections: rest.rejections ?? [],
    changes: rest.changes ?? [],
    warnings: rest.warnings ?? [],
    calibration: rest.calibration,
  };
}

const scaled =
  "NVIDIA H200, driver 580.159.04, 2026-11-20; scaled to a100-80gb (switch x1.5, contexts x1.25)";
const scaledWarning =
  "nothing was measured on a100-80gb: interference is scaled from an H200, to the worse side";
const faultWarning =
  "one MPS server is one fault domain: a crash of chat takes code, embed and search down with it";

function fourSevenB() {
  const names = ["chat", "code", "embed", "search"];
  const p99 = [2310, 2655, 1890, 2480];
  const target = [4000, 4000, 3000, 4000];
  const replicas = names.map((name, i) =>
    replica(`${name}/0`, "default", 16180, 620, {
      memory_limit_mib: 15616,
      sm_percent: 30,
      server: 0,
      prediction: prediction(
        450,
        1.31,
        0.18 + 0.03 * i,
        Math.round(p99[i] * 0.29),
        p99[i],
        target[i],
      ),
      enforcement: mpsRules(true),
      reason: `${name} needs 30 % of the SMs for full speed; beside the other three it fits`,
    }),
  );
  const whole = partition("gpu0", {
    memory_mib: 80384,
    sm_count: 108,
    mode: "mps",
    servers: [{ name: "gpu0-default", tenant: "default" }],
    replicas,
  });
  return plan(
    "four-7b",
    [
      gpu("gpu0", "a100-80gb", [whole], {
        reason: "four services of 15.8 GiB each fit in the memory of one a100-80gb",
      }),
    ],
    {
      workloads: names.map((name, i) =>
        workload(name, "default", 15560, {
          memory_how: "13.0 GiB weights + 2.0 GiB KV cache + 0.2 GiB activations",
          latency_ms_p99_target: target[i],
        }),
      ),
      strategies: [
        strategy("exclusive", true, 4, 3.25, "hardware", 455, 1180, 1),
        strategy("streams", false, 0, 3.25, "none", 0, 0, 0, [
          "streams need one process: four programs with weights of their own can't be one",
        ]),
        strategy("time-slicing", true, 1, 3.25, "none", 1290, 3920, 4, [
          "memory is not limited: one leak ends all four",
        ]),
        strategy("mps", true, 1, 3.25, "memory", 770, 2655, 4, [
          "a fault in one client ends all four",
        ]),
        strategy("mig", true, 1, 3.25, "hardware", 1410, 3985, 4, [
          "a 1g.20gb has 14 SMs where 32 are needed for full speed",
        ]),
        strategy("chosen", true, 1, 3.25, "memory", 770, 2655, 4, [
          "a fault in one client ends all four",
        ]),
      ],
      rejections: names.flatMap((w) => [
        {
          workload: w,
          mode: "exclusive",
          reason: "a GPU of its own would cost $2,372.50 a month and be 18 % busy",
        },
        {
          workload: w,
          mode: "time-slicing",
          reason: "p99 would be 3,920 ms of 4,000 ms: 2 % headroom where MPS leaves 33 %",
        },
        {
          workload: w,
          mode: "mig",
          reason:
            "1g.20gb is the smallest instance with 15.8 GiB; its 14 SMs make it 2.3 times slower",
        },
        {
          workload: w,
          mode: "streams",
          reason: "it is a program of its own, and streams exist within one process",
        },
      ]),
      changes: [
        { kind: "keep", replica: "chat/0", from: "gpu0", to: "gpu0" },
        { kind: "move", replica: "code/0", from: "gpu1", to: "gpu0" },
        { kind: "add", replica: "embed/0", from: "", to: "gpu0" },
        { kind: "remove", replica: "search-old/0", from: "gpu2", to: "" },
      ],
      warnings: [scaledWarning, faultWarning],
      calibration: scaled,
    },
  );
}

function fortySmall() {
  const names = Array.from({ length: 40 }, (_, i) => `small-${String(i).padStart(2, "0")}`);
  const replicas = names.map((name, i) =>
    replica(`${name}/0`, "default", 1012 + 12 * (i % 5), 500, {
      memory_limit_mib: 640,
      sm_percent: 10,
      server: 0,
      prediction: prediction(0.31, 1.6, 0.22, 0.62 + 0.01 * (i % 7), 9.1 + 0.35 * (i % 11), 20),
      enforcement: mpsRules(true),
      reason:
        "at a 10 % SM cap its context shrinks to 0.5 GiB and ten such models run side by side",
    }),
  );
  const whole = partition("gpu0", {
    memory_mib: 80384,
    sm_count: 108,
    mode: "mps",
    servers: [{ name: "gpu0-default", tenant: "default" }],
    replicas,
  });
  return plan(
    "forty-small",
    [
      gpu("gpu0", "a100-80gb", [whole], {
        reason: "40 clients are within the 48 that MPS serves on one GPU",
      }),
    ],
    {
      workloads: names.map((name, i) =>
        workload(name, "default", 512 + 12 * (i % 5), { latency_ms_p99_target: 20 }),
      ),
      strategies: [
        strategy("exclusive", true, 40, 3.25, "hardware", 0.24, 0.9, 1),
        strategy("time-slicing", false, 0, 3.25, "none", 13.9, 41.6, 40, [
          "p99 41.6 ms against a target of 20 ms: 39 switches of 0.20 ms lie between two turns",
        ]),
        strategy("mps", true, 1, 3.25, "memory", 0.68, 12.6, 40, [
          "a fault in one client ends all forty",
        ]),
        strategy("mig", true, 6, 3.25, "hardware", 0.9, 3.4, 7, [
          "seven instances are all that an A100 has",
        ]),
        strategy("chosen", true, 1, 3.25, "memory", 0.68, 12.6, 40, [
          "a fault in one client ends all forty",
        ]),
      ],
      rejections: names.flatMap((w) => [
        { workload: w, mode: "time-slicing", reason: "p99 would be 41.6 ms of 20 ms" },
        {
          workload: w,
          mode: "mig",
          reason: "an A100-80GB has seven instances; forty models would need six GPUs",
        },
      ]),
      warnings: [scaledWarning],
      calibration: scaled,
    },
  );
}

function migNested() {
  const client = (id, tenant, server, mib, sm, p99, target) =>
    replica(id, tenant, mib, 480, {
      memory_limit_mib: mib - 400,
      sm_percent: sm,
      server,
      enforcement: mpsRules(true),
      prediction: prediction(p99 / 6, 1.4, 0.3, p99 / 3, p99, target),
      reason: `${tenant} trusts its own services, so they share an MPS server`,
    });
  const single = (id, tenant, mib, p99, target) =>
    replica(id, tenant, mib, 620, {
      enforcement: migRules,
      prediction: prediction(p99 / 5, 1, 0.41, p99 / 3.2, p99, target),
      reason: `${tenant} demands hardware isolation: an instance of its own`,
    });
  const mig = gpu(
    "gpu0",
    "h100-80gb",
    [
      partition("gpu0-1g.10gb-0", {
        profile: "1g.10gb",
        profile_id: 19,
        start: 0,
        size: 1,
        memory_mib: 9728,
        sm_count: 16,
        replicas: [single("fraud/0", "bank", 7200, 12.4, 25)],
      }),
      partition("gpu0-1g.10gb-1", {
        profile: "1g.10gb",
        profile_id: 19,
        start: 1,
        size: 1,
        memory_mib: 9728,
        sm_count: 16,
        replicas: [single("fraud/1", "bank", 7200, 12.4, 25)],
      }),
      partition("gpu0-2g.20gb-0", {
        profile: "2g.20gb",
        profile_id: 14,
        start: 2,
        size: 2,
        memory_mib: 19840,
        sm_count: 32,
        mode: "time-slicing",
        replicas: [
          replica("scan/0", "lab", 6100, 1160, {
            enforcement: [
              by("memory", "not enforced", false),
              by("sm", "not enforced", false),
              by("fault", "own process"),
            ],
            prediction: prediction(30, 1.9, 0.2, 61, 240, 300),
            reason: "lab asks for nothing, so its two jobs take turns",
          }),
          replica("scan/1", "lab", 6100, 1160, {
            enforcement: [
              by("memory", "not enforced", false),
              by("sm", "not enforced", false),
              by("fault", "own process"),
            ],
            prediction: prediction(30, 1.9, 0.2, 61, 240, 300),
            reason: "lab asks for nothing, so its two jobs take turns",
          }),
        ],
      }),
      partition("gpu0-3g.40gb-0", {
        profile: "3g.40gb",
        profile_id: 9,
        start: 4,
        size: 4,
        memory_mib: 40064,
        sm_count: 60,
        mode: "mps",
        servers: [
          { name: "gpu0-shop", tenant: "shop" },
          { name: "gpu0-press", tenant: "press" },
        ],
        replicas: [
          client("rank/0", "shop", 0, 9000, 40, 44, 60),
          client("rank/1", "shop", 0, 9000, 40, 44, 60),
          client("tag/0", "press", 1, 6400, 30, 95, 90),
          client("title/0", "press", 1, 5200, 30, 71, 90),
        ],
      }),
    ],
    {
      mig: true,
      reason: "bank demands hardware isolation, so the GPU is cut; two tenants share the 3g",
      node: "rack4-n2",
      index: 3,
      uuid: "GPU-5c1f3e6a-7d55-4b0e-9a43-0f8f4f1d2c77",
    },
  );
  const spare = gpu(
    "gpu1",
    "h100-80gb",
    [
      partition("gpu1-1g.20gb-0", {
        profile: "1g.20gb",
        profile_id: 15,
        start: 0,
        size: 2,
        memory_mib: 19968,
        sm_count: 26,
        replicas: [single("fraud/2", "bank", 12800, 9.1, 25)],
      }),
      partition("gpu1-2g.20gb-0", {
        profile: "2g.20gb",
        profile_id: 14,
        start: 4,
        size: 2,
        memory_mib: 19840,
        sm_count: 32,
        replicas: [single("vault/0", "bank", 15000, 300, 800)],
      }),
    ],
    {
      mig: true,
      reason: "what bank runs beside the first GPU",
      node: "rack4-n2",
      index: 4,
      uuid: "GPU-0a6f9d14-21be-4a55-8d1f-63c1f2a9be02",
    },
  );
  return plan("mig-nested", [mig, spare], {
    summary: { lower_bound_month_usd: 6504.3, gap_percent: 1.01, verdict: "within 1.1 %" },
    workloads: [
      workload("fraud", "bank", 6580, {
        replicas: 3,
        isolation: "hardware",
        priority: 10,
        latency_ms_p99_target: 25,
        latency_ms_p50_target: 8,
      }),
      workload("vault", "bank", 14380, { isolation: "hardware", latency_ms_p99_target: 800 }),
      workload("scan", "lab", 4940, { replicas: 2, latency_ms_p99_target: 300 }),
      workload("rank", "shop", 8520, {
        replicas: 2,
        isolation: "fault",
        latency_ms_p99_target: 60,
      }),
      workload("tag", "press", 5920, { isolation: "fault", latency_ms_p99_target: 90 }),
      workload("title", "press", 4720, { isolation: "fault", latency_ms_p99_target: 90 }),
    ],
    strategies: [
      strategy("exclusive", true, 10, 4.5, "hardware", 90, 210, 2),
      strategy("time-slicing", false, 0, 4.5, "none", 0, 0, 6, [
        "bank demands hardware isolation",
        "nothing limits memory",
      ]),
      strategy("mps", false, 0, 4.5, "memory", 0, 0, 6, ["bank demands hardware isolation"]),
      strategy("mig", true, 3, 4.5, "hardware", 94, 300, 9),
      strategy("chosen", true, 2, 4.5, "fault", 94, 300, 10, ["tag is 6 % over its target"]),
    ],
    rejections: [
      {
        workload: "fraud",
        mode: "mps",
        reason: "bank demands hardware isolation; MPS clients share caches and memory paths",
      },
      {
        workload: "vault",
        mode: "mps",
        reason: "bank demands hardware isolation; MPS clients share caches and memory paths",
      },
      {
        workload: "rank",
        mode: "mig",
        reason: "instances of its own would need a third GPU: $3,285 a month more",
      },
    ],
    warnings: ["tag misses its p99 target: 95 ms of 90 ms"],
    calibration: "NVIDIA H200, driver 580.159.04, 2026-11-20; scaled to h100-80gb",
  });
}

// 180 GPUs: a few layouts many times, as a planner that works with patterns leaves them, and a tail
// of odd ones.
function big() {
  const tenants = ["ads", "bank", "core", "docs", "edge", "film", "game", "home", "ink", "jobs"];
  const gpus = [];
  const workloads = new Map();
  const add = (name, tenant, mib, target) => {
    const known =
      workloads.get(name) ??
      workload(name, tenant, mib, { replicas: 0, latency_ms_p99_target: target });
    workloads.set(name, { ...known, replicas: known.replicas + 1 });
    return `${name}/${known.replicas}`;
  };
  const mps = (board, clients, reason) => {
    const name = `gpu${gpus.length}`;
    const { memory_mib, sm_count } = boards[board];
    const servers = [...new Set(clients.map((c) => c.tenant))].map((t) => ({
      name: `${name}-${t}`,
      tenant: t,
    }));
    const replicas = clients.map((c) =>
      replica(add(c.name, c.tenant, c.mib - 480, c.target), c.tenant, c.mib, 480, {
        memory_limit_mib: c.mib - 400,
        sm_percent: c.sm,
        server: servers.findIndex((s) => s.tenant === c.tenant),
        prediction: prediction(c.target / 9, 1.3, 0.35, c.target / 4, c.target * c.load, c.target),
        enforcement: mpsRules(true),
        reason: `fits beside the ${clients.length - 1} others`,
      }),
    );
    gpus.push(
      gpu(
        name,
        board,
        [
          partition(name, {
            memory_mib: memory_mib - 1100,
            sm_count,
            mode: "mps",
            servers,
            replicas,
          }),
        ],
        { reason },
      ),
    );
  };
  const client = (i, mib, sm, load) => ({
    name: `model-${String(i).padStart(2, "0")}`,
    tenant: tenants[i % 10],
    mib,
    sm,
    load,
    target: [40, 120, 500, 2000][i % 4],
  });
  for (let i = 0; i < 61; i++)
    mps(
      "h200",
      [
        client(0, 41000, 40, 0.7),
        client(10, 36500, 30, 0.62),
        client(3, 28400, 20, 0.81),
        client(3, 28400, 20, 0.81),
      ],
      "two tenants, two servers",
    );
  for (let i = 0; i < 44; i++)
    mps(
      "a100-80gb",
      [1, 1, 1, 11, 11, 21].map((k) => client(k, 12100, 20, 0.55)),
      "one tenant, one server",
    );
  for (let i = 0; i < 37; i++)
    mps(
      "l4",
      [client(5, 10200, 50, 0.9), client(5, 10200, 50, 0.9)],
      "the cheapest board with the memory",
    );
  for (let i = 0; i < 20; i++) {
    const name = `gpu${gpus.length}`;
    const instance = (start, profile, profile_id, size, memory_mib, sm_count, k) =>
      partition(`${name}-${profile}-${start}`, {
        profile,
        profile_id,
        start,
        size,
        memory_mib,
        sm_count,
        replicas: [
          replica(
            add(`model-${k}`, "bank", memory_mib - 2500, 300),
            "bank",
            memory_mib - 1900,
            620,
            {
              enforcement: migRules,
              prediction: prediction(40, 1, 0.4, 70, 210, 300),
              reason: "hardware isolation",
            },
          ),
        ],
      });
    gpus.push(
      gpu(
        name,
        "h100-80gb",
        [instance(0, "4g.40gb", 5, 4, 40064, 64, 41), instance(4, "2g.20gb", 14, 2, 19840, 32, 51)],
        { mig: true, reason: "bank demands hardware isolation" },
      ),
    );
  }
  for (let i = 0; i < 18; i++)
    mps(
      "a100-80gb",
      Array.from({ length: 3 + (i % 16) }, (_, j) =>
        client((i + j) % 30, 3000 + 200 * (i % 7), 10, 0.4),
      ),
      "what was left over",
    );
  return plan("everything", gpus, {
    summary: {
      gap_percent: 0.42,
      verdict: "within 0.5 %",
      lower_bound_month_usd: 0.9958 * gpus.reduce((s, g) => s + g.price_usd_hour, 0) * HOURS,
    },
    workloads: [...workloads.values()],
    strategies: [
      strategy("exclusive", true, 849, 3.4, "hardware", 210, 700, 180),
      strategy("time-slicing", false, 0, 3.4, "none", 0, 0, 640, ["31 workloads miss their p99"]),
      strategy("mps", false, 0, 3.4, "memory", 0, 0, 720, ["bank demands hardware isolation"]),
      strategy("mig", true, 301, 4.4, "hardware", 320, 1100, 402),
      {
        ...strategy("chosen", true, 180, 1, "fault", 500, 1620, 0),
        cost_month_usd: gpus.reduce((s, g) => s + g.price_usd_hour, 0) * HOURS,
        holds: gpus.flatMap((g) => g.partitions.flatMap((p) => p.replicas)).length,
      },
    ],
    rejections: [...workloads.keys()].map((w) => ({
      workload: w,
      mode: "time-slicing",
      reason: `p99 of ${w} would be above its target`,
    })),
    changes: Array.from({ length: 90 }, (_, i) => ({
      kind: i % 3 ? "keep" : "move",
      replica: `model-${String(i % 30).padStart(2, "0")}/${i}`,
      from: `gpu${i}`,
      to: i % 3 ? `gpu${i}` : `gpu${i + 1}`,
    })),
    warnings: [],
    calibration:
      "NVIDIA H200, driver 580.159.04, 2026-11-20; scaled to a100-80gb, h100-80gb and l4",
  });
}

const samples = {
  "four-7b": fourSevenB(),
  "forty-small": fortySmall(),
  "mig-nested": migNested(),
  big: big(),
};
for (const [name, value] of Object.entries(samples)) {
  writeFileSync(
    join(folder, `${name}.json`),
    `${JSON.stringify(value, null, name === "big" ? 0 : 1)}\n`,
  );
}
