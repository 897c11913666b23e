#include "node/refusal.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "base/check.h"

namespace sublet {
namespace {

using Why = Refusal::Why;

constexpr std::size_t kDevicesTold = 8;  // More in one message is not read.
constexpr std::size_t kProcessesTold = 3;

std::string NameOf(const Device& device) {
  if (device.mig_uuid.empty()) return fmt::format("GPU {}", device.gpu_index);
  return fmt::format("MIG device {} ({} of GPU {})", device.mig_uuid, device.profile,
                     device.gpu_index);
}

std::string Shares(std::size_t count) {
  return fmt::format("{} share{}", count, count == 1 ? "" : "s");
}

// "python3 (pid 4711) holds 4.3 GiB"
std::string ForeignText(const Device& device) {
  std::string text;
  for (std::size_t i = 0; i < device.foreign.size(); ++i) {
    if (i == kProcessesTold) {
      return text + fmt::format(" and {} more processes that aren't Sublet's",
                                device.foreign.size() - kProcessesTold);
    }
    const ForeignProcess& process = device.foreign[i];
    text += fmt::format("{}{} (pid {}) holds {}", i == 0 ? "" : ", ",
                        process.name.empty() ? "a process" : process.name, process.pid,
                        FormatBytes(process.memory.value_or(Bytes{})));
  }
  return text;
}

std::string NoRoomText(const Refusal& refusal, const Ledger& ledger) {
  const Device& device = *refusal.device;
  std::string text =
      fmt::format("has {} of {} left, {} are needed", FormatBytes(std::max(Bytes{}, refusal.left)),
                  FormatBytes(device.memory), FormatBytes(refusal.need));
  if (refusal.context.count > 0) {
    text += fmt::format(" ({} of it for the CUDA context)", FormatBytes(refusal.context));
  }
  const std::vector<const Share*> shares = ledger.SharesOn(device.uuid());
  if (!shares.empty()) {
    Bytes booked;
    for (const Share* share : shares) booked += share->memory;
    text += fmt::format(": {} are booked by {}", FormatBytes(booked), Shares(shares.size()));
  }
  if (!device.foreign.empty()) text += (shares.empty() ? ": " : ", ") + ForeignText(device);
  return text;
}

std::string HeldAloneText(const Device& device, const Ledger& ledger) {
  const std::vector<const Share*> shares = ledger.SharesOn(device.uuid());
  CHECK(!shares.empty());
  return fmt::format("is held alone by {} of tenant {}", shares[0]->id, shares[0]->tenant);
}

std::string OtherModeText(const Device& device, const Ledger& ledger) {
  std::set<std::string_view> modes;
  for (const Share* share : ledger.SharesOn(device.uuid())) {
    modes.insert(SharingModeName(share->mode));
  }
  return fmt::format("is shared by {}", fmt::join(modes, " and "));
}

// What stands in the way on one device; the device's name comes before it.
std::string TextOf(const Refusal& refusal, const Ledger& ledger) {
  const Device& device = *refusal.device;
  switch (refusal.why) {
    case Why::kNoMode:
      return fmt::format("can't run {}", SharingModeName(refusal.mode));
    case Why::kMigMode:
      return "is in MIG mode";
    case Why::kNotMig:
      return "is not in MIG mode";
    case Why::kNoMigChange:
      return "has no MIG device that would do, and making one needs root";
    case Why::kTooSmall:
      return fmt::format("has {} in all, {} are needed", FormatBytes(refusal.left),
                         FormatBytes(refusal.need));
    case Why::kTooFewSms:
      return "has no MIG profile with so many SMs";
    case Why::kObstacle:
      return fmt::format("gets no new shares: {}", device.obstacle);
    case Why::kHeldAlone:
      return HeldAloneText(device, ledger);
    case Why::kOtherMode:
      return OtherModeText(device, ledger);
    case Why::kHasShares:
      return fmt::format("has {}", Shares(ledger.SharesOn(device.uuid()).size()));
    case Why::kForeign:
      return fmt::format("is used by others than Sublet: {}", ForeignText(device));
    case Why::kNoRoom:
      return NoRoomText(refusal, ledger);
    case Why::kNoMpsFor:
    case Why::kNoSeat:
    case Why::kDomainLimits:
    case Why::kClientsMax:
    case Why::kQuota:
      return refusal.detail;
  }
  CHECK(false);
}

ErrorCode CodeOf(Why why) {
  if (why <= Why::kNoMigChange) return ErrorCode::kUnsupported;
  return why <= Why::kTooFewSms ? ErrorCode::kInfeasible : ErrorCode::kConflict;
}

// The most memory that a request like this one would get at this moment.
std::string LessWouldFit(const std::vector<Refusal>& refusals) {
  Bytes most;
  for (const Refusal& refusal : refusals) {
    if (refusal.why == Why::kNoRoom) most = std::max(most, refusal.left - refusal.context);
  }
  if (most < 1_MiB) return "";
  return fmt::format("at most {} would fit now (--gpu-memory {}MiB); ", FormatBytes(most),
                     most.mib());
}

std::string HintFor(const Asked& asked, Why why, const std::vector<Refusal>& refusals) {
  switch (why) {
    case Why::kNoMode:
      if (!asked.request.mode) {
        return "sublet inspect says why not; --mode time-slicing runs it with limits that nothing "
               "enforces";
      }
      return "sublet inspect says why not, and in which modes it can be shared";
    case Why::kNoMpsFor:
      return "ask a daemon of root, or start one of your own; or ask for --mode time-slicing, with "
             "limits that nothing enforces";
    case Why::kMigMode:
      return "ask for --mode mig, or name a MIG device: --gpu MIG-...";
    case Why::kNotMig:
      return "sublet mig apply makes MIG devices; or ask for --mode mps";
    case Why::kNoMigChange:
      return "run sublet mig apply as root first, or ask for another profile";
    case Why::kTooSmall:
      return "ask for less memory; sublet inspect shows what there is";
    case Why::kTooFewSms:
      return "ask for fewer SMs; sublet inspect shows the profiles";
    case Why::kObstacle:
      return "sublet ps shows each GPU's health; it comes back by itself once it is well";
    case Why::kOtherMode:
      return "ask for that mode, or name GPU and mode both to have the two side by side";
    case Why::kHeldAlone:
    case Why::kHasShares:
    case Why::kForeign:
      return asked.request.memory || asked.request.sm_percent
                 ? "sublet ps shows who has them; wait for one of them to end"
                 : "ask for a part of a GPU: --gpu-memory 10GiB; sublet ps shows who has them";
    case Why::kNoSeat:
      return "ask for a smaller profile; sublet ps and sublet inspect show what is there";
    case Why::kDomainLimits:
      return "the server goes with its last share: sublet ps shows them";
    case Why::kClientsMax:
      return "wait for one of them to end, or ask for --mode time-slicing on another GPU";
    case Why::kNoRoom:
      return LessWouldFit(refusals) + "sublet ps shows who holds the rest";
    case Why::kQuota:
      return fmt::format(
          "sublet ps shows what {} holds; quotas stand in the daemon's configuration",
          asked.tenant);
  }
  CHECK(false);
}

}  // namespace

std::string DescribeRequest(const ShareRequest& request) {
  if (!request.profile.empty()) return fmt::format("a MIG instance {}", request.profile);
  std::string text;
  if (request.memory) text = FormatBytes(*request.memory);
  if (request.sm_percent) {
    text += fmt::format("{}{} % of the SMs", text.empty() ? "" : " and ", *request.sm_percent);
  }
  if (text.empty()) return request.mode == SharingMode::kMig ? "a MIG instance" : "a whole GPU";
  return text;
}

Error RefusalError(const Asked& asked, const std::vector<Refusal>& refusals, const Ledger& ledger) {
  CHECK(!refusals.empty());
  const auto nearest = std::ranges::max_element(refusals, {}, &Refusal::why);
  Error error;
  error.code = CodeOf(nearest->why);
  error.hint = HintFor(asked, nearest->why, refusals);
  if (nearest->why == Why::kQuota) {
    // What other devices lack doesn't matter to whom the quota stops.
    error.message = nearest->detail;
    return error;
  }
  error.message = fmt::format("no room for {}", DescribeRequest(asked.request));
  if (error.code == ErrorCode::kUnsupported) {
    error.message = fmt::format("nothing here can {} {}", asked.request.mode ? "give" : "enforce",
                                DescribeRequest(asked.request));
    if (asked.request.mode) {
      error.message += fmt::format(" by {}", SharingModeName(*asked.request.mode));
    }
  }
  std::size_t told = 0;
  for (const Refusal& refusal : refusals) {
    if (told == kDevicesTold) {
      error.message += fmt::format("; and {} more", refusals.size() - told);
      break;
    }
    error.message += fmt::format("{} {} {}", told == 0 ? ":" : ";", NameOf(*refusal.device),
                                 TextOf(refusal, ledger));
    ++told;
  }
  return error;
}

}  // namespace sublet
