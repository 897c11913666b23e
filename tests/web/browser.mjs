// A headless Chromium for the tests, and pages opened in it that write down what goes wrong.
//
// SUBLET_WEB_APP names the folder whose node_modules has playwright-core, WRITE_REPORT the program
// that turns a document's JSON into a report; CMake sets both. CHROMIUM may name another browser than
// Debian's.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

// What ctest takes for "skipped" (SKIP_RETURN_CODE).
const SKIPPED = 77;
const samples = join(dirname(fileURLToPath(import.meta.url)), "samples");

function required(name) {
  const value = process.env[name];
  if (!value)
    throw new Error(`the environment variable ${name} is missing; run this through ctest`);
  return value;
}

export function readSample(name) {
  return JSON.parse(readFileSync(join(samples, `${name}.json`), "utf8"));
}

export class Browser {
  static async start() {
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    if (!existsSync(executablePath)) {
      console.log(`skipped: no browser at ${executablePath} (Debian: apt-get install chromium)`);
      process.exit(SKIPPED);
    }
    const { chromium } = createRequire(join(required("SUBLET_WEB_APP"), "package.json"))(
      "playwright-core",
    );
    const folder = mkdtempSync(join(tmpdir(), "sublet-web-"));
    const context = await chromium.launchPersistentContext(join(folder, "profile"), {
      executablePath,
      headless: true,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    return new Browser(context, folder);
  }

  constructor(context, folder) {
    this.context = context;
    this.folder = folder;
    this.reports = 0;
  }

  async stop() {
    await this.context.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  // Opens the report of a plan, or with `kind` "measure" of a measurement. page.complaints collects errors of the console and of scripts, and
  // requests for anything but the page itself.
  async open(content, { kind = "plan", width = 1280, height = 900, colorScheme = "light" } = {}) {
    const name = join(this.folder, `report-${this.reports++}`);
    writeFileSync(`${name}.json`, JSON.stringify(content));
    execFileSync(required("WRITE_REPORT"), [kind, `${name}.json`, `${name}.html`]);
    const url = pathToFileURL(`${name}.html`).href;

    const page = await this.context.newPage();
    page.complaints = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) page.complaints.push(message.text());
    });
    page.on("pageerror", (error) => page.complaints.push(error.message));
    page.on("dialog", (dialog) => {
      page.complaints.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on("request", (request) => {
      const loaded = request.url();
      if (loaded !== url && !loaded.startsWith("data:")) page.complaints.push(`loads ${loaded}`);
    });
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme });
    await page.goto(url);
    await page.waitForSelector("main footer, [role=alert]");
    return page;
  }
}

// The text of the elements as it is read, with ordinary spaces.
export async function texts(page, selector) {
  const found = await page.locator(selector).allInnerTexts();
  return found.map((text) => text.replaceAll("\u00a0", " ").trim());
}
