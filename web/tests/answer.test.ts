import { describe, expect, it } from "vitest";

import { answer, caveats, gpusInstead, headline, keyFigures } from "../src/measure/answer.ts";
import { alone, lab, run } from "./lab.ts";

const words = (text: string): string => text.replaceAll("\u00a0", " ");

const forty = [
  alone("transformer", 4244),
  run("time-slicing/transformer/x16", "time-slicing", "transformer", { count: 16, rate: 2709 }),
  run("time-slicing/transformer/x40", "time-slicing", "transformer", { count: 40, rate: 2762 }),
  run("mps/transformer/x40", "mps", "transformer", { count: 40, rate: 10790, mib: 930 }),
  run("mps-10/transformer/x16", "mps", "transformer", {
    count: 16,
    cap: 10,
    rate: 25295,
    p50: 0.63,
    p99: 0.68,
  }),
  run("mps-10/transformer/x40", "mps", "transformer", {
    count: 40,
    cap: 10,
    rate: 25589,
    p50: 0.64,
    p99: 12.6,
    mib: 400,
  }),
];

describe("the answer", () => {
  it("is the way with the most throughput at the largest number with a rival", () => {
    const found = answer(lab(forty))!;
    expect(found.best.id).toBe("mps-10/transformer/x40");
    expect(found.overAlone).toBeCloseTo(6.03, 2);
    expect(found.others.map((o) => [o.run.id, Number(o.factor.toFixed(2))])).toEqual([
      ["time-slicing/transformer/x40", 9.26],
      ["mps/transformer/x40", 2.37],
    ]);
  });

  it("does not compare numbers that only one way reached", () => {
    const runs = forty.filter(
      (r) => r.id !== "mps/transformer/x40" && !r.id.endsWith("ing/transformer/x40"),
    );
    expect(answer(lab(runs))!.best.id).toBe("mps-10/transformer/x16");
  });

  it("takes caps that only the sweep tried, but no run twice", () => {
    const sweep = (cap: number, rate: number) =>
      run(`mps-${cap}/transformer/x40`, "mps", "transformer", {
        series: "sm-sweep",
        count: 40,
        cap,
        rate,
      });
    const best = answer(lab([...forty, sweep(10, 25600), sweep(15, 26500)]))!;
    expect(best.best.id).toBe("mps-15/transformer/x40");
    expect(best.others).toHaveLength(3);
    expect(answer(lab([...forty, sweep(15, 26000)]))!.best.id).toBe("mps-10/transformer/x40");
    expect(answer(lab([...forty, sweep(10, 25600)]))!.best.total_per_s.value).toBe(25589);
  });

  it("prefers the workload that is like a model", () => {
    const small = ["time-slicing", "mps"].map((mode) =>
      run(`${mode}/small/x64`, mode, "small", { count: 64, rate: 1e6 }),
    );
    expect(answer(lab([...small, ...forty]))!.workload).toBe("transformer");
    expect(answer(lab(small))!.workload).toBe("small");
  });

  it("names the most tenants whose tail is calm", () => {
    expect(answer(lab(forty))!.calm!.id).toBe("mps-10/transformer/x16");
    const calm = forty.map((r) => ({
      ...r,
      tenants: r.tenants.map((t) => ({ ...t, latency_ms_p99: 1 })),
    }));
    expect(answer(lab(calm))!.calm).toBeUndefined();
  });

  it("is absent where nothing was shared", () => {
    expect(answer(lab([alone("transformer", 4244)]))).toBeUndefined();
    expect(answer(lab([]))).toBeUndefined();
  });
});

