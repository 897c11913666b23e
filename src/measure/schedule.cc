#include "measure/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "measure/workload.h"

namespace sublet {
namespace {

// A context without an SM cap on a large GPU, with room for what the driver adds later.
constexpr Bytes kContextMax = Bytes::FromMib(640);

// Seconds to start a crew and, each, a worker: measured on 16 cores, where about so many start at
// once.
constexpr double kCrewStart = 0.8;
constexpr double kWorkerStart = 0.12;
// Rounds of a trial, and what is lost around each.
constexpr double kQuickRounds = 7;
constexpr double kFullRounds = 11;
constexpr double kRoundOverheadMs = 40;

// What most boards give of their smallest MIG profile: a guess, for the time left.
constexpr int kInstancesExpected = 7;

// The rest is set by name where it is not as usual.
Act NewAct(std::string name, SharingMode mode, int servers, int workers) {
  Act act;
  act.name = std::move(name);
  act.mode = mode;
  act.servers = servers;
  act.workers = workers;
  return act;
}

class Maker {
 public:
  Maker(const LabFacts& facts, const LabRequest& request) : facts_(facts), request_(request) {
    const std::int64_t each = (kContextMax + FindWorkload("transformer")->memory).count;
    const std::int64_t room = std::max<std::int64_t>(facts.memory_free.count, 0) / each;
    crowd_ = static_cast<int>(std::min<std::int64_t>(kCrowdMax, room));
  }

  Schedule Make() {
    if (facts_.mig) return OnlyMig();
    Act alone = Alone("alone", "alone");
    if (Wants(LabPart::kStreams)) AddStreams(alone);
    std::vector<Act> middle;
    if (Wants(LabPart::kTimeSlicing) || Wants(LabPart::kPairs)) {
      middle.push_back(Crowd(SharingMode::kTimeSlicing));
    }
    if (facts_.no_mps.empty()) {
      AddMps(middle);
    } else {
      Skip("mps", facts_.no_mps);
    }
    if (Wants(LabPart::kMig) && !CutsMig()) AddMig(middle);
    if (Wants(LabPart::kFaults)) AddFaults(middle);
    std::mt19937_64 random(request_.seed);
    // Not std::shuffle: its order differs between standard libraries.
    for (std::size_t i = middle.size(); i > 1; --i) std::swap(middle[i - 1], middle[random() % i]);

    Schedule schedule;
    schedule.acts.push_back(std::move(alone));
    for (Act& act : middle) schedule.acts.push_back(std::move(act));
    // After all that need the whole GPU, and before the one that looks whether it is as it was.
    if (CutsMig()) schedule.acts.push_back(CutMig());
    schedule.acts.push_back(Alone("drift", "drift"));
    std::erase_if(schedule.acts, [](const Act& act) {
      return act.kind == ActKind::kTrials && act.trials.empty();
    });
    schedule.skipped = std::move(skipped_);
    return schedule;
  }

  Act Mig() const {
    Act act = NewAct("MIG", SharingMode::kMig, 0, static_cast<int>(facts_.mig_uuids.size()));
    act.mig_uuids = facts_.mig_uuids;
    act.mig_profiles = facts_.mig_profiles;
    for (const std::string& workload : Runnable({"small", "mem", "transformer"})) {
      for (int i = 0; i < act.workers; ++i) {
        Trial trial =
            Same(fmt::format("mig/{}-{}/{}", facts_.mig_profiles[static_cast<std::size_t>(i)], i,
                             workload),
                 "mig", workload, 1);
        trial.parts[0].worker = i;
        act.trials.push_back(std::move(trial));
      }
      if (act.workers > 1) {
        act.trials.push_back(Same("mig/all/" + workload, "mig", workload, act.workers));
      }
    }
    return act;
  }

 private:
  Schedule OnlyMig() {
    Schedule schedule;
    if (CutsMig()) {
      schedule.acts.push_back(CutMig());
    } else {
      AddMig(schedule.acts);
    }
    Skip("alone, streams, time-slicing, mps", "MIG is on: nothing runs on the whole GPU");
    schedule.skipped = std::move(skipped_);
    return schedule;
  }

