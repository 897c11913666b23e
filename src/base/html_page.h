// base/html_page.h
//
// A document put into one of the pages for people: one HTML file that carries its script, its style
// and the document, and loads nothing.
//
// The pages are built from web/ and compiled in. A document contains words that somebody else
// wrote: names, reasons, commands. None of them can become markup or script, for three reasons of
// which each would do: (1) the JSON stands in a <script type="application/json">, with every <, >
// and & written as \uXXXX; (2) the page makes text nodes of it, never markup; (3) the page's
// content security policy allows its own script, by hash, and no request.
//
//   PutIntoPage(embedded::plan_page_html, PlanToJson(plan).dump())
//
// Thread safety: no shared state; call from any thread.
#pragma once

#include <string>
#include <string_view>

namespace sublet {

// Returns `page` with `json`, compact or indented, where it wants its data. Text that is no JSON
// becomes harmless all the same; the page then says when it is opened that it can't show it.
// REQUIRES: the page has exactly one place for data.
std::string PutIntoPage(std::string_view page, std::string_view json);

}  // namespace sublet
