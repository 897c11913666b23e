import { describe, expect, it } from "vitest";

import { bestCap, compared, contexts, knee, scalings, sweeps } from "../src/measure/curves.ts";
import { readLabDocument, type Calibration } from "../src/measure/measurement.ts";
import { p50Of, wayName, wayOf } from "../src/measure/runs.ts";
import { alone, lab, run } from "./lab.ts";

const point = (cap: number, rate: number) => ({ cap, rate });

describe("the knee", () => {
  it("is the smallest cap that keeps 95 % of the speed without one", () => {
    const points = [
      point(5, 2600),
      point(10, 3620),
      point(15, 4050),
      point(25, 4250),
      point(100, 4244),
    ];
    expect(knee(points)!.cap).toBe(15);
  });

  it("is the last cap where each part of the SMs counts", () => {
    expect(knee([point(25, 25), point(50, 50), point(100, 100)])!.cap).toBe(100);
  });

  it("is unknown where nothing ran without a cap", () => {
    expect(knee([point(10, 90), point(75, 100)])).toBeUndefined();
  });

  it("is unknown from a single point", () => {
    expect(knee([point(100, 100)])).toBeUndefined();
    expect(knee([])).toBeUndefined();
  });
});

it("the best cap of a crowd is, of equals, one of the curves, then the smallest", () => {
  expect(bestCap([point(5, 20), point(10, 26), point(15, 26), point(100, 10)])!.cap).toBe(10);
  const curve = { ...point(10, 25.8), everySize: true };
  expect(bestCap([point(5, 26), curve, point(15, 25.9)])!.cap).toBe(10);
  expect(bestCap([point(5, 27), curve, point(15, 25.9)])!.cap).toBe(5);
  expect(bestCap([point(100, 10)])).toBeUndefined();
});

describe("the curves", () => {
  it("are told apart by mode, cap and servers, and rise in tenants", () => {
    const runs = [
      run("a", "mps", "transformer", { count: 8 }),
      run("b", "mps", "transformer", { count: 2 }),
      run("c", "mps", "transformer", { count: 2, cap: 10 }),
      run("d", "time-slicing", "transformer", { count: 2 }),
      run("e", "mps", "small", { count: 2 }),
      run("f", "mps", "transformer", { count: 2, series: "pair" }),
    ];
    const [first, second] = scalings([runs[4]!, ...runs.slice(0, 4), runs[5]!]);
    expect(first!.workload).toBe("transformer");
    expect(first!.ways.map(({ way, runs: list }) => [wayName(way), list.map((r) => r.id)])).toEqual(
      [
        ["Time-slicing", ["d"]],
        ["MPS", ["b", "a"]],
        ["MPS at 10\u00a0% of the SMs", ["c"]],
      ],
    );
    expect(second!.workload).toBe("small");
  });

  it("take a cap of 100 % for none", () => {
    expect(wayOf(run("a", "mps", "small", { cap: 100 })).key).toBe(
      wayOf(run("b", "mps", "small")).key,
    );
  });
});

const calibration: Calibration = {
  source: "",
  switch_ms: 0.13,
  mps_service_factor: 1.03,
  mps_clients_max: 48,
  contexts: [],
  device_reserve_mib: 600,
  profiles: [
    {
      name: "encoder",
      crowd: 16,
      points: [
        {
          sm_percent: 100,
          alone_per_s: 100,
          latency_ms_p50: 1,
          latency_ms_p99: 2,
          context_mib: 900,
        },
        {
          sm_percent: 10,
          alone_per_s: 80,
          latency_ms_p50: 1,
          latency_ms_p99: 2,
          context_mib: 400,
          crowd_per_s: 500,
        },
      ],
    },
  ],
};