describe("how many fit", () => {
  it("is what the memory holds, and not more than MPS serves", () => {
    const fit = (fields: object) => answer(lab(forty, { memory_mib: 20_000, ...fields }))!.fit;
    expect(fit({})).toMatchObject({ replicas: 50, byMemory: 50 });
    expect(fit({ device_reserve_mib: 1000 })).toMatchObject({ replicas: 47, byMemory: 47 });
    expect(fit({ mps_clients_max: 48 })).toEqual({
      replicas: 48,
      byMemory: 50,
      byClients: 48,
      probed: true,
    });
  });

  it("is limited by the clients that the calibration says where the lab didn't count them", () => {
    const calibration = {
      source: "",
      switch_ms: 0,
      mps_service_factor: 1,
      mps_clients_max: 45,
      contexts: [],
      device_reserve_mib: 0,
    };
    const document = lab(forty, {}, { calibration });
    expect(answer(document)!.fit).toMatchObject({ replicas: 45, probed: false });
    expect(keyFigures(document)[0]!.note).toContain("45 clients (not probed here)");
  });

  it("is never less than what ran", () => {
    expect(answer(lab(forty, { memory_mib: 1000 }))!.fit!.replicas).toBe(40);
  });

  it("is unknown without the memory of a process", () => {
    const runs = forty.map((r) => ({
      ...r,
      tenants: r.tenants.map(({ memory_mib: _, ...t }) => t),
    }));
    expect(answer(lab(runs))!.fit).toBeUndefined();
    expect(keyFigures(lab(runs))[0]!.value).toBe("40");
  });
});

describe("the headline", () => {
  it("says how many, how fast, which way and what it saves", () => {
    const { sentence, accent, detail } = headline(lab(forty));
    expect(sentence).toBe("40 transformer replicas share one NVIDIA H200:");
    expect(accent).toBe("25,589 forward passes a second");
    expect(words(detail)).toBe(
      "Best way: MPS at 10 % of the SMs each. It gives 9.3× what time-slicing gives, 2.4× plain " +
        "MPS and 6.0× one replica with the GPU to itself. Time-sliced, the same work takes " +
        "10 GPUs; a GPU for each replica would be 40 GPUs.",
    );
    expect(keyFigures(lab(forty)).at(-1)!.value).toBe("9 of 10");
  });

  it("saves nothing where sharing gains nothing", () => {
    const runs = [
      alone("transformer", 4244),
      run("time-slicing/transformer/x4", "time-slicing", "transformer", { count: 4, rate: 2709 }),
    ];
    expect(keyFigures(lab(runs)).at(-1)).toMatchObject({ value: "none", kind: "bad" });
    expect(headline(lab(runs)).detail).toContain("Measured in one way: Time-slicing.");
  });

  it("says that no sharing was measured, or nothing at all", () => {
    const one = headline(lab([alone("small", 10013), alone("transformer", 4244)]));
    expect(one.accent).toBe("4,244 forward passes a second");
    expect(one.detail).toContain("No sharing");
    expect(headline(lab([])).sentence).toBe("Nothing was measured on NVIDIA H200");
  });
});

it("counts whole GPUs, and forgives half a percent", () => {
  expect([1, 1.004, 1.01, 9.26, 10].map(gpusInstead)).toEqual([1, 1, 2, 10, 10]);
});

describe("the caveats", () => {
  it("are none for a clean measurement", () => {
    expect(caveats(lab(forty, { drift_percent: 0.4 }))).toEqual([]);
  });

  it("name everything that stands against the figures", () => {
    const found = caveats(
      lab(
        [],
        {
          simulated: true,
          partial: true,
          disturbed: true,
          disturbed_by: ["4121 python3, 812 MiB"],
          drift_percent: -6,
          after: { throttle_reasons: ["sw power cap"] },
        },
        { lessons: [{ name: "mps-small-2", statement: "", passed: false }] },
      ),
    ).map(words);
    expect(found.map((sentence) => sentence.split(":")[0])).toEqual([
      "Simulated",
      "Partial",
      "Disturbed",
      "Drift",
      "Throttled",
      "Not as expected",
    ]);
    expect(found[2]).toContain("4121 python3, 812 MiB");
    expect(found[3]).toContain("6 % faster");
  });
});
