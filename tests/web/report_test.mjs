// The plan report as a browser shows it: the right figures at the right places, for one GPU with
// forty clients as for 180 GPUs, in both themes, on a wide and a narrow window, on paper and by
// keyboard.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Browser, readSample, texts } from "./browser.mjs";

const SAMPLES = ["four-7b", "forty-small", "mig-nested", "big"];

let browser;
before(async () => {
  browser = await Browser.start();
});
after(async () => {
  await browser?.stop();
});

async function withReport(plan, options, check) {
  const page = await browser.open(plan, options);
  try {
    await check(page);
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.close();
  }
}

const replicasOf = (gpu) => gpu.partitions.flatMap((partition) => partition.replicas);
const dollars = (usd) =>
  `$${usd.toLocaleString("en-US", {
    minimumFractionDigits: Number.isInteger(Math.round(usd * 100) / 100) ? 0 : 2,
    maximumFractionDigits: 2,
  })}`;

async function openAll(page) {
  await page.evaluate(async () => {
    for (let closed; (closed = document.querySelector("details:not([open])"));) {
      closed.open = true;
      await new Promise((resolve) => closed.addEventListener("toggle", resolve, { once: true }));
    }
  });
}

for (const sample of SAMPLES) {
  const plan = readSample(sample);

  test(`${sample}: the headline has the plan's figures`, async () => {
    await withReport(plan, {}, async (page) => {
      const { summary } = plan;
      const [headline] = await texts(page, "h1");
      assert.ok(
        headline.startsWith(`${summary.replicas} replicas share ${summary.gpus} GPU`),
        headline,
      );
      assert.ok(headline.includes(`${dollars(summary.cost_month_usd)} a month`), headline);
      assert.deepEqual(await texts(page, "#figure-gpus .value"), [String(summary.gpus)]);
      assert.deepEqual(await texts(page, "#figure-cost .value"), [dollars(summary.cost_month_usd)]);
      const [verdict] = await texts(page, "#figure-verdict .value");
      assert.equal(verdict.toLowerCase(), summary.verdict);
      const [headroom] = await texts(page, "#figure-headroom .value");
      const shown = Number(headroom.replace("−", "-").replace(" %", ""));
      assert.ok(Math.abs(shown - summary.headroom_percent_min) <= 0.5, headroom);
      assert.deepEqual(await texts(page, ".warnings li"), plan.warnings);
      assert.ok((await texts(page, "#calibration"))[0].endsWith(plan.calibration));
    });
  });

  test(`${sample}: every GPU and every replica is drawn`, async () => {
    await withReport(plan, {}, async (page) => {
      await openAll(page);
      const drawn = await page.evaluate(() =>
        [...document.querySelectorAll("article.gpu")].map((card) => ({
          gpus: Number(card.dataset.gpus),
          cells: card.querySelectorAll(".cell").length,
          rows: card.querySelectorAll("tbody tr").length,
          times: card.querySelector(".times")?.textContent ?? "1×",
        })),
      );
      const sum = (values) => values.reduce((a, b) => a + b, 0);
      assert.equal(sum(drawn.map((card) => card.gpus)), plan.gpus.length);
      assert.equal(sum(drawn.map((card) => card.gpus * card.cells)), plan.summary.replicas);
      for (const card of drawn) {
        assert.equal(card.rows, card.cells);
        assert.equal(card.times, `${card.gpus}×`);
      }
    });
  });

  test(`${sample}: the comparison has every strategy, with this plan highlighted`, async () => {
    await withReport(plan, {}, async (page) => {
      const rows = await page.locator("#strategies tbody tr").all();
      assert.equal(rows.length, plan.strategies.length);
      assert.deepEqual(await texts(page, "#strategies tr.chosen th"), ["This plan"]);
      const chosen = plan.strategies.find((strategy) => strategy.name === "chosen");
      const cells = await texts(page, "#strategies tr.chosen td");
      assert.equal(cells[0], String(chosen.gpus));
      assert.equal(cells[1], dollars(chosen.cost_month_usd));
      const background = (selector) =>
        page
          .locator(selector)
          .first()
          .evaluate((e) => getComputedStyle(e).backgroundColor);
      assert.notEqual(
        await background("#strategies tr.chosen td"),
        await background("#strategies tr:not(.chosen) td"),
      );
    });
  });

  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 420]) {
      test(`${sample}: nothing sticks out at ${width} px, ${colorScheme}`, async () => {
        await withReport(plan, { width, colorScheme }, async (page) => {
          await openAll(page);
          await page.locator("#latency .plot svg").waitFor();
          const { over, culprits, paper } = await page.evaluate(() => {
            const wide = document.documentElement.clientWidth;
            return {
              over: document.documentElement.scrollWidth - wide,
              culprits: [...document.querySelectorAll("main *")]
                .filter(
                  (e) =>
                    !e.closest(".table, .slot-name, svg") &&
                    e.getBoundingClientRect().right > wide + 1,
                )
                .map((e) => `${e.tagName}.${e.className}`),
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

test("the known answer of four services is in the table", async () => {
  await withReport(readSample("four-7b"), {}, async (page) => {
    const rows = await page
      .locator("#strategies tbody tr")
      .evaluateAll((elements) =>
        elements.map((row) => [...row.children].slice(0, 3).map((cell) => cell.textContent.trim())),
      );
    const of = (name) => rows.find(([strategy]) => strategy === name);
    assert.deepEqual(of("Exclusive"), ["Exclusive", "4", "$9,490"]);
    for (const name of ["Time-slicing", "MPS", "MIG", "This plan"]) {
      assert.deepEqual(of(name), [name, "1", "$2,372.50"]);
    }
    assert.match(
      (await texts(page, ".saving"))[0],
      /4 GPUs and \$9,490 .* saves \$7,117\.50, or 75 %/,
    );
  });
});

test("a replica is as wide as its memory and filled as high as its SM cap", async () => {
  const plan = readSample("four-7b");
  const [gpu] = plan.gpus;
  await withReport(plan, {}, async (page) => {
    const drawn = await page.evaluate(() => {
      const board = document.querySelector(".board").getBoundingClientRect();
      return [...document.querySelectorAll(".cell")].map((cell) => {
        const box = cell.getBoundingClientRect();
        const fill = cell.querySelector(".fill").getBoundingClientRect();
        return {
          workload: cell.dataset.workload,
          left: (box.left - board.left) / board.width,
          width: box.width / board.width,
          fill: fill.height / box.height,
          atBottom: Math.abs(fill.bottom - box.bottom) < 1,
        };
      });
    });
    let left = 0;
    for (const [i, replica] of replicasOf(gpu).entries()) {
      const width = replica.memory_mib / gpu.memory_mib;
      assert.equal(drawn[i].workload, replica.workload);
      assert.ok(Math.abs(drawn[i].left - left) < 0.002, `${replica.id} at ${drawn[i].left}`);
      assert.ok(Math.abs(drawn[i].width - width) < 0.002, `${replica.id} is ${drawn[i].width}`);
      assert.ok(Math.abs(drawn[i].fill - replica.sm_percent / 100) < 0.01);
      assert.ok(drawn[i].atBottom);
      left += width;
    }
  });
});

test("a MIG instance lies at its placement, and what is free between shows", async () => {
  const plan = readSample("mig-nested");
  await withReport(plan, {}, async (page) => {
    for (const gpu of plan.gpus) {
      for (const { name, start, size } of gpu.partitions) {
        const at = await page.locator(`[data-partition="${name}"]`).evaluate((slot) => {
          const board = slot.parentElement.getBoundingClientRect();
          const box = slot.getBoundingClientRect();
          return { left: (box.left - board.left) / board.width, width: box.width / board.width };
        });
        assert.ok(Math.abs(at.left - start / gpu.memory_units) < 0.002, `${name} at ${at.left}`);
        assert.ok(Math.abs(at.width - size / gpu.memory_units) < 0.002, `${name} is ${at.width}`);
      }
    }
    const second = page.locator("article.gpu").nth(1);
    assert.equal(await second.locator(".slot.free").count(), 2);
    const bands = await texts(page, '[data-partition="gpu0-3g.40gb-0"] .band');
    assert.deepEqual(bands.map((band) => band.split(" ")[0]).sort(), ["press", "shop"]);
  });
});

test("the plot puts a kept p99 before its target and a missed one past it", async () => {
  const plan = readSample("mig-nested");
  await withReport(plan, {}, async (page) => {
    await page.locator("#latency .plot svg").waitFor();
    const figures = await page.evaluate(() => {
      const box = (e) => e.getBoundingClientRect();
      const middle = (e) => ({ x: box(e).x + box(e).width / 2, y: box(e).y + box(e).height / 2 });
      const ticks = [...document.querySelectorAll('.plot [aria-label="tick"] line')].map(middle);
      return [...document.querySelectorAll(".plot circle:has(title)")].map((dot) => {
        const at = middle(dot);
        const tick = ticks.find((t) => Math.abs(t.y - at.y) < 4);
        return { words: dot.querySelector("title").textContent, past: tick && at.x > tick.x };
      });
    });
    assert.equal(figures.length, plan.workloads.length);
    for (const { words, past } of figures) assert.equal(past, words.startsWith("tag,"), words);
    const [sides] = await page.locator(".plot svg").allTextContents();
    assert.match(sides, /95 of 90\sms/);
    assert.match(sides, /300 of 800\sms/);
  });
});

test("equal rejections are told once and changes without what stays", async () => {
  await withReport(readSample("four-7b"), {}, async (page) => {
    assert.equal(await page.locator("#rejections tbody tr").count(), 4);
    assert.equal((await texts(page, "#rejections tbody tr td"))[0], "all 4");
    const changes = await texts(page, "#changes .change");
    assert.deepEqual(changes, ["move", "add", "remove"]);
    assert.match(
      (await texts(page, "#changes .lead"))[0],
      /1 to move, 1 to add, 1 to remove, 1 stays/,
    );
  });
  await withReport(readSample("forty-small"), {}, async (page) => {
    assert.equal(await page.locator("#changes").count(), 0);
  });
});

test("the keyboard goes through the replicas and reads their explanation", async () => {
  const plan = readSample("forty-small");
  const replicas = replicasOf(plan.gpus[0]);
  await withReport(plan, {}, async (page) => {
    const card = page.locator("#inspector");
    assert.ok(await card.isHidden());
    for (let stops = 0; stops < 10 && (await card.isHidden()); stops++) {
      await page.keyboard.press("Tab");
    }
    assert.match(await card.innerText(), new RegExp(replicas[0].id));
    await page.keyboard.press("ArrowRight");
    const [words] = await texts(page, "#inspector");
    assert.match(words, new RegExp(replicas[1].id));
    assert.ok(words.includes(replicas[1].reason));
    assert.match(words, /10 %, about 11 of 108/);
    assert.match(words, /p99\s+9\.45 ms, target 20 ms/);
    assert.match(words, /held by MPS pinned device memory limit/);
    assert.match(words, /Faults: not enforced/);
    const described = await page.evaluate(() =>
      document.activeElement.getAttribute("aria-describedby"),
    );
    assert.equal(described, "inspector");
    await page.keyboard.press("End");
    assert.match(await card.innerText(), new RegExp(replicas.at(-1).id));
    await page.keyboard.press("Escape");
    assert.ok(await card.isHidden());
    // One stop for the whole drawing: the next Tab leaves it.
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.tagName), "SUMMARY");
  });
});

test("the pointer shows an explanation within the window, and a click keeps it", async () => {
  for (const width of [1280, 420]) {
    await withReport(readSample("mig-nested"), { width }, async (page) => {
      const cell = page.locator(".cell").last();
      await cell.scrollIntoViewIfNeeded();
      await cell.hover();
      const card = page.locator("#inspector");
      assert.ok(await card.isVisible());
      const box = await card.boundingBox();
      assert.ok(
        box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= 900,
      );
      await page.mouse.move(1, 1);
      assert.ok(await card.isHidden());
      await cell.click();
      await page.mouse.move(1, 1);
      assert.ok(await card.isVisible());
      await page.locator("h2").first().click();
      assert.ok(await card.isHidden());
    });
  }
});

test("paper gets what the screen hides behind a click", async () => {
  await withReport(readSample("big"), {}, async (page) => {
    const rows = readSample("big").workloads.length;
    assert.ok((await page.locator("#workloads tbody tr").count()) < rows);
    const pdf = await page.pdf({ format: "A4" });
    assert.ok(pdf.length > 10_000);
    assert.equal(await page.locator("details:not([open])").count(), 0);
    assert.equal(await page.locator("#workloads tbody tr").count(), rows);
  });
});

test("names that are markup stay text", async () => {
  const plan = readSample("four-7b");
  const hostile = `</script><img src=x onerror="alert(1)"><script>alert(2)</script><!--\u2028&amp;`;
  const [partition] = plan.gpus[0].partitions;
  plan.fleet = hostile;
  plan.warnings = [hostile];
  plan.calibration = hostile;
  plan.gpus[0].reason = hostile;
  partition.servers[0].name = hostile;
  Object.assign(partition.replicas[0], { id: hostile, workload: hostile, reason: hostile });
  plan.workloads[0].name = hostile;
  plan.strategies[0].breaks = [hostile];
  plan.rejections[0] = { workload: hostile, mode: "mig", reason: hostile };
  plan.changes = [{ kind: "move", replica: hostile, from: hostile, to: hostile }];
  await withReport(plan, {}, async (page) => {
    await page.locator(".cell").first().focus();
    await openAll(page);
    await page.locator("#latency .plot svg").waitFor();
    assert.equal(await page.locator("main img, main script, #inspector img").count(), 0);
    assert.equal(await page.locator(".warnings li").textContent(), hostile);
    assert.equal(await page.locator("#inspector .why").textContent(), hostile);
    assert.ok((await page.title()).startsWith(hostile.slice(0, 20)));
  });
});

test("even markup in the page could not run: the policy forbids it", async () => {
  const page = await browser.open(readSample("four-7b"));
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.intruder = true";
    document.body.append(script);
  });
  assert.equal(await page.evaluate(() => window.intruder), undefined);
  assert.match(page.complaints.join("\n"), /Content Security Policy/);
  await page.close();
});

test("a document that the page does not know is named", async () => {
  const page = await browser.open({ version: "sublet.plan/v9" });
  assert.match((await texts(page, "[role=alert]"))[0], /sublet\.plan\/v1, not sublet\.plan\/v9/);
  await page.close();
});

test("a plan without targets, load or strategies is shown without them", async () => {
  const plan = readSample("four-7b");
  Object.assign(plan, {
    strategies: [],
    rejections: [],
    changes: [],
    warnings: [],
    calibration: "",
  });
  for (const workload of plan.workloads) delete workload.latency_ms_p99_target;
  for (const { prediction } of replicasOf(plan.gpus[0])) {
    delete prediction.latency_ms_p50;
    delete prediction.latency_ms_p99;
    delete prediction.headroom_percent;
  }
  await withReport(plan, {}, async (page) => {
    assert.deepEqual(await texts(page, "#figure-headroom .value"), ["–"]);
    assert.equal(
      await page.locator("#strategies, #rejections, #changes, .warnings, .plot").count(),
      0,
    );
    assert.equal(await page.locator(".cell").count(), 4);
  });
});