describe("the sweep", () => {
  it("sorts runs by cap and by crowd", () => {
    const shape = (count: number, cap: number, rate: number) =>
      run(`mps-${cap}/transformer/x${count}`, "mps", "transformer", {
        series: "sm-sweep",
        count,
        cap,
        rate,
      });
    const [sweep] = sweeps(
      lab([shape(40, 100, 10), shape(40, 10, 26), shape(1, 100, 4), shape(1, 10, 3)]),
    );
    expect(sweep!.alone.map((p) => [p.cap, p.rate])).toEqual([
      [10, 3],
      [100, 4],
    ]);
    expect(sweep!.crowds.map((c) => [c.tenants, c.points.map((p) => p.rate)])).toEqual([
      [40, [26, 10]],
    ]);
  });

  it("takes the points that the curves have already, of the same crowds only", () => {
    const shape = (series: string, count: number, rate: number, cap?: number) =>
      run(`${series}/${cap}/x${count}`, "mps", "transformer", {
        series,
        count,
        rate,
        ...(cap !== undefined && { cap }),
      });
    const [sweep] = sweeps(
      lab([
        shape("scaling", 1, 4),
        shape("scaling", 8, 9),
        shape("scaling", 16, 10),
        shape("scaling", 16, 25, 10),
        shape("sm-sweep", 1, 3.9, 25),
        shape("sm-sweep", 16, 20, 25),
        { ...shape("scaling", 16, 1, 50), servers: 2 },
      ]),
    );
    expect(sweep!.alone.map((p) => [p.cap, p.rate])).toEqual([
      [25, 3.9],
      [100, 4],
    ]);
    expect(sweep!.crowds).toHaveLength(1);
    expect(sweep!.crowds[0]!.points.map((p) => [p.cap, p.rate])).toEqual([
      [10, 25],
      [25, 20],
      [100, 10],
    ]);
  });

  it("has the point without a cap from the profile where no run is it", () => {
    const swept = run("mps-10/encoder/x1", "mps", "encoder", {
      series: "sm-sweep",
      cap: 10,
      rate: 79,
    });
    const [sweep] = sweeps(lab([swept], {}, { calibration }));
    expect(sweep!.alone.map((p) => [p.cap, p.rate])).toEqual([
      [10, 79],
      [100, 100],
    ]);
  });

  it("takes the run alone for the point without a cap where there is no profile", () => {
    const swept = run("mps-10/small/x1", "mps", "small", { series: "sm-sweep", cap: 10, rate: 97 });
    const [sweep] = sweeps(lab([alone("small", 100), swept]));
    expect(sweep!.alone.map((p) => [p.cap, p.rate])).toEqual([
      [10, 97],
      [100, 100],
    ]);
  });

  it("comes from the profiles where no run has it", () => {
    const document = lab([], {}, { calibration });
    const [sweep] = sweeps(document);
    expect(sweep!.alone.map((p) => p.cap)).toEqual([10, 100]);
    expect(sweep!.crowds).toEqual([{ tenants: 16, points: [{ cap: 10, rate: 500 }] }]);
    expect(contexts(document)).toEqual([
      { cap: 10, mib: 400 },
      { cap: 100, mib: 900 },
    ]);
  });
});

it("predictions are held against the run that they are about", () => {
  const runs = [run("mps/small/x2", "mps", "small", { count: 2, rate: 200, p50: 2 })];
  const predictions = [
    { run: "mps/small/x2", rate_per_s: 220, latency_ms_p50: 1.8 },
    { run: "mps/small/x4", rate_per_s: 1 },
  ];
  const [row, none] = compared(lab(runs, {}, { predictions }), p50Of);
  expect(row!.rateError).toBeCloseTo(10);
  expect(row!.p50Error).toBeCloseTo(-10);
  expect(none).toBeUndefined();
});

describe("the document", () => {
  it("may lack every list", () => {
    const read = readLabDocument({ measurement: { version: "sublet.measurement/v1" } });
    expect(read.measurement.runs).toEqual([]);
    expect(read.measurement.skipped).toEqual([]);
    expect(read.lessons).toEqual([]);
  });

  it("must be a measurement", () => {
    expect(() => readLabDocument({ version: "sublet.plan/v1" })).toThrow(/not undefined/);
    expect(() => readLabDocument({ measurement: { version: "sublet.measurement/v2" } })).toThrow(
      /v2/,
    );
    expect(() => readLabDocument(null)).toThrow();
  });

  it("loses runs in which nobody worked", () => {
    const empty = { ...alone("small", 1), tenants: [] };
    expect(readLabDocument(lab([empty, alone("big", 1)])).measurement.runs).toHaveLength(1);
  });
});
