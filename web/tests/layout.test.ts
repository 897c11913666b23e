import { describe, expect, it } from "vitest";

import { freeUnits, groupGpus, layoutGpus, memoryTicks, signature } from "../src/plan/layout.ts";
import { gpu, migGpu, partition, replica } from "./fixtures.ts";

const GIB = 1024;

describe("grouping equal GPUs", () => {
  it("draws GPUs once that differ only in their names and replica ids", () => {
    const make = (n: number) =>
      gpu(`gpu${n}`, [
        partition(`gpu${n}`, { replicas: [replica(`chat/${n}`), replica(`code/${n}`)] }),
      ]);
    const groups = groupGpus([make(0), make(1), make(2)]);
    expect(groups).toHaveLength(1);
    expect(groups[0]!.gpus.map((g) => g.name)).toEqual(["gpu0", "gpu1", "gpu2"]);
    expect(groups[0]!.layout.slots[0]!.cells.map((c) => c.replicas.map((r) => r.id))).toEqual([
      ["chat/0", "chat/1", "chat/2"],
      ["code/0", "code/1", "code/2"],
    ]);
  });

  it("does not care in which order the replicas and the servers stand", () => {
    const servers = [
      { name: "a", tenant: "red" },
      { name: "b", tenant: "blue" },
    ];
    const one = partition("p", {
      mode: "mps",
      servers,
      replicas: [replica("x/0", { server: 0 }), replica("y/0", { server: 1 })],
    });
    const other = partition("q", {
      mode: "mps",
      servers: [...servers].reverse(),
      replicas: [replica("y/1", { server: 0 }), replica("x/1", { server: 1 })],
    });
    const groups = groupGpus([gpu("gpu0", [one]), gpu("gpu1", [other])]);
    expect(groups).toHaveLength(1);
    const [slot] = groups[0]!.layout.slots;
    expect(slot!.bands.map((b) => b.server.tenant)).toEqual(["blue", "red"]);
    expect(slot!.cells.map((c) => c.replicas.map((r) => r.id))).toEqual([
      ["y/0", "y/1"],
      ["x/0", "x/1"],
    ]);
  });

  it.each([
    ["memory", { memory_mib: 4097 }],
    ["SM cap", { sm_percent: 11 }],
    ["memory limit", { memory_limit_mib: 1 }],
    ["workload", { workload: "other" }],
    ["tenant", { tenant: "other" }],
  ])("keeps GPUs apart whose replicas differ in %s", (_, difference) => {
    const a = gpu("gpu0", [partition("p", { replicas: [replica("m/0")] })]);
    const b = gpu("gpu1", [partition("p", { replicas: [replica("m/0", difference)] })]);
    expect(signature(a)).not.toBe(signature(b));
    expect(groupGpus([a, b])).toHaveLength(2);
  });

  it("keeps GPUs apart whose instances lie at other places", () => {
    const at = (start: number) => migGpu("g", [{ start, size: 1 }]);
    expect(groupGpus([at(0), at(1)])).toHaveLength(2);
  });

  it("puts the most frequent layout first and keeps the plan's order otherwise", () => {
    const holding = (name: string, workload: string) =>
      gpu(name, [partition(name, { replicas: [replica(`${workload}/0`)] })]);
    const groups = groupGpus([
      holding("gpu0", "rare"),
      holding("gpu1", "odd"),
      holding("gpu2", "often"),
      holding("gpu3", "often"),
    ]);
    expect(groups.map((g) => g.gpus[0]!.name)).toEqual(["gpu2", "gpu0", "gpu1"]);
  });
});

