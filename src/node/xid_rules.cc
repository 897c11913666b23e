#include "node/xid_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace sublet {
namespace {

constexpr int kXidMax = 1023;  // Far above the last that is known, 172.

using enum XidVerdict;

// What several engines' errors have in common.
constexpr std::string_view kEngine =
    "work that a program gave to this engine failed; only that program must start again";
constexpr std::string_view kLinkNeedsDecoding =
    "harmless or a broken link, which only the kernel log tells; other work may go on after a "
    "pause, and a driver that wants a reset says so itself";

constexpr auto kRules = std::to_array<XidRule>({
    {8, 8, "GPU stopped processing", kTenant, "a program's work didn't end; it must start again"},
    {11, 11, "corrupted push buffer", kTenant, "a program's commands couldn't be read"},
    {13, 13, "graphics engine exception", kTenant,
     "an illegal instruction or address of a program, most often an index out of bounds"},
    {14, 14, "test error", kIgnore, "only written by NVIDIA's own tests"},
    {25, 25, "illegal notification", kTenant, "a program's commands were wrong"},
    {31, 31, "memory page fault", kTenant, "a program used an address that isn't mapped"},
    {32, 32, "push buffer error", kTenant,
     "a program's commands couldn't be fetched; a bad PCIe link can look the same"},
    {37, 37, "unknown firmware method", kIgnore, "information for NVIDIA; work goes on"},
    {38, 38, "firmware watchdog", kGpu,
     "NVIDIA says ignore it alone, but a context switch hung: new work waits until it is quiet"},
    {39, 41, "copy engine exception", kTenant, kEngine},
    {43, 43, "GPU stopped processing", kTenant,
     "a program met an error of its own and was stopped; the GPU goes on"},
    {44, 44, "fault during a context switch", kGpu,
     "NVIDIA says ignore it alone, but contexts of other programs took part: wait until quiet"},
    {45, 45, "channels torn down", kIgnore,
     "the sequel of another error, or of a program that was killed"},
    {46, 46, "GPU stopped processing", kGpuReset, "the GPU itself hung"},
    {48, 48, "uncorrectable memory error", kGpuReset,
     "memory lost what it held, and until a reset it may do so again"},
    {54, 54, "power cable missing", kGpu,
     "the clocks are held down: nothing is lost, but no promise about speed holds"},
    {60, 60, "video processor exception", kTenant, kEngine},
    {61, 61, "internal breakpoint", kGpuReset,
     "unused by current drivers; older ones halt the GPU's controller with it"},
    {62, 62, "internal controller halted", kGpuReset, "the GPU's power management has stopped"},
    {63, 63, "memory row retired", kIgnore,
     "a repair that worked; whether it waits for a reset is polled from the driver"},
    {64, 64, "memory row not retired", kGpuReset, "a repair failed, and the bad row is in use"},
    {66, 67, "firmware access violation", kIgnore, "information for NVIDIA; work goes on"},
    {68, 68, "video decoder exception", kTenant, kEngine},
    {69, 69, "graphics class error", kTenant, "a program's commands were wrong"},
    {70, 72, "copy engine exception", kTenant, kEngine},
    {74, 74, "NVLink error", kGpu, kLinkNeedsDecoding},
    {75, 77, "copy engine exception", kTenant, kEngine},
    {78, 78, "vGPU start error", kIgnore, "a virtual machine's; Sublet runs none"},
    {79, 79, "fallen off the bus", kGpuReset, "the GPU can't be reached over PCIe"},
    {80, 80, "push buffer checksum", kTenant, "a program's commands arrived changed"},
    {82, 82, "JPEG engine exception", kTenant, kEngine},
    {83, 84, "video decoder exception", kTenant, kEngine},
    {85, 85, "copy engine exception", kTenant, kEngine},
    {86, 86, "optical flow exception", kTenant, kEngine},
    {88, 89, "video decoder exception", kTenant, kEngine},
    {92, 92, "many corrected memory errors", kIgnore,
     "every one was corrected; a board that often says so should be tested"},
    {93, 93, "too many writes to the board's memory", kIgnore,
     "of its configuration; work goes on"},
    {94, 94, "contained memory error", kTenant,
     "memory failed, not the program, but only the program that used it is hurt"},
    {95, 95, "uncontained memory error", kGpuReset,
     "memory failed, and any program on the GPU may have read what was wrong"},
    {96, 98, "video decoder exception", kTenant, kEngine},
    {99, 105, "JPEG engine exception", kTenant, kEngine},
    {106, 107, "test message", kIgnore, "from the board's management controller"},
    {108, 108, "NVLink translation error", kIgnore, "the other end's; it reports it too"},
    {109, 109, "context switch timeout", kGpu,
     "NVIDIA's catalogue wants a reset, its device plugin ignores it; a program can cause it at "
     "will and must not put a GPU out of service, so new work waits until it is quiet"},
    {110, 110, "security fault", kGpuReset, "the GPU refuses work until a reset"},
    {119, 119, "GSP timeout", kGpuReset, "the GPU's system processor doesn't answer the driver"},
    {120, 120, "GSP error", kGpuReset, "the GPU's system processor has stopped"},
    {121, 121, "chip-to-chip link corrected", kIgnore, "the link to the CPU repaired an error"},
    {126, 135, "copy engine exception", kTenant, kEngine},
    {136, 136, "NVLink training failed", kGpuReset, "a link is down until a reset"},
    {137, 137, "NVLink privilege error", kTenant,
     "a program reached for memory of another GPU that isn't mapped"},
    {139, 139, "optical flow exception", kTenant, kEngine},
    {140, 140, "unrecovered memory error", kGpuReset,
     "an error in memory escaped the repair, and results may be wrong"},
    {141, 141, "fast path error", kIgnore, "information for NVIDIA; work goes on"},
    {142, 142, "video encoder exception", kTenant, kEngine},
    {143, 143, "GPU initialisation failed", kGpuReset, "the driver couldn't start the GPU"},
    {144, 150, "NVLink error", kGpu, kLinkNeedsDecoding},
    {151, 151, "key rotation error", kGpuReset,
     "confidential computing: the session is lost, and NVIDIA wants the machine started again"},
    {154, 154, "recovery action changed", kGpu,
     "says what another error needs; the driver's wish for a reset is polled"},
    {155, 155, "NVLink software error", kGpuReset, "a link needs a reset"},
    {156, 156, "resource retired", kGpuReset, "a part was taken out of use with the next reset"},
    {157, 157, "resource not retired", kGpu, "a repair failed; NVIDIA says ignore it alone"},
    {158, 158, "fatal timeout", kGpuReset, "the GPU hung"},
    {159, 159, "chip-to-chip data error", kGpu, "harmless where no program shares memory so"},
    {160, 161, "memory channel retired", kIgnore, "done, or waits for the next reset"},
    {162, 165, "power smoothing", kIgnore, "about the board's wear"},
    {167, 167, "PCIe fatal timeout", kGpuReset, "the bus lost a transfer"},
    {168, 168, "less memory than sold", kGpu, "its size is read again from the driver"},
    {171, 172, "uncorrectable memory error", kGpuReset,
     "memory lost what it held; a contained one comes as 94 beside it"},
});

std::optional<XidVerdict> VerdictOf(std::string_view name) {
  for (const XidVerdict verdict : {kIgnore, kTenant, kGpu, kGpuReset}) {
    if (name == XidVerdictName(verdict)) return verdict;
  }
  return std::nullopt;
}

std::optional<int> XidOf(std::string_view text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || number < 1 || number > kXidMax) return std::nullopt;
  return number;
}

