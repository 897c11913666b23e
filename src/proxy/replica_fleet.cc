#include "proxy/replica_fleet.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "model/http_url.h"

namespace sublet {

ReplicaFleet::ReplicaFleet(Router& router, FleetHooks hooks, double drain_s)
    : router_(router), hooks_(std::move(hooks)), drain_s_(drain_s) {}

std::vector<ReplicaSpec> ReplicaFleet::Specs() const {
  std::vector<ReplicaSpec> specs;
  specs.reserve(held_.size());
  for (const auto& [name, held] : held_) specs.push_back(held.spec);
  return specs;
}

std::size_t ReplicaFleet::CountOf(std::string_view teller) const {
  return static_cast<std::size_t>(std::count_if(held_.begin(), held_.end(), [&](const auto& entry) {
    return entry.second.spec.source == teller;
  }));
}

void ReplicaFleet::Tell(std::string_view teller, std::vector<ReplicaSpec> replicas,
                        std::int64_t now_ns) {
  sources_.Tell(teller, std::move(replicas));
  Apply(now_ns);
}

Status ReplicaFleet::Add(ReplicaSpec spec, std::int64_t now_ns) {
  std::vector<ReplicaSpec> told = sources_.ToldBy(kFromApi);
  for (const auto& [name, held] : held_) {
    const bool same_name = name == spec.name;
    if (!same_name && held.spec.url != spec.url) continue;
    return Fail(ErrorCode::kConflict,
                fmt::format("{} of {} has this {} already: {}", name, held.spec.source,
                            same_name ? "name" : "URL", same_name ? spec.name : spec.url));
  }
  const std::string name = spec.name;
  told.push_back(std::move(spec));
  Tell(kFromApi, told, now_ns);
  if (held_.contains(name)) return {};
  // The router has no room: said, not kept for later.
  const auto refused = std::find_if(refused_.begin(), refused_.end(),
                                    [&](const auto& each) { return each.spec.name == name; });
  const std::string why = refused == refused_.end() ? "it was refused" : refused->why;
  told.pop_back();
  Tell(kFromApi, std::move(told), now_ns);
  return Fail(ErrorCode::kUnavailable, fmt::format("{}: {}", why, name));
}

Status ReplicaFleet::Remove(std::string_view name, std::int64_t now_ns) {
  const Result<HttpUrl> url = ParseHttpUrl(name);
  const std::string url_text = url ? url->Text() : "";
  const auto at = std::find_if(held_.begin(), held_.end(), [&](const auto& entry) {
    return entry.first == name || (url && entry.second.spec.url == url_text);
  });
  if (at == held_.end()) {
    return Fail(ErrorCode::kNotFound, fmt::format("no such worker: {}", name.substr(0, 128)));
  }
  if (at->second.spec.source != kFromApi) {
    return Fail(ErrorCode::kConflict,
                fmt::format("{} is told of by {}, which would bring it back", at->first,
                            at->second.spec.source),
                "take it out there");
  }
  std::vector<ReplicaSpec> told = sources_.ToldBy(kFromApi);
  std::erase_if(told, [&](const ReplicaSpec& spec) { return spec.name == at->first; });
  Tell(kFromApi, std::move(told), now_ns);
  return {};
}

void ReplicaFleet::Apply(std::int64_t now_ns) {
  SourceVerdict verdict = sources_.Wanted();
  for (const RefusedReplica& refused : verdict.refused) {
    const bool known = std::any_of(refused_.begin(), refused_.end(), [&](const auto& each) {
      return each.spec.name == refused.spec.name && each.why == refused.why;
    });
    if (!known) {
      spdlog::warn("leaves out {} of {}: {}", refused.spec.name, refused.spec.source, refused.why);
    }
  }
  refused_ = std::move(verdict.refused);
  for (const ReplicaStep& step : StepsTo(Specs(), verdict.wanted)) Do(step, now_ns);
}

void ReplicaFleet::Do(const ReplicaStep& step, std::int64_t now_ns) {
  const std::string& name = step.spec.name;
  switch (step.what) {
    case ReplicaStep::What::kAdd:
      AddTo(step.spec, now_ns);
      break;
    case ReplicaStep::What::kUpdate:
      if (const Status updated = router_.Update(step.spec, now_ns); !updated) {
        spdlog::error("replica {} can't be changed: {}", name, updated.error().message);
      } else {
        held_[name].spec = step.spec;
        spdlog::info("replica {} has changed", name);
      }
      break;
    case ReplicaStep::What::kReplace:
      Drop(name);
      AddTo(step.spec, now_ns);
      break;
    case ReplicaStep::What::kDrain: {
      const auto at = held_.find(name);
      if (at == held_.end()) break;
      static_cast<void>(router_.Drain(name));
      const auto drain_ns = static_cast<std::int64_t>(drain_s_ * 1e9);
      draining_[name] = {std::move(at->second), now_ns + drain_ns};
      held_.erase(at);
      spdlog::info("replica {} gets nothing new: {} doesn't tell of it any more", name,
                   step.spec.source);
      break;
    }
  }
}

void ReplicaFleet::AddTo(const ReplicaSpec& spec, std::int64_t now_ns) {
  // One of this name may be on its way out.
  Drop(spec.name);
  const Result<ReplicaSlot> slot = router_.Add(spec, now_ns);
  if (!slot) {
    spdlog::error("replica {} can't be added: {}", spec.name, slot.error().message);
    refused_.push_back({spec, slot.error().message});
    return;
  }
  held_[spec.name] = {spec, *slot};
  spdlog::info("replica {} at {}, told of by {}", spec.name, spec.url, spec.source);
  if (hooks_.added) hooks_.added(*slot, spec);
}

void ReplicaFleet::Drop(const std::string& name) {
  const auto drop = [&](const Held& held) {
    if (hooks_.removed) hooks_.removed(held.slot, held.spec);
    static_cast<void>(router_.Remove(name));
  };
  if (const auto at = draining_.find(name); at != draining_.end()) {
    drop(at->second.held);
    draining_.erase(at);
  }
  if (const auto at = held_.find(name); at != held_.end()) {
    drop(at->second);
    held_.erase(at);
  }
}

void ReplicaFleet::Tick(std::int64_t now_ns) {
  if (draining_.empty()) return;
  std::map<std::string, int> in_flight;
  for (const ReplicaStatus& status : router_.Replicas(now_ns)) {
    in_flight[status.spec.name] = status.in_flight;
  }
  std::vector<std::string> done;
  for (const auto& [name, draining] : draining_) {
    const auto at = in_flight.find(name);
    const bool empty = at == in_flight.end() || at->second == 0;
    if (empty || now_ns >= draining.until_ns) done.push_back(name);
    if (!empty && now_ns >= draining.until_ns) {
      spdlog::warn("replica {} goes with {} requests under way", name, at->second);
    }
  }
  for (const std::string& name : done) {
    Drop(name);
    spdlog::info("replica {} is gone", name);
  }
}

}  // namespace sublet
