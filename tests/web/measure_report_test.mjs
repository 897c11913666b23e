// The measurement report as a browser shows it: the answer, every chart with its table, what is
// missing said plainly; in both themes, on a wide and a narrow window, and on paper.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Browser, readSample, texts } from "./browser.mjs";

let browser;
before(async () => {
  browser = await Browser.start();
});
after(async () => {
  await browser?.stop();
});

async function withReport(content, options, check) {
  const page = await browser.open(content, { kind: "measure", ...options });
  try {
    await check(page);
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.close();
  }
}

const chartsOf = (page) => page.locator(".plot svg[role=img]");
const drawn = (page) =>
  page.waitForFunction(() =>
    [...document.querySelectorAll(".plot")].every((plot) => plot.firstElementChild),
  );
const sections = (page) =>
  page.evaluate(() => [...document.querySelectorAll("main > section")].map((s) => s.id));

test("the answer comes first, with the measurement's figures", async () => {
  const sample = readSample("measured-h200");
  const best = sample.measurement.runs.find((run) => run.id === "mps-10/transformer/x40");
  const sliced = sample.measurement.runs.find((run) => run.id === "time-slicing/transformer/x40");
  const factor = best.total_per_s.value / sliced.total_per_s.value;
  await withReport(sample, {}, async (page) => {
    const [headline] = await texts(page, "h1");
    const figure = best.total_per_s.value.toLocaleString("en-US");
    assert.match(headline, /^40 transformer replicas share one NVIDIA H200:/);
    assert.ok(headline.endsWith(`${figure} forward passes a second`), headline);
    const [detail] = await texts(page, ".saving");
    assert.match(detail, /^Best way: MPS at 10 % of the SMs each\./);
    assert.ok(detail.includes(`${factor.toFixed(1)}× what time-slicing gives`), detail);
    assert.deepEqual(await texts(page, "#figure-fit .value"), ["48"]);
    assert.deepEqual(await texts(page, "#figure-saved .value"), ["9 of 10"]);
    assert.ok((await texts(page, "#method"))[0].endsWith(sample.method));
    assert.equal(await page.locator(".warnings, .stamp").count(), 0);
  });
});

test("everything that was measured has its section, in the order of the questions", async () => {
  await withReport(readSample("measured-h200"), {}, async (page) => {
    assert.deepEqual(await sections(page), [
      "scaling",
      "sweep",
      "neighbours",
      "alone",
      "overlap",
      "servers",
      "quotas",
      "faults",
      "cost",
      "predictions",
      "calibration",
      "lessons",
      "skipped",
      "conditions",
      "runs",
    ]);
  });
});

test("every chart is an image with words, and stands before a table of its figures", async () => {
  await withReport(readSample("measured-h200"), {}, async (page) => {
    await drawn(page);
    assert.equal(await chartsOf(page).count(), 10 + (3 + 3) + 2 + 1 + 1);
    const words = await chartsOf(page).evaluateAll((all) =>
      all.map((svg) => svg.getAttribute("aria-label")),
    );
    for (const sentence of words) assert.ok(sentence?.length > 20, sentence);
    assert.match(words[0], /Time-slicing with 40: 2,7\d\d a second/);
    for (const id of ["scaling", "sweep", "neighbours", "overlap", "predictions"]) {
      await page.locator(`#${id} summary`).last().click();
      await page.locator(`#${id} details[open] tbody tr`).nth(3).waitFor();
    }
  });
});

test("curves are drawn where their figures are, predictions dashed", async () => {
  const { measurement } = readSample("measured-h200");
  await withReport(readSample("measured-h200"), {}, async (page) => {
    await drawn(page);
    const { heights, dashed } = await page.evaluate(() => {
      const chart = document.querySelector("#scaling .plot svg");
      const last = [
        ...chart.querySelectorAll('[aria-label="dot"] path, [aria-label="dot"] circle'),
      ];
      return {
        heights: last
          .filter((dot) => dot.querySelector("title")?.textContent.includes(", 40:"))
          .map((dot) => ({
            words: dot.querySelector("title").textContent,
            y: dot.getBoundingClientRect().y + dot.getBoundingClientRect().height / 2,
          })),
        dashed: chart.querySelectorAll('[aria-label="line"][stroke-dasharray]').length,
      };
    });
    assert.equal(dashed, 3);
    const measured = heights.filter(({ words }) => !words.includes("predicted"));
    assert.equal(measured.length, 3);
    const at = (start) => measured.find(({ words }) => words.startsWith(start)).y;
    const rate = (id) => measurement.runs.find((r) => r.id === id).total_per_s.value;
    // Lengths from the axis at 0 are in proportion, so differences are too.
    const [sliced, mps, capped] = [at("Time-slicing"), at("MPS, 40"), at("MPS at 10")];
    const [a, b, c] = ["time-slicing", "mps", "mps-10"].map((m) => rate(`${m}/transformer/x40`));
    assert.ok(Math.abs((sliced - mps) / (sliced - capped) - (b - a) / (c - a)) < 0.02);
  });
});

test("the knee and the best cap are marked", async () => {
  await withReport(readSample("measured-h200"), {}, async (page) => {
    await drawn(page);
    const marks = (await page.locator("#sweep .plot svg").allTextContents()).join(" ");
    assert.match(marks, /knee: 15 %/);
    assert.match(marks, /best: 10 %/);
    assert.match((await texts(page, "#sweep .finding"))[0], /With 15 % of the SMs one keeps 95 %/);
  });
});

