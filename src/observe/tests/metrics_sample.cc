// Prints the metrics of a sample node, for another parser to read.
#include <cstdio>

#include "observe/metrics.h"
#include "observe/tests/sample_status.h"

int main() {
  std::fputs(sublet::MetricsText(sublet::SampleStatus(), sublet::SampleCounters()).c_str(), stdout);
  return 0;
}
