// node/crash_points.h
//
// Where a node's daemon may be killed by a test (base/crash_point.h), all of them: between an
// intent's row and its effect, and between the effect and its row.
//
// tests/crash/crash_test.py kills the daemon at each, starts another, and looks whether the node is
// as before or as it was to become, with nothing left over.
#pragma once

#include <string_view>

namespace sublet {

inline constexpr std::string_view kCrashPoints[] = {
    // Plans up and down.
    "operation-written", "operation-reached", "operation-back", "operation-settled",
    // MPS domains.
    "domain-creating", "domain-started", "domain-present", "domain-removing", "domain-ended",
    // Replicas.
    "replica-creating", "replica-launched", "replica-present", "replica-removing", "replica-ended",
    "replica-removed",
    // Shares of `sublet run`.
    "run-creating", "run-present", "run-ended", "run-returned",
    // MIG.
    "mig-operation-written", "mig-step-will", "mig-step-half", "mig-step-done", "mig-undone",
    "mig-operation-settled"};

}  // namespace sublet
