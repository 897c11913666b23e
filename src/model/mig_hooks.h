// model/mig_hooks.h
//
// The hooks file of NVIDIA's mig-parted, v1: commands that are run around a change of MIG, to stop
// what holds the GPUs and to start it again. docs/formats/mig-parted.md.
//
//   version: v1
//   hooks:
//     apply-start:
//       - command: /bin/sh
//         args: ["-c", "systemctl stop dcgm"]
//         envs: {LC_ALL: C}
//         workdir: /
//
//   ASSIGN_OR_RETURN(const MigHooks hooks, ParseMigHooks(text, "hooks.yaml"));
//   for (const MigHook& hook : hooks.At(MigHookPoint::kApplyStart)) ...
//
// Thread safety: values; nothing is shared.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kMigHooksVersion = "v1";

// When hooks are run, in this order.
enum class MigHookPoint {
  kApplyStart,      // Always, before anything is changed.
  kPreApplyMode,    // Where the MIG mode of a GPU must change.
  kPreApplyConfig,  // Where MIG devices must change.
  kApplyExit,       // At the end, whatever came of it, unless a kApplyStart hook failed.
};
std::string_view MigHookPointName(MigHookPoint point);  // "apply-start"

struct MigHook {
  std::string command;  // Without a slash it is looked up in PATH.
  std::vector<std::string> args;
  std::map<std::string, std::string> envs;
  std::string workdir;  // Empty: where the program that runs it is.

  friend bool operator==(const MigHook&, const MigHook&) = default;
};

struct MigHooks {
  std::array<std::vector<MigHook>, 4> by_point;  // Each point's in the order of the file.

  const std::vector<MigHook>& At(MigHookPoint point) const {
    return by_point[static_cast<std::size_t>(point)];
  }
};

// Strict: another version, an unknown hook or field, and a hook without a command fail with
// kInvalid. (mig-parted itself reads this file loosely, and a misspelt hook never runs.)
Result<MigHooks> ParseMigHooks(std::string_view text, std::string_view source);

}  // namespace sublet
