// The measurement report, section by section, in the order in which its readers ask: how many fit
// and what does it save, how was that found, how does each way of sharing behave, is it safe, and
// every figure behind it.
import { h, type Child } from "../dom.ts";
import { memory } from "../format.ts";
import { keyFigure, warnings } from "../page.ts";
import { caveats, gpuName, headline, keyFigures } from "./answer.ts";
import {
  aloneSection,
  calibrationSection,
  conditionSection,
  costSection,
  faultSection,
  lessonSection,
  migSection,
  quotaSection,
  runSection,
  serverSection,
  skippedSection,
} from "./check_tables.ts";
import type { LabDocument, Measurement } from "./measurement.ts";
import { neighbourSection, overlapSection } from "./neighbour_view.ts";
import { predictionSection, scalingSection } from "./scaling_view.ts";
import { sweepSection } from "./sweep_view.ts";

export function measurementReport(document: LabDocument): HTMLElement {
  return h(
    "main",
    { class: "measurement" },
    masthead(document),
    scalingSection(document),
    sweepSection(document),
    neighbourSection(document),
    aloneSection(document),
    overlapSection(document),
    serverSection(document),
    migSection(document),
    quotaSection(document),
    faultSection(document),
    costSection(document),
    predictionSection(document),
    calibrationSection(document),
    lessonSection(document),
    skippedSection(document),
    conditionSection(document),
    runSection(document),
    footer(document),
  );
}

function masthead(document: LabDocument): HTMLElement {
  const { measurement } = document;
  const words = headline(document);
  const figures = keyFigures(document);
  const day = measurement.before.time?.slice(0, 10);
  const eyebrow = ["Sublet measurement", gpuName(measurement), day].filter(Boolean).join(" · ");
  return h(
    "header",
    { class: "masthead" },
    h(
      "p",
      { class: "eyebrow" },
      eyebrow,
      measurement.simulated && h("strong", { class: "stamp" }, "simulated"),
      measurement.partial && h("strong", { class: "stamp" }, "partial"),
    ),
    h(
      "h1",
      {},
      words.sentence,
      words.accent !== "" && h("span", { class: "unseen" }, " "),
      words.accent !== "" && h("span", { class: "price" }, words.accent),
    ),
    h("p", { class: "saving" }, words.detail),
    warnings(caveats(document)),
    figures.length > 0 &&
      h(
        "dl",
        { class: "key-figures" },
        ...figures.map((f) => keyFigure(f.id, f.label, f.value, f.note, f.kind)),
      ),
    document.method &&
      h(
        "p",
        { class: "method", id: "method" },
        h("strong", {}, "How it was measured. "),
        document.method,
      ),
    machineLine(measurement),
  );
}

function machineLine(m: Measurement): Child {
  const parts = [
    m.sm_count > 0 && `${m.sm_count} SMs`,
    m.memory_mib > 0 && memory(m.memory_mib),
    m.driver_version && `driver ${m.driver_version}`,
    m.cuda_version > 0 &&
      `CUDA ${Math.floor(m.cuda_version / 1000)}.${Math.floor((m.cuda_version % 1000) / 10)}`,
    m.cpu_cores > 0 && `${m.cpu_cores} CPU cores`,
    m.gpu_uuid,
  ].filter((part) => typeof part === "string" && part !== "");
  return parts.length > 0 && h("p", { class: "machine" }, parts.join(" · "));
}

function footer({ measurement, calibration }: LabDocument): HTMLElement {
  return h(
    "footer",
    {},
    calibration && h("p", {}, `Calibration: ${calibration.source}`),
    h(
      "p",
      {},
      `Written by sublet measure, format ${measurement.version}. `,
      "The page is complete in itself and loads nothing.",
    ),
  );
}
