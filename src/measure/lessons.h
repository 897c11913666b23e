// measure/lessons.h
//
// What this lab teaches, graded against what it just measured: `sublet measure --check`.
//
// A lesson is a statement about sharing that should hold on any GPU of today, with a bound to test
// it by. Where one fails, either the card is different from what this program assumes, or something
// was wrong while measuring; both are worth a look before the figures are used.
//
//   two-streams            two streams of one process do more than one
//   time-slicing-costs     two processes without MPS slow each other
//   mps-small-2, -4        under MPS small processes hardly notice each other
//   memory-limit           a memory limit holds to within 2 %
//   drift                  the card was as fast at the end as at the start
//   copy-overlap, fair-sharing, mps-over-time-slicing, two-servers, server-contains-fault
//                          graded only where their runs were made
//
//   for (const Lesson& lesson : GradeLessons(measurement)) if (!lesson.passed) ...
//
// Pure. Thread safety: no shared state.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/measurement.h"

namespace sublet {

struct Lesson {
  std::string name;       // "two-streams"
  std::string statement;  // "two streams of one process do more work than one (small)"
  std::string required;   // "at least 1.05x"
  std::string measured;   // "1.95x"; where it couldn't be graded, "not measured: " and the reason.
  bool passed = false;    // Never where it couldn't be graded.
};

// The first six are always there, in the order of the list above; the others where they can be
// graded.
std::vector<Lesson> GradeLessons(const Measurement& measurement);

// [{"name", "statement", "passed", "measured", "required"}]
nlohmann::ordered_json LessonsToJson(const std::vector<Lesson>& lessons);

}  // namespace sublet
