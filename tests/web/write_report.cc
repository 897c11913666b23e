// Writes the report of a plan's JSON as it is, for the tests in a browser: no planner and no reader
// of plans stands between a sample and the page.
//
//   write_report PLAN.json REPORT.html
#include <cstdio>

#include "base/files.h"
#include "render/report.h"

int main(int argc, char** argv) {
  constexpr std::size_t kSampleBytesMax = 16 << 20;  // The largest sample has less than 1 MB.
  if (argc != 3) {
    std::fprintf(stderr, "usage: write_report PLAN.json REPORT.html\n");
    return 2;
  }
  const sublet::Result<std::string> text = sublet::ReadFile(argv[1], kSampleBytesMax);
  if (!text) {
    std::fprintf(stderr, "%s\n", text.error().message.c_str());
    return 1;
  }
  const sublet::Status written = sublet::WriteFileAtomically(argv[2], sublet::RenderReport(*text));
  if (!written) {
    std::fprintf(stderr, "%s\n", written.error().message.c_str());
    return 1;
  }
  return 0;
}
