#include "node/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/document.h"
#include "node/enforcement.h"
#include "node/refusal.h"
#include "node/tenancy.h"

namespace sublet {
namespace {

using Why = Refusal::Why;

// Of a tenant's name in a domain's: the domain's folder holds a UNIX socket, whose path is short.
constexpr std::size_t kTenantInNameMax = 24;

Bytes WholeMibUp(Bytes bytes) {
  return Bytes::FromMib(bytes.mib_rounded_up());
}

bool IsSharedMode(SharingMode mode) {
  return mode == SharingMode::kMps || mode == SharingMode::kTimeSlicing;
}

// "gpu0-search", of a MIG device "gpu0-594c8c01-search".
std::string DomainNameFor(const Device& device, const std::string& tenant) {
  std::string fit = tenant.substr(0, kTenantInNameMax);
  std::ranges::replace_if(
      fit,
      [](char c) {
        return !((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.');
      },
      '-');
  const std::string part = device.mig_uuid.empty() ? "" : device.mig_uuid.substr(4, 8) + "-";
  // The planner's names begin with "gpu", so a plan that comes up later has none of these.
  return fmt::format("run-gpu{}-{}{}", device.gpu_index, part, fit);
}

// One way to grant the request.
struct Candidate {
  const Device* device = nullptr;
  SharingMode mode = SharingMode::kExclusive;
  Bytes memory{};                   // To book.
  Bytes left{};                     // Before it.
  const Domain* domain = nullptr;   // The tenant's, which is there.
  const MigOffer* offer = nullptr;  // The instance to make.
};

}  // namespace

class Admission {
 public:
  Admission(const Ledger& ledger, const ShareRequest& request, const Requester& requester)
      : ledger_(ledger), request_(request), requester_(requester) {}

  Result<Grant> Decide() {
    ASSIGN_OR_RETURN(tenant_, TenantFor(ledger_.tenants_, requester_, request_.tenant));
    for (const TenantConfig& tenant : ledger_.tenants_) {
      if (tenant.name == tenant_) quota_ = tenant.quota;
    }
    if (const auto held = ledger_.tenant_sums_.find(tenant_); held != ledger_.tenant_sums_.end()) {
      held_ = held->second;
    }
    RETURN_IF_ERROR(FindScope());
    RETURN_IF_ERROR(FindProfile());
    if (request_.mode == SharingMode::kStreams) {
      return Fail(ErrorCode::kUnsupported, "streams share a GPU inside one process",
                  "ask for exclusive, mps, time-slicing or mig");
    }
    const bool limited = request_.memory || request_.sm_percent;
    if (request_.mode || !limited) {
      Try(request_.mode.value_or(SharingMode::kExclusive));
    } else {
      Try(SharingMode::kMps);
      if (!best_) Try(SharingMode::kMig);
      // Of a GPU in MIG mode the second try has spoken, of the others the first.
      std::erase_if(refusals_, [](const Refusal& refusal) {
        return refusal.why == Why::kMigMode || refusal.why == Why::kNotMig;
      });
    }
    if (best_) return GrantOf(*best_);
    return tl::unexpected<Error>(
        RefusalError({.request = request_, .tenant = tenant_}, refusals_, ledger_));
  }

 private:
  // --- What the request names
  // ---------------------------------------------------------------------

  Status FindScope() {
    if (ledger_.devices_.empty()) {
      return Fail(ErrorCode::kInfeasible, "this node has no GPU",
                  "sublet inspect shows what the driver says");
    }
    if (request_.gpu.empty()) return {};
    int index = -1;
    const char* const end = request_.gpu.data() + request_.gpu.size();
    const auto read = std::from_chars(request_.gpu.data(), end, index);
    const bool is_index = read.ec == std::errc() && read.ptr == end;
    std::string known;
    for (const Device& device : ledger_.devices_) {
      const bool whole = device.mig_uuid.empty();
      if (device.uuid() == request_.gpu || (is_index && whole && device.gpu_index == index)) {
        scope_ = &device;
        return {};
      }
      if (whole) {
        known +=
            fmt::format("{}{} ({})", known.empty() ? "" : ", ", device.gpu_index, device.gpu_uuid);
      }
    }
    return Fail(ErrorCode::kNotFound, fmt::format("no such GPU: '{}'", request_.gpu.substr(0, 64)),
                fmt::format("there {}: {}", known.find(',') == known.npos ? "is" : "are", known));
  }

  Status FindProfile() const {
    if (request_.profile.empty()) return {};
    std::set<std::string_view> known;
    for (const Device& device : ledger_.devices_) {
      if (!device.profile.empty()) known.insert(device.profile);
      for (const MigOffer& offer : device.offers) known.insert(offer.profile);
    }
    if (known.contains(request_.profile)) return {};
    if (known.empty()) return {};  // No GPU is in MIG mode: that is what is to be said.
    return Fail(
        ErrorCode::kNotFound,
        fmt::format("no such MIG profile on this node: '{}'", request_.profile.substr(0, 64)),
        SuggestFor(request_.profile, {known.begin(), known.end()}));
  }

  // --- Which devices would do
  // ---------------------------------------------------------------------

  bool InScope(const Device& device) const {
    if (scope_ == nullptr) return true;
    if (!scope_->mig_uuid.empty()) return &device == scope_;
    return device.gpu_uuid == scope_->gpu_uuid;
  }

  void Try(SharingMode mode) {
    for (const Device& device : ledger_.devices_) {
      if (!InScope(device)) continue;
      const bool named = scope_ == &device && !device.mig_uuid.empty();
      if (mode == SharingMode::kMig) {
        JudgeForMig(device);
      } else if (device.mig_uuid.empty() || named) {
        JudgeDevice(device, mode);
      }
    }
  }

  void Refuse(Why why, const Device& device, SharingMode mode, std::string detail = {}) {
    refusals_.push_back({.why = why, .device = &device, .mode = mode, .detail = std::move(detail)});
  }

  // The memory to book in a mode that shares the device.
  Bytes NeedOn(const Device& device, SharingMode mode) const {
    return WholeMibUp(request_.memory.value_or(Bytes{})) + ContextOn(device, mode);
  }
  Bytes ContextOn(const Device& device, SharingMode mode) const {
    return WholeMibUp(ledger_.contexts_(
        device, mode == SharingMode::kMps ? std::optional(request_.sm_percent.value_or(100))
                                          : std::nullopt));
  }

  // Whole GPUs, and a MIG device that is named, in any mode but mig.
  void JudgeDevice(const Device& device, SharingMode mode) {
    if (device.mig_mode) return Refuse(Why::kMigMode, device, mode);
    if (!device.modes.contains(mode)) return Refuse(Why::kNoMode, device, mode);
    if (mode == SharingMode::kMps && !requester_.mps) {
      return Refuse(
          Why::kNoMpsFor, device, mode,
          fmt::format("can't run mps for user {}: the daemon is another user's, and an "
                      "MPS server takes clients of its own user only",
                      requester_.user.empty() ? std::to_string(requester_.uid) : requester_.user));
    }
    Candidate candidate{.device = &device, .mode = mode};
    const Bytes context = ContextOn(device, mode);
    const Bytes need = NeedOn(device, mode);
    if (need > device.memory) {
      return RefuseMemory(Why::kTooSmall, candidate, need, device.memory, context);
    }
    if (!device.obstacle.empty()) return Refuse(Why::kObstacle, device, mode);
    const auto found = ledger_.sums_.find(device.uuid());
    const Ledger::DeviceSums sums =
        found == ledger_.sums_.end() ? Ledger::DeviceSums{} : found->second;
    if (sums.exclusive > 0) return Refuse(Why::kHeldAlone, device, mode);
    candidate.left = device.memory - ForeignMemory(device) - sums.booked;
    if (mode == SharingMode::kExclusive) {
      if (sums.shares > 0) return Refuse(Why::kHasShares, device, mode);
      if (!device.foreign.empty()) return Refuse(Why::kForeign, device, mode);
      candidate.memory = device.memory;
      return Consider(std::move(candidate));
    }
    // Who names device and mode both may have two modes side by side.
    const bool insists = scope_ != nullptr && request_.mode.has_value();
    const int others = mode == SharingMode::kMps ? sums.time_slicing : sums.mps;
    if (others > 0 && !insists) return Refuse(Why::kOtherMode, device, mode);
    candidate.memory = need;
    if (!FindDomain(candidate)) return;
    candidate.left -= kMpsServerMemory * ServersOn(candidate);
    if (need > candidate.left) {
      return RefuseMemory(Why::kNoRoom, candidate, need, candidate.left, context);
    }
    Consider(std::move(candidate));
  }

  void RefuseMemory(Why why, const Candidate& candidate, Bytes need, Bytes left, Bytes context) {
    refusals_.push_back({.why = why,
                         .device = candidate.device,
                         .mode = candidate.mode,
                         .need = need,
                         .left = left,
                         .context = context});
  }

  const std::set<std::string>* DomainNamesOn(const Device& device) const {
    const auto found = ledger_.domains_on_.find(device.uuid());
    return found == ledger_.domains_on_.end() ? nullptr : &found->second;
  }

  // MPS servers on the device, the one to be started included.
  int ServersOn(const Candidate& candidate) const {
    const std::set<std::string>* const names = DomainNamesOn(*candidate.device);
    const int there = names == nullptr ? 0 : static_cast<int>(names->size());
    return there + (candidate.mode == SharingMode::kMps && candidate.domain == nullptr ? 1 : 0);
  }

  // Sets the candidate's domain where the tenant has one there; false where it can't take a client.
  bool FindDomain(Candidate& candidate) {
    const Device& device = *candidate.device;
    const std::set<std::string>* const names = DomainNamesOn(device);
    if (candidate.mode != SharingMode::kMps || names == nullptr) return true;
    for (const std::string& name : *names) {
      const Domain& domain = ledger_.domains_.find(name)->second;
      const bool same_user = domain.uid == std::int64_t{requester_.uid};
      if (!domain.planned && domain.tenant == tenant_ && same_user) candidate.domain = &domain;
    }
    if (candidate.domain == nullptr) return true;
    const Domain& domain = *candidate.domain;
    if (ledger_.SharesIn(domain.name) >= kMpsClientsMax) {
      Refuse(Why::kClientsMax, device, candidate.mode,
             fmt::format("has {} shares in MPS domain {}, the most that one server takes",
                         kMpsClientsMax, domain.name));
      return false;
    }
    const bool memory_fits =
        !domain.memory_limit || (request_.memory && candidate.memory <= *domain.memory_limit);
    const bool sm_fits =
        !domain.sm_percent || request_.sm_percent.value_or(100) <= *domain.sm_percent;
    if (!memory_fits || !sm_fits) {
      // Its limits come from the quota, as that was when it was started.
      if (std::string problem = QuotaProblem(candidate); !problem.empty()) {
        Refuse(Why::kQuota, device, candidate.mode, std::move(problem));
        return false;
      }
      Refuse(Why::kDomainLimits, device, candidate.mode,
             fmt::format("has MPS domain {}, whose server was started with {}", domain.name,
                         memory_fits ? fmt::format("{} % of the SMs", *domain.sm_percent)
                                     : FormatBytes(*domain.memory_limit)));
      return false;
    }
    return true;
  }

  bool LargeEnough(Bytes memory, int sm_count, const Device& device) const {
    return NeedOn(device, SharingMode::kMig) <= memory && EnoughSms(sm_count, device);
  }
  bool EnoughSms(int sm_count, const Device& device) const {
    return !request_.sm_percent || sm_count * 100 >= *request_.sm_percent * device.gpu_sm_count;
  }
  bool IsProfile(const std::string& profile) const {
    if (!request_.profile.empty()) return profile == request_.profile;
    // "1g.10gb+me" has engines that somebody may need; nobody gets them by chance.
    return profile.find('+') == std::string::npos;
  }

  void JudgeForMig(const Device& device) {
    const SharingMode mode = SharingMode::kMig;
    if (device.mig_uuid.empty()) {
      return device.mig_mode ? JudgeRoom(device) : Refuse(Why::kNotMig, device, mode);
    }
    // The GPU's own entry speaks for MIG devices that don't fit.
    const bool named = scope_ == &device;
    const auto refuse = [&](Why why) {
      if (named) Refuse(why, device, mode);
    };
    if (!named && !IsProfile(device.profile)) return;
    if (named && !request_.profile.empty() && device.profile != request_.profile) {
      return Refuse(Why::kNoSeat, device, mode, fmt::format("is not a {}", request_.profile));
    }
    if (!LargeEnough(device.memory, device.sm_count, device)) {
      if (!named) return;
      return RefuseMemory(EnoughSms(device.sm_count, device) ? Why::kTooSmall : Why::kTooFewSms,
                          {.device = &device, .mode = mode}, NeedOn(device, mode), device.memory,
                          ContextOn(device, mode));
    }
    if (!device.obstacle.empty()) return refuse(Why::kObstacle);
    const auto sums = ledger_.sums_.find(device.uuid());
    if (sums != ledger_.sums_.end()) {
      return refuse(sums->second.exclusive > 0 ? Why::kHeldAlone : Why::kHasShares);
    }
    if (!device.foreign.empty()) return refuse(Why::kForeign);
    Consider({.device = &device, .mode = mode, .memory = device.memory, .left = device.memory});
  }

  // An instance to be made on a GPU in MIG mode: the smallest that would do.
  void JudgeRoom(const Device& gpu) {
    const SharingMode mode = SharingMode::kMig;
    const MigOffer* smallest = nullptr;  // That would do, with room or without.
    bool enough_sms = false;
    Bytes largest;
    for (const MigOffer& offer : gpu.offers) {
      if (!IsProfile(offer.profile)) continue;
      largest = std::max(largest, offer.memory);
      enough_sms = enough_sms || EnoughSms(offer.sm_count, gpu);
      if (!LargeEnough(offer.memory, offer.sm_count, gpu)) continue;
      if (smallest == nullptr) smallest = &offer;
      if (offer.seats.empty() || !gpu.obstacle.empty()) continue;
      if (!gpu.modes.contains(mode)) return Refuse(Why::kNoMigChange, gpu, mode);
      return Consider({.device = &gpu,
                       .mode = mode,
                       .memory = offer.memory,
                       .left = offer.memory,
                       .offer = &offer});
    }
    if (smallest == nullptr) {
      return RefuseMemory(enough_sms ? Why::kTooSmall : Why::kTooFewSms,
                          {.device = &gpu, .mode = mode}, NeedOn(gpu, mode), largest,
                          ContextOn(gpu, mode));
    }
    if (!gpu.obstacle.empty()) return Refuse(Why::kObstacle, gpu, mode);
    Refuse(Why::kNoSeat, gpu, mode,
           fmt::format("has no free MIG device that would do, and no room for a {} beside what is "
                       "there",
                       smallest->profile));
  }

  // --- The choice
  // ---------------------------------------------------------------------------------

  // Smaller is better. What is held alone is compared by its size, what is shared by the rest.
  static auto Rank(const Candidate& candidate) {
    const Device& device = *candidate.device;
    const bool mig = candidate.mode == SharingMode::kMig;
    const bool shared = IsSharedMode(candidate.mode);
    const bool second = mig ? candidate.offer != nullptr : shared && candidate.domain == nullptr;
    const int sm_count = candidate.offer != nullptr ? candidate.offer->sm_count : device.sm_count;
    return std::tuple(second, candidate.left - (shared ? candidate.memory : Bytes{}),
                      mig ? sm_count : 0, device.gpu_index);
  }

  void Consider(Candidate candidate) {
    if (std::string problem = QuotaProblem(candidate); !problem.empty()) {
      return Refuse(Why::kQuota, *candidate.device, candidate.mode, std::move(problem));
    }
    ++fitting_;
    if (!best_ || Rank(candidate) < Rank(*best_)) best_ = std::move(candidate);
  }

  // What the candidate counts of a whole GPU's SMs.
  int PercentOf(const Candidate& candidate) const {
    if (candidate.offer == nullptr) {
      const bool capped = candidate.mode == SharingMode::kMps;
      return Ledger::GpuPercent(candidate.device, capped ? request_.sm_percent : std::nullopt);
    }
    Device made;
    made.sm_count = candidate.offer->sm_count;
    made.gpu_sm_count = candidate.device->gpu_sm_count;
    return Ledger::GpuPercent(&made, std::nullopt);
  }

  std::string QuotaProblem(const Candidate& candidate) const {
    if (quota_.shares && held_.shares >= *quota_.shares) {
      return fmt::format("tenant {} may hold {} shares, and holds them", tenant_, *quota_.shares);
    }
    if (quota_.gpu_memory && IsSharedMode(candidate.mode) && !request_.memory) {
      return fmt::format(
          "tenant {} has a quota of GPU memory, so a share of it must say how much: "
          "--gpu-memory",
          tenant_);
    }
    if (quota_.gpu_memory && held_.memory + candidate.memory > *quota_.gpu_memory) {
      return fmt::format("tenant {} may hold {} of GPU memory and holds {}: no {} more", tenant_,
                         FormatBytes(*quota_.gpu_memory), FormatBytes(held_.memory),
                         FormatBytes(candidate.memory));
    }
    const int percent = PercentOf(candidate);
    if (quota_.sm_percent && held_.sm_percent + percent > *quota_.sm_percent) {
      return fmt::format("tenant {} may hold {} % of a GPU's SMs and holds {} %: no {} % more",
                         tenant_, *quota_.sm_percent, held_.sm_percent, percent);
    }
    return {};
  }

  // --- The grant
  // ----------------------------------------------------------------------------------

  Grant GrantOf(const Candidate& chosen) const {
    const Device& device = *chosen.device;
    Grant grant;
    Share& share = grant.share;
    share.name = request_.name;
    share.tenant = tenant_;
    share.mode = chosen.mode;
    share.gpu_uuid = device.gpu_uuid;
    share.mig_uuid = device.mig_uuid;
    share.memory = chosen.memory;
    share.enforcement = EnforcementOf(request_, chosen.mode, device);
    if (chosen.mode == SharingMode::kMps) {
      if (request_.memory) share.memory_limit = WholeMibUp(*request_.memory);
      share.sm_percent = request_.sm_percent;
      if (chosen.domain == nullptr) grant.new_domain = NewDomain(device);
      share.domain = chosen.domain != nullptr ? chosen.domain->name : grant.new_domain->name;
    }
    if (chosen.offer != nullptr) {
      grant.make = MigToMake{device.gpu_uuid, chosen.offer->seats.front()};
    }
    share.reason = ReasonFor(chosen);
    return grant;
  }

  Domain NewDomain(const Device& device) const {
    Domain domain;
    domain.name = FreeName(device);
    domain.tenant = tenant_;
    domain.gpu_uuid = device.gpu_uuid;
    domain.mig_uuid = device.mig_uuid;
    domain.uid = requester_.uid;
    // What no later client of it can have either, by the quota. A smaller default would bind them.
    if (quota_.gpu_memory && *quota_.gpu_memory < device.memory) {
      domain.memory_limit = Bytes::FromMib(quota_.gpu_memory->mib());
    }
    if (quota_.sm_percent) {
      const bool known = device.sm_count > 0 && device.gpu_sm_count > 0;
      const int of_device =
          known ? *quota_.sm_percent * device.gpu_sm_count / device.sm_count : *quota_.sm_percent;
      if (of_device < 100) domain.sm_percent = std::max(1, of_device);
    }
    return domain;
  }

  // The same for the same tenant and device each time, also while the domain is on its way.
  std::string FreeName(const Device& device) const {
    const std::string name = DomainNameFor(device, tenant_);
    for (int number = 1;; ++number) {
      std::string numbered = number == 1 ? name : fmt::format("{}-{}", name, number);
      if (!ledger_.domains_.contains(numbered) && !IsOthers(numbered, device)) return numbered;
    }
  }

  // Whether shares of another tenant wait for a domain of that name: two tenants' long names may
  // begin alike.
  bool IsOthers(const std::string& domain, const Device& device) const {
    if (ledger_.SharesIn(domain) == 0) return false;
    for (const Share* share : ledger_.SharesOn(device.uuid())) {
      if (share->domain == domain) return share->tenant != tenant_;
    }
    return true;
  }

  std::string ReasonFor(const Candidate& chosen) const {
    const Device& device = *chosen.device;
    const std::string gpu = fmt::format("GPU {}", device.gpu_index);
    if (chosen.offer != nullptr) {
      return fmt::format("no free MIG device would do, and {} has room for a {}", gpu,
                         chosen.offer->profile);
    }
    if (chosen.mode == SharingMode::kMig) {
      return fmt::format("the smallest free MIG device that would do, a {} of {}", device.profile,
                         gpu);
    }
    if (chosen.mode == SharingMode::kExclusive) {
      const std::string why = request_.mode ? "as was asked" : "since no limits were asked for";
      return fmt::format("nobody else is on {}, {}", gpu, why);
    }
    std::string reason = fmt::format("{} has room", gpu);
    if (scope_ != nullptr) {
      reason = fmt::format("{} was asked for and has room", gpu);
    } else if (chosen.domain != nullptr) {
      reason = fmt::format("{} has its tenant's MPS server already", gpu);
    } else if (fitting_ > 1) {
      reason = fmt::format("{} has the least memory left of those with room", gpu);
    }
    if (!request_.mode) reason += ", and MPS enforces the limits";
    return reason + Neighbours(chosen);
  }

  // What the neighbours mean for who comes to them.
  std::string Neighbours(const Candidate& chosen) const {
    const Device& device = *chosen.device;
    std::string text;
    std::set<std::string> tenants;
    if (const std::set<std::string>* names = DomainNamesOn(device); names != nullptr) {
      for (const std::string& name : *names) {
        const Domain& domain = ledger_.domains_.find(name)->second;
        if (&domain != chosen.domain) tenants.insert(domain.tenant);
      }
    }
    if (!tenants.empty()) {
      text += fmt::format("; takes turns with the MPS servers of {}", fmt::join(tenants, ", "));
    }
    const auto sums = ledger_.sums_.find(device.uuid());
    if (chosen.mode == SharingMode::kMps && sums != ledger_.sums_.end()) {
      const int percent = sums->second.sm_percent + request_.sm_percent.value_or(100);
      if (percent > 100) {
        text += fmt::format("; SM caps there add up to {} %, each of them a maximum", percent);
      }
    }
    return text;
  }

  const Ledger& ledger_;
  const ShareRequest& request_;
  const Requester& requester_;
  std::string tenant_;
  TenantQuota quota_;
  Ledger::TenantSums held_;
  const Device* scope_ = nullptr;  // The device that the request names; nullptr: any.
  std::optional<Candidate> best_;
  int fitting_ = 0;
  std::vector<Refusal> refusals_;
};

Result<Grant> Admit(const Ledger& ledger, const ShareRequest& request, const Requester& requester) {
  return Admission(ledger, request, requester).Decide();
}

}  // namespace sublet