test("the maps have a cell for each pair, the darker the worse", async () => {
  await withReport(readSample("measured-h200"), {}, async (page) => {
    await drawn(page);
    const maps = await page.evaluate(() =>
      [...document.querySelectorAll("#neighbours .plot svg")].map((svg) =>
        [...svg.querySelectorAll('[aria-label="cell"] rect')].map((rect) => ({
          factor: Number(/([\d.]+)×/.exec(rect.querySelector("title").textContent)[1]),
          share: Number(/(\d+)%/.exec(rect.getAttribute("fill"))[1]),
        })),
      ),
    );
    assert.deepEqual(
      maps.map((cells) => cells.length),
      [25, 25],
    );
    for (const cells of maps) {
      const sorted = [...cells].sort((a, b) => a.factor - b.factor);
      assert.ok(sorted[0].share < sorted.at(-1).share);
      for (let i = 1; i < sorted.length; i++) {
        if (sorted[i].factor > sorted[i - 1].factor) {
          assert.ok(sorted[i].share >= sorted[i - 1].share);
        }
      }
    }
  });
});

test("limits that don't hold and neighbours that die are said plainly", async () => {
  await withReport(readSample("measured-h200"), {}, async (page) => {
    assert.deepEqual(await texts(page, "#quotas .fails"), ["not enforced"]);
    assert.deepEqual(await texts(page, "#faults .fails"), ["0 of 3"]);
    assert.equal(await page.locator("#faults .holds").count(), 4);
    assert.match((await texts(page, "#skipped td"))[0], /MIG is off/);
  });
});

test("a simulated, partial, disturbed measurement says so at the top", async () => {
  await withReport(readSample("measured-partial"), {}, async (page) => {
    assert.deepEqual(await texts(page, ".stamp"), ["simulated", "partial"]);
    const warnings = await texts(page, ".warnings li");
    const kinds = warnings.map((sentence) => sentence.split(":")[0]);
    assert.deepEqual(kinds, [
      "Simulated",
      "Partial",
      "Disturbed",
      "Drift",
      "Throttled",
      "Not as expected",
    ]);
    const top = await page.locator(".warnings").boundingBox();
    assert.ok(top.y < 600);
    assert.deepEqual(await texts(page, "#lessons .fails"), ["does not hold", "does not hold"]);
    assert.ok(!(await sections(page)).includes("sweep"));
  });
});

test("runs alone are shown for what they are", async () => {
  await withReport(readSample("measured-alone"), {}, async (page) => {
    assert.match((await texts(page, ".saving"))[0], /No sharing of it was measured/);
    assert.deepEqual(await sections(page), ["alone", "cost", "runs"]);
    assert.equal(await page.locator("#alone tbody tr").count(), 6);
    assert.equal(await page.locator(".key-figures, .plot").count(), 0);
  });
});

test("a measurement of nothing, and a document of another kind, are named", async () => {
  const { measurement } = readSample("measured-alone");
  await withReport({ measurement: { ...measurement, runs: [] } }, {}, async (page) => {
    assert.match((await texts(page, "h1"))[0], /Nothing was measured on NVIDIA H200/);
  });
  const page = await browser.open({ version: "sublet.plan/v1" }, { kind: "measure" });
  assert.match((await texts(page, "[role=alert]"))[0], /shows sublet\.measurement\/v1/);
  await page.close();
});

for (const sample of ["measured-h200", "measured-partial", "measured-alone"]) {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 400]) {
      test(`${sample}: nothing sticks out at ${width} px, ${colorScheme}`, async () => {
        await withReport(readSample(sample), { width, colorScheme }, async (page) => {
          await page.evaluate(() => {
            for (const details of document.querySelectorAll("details")) details.open = true;
          });
          await drawn(page);
          const { over, culprits, paper } = await page.evaluate(() => {
            const wide = document.documentElement.clientWidth;
            return {
              over: document.documentElement.scrollWidth - wide,
              culprits: [...document.querySelectorAll("main *")]
                .filter((e) => !e.closest(".table") && e.getBoundingClientRect().right > wide + 1)
                .map((e) => `${e.tagName}.${e.getAttribute("class")} ${e.textContent}`),
              paper: getComputedStyle(document.documentElement).backgroundColor,
            };
          });
          assert.deepEqual(culprits, []);
          assert.equal(over, 0);
          const [red] = paper.match(/\d+/g).map(Number);
          assert.ok(colorScheme === "dark" ? red < 64 : red > 192, paper);
        });
      });
    }
  }
}

test("paper gets every table and no controls", async () => {
  const sample = readSample("measured-h200");
  await withReport(sample, {}, async (page) => {
    await drawn(page);
    const pdf = await page.pdf({ format: "A4" });
    assert.ok(pdf.length > 10_000);
    assert.equal(await page.locator("details:not([open])").count(), 0);
    assert.equal(await page.locator("#runs tbody tr").count(), sample.measurement.runs.length);
    await page.emulateMedia({ media: "print" });
    assert.equal(await page.locator("summary:visible, button:visible").count(), 0);
  });
});

test("names that are markup stay text", async () => {
  const sample = readSample("measured-partial");
  const hostile = `</script><img src=x onerror="alert(1)"><script>alert(2)</script><!--\u2028&amp;`;
  sample.measurement.gpu_name = hostile;
  sample.measurement.disturbed_by = [hostile];
  sample.measurement.skipped = [{ what: hostile, reason: hostile }];
  sample.method = hostile;
  for (const run of sample.measurement.runs) {
    run.id = `${hostile} ${run.id}`;
    for (const tenant of run.tenants) {
      if (tenant.workload === "transformer") tenant.workload = hostile;
    }
  }
  await withReport(sample, {}, async (page) => {
    await drawn(page);
    assert.equal(await page.locator("main img, main script").count(), 0);
    assert.equal(await page.locator("#skipped td").textContent(), hostile);
  });
});
