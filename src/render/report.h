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
// A plan contains words that somebody else wrote: names, reasons, commands. None of them can become
// markup or script, for three reasons of which each would do:
// (1) the JSON stands in a <script type="application/json">, with every <, > and & written as
// \uXXXX; (2) the page makes text nodes of it, never markup; (3) the page's content security policy
// allows its own script, by hash, and no request.
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
