// The page of a measurement.
import { showPage } from "../page.ts";
import { gpuName } from "./answer.ts";
import { readLabDocument } from "./measurement.ts";
import { measurementReport } from "./report.ts";
import "../style/theme.css";
import "../style/page.css";
import "../style/tables.css";
import "../style/measure.css";

showPage((data) => {
  const document_ = readLabDocument(data);
  document.title = `${gpuName(document_.measurement)} · Sublet measurement`;
  return measurementReport(document_);
});
