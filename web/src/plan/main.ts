// The page: finds the document that was put into it and shows it, or says what is wrong with it.
import { h, unfoldAll } from "./dom.ts";
import { PLAN_VERSION, type Plan } from "./plan.ts";
import { planReport } from "./report.ts";
import "./style/theme.css";
import "./style/page.css";
import "./style/gpus.css";
import "./style/inspector.css";
import "./style/tables.css";

function readPlan(): Plan {
  const data = document.getElementById("sublet-data")?.textContent ?? "";
  const document_ = JSON.parse(data) as { version?: unknown };
  if (document_.version !== PLAN_VERSION) {
    throw new Error(`this page shows ${PLAN_VERSION}, not ${String(document_.version)}`);
  }
  return document_ as Plan;
}

function show(app: HTMLElement): void {
  try {
    const plan = readPlan();
    document.title = plan.fleet === "" ? "Sublet plan" : `${plan.fleet} · Sublet plan`;
    app.replaceChildren(planReport(plan));
    window.addEventListener("beforeprint", unfoldAll);
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    app.replaceChildren(
      h("p", { class: "broken", role: "alert" }, `This report can't be shown: ${words}`),
    );
    throw error;
  }
}

show(document.getElementById("app")!);
