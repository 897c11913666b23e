// render/report.h
//
// A plan as a web page for people: one HTML file that carries its script, its style and the plan,
// and loads nothing.
//
// The page is built from web/ and compiled in; this puts a plan's JSON into it. What is shown is
// therefore exactly what `sublet plan --json` prints:
//
//   RETURN_IF_ERROR(WriteFileAtomically(path, RenderReport(PlanToJson(plan).dump())));
//
// Words in a plan that somebody else wrote can't become markup or script (base/html_page.h).
//
// Thread safety: no shared state; call from any thread.
#pragma once

#include <string>
#include <string_view>

namespace sublet {

// Returns the page for a document in JSON text, compact or indented, of a version that the page
// knows (kPlanVersion). Of anything else, also of text that is no JSON, the page says so when it is
// opened.
std::string RenderReport(std::string_view plan_json);

}  // namespace sublet
