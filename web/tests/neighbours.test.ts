import { describe, expect, it } from "vitest";

import { neighbourMaps, overlaps, worstCell } from "../src/measure/neighbours.ts";
import { alone, pair, run } from "./lab.ts";

describe("the noisy-neighbour matrix", () => {
  const runs = [
    alone("small", 10000, 0.1),
    alone("big", 2400, 0.5),
    pair("mps", ["small", 0.3], ["big", 0.6]),
    pair("mps", ["big", 0.9], ["big", 1]),
    pair("time-slicing", ["small", 0.6], ["big", 1]),
  ];

  it("has two cells for each pair and one for a pair of equals, the worse", () => {
    const [sliced, mps] = neighbourMaps(runs);
    expect(mps!.workloads).toEqual(["small", "big"]);
    const cells = mps!.cells.map((c) => [c.row, c.column, Number(c.factor.toFixed(3))]);
    expect(cells).toEqual([
      ["small", "big", 3],
      ["big", "small", 1.2],
      ["big", "big", 2],
    ]);
    expect(sliced!.way.mode).toBe("time-slicing");
    expect(worstCell(mps!)).toMatchObject({ row: "small", column: "big" });
  });

  it("has no cell for what never ran alone", () => {
    const [map] = neighbourMaps([alone("small", 1, 0.1), pair("mps", ["small", 0.2], ["big", 1])]);
    expect(map!.cells).toHaveLength(1);
    expect(neighbourMaps([pair("mps", ["small", 0.2], ["big", 1])])).toEqual([]);
  });
});

describe("streams", () => {
  it("are compared with the run alone, pipelines with their own of one stream", () => {
    const rows = overlaps([
      alone("small", 10000),
      run("streams/small/x2", "streams", "small", { series: "streams", count: 2, rate: 19500 }),
      run("pipeline/transfer/x1", "streams", "transfer", { series: "pipeline", rate: 500 }),
      run("pipeline/transfer/x3", "streams", "transfer", {
        series: "pipeline",
        count: 3,
        rate: 1000,
      }),
    ]);
    expect(
      rows.map((r) => [r.workload, r.streams, r.gain, Number(r.recovered.toFixed(1))]),
    ).toEqual([
      ["small", 2, 1.95, 48.7],
      ["transfer", 3, 2, 50],
    ]);
  });

  it("count as the run says where they are not tenants", () => {
    const [row] = overlaps([
      alone("small", 100),
      run("streams/small/x4", "streams", "small", { series: "streams", streams: 4, rate: 300 }),
    ]);
    expect(row).toMatchObject({ streams: 4, gain: 3 });
  });

  it("without their base are left out", () => {
    expect(
      overlaps([
        run("pipeline/transfer/x3", "streams", "transfer", { series: "pipeline", count: 3 }),
      ]),
    ).toEqual([]);
  });
});
