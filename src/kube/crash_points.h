// kube/crash_points.h
//
// Where a device plugin may be killed by a test (base/crash_point.h), all of them; those of an MPS
// server's keeper (domain-*) are of node/crash_points.h and are met here, too.
//
// tests/crash/kube_crash_test.py kills the plugin at each, starts another, and looks whether
// kubelet has its devices again and nothing is left over.
#pragma once

#include <string_view>

namespace sublet {

inline constexpr std::string_view kPluginCrashPoints[] = {
    // A resource at kubelet.
    "plugin-listening", "plugin-registered", "plugin-watched", "plugin-reloading",
    // MPS servers.
    "mps-mode-written", "mps-mode-set", "mps-folder-made", "mps-claim-begun", "domain-creating",
    "domain-started", "domain-present", "domain-removing", "domain-ended"};

}  // namespace sublet