  bool Full() const { return request_.effort == Effort::kFull; }

  bool Wants(LabPart part) const {
    if (part == LabPart::kFaults && request_.faults) return true;
    if (request_.only.empty()) return part != LabPart::kFaults;
    return std::ranges::find(request_.only, part) != request_.only.end();
  }

  void Skip(std::string what, std::string reason) {
    skipped_.push_back({std::move(what), std::move(reason)});
  }

  // Those of `names` that this GPU can run.
  std::vector<std::string> Runnable(std::initializer_list<std::string_view> names) const {
    std::vector<std::string> runnable;
    for (const std::string_view name : names) {
      if (facts_.tensor_cores || !FindWorkload(name)->tensor_cores) runnable.emplace_back(name);
    }
    return runnable;
  }

  // `count` workers that all run `workload`; more of them take longer windows, because each gets
  // fewer turns.
  Trial Same(std::string id, std::string series, const std::string& workload, int count) const {
    Trial trial;
    trial.id = std::move(id);
    trial.series = std::move(series);
    for (int i = 0; i < count; ++i) trial.parts.push_back({i, workload});
    trial.window_ms = (Full() ? 200.0 : 36.0) * (count > 8 ? 2 : 1);
    return trial;
  }

  Act Alone(const std::string& prefix, const std::string& series) {
    Act act =
        NewAct(prefix == "alone" ? "alone" : "alone once more", SharingMode::kExclusive, 0, 1);
    const bool all = Full() || prefix == "alone";
    for (const std::string& workload :
         all ? Runnable({"small", "big", "mem", "gemm", "transformer", "transfer"})
             : Runnable({"small", "mem", "transformer"})) {
      act.trials.push_back(Same(prefix + "/" + workload, series, workload, 1));
    }
    if (prefix == "alone" && !facts_.tensor_cores) {
      for (const std::string_view name : {"gemm", "transformer"}) {
        Skip(fmt::format("*/{}", name),
             "the GPU has no bf16 tensor cores (compute capability 8.0)");
      }
    }
    return act;
  }

  void AddStreams(Act& act) {
    for (const std::string& workload : Runnable({"small", "big", "mem", "gemm", "transformer"})) {
      for (const int streams : Full() ? std::vector{2, 4} : std::vector{2}) {
        Trial trial =
            Same(fmt::format("streams/{}/x{}", workload, streams), "streams", workload, 1);
        trial.streams = streams;
        act.trials.push_back(std::move(trial));
      }
    }
    for (const int streams : {1, 3}) {
      Trial trial = Same(fmt::format("pipeline/transfer/x{}", streams), "pipeline", "transfer", 1);
      trial.streams = streams;
      act.trials.push_back(std::move(trial));
    }
  }

  std::vector<int> Sizes(std::initializer_list<int> sizes) const {
    std::vector<int> fit;
    for (const int size : sizes) {
      if (size <= crowd_) fit.push_back(size);
    }
    return fit;
  }

  // Two or more copies of a workload under one mode.
  void AddScaling(Act& act, const std::string& prefix) {
    for (const std::string& workload : Runnable({"small", "big", "mem"})) {
      for (const int size : Sizes({2, 4})) {
        act.trials.push_back(
            Same(fmt::format("{}/{}/x{}", prefix, workload, size), "scaling", workload, size));
      }
    }
    if (Full()) {
      for (const std::string& workload : Runnable({"gemm", "transfer"})) {
        for (const int size : Sizes({2, 4})) {
          act.trials.push_back(
              Same(fmt::format("{}/{}/x{}", prefix, workload, size), "scaling", workload, size));
        }
      }
    }
    AddTransformers(act, prefix);
  }

