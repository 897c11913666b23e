// The page of a plan.
import { showPage } from "../page.ts";
import { PLAN_VERSION, type Plan } from "./plan.ts";
import { planReport } from "./report.ts";
import "../style/theme.css";
import "../style/page.css";
import "../style/gpus.css";
import "../style/inspector.css";
import "../style/tables.css";

showPage((data) => {
  const { version } = data as { version?: unknown };
  if (version !== PLAN_VERSION) {
    throw new Error(`this page shows ${PLAN_VERSION}, not ${String(version)}`);
  }
  const plan = data as Plan;
  document.title = plan.fleet === "" ? "Sublet plan" : `${plan.fleet} · Sublet plan`;
  return planReport(plan);
});
