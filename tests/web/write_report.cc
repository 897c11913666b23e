// Writes the report of a plan's or a measurement's JSON as it is, for the tests in a browser: no
// planner, lab or reader stands between a sample and the page.
//
//   write_report plan PLAN.json REPORT.html
//   write_report measure MEASURED.json REPORT.html
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/files.h"
#include "measure/report.h"
#include "render/report.h"

int main(int argc, char** argv) {
  constexpr std::size_t kSampleBytesMax = 16 << 20;  // The largest sample has less than 1 MB.
  const std::string_view page = argc == 4 ? argv[1] : "";
  if (page != "plan" && page != "measure") {
    std::fprintf(stderr, "usage: write_report plan|measure DOCUMENT.json REPORT.html\n");
    return 2;
  }
  const sublet::Result<std::string> text = sublet::ReadFile(argv[2], kSampleBytesMax);
  if (!text) {
    std::fprintf(stderr, "%s\n", text.error().message.c_str());
    return 1;
  }
  const std::string report = page == "plan"
                                 ? sublet::RenderReport(*text)
                                 : sublet::MeasurementReport(nlohmann::ordered_json::parse(*text));
  const sublet::Status written = sublet::WriteFileAtomically(argv[3], report);
  if (!written) {
    std::fprintf(stderr, "%s\n", written.error().message.c_str());
    return 1;
  }
  return 0;
}