  void AddTransformers(Act& act, const std::string& prefix) {
    for (const std::string& workload : Runnable({"transformer"})) {
      const bool mps = act.mode == SharingMode::kMps;
      if (mps) act.trials.push_back(Same(prefix + "/transformer/x1", "scaling", workload, 1));
      for (const int size : Sizes({2, 4, 8, 16, kCrowdMax})) {
        act.trials.push_back(
            Same(fmt::format("{}/transformer/x{}", prefix, size), "scaling", workload, size));
      }
      if (crowd_ < kCrowdMax) {
        Skip(fmt::format("{}/transformer/x{}", prefix, kCrowdMax),
             fmt::format("the GPU's memory holds {} processes", crowd_));
      }
    }
  }

  // Each workload beside each other one, itself included.
  void AddPairs(Act& act, const std::string& prefix) {
    if (crowd_ < 2) return;
    const std::vector<std::string> names =
        Full() ? Runnable({"small", "big", "mem", "gemm", "transformer", "transfer"})
               : Runnable({"small", "big", "mem", "transformer"});
    for (std::size_t a = 0; a < names.size(); ++a) {
      for (std::size_t b = a; b < names.size(); ++b) {
        Trial trial =
            Same(fmt::format("{}/{}+{}", prefix, names[a], names[b]), "pair", names[a], 1);
        trial.parts.push_back({1, names[b]});
        act.trials.push_back(std::move(trial));
      }
    }
  }

  Act Crowd(SharingMode mode) {
    const bool mps = mode == SharingMode::kMps;
    Act act = NewAct(mps ? "MPS" : "time-slicing", mode, mps ? 1 : 0, crowd_);
    const std::string prefix = mps ? "mps" : "time-slicing";
    if (Wants(mps ? LabPart::kMps : LabPart::kTimeSlicing)) AddScaling(act, prefix);
    if (Wants(LabPart::kPairs)) AddPairs(act, prefix);
    return act;
  }

  void AddMps(std::vector<Act>& acts) {
    if (Wants(LabPart::kMps) || Wants(LabPart::kPairs)) {
      acts.push_back(Crowd(SharingMode::kMps));
    }
    if (Wants(LabPart::kSmSweep)) AddSweep(acts);
    if (Wants(LabPart::kServers) && crowd_ >= 4) {
      Act act = NewAct("two MPS servers", SharingMode::kMps, 2, 4);
      for (const std::string& workload : Runnable({"small", "transformer"})) {
        for (const int each : {1, 2}) {
          act.trials.push_back(Same(fmt::format("mps-servers/{}/{}+{}", workload, each, each),
                                    "servers", workload, 2 * each));
        }
      }
      acts.push_back(std::move(act));
    }
    if (Wants(LabPart::kQuota)) AddQuota(acts);
    if (Full() && Wants(LabPart::kMps) && crowd_ >= kCrowdMax) {
      acts.push_back(NewAct("MPS, how many clients", SharingMode::kMps, 1, kCrowdMax));
      acts.back().kind = ActKind::kClients;
    }
  }

  void AddSweep(std::vector<Act>& acts) {
    const std::vector<int> caps =
        Full() ? std::vector{5, 10, 15, 20, 25, 35, 50, 75} : std::vector{10, 25, 50};
    constexpr int kSweepCrowd = 16;
    for (const int cap : caps) {
      // The cap that people try first is measured at every size, so that predictions can be held
      // against it.
      const bool every_size = cap == 10;
      const int crowd = Full() || every_size ? crowd_ : std::min(crowd_, kSweepCrowd);
      Act act = NewAct(fmt::format("MPS, {} % of the SMs each", cap), SharingMode::kMps, 1, crowd);
      act.sm_percent = cap;
      const std::string prefix = fmt::format("mps-{}", cap);
      for (const std::string& workload : Runnable({"transformer"})) {
        if (every_size) {
          AddTransformers(act, prefix);
          continue;
        }
        for (const int size : {1, kSweepCrowd, kCrowdMax}) {
          if (size > crowd) continue;
          act.trials.push_back(
              Same(fmt::format("{}/transformer/x{}", prefix, size), "sm-sweep", workload, size));
        }
      }
      for (const std::string& workload : Runnable({"small", "big", "mem"})) {
        if (Full() || cap == 25) {
          act.trials.push_back(
              Same(fmt::format("{}/{}/x1", prefix, workload), "sm-sweep", workload, 1));
        }
        if (cap == 25 && crowd >= 2) {
          act.trials.push_back(
              Same(fmt::format("{}/{}/x2", prefix, workload), "scaling", workload, 2));
        }
      }
      acts.push_back(std::move(act));
    }
  }