describe("the scale of a drawing", () => {
  it("makes a replica as wide as its part of the GPU's memory", () => {
    const whole = partition("p", {
      memory_mib: 78 * GIB,
      replicas: [
        replica("a/0", { memory_mib: 20 * GIB }),
        replica("b/0", { memory_mib: 40 * GIB }),
      ],
    });
    const [slot] = layoutGpus([gpu("gpu0", [whole], { memory_mib: 80 * GIB })]).slots;
    expect(slot).toMatchObject({ left: 0, width: 100 });
    expect(slot!.cells.map(({ left, width }) => [left, width])).toEqual([
      [0, 25],
      [25, 50],
    ]);
    expect(slot!.unused).toEqual({ left: 75, width: 22.5 });
    expect(slot!.reserve).toEqual({ left: 97.5, width: 2.5 });
  });

  it("places a MIG instance at its memory units and its replica within it", () => {
    const layout = layoutGpus([
      migGpu("g", [
        { start: 0, size: 1 },
        { start: 4, size: 4, replicas: [replica("a/0", { memory_mib: 10 * GIB })] },
      ]),
    ]);
    expect(layout.slots.map(({ left, width }) => [left, width])).toEqual([
      [0, 12.5],
      [50, 50],
    ]);
    expect(layout.slots[1]!.cells[0]).toMatchObject({ left: 0, width: 25 });
    expect(layout.free).toEqual([{ start: 1, size: 3, left: 12.5, width: 37.5 }]);
  });

  it("never draws past the end, even where replicas take more than there is", () => {
    const over = partition("p", {
      memory_mib: 10 * GIB,
      replicas: [replica("a/0", { memory_mib: 9 * GIB }), replica("b/0", { memory_mib: 9 * GIB })],
    });
    const [slot] = layoutGpus([gpu("gpu0", [over], { memory_mib: 12 * GIB })]).slots;
    const last = slot!.cells.at(-1)!;
    expect(last.left + last.width).toBeCloseTo(100);
    expect(slot!.unused.width).toBe(0);
    expect(slot!.reserve.width).toBe(0);
  });

  it("fills a replica up to its SM cap, and wholly without one", () => {
    const both = partition("p", { replicas: [replica("a/0", { sm_percent: 30 }), replica("b/0")] });
    const [slot] = layoutGpus([gpu("gpu0", [both])]).slots;
    expect(slot!.cells.map(({ fill, capped }) => [fill, capped])).toEqual([
      [30, true],
      [100, false],
    ]);
  });

  it("spans a server's band over exactly its clients", () => {
    const shared = partition("p", {
      mode: "mps",
      servers: [
        { name: "s0", tenant: "a" },
        { name: "s1", tenant: "b" },
      ],
      replicas: [
        replica("x/0", { tenant: "a", server: 0, memory_mib: 8 * GIB }),
        replica("y/0", { tenant: "b", server: 1, memory_mib: 16 * GIB }),
        replica("z/0", { tenant: "a", server: 0, memory_mib: 8 * GIB }),
      ],
    });
    const [slot] = layoutGpus([gpu("gpu0", [shared], { memory_mib: 80 * GIB })]).slots;
    expect(
      slot!.bands.map(({ server, clients, left, width }) => [server.name, clients, left, width]),
    ).toEqual([
      ["s0", 2, 0, 20],
      ["s1", 1, 20, 20],
    ]);
  });

  it("knows whether something holds a replica to its memory", () => {
    const held = [{ what: "memory", by: "MPS pinned device memory limit", enforced: true }];
    const loose = [{ what: "memory", by: "not enforced", enforced: false }];
    const both = partition("p", {
      replicas: [replica("a/0", { enforcement: held }), replica("b/0", { enforcement: loose })],
    });
    const [slot] = layoutGpus([gpu("gpu0", [both])]).slots;
    expect(slot!.cells.map((c) => c.memoryEnforced)).toEqual([true, false]);
  });
});

describe("free memory units", () => {
  it("are the gaps between instances, also on a board of twelve units", () => {
    const board = migGpu("g", [{ start: 3, size: 3 }], { memory_units: 12 });
    expect(freeUnits(board).map(({ start, size }) => [start, size])).toEqual([
      [0, 3],
      [6, 6],
    ]);
  });

  it("do not exist without MIG", () => {
    expect(freeUnits(gpu("gpu0", []))).toEqual([]);
  });
});

describe("the memory axis", () => {
  it.each([
    [80, ["0", "20", "40", "60", "80"]],
    [24, ["0", "5", "10", "15", "20"]],
    [16, ["0", "4", "8", "12", "16"]],
    [140.4, ["0", "20", "40", "60", "80", "100", "120", "140"]],
  ])("has round figures for %d GiB", (gib, labels) => {
    expect(memoryTicks(gib * GIB).map((tick) => tick.label)).toEqual(labels);
  });

  it("puts a tick where its memory is", () => {
    expect(memoryTicks(80 * GIB)[1]).toEqual({ at: 25, label: "20" });
  });
});