// "31=gpu" or "500-599=ignore", without blanks, into `overrides`; false where it is something else.
bool AddOverride(std::string_view entry, XidOverrides& overrides) {
  const std::size_t equals = entry.find('=');
  if (equals == std::string_view::npos) return false;
  const std::optional<XidVerdict> verdict = VerdictOf(entry.substr(equals + 1));
  const std::string_view numbers = entry.substr(0, equals);
  const std::size_t dash = numbers.find('-');
  const std::optional<int> first = XidOf(numbers.substr(0, dash));
  const std::optional<int> last =
      dash == std::string_view::npos ? first : XidOf(numbers.substr(dash + 1));
  if (!verdict || !first || !last || *first > *last) return false;
  for (int xid = *first; xid <= *last; ++xid) overrides[xid] = *verdict;
  return true;
}

}  // namespace

std::string_view XidVerdictName(XidVerdict verdict) {
  switch (verdict) {
    case kIgnore:
      return "ignore";
    case kTenant:
      return "tenant";
    case kGpu:
      return "gpu";
    case kGpuReset:
      return "gpu-reset";
  }
  return "";
}

std::span<const XidRule> XidCatalogue() {
  return kRules;
}

std::string XidJudgement::Text() const {
  return fmt::format("XID {} ({})", xid, name);
}

XidJudgement JudgeXid(int xid, const XidOverrides& overrides) {
  XidJudgement judged{.xid = xid,
                      .name = "unknown",
                      .verdict = kGpu,
                      .why = "nothing is known of it, so no new work until it is quiet",
                      .overridden = false};
  const auto rule = std::ranges::find_if(
      kRules, [xid](const XidRule& one) { return one.first <= xid && xid <= one.last; });
  if (rule != kRules.end()) {
    judged.name = rule->name;
    judged.verdict = rule->verdict;
    judged.why = rule->why;
  }
  if (const auto override = overrides.find(xid); override != overrides.end()) {
    judged.verdict = override->second;
    judged.why = "so configured";
    judged.overridden = true;
  }
  return judged;
}

Result<XidOverrides> ParseXidOverrides(std::string_view text) {
  std::string packed;
  std::ranges::copy_if(text, std::back_inserter(packed), [](char c) { return c != ' '; });
  XidOverrides overrides;
  std::string_view rest = packed;
  while (!packed.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view entry = rest.substr(0, comma);
    if (!AddOverride(entry, overrides)) {
      return Fail(ErrorCode::kInvalid, fmt::format("not a rule for an XID: '{}'", entry),
                  "NUMBER=VERDICT or FIRST-LAST=VERDICT with ignore, tenant, gpu or gpu-reset");
    }
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return overrides;
}

}  // namespace sublet