  void AddQuota(std::vector<Act>& acts) {
    for (const Bytes limit : {Bytes::FromMib(2048), Bytes::FromMib(8192)}) {
      if (limit.count * 2 > facts_.memory_free.count) continue;
      for (const std::optional<int> cap : {std::optional<int>(), std::optional(25)}) {
        if (cap && !Full()) continue;
        Act act =
            NewAct(fmt::format("memory limit of {} MiB", limit.mib()), SharingMode::kMps, 1, 1);
        act.kind = ActKind::kQuota;
        act.sm_percent = cap;
        act.memory_limit = limit;
        acts.push_back(std::move(act));
      }
    }
  }

  void AddMig(std::vector<Act>& acts) {
    if (!facts_.no_mig.empty()) return Skip("mig", facts_.no_mig);
    acts.push_back(Mig());
  }

  bool CutsMig() const { return facts_.may_cut_mig && Wants(LabPart::kMig); }

  static Act CutMig() {
    Act act = NewAct("MIG instances", SharingMode::kMig, 0, kInstancesExpected);
    act.kind = ActKind::kCutMig;
    return act;
  }

  void AddFaults(std::vector<Act>& acts) {
    const auto add = [&](SharingMode mode, int servers, std::string name) {
      acts.push_back(NewAct(std::move(name), mode, servers, 4));
      acts.back().kind = ActKind::kFaults;
    };
    add(SharingMode::kTimeSlicing, 0, "faults, time-slicing");
    if (!facts_.no_mps.empty()) return;
    add(SharingMode::kMps, 1, "faults, MPS");
    add(SharingMode::kMps, 2, "faults, two MPS servers");
  }

  const LabFacts& facts_;
  const LabRequest& request_;
  int crowd_ = 0;
  std::vector<Skipped> skipped_;
};

}  // namespace

const EnumWords<LabPart>& LabPartWords() {
  static const EnumWords<LabPart> kWords = {
      {"streams", LabPart::kStreams}, {"time-slicing", LabPart::kTimeSlicing},
      {"mps", LabPart::kMps},         {"sm-sweep", LabPart::kSmSweep},
      {"servers", LabPart::kServers}, {"mig", LabPart::kMig},
      {"pairs", LabPart::kPairs},     {"quota", LabPart::kQuota},
      {"faults", LabPart::kFaults},
  };
  return kWords;
}

std::string Act::MigProfileOf(int worker) const {
  const auto at = static_cast<std::size_t>(worker);
  return at < mig_profiles.size() ? mig_profiles[at] : std::string();
}

double Act::ExpectedSeconds(Effort effort) const {
  double seconds = kCrewStart + kWorkerStart * workers;
  const double rounds = effort == Effort::kFull ? kFullRounds : kQuickRounds;
  for (const Trial& trial : trials) {
    seconds += rounds * (trial.window_ms * 1.2 + kRoundOverheadMs) / 1000;
  }
  if (kind == ActKind::kFaults) seconds += 6;
  if (kind == ActKind::kClients) seconds += 8;
  if (kind == ActKind::kCutMig) {
    const double window_ms = effort == Effort::kFull ? 250 : 50;
    seconds += 3 * (kInstancesExpected + 1) * rounds * (window_ms * 1.3 + kRoundOverheadMs) / 1000;
  }
  return seconds;
}

Schedule MakeSchedule(const LabFacts& facts, const LabRequest& request) {
  return Maker(facts, request).Make();
}

Act MigAct(const LabFacts& facts, const LabRequest& request) {
  return Maker(facts, request).Mig();
}

}  // namespace sublet
