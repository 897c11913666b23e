// measure/method.h
//
// How the figures came about, in one paragraph: the top of the report, and `sublet measure --help`.
//
// The numbers in the text are read from the stopping rule and from the measurement, so that the
// text can't say what the program doesn't do. docs/operating/measuring.md is the long form.
//
// Thread safety: no shared state; pure.
#pragma once

#include <string>
#include <string_view>

#include "model/measurement.h"

namespace sublet {

// What a measurement of this effort does. REQUIRES: "quick" or "full".
std::string DescribeMethod(std::string_view effort);

// What this one did: the same, with its runs, rounds, seed and conditions.
std::string DescribeMethod(const Measurement& measurement);

}  // namespace sublet
