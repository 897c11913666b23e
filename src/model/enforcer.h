// model/enforcer.h
//
// The words for what makes a limit real, or for nothing doing so: Enforcement::by, in plans and in
// shares alike.
//
//   share.enforcement.push_back({"memory", std::string(kByMpsMemoryLimit), true});
//
// Thread safety: constants.
#pragma once

#include <string_view>

namespace sublet {

inline constexpr std::string_view kByWholeGpu = "whole GPU";
inline constexpr std::string_view kByMigInstance = "MIG instance";
inline constexpr std::string_view kByMpsMemoryLimit = "MPS pinned device memory limit";
inline constexpr std::string_view kByMpsThreadPercentage = "MPS active thread percentage";
inline constexpr std::string_view kByTenantsServer = "an MPS server of its tenant's own";
inline constexpr std::string_view kByOwnProcess = "a process of its own";

inline constexpr std::string_view kNoMemoryEnforcer =
    "not enforced: any process can take what is free";
inline constexpr std::string_view kNoSmCap = "not enforced: it may use every SM";
inline constexpr std::string_view kNoSmEnforcer = "not enforced: processes take turns";

}  // namespace sublet
