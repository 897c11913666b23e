#include "plan/problem.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace sublet {
namespace {

constexpr int kCapStep = 5;  // MPS rounds caps to whole SM pairs; 5 % of the smallest GPU is one.
constexpr double kSpeedKnee =
    0.95;  // A profile's knee: the first point with this much of full speed.

// Speed at a share of the reference board's SMs, in 0..1.
double SpeedAt(const ComputeNeed& need, double sm_percent) {
  if (need.profile.empty()) return std::min(1.0, sm_percent / need.sm_percent);
  SpeedPoint below{0, 0};
  for (const SpeedPoint& point : need.profile) {
    if (sm_percent <= point.sm_percent) {
      const double part = (sm_percent - below.sm_percent) / (point.sm_percent - below.sm_percent);
      return below.speed + part * (point.speed - below.speed);
    }
    below = point;
  }
  return below.speed;
}

double KneePercent(const ComputeNeed& need) {
  if (need.profile.empty()) return need.sm_percent;
  for (const SpeedPoint& point : need.profile) {
    if (point.speed >= kSpeedKnee) return point.sm_percent;
  }
  return 100;
}

// Fewer SMs than the reference has mean a larger part of them for the same work; more SMs mean no
// smaller part, because nothing says that the work spreads over them.
double SmScale(const Board& board, const Board* measured_on) {
  if (measured_on == nullptr) return 1;
  return std::min(1.0, static_cast<double>(board.sm_count) / measured_on->sm_count);
}

ModeSet Both(const ModeSet& a, const ModeSet& b) {
  return {a.exclusive && b.exclusive,       a.mig && b.mig,
          a.time_slicing && b.time_slicing, a.mps && b.mps,
          a.mps_servers && b.mps_servers,   a.caps && b.caps};
}

bool EnginesFit(const EngineCounts& need, const EngineCounts& have) {
  return need.decoder <= have.decoder && need.encoder <= have.encoder && need.jpeg <= have.jpeg &&
         need.ofa <= have.ofa;
}

bool MeetsTarget(const Workload& workload, const Latency& latency) {
  return latency.stable && latency.p50_ms <= workload.latency.p50_ms.value_or(latency.p50_ms) &&
         latency.p99_ms <= workload.latency.p99_ms.value_or(latency.p99_ms);
}

}  // namespace

RequestStream StreamOf(const Workload& workload, double service_ms) {
  return {.rate_per_s = workload.load->requests_per_second / workload.replicas,
          .service_ms = service_ms,
          .service_variability = workload.load->service_variability,
          .burstiness = workload.load->burstiness};
}

std::string MissOf(const Workload& workload, const Latency& latency) {
  const bool p50 = latency.p50_ms > workload.latency.p50_ms.value_or(latency.p50_ms);
  return fmt::format("a {} of {:.1f} ms, {:.1f} ms are allowed", p50 ? "p50" : "p99",
                     p50 ? latency.p50_ms : latency.p99_ms,
                     p50 ? *workload.latency.p50_ms : workload.latency.p99_ms.value_or(0));
}

namespace {

// Builds the variants of one workload for one offer.
class VariantBuilder {
 public:
  VariantBuilder(const BoardOffers& board, const Offer& offer, const Workload& workload, int index,
                 const Board* measured_on)
      : board_(board), offer_(offer), workload_(workload), index_(index), reference_(measured_on) {}

  std::string WhyNot(SharingMode mode, bool servers) const {
    const ModeSet& modes = board_.pool.modes;
    if ((mode == SharingMode::kMps && !modes.mps) ||
        (mode == SharingMode::kTimeSlicing && !modes.time_slicing) ||
        (mode == SharingMode::kExclusive && !modes.exclusive)) {
      return fmt::format("can't run: this node has no {} (sublet inspect says why)",
                         SharingModeName(mode));
    }
    if (!EnginesFit(workload_.engines, offer_.engines)) {
      return "needs media engines that it doesn't have";
    }
    const int knee = KneeCap();
    const double mps = board_.calibration.mps_service_factor;
    const double turn_ms =
        mode == SharingMode::kTimeSlicing || servers ? board_.calibration.switch_ms : 0;
    const Variant v = mode == SharingMode::kMps ? Make(knee, mps, turn_ms) : Make(0, 1, turn_ms);
    if (!Fits(v)) {
      return fmt::format("needs {}, {} are there", FormatBytes(v.memory),
                         FormatBytes(offer_.memory));
    }
    if (MeetsAlone(v)) return {};
    const Latency latency = PredictLatency(StreamOf(workload_, v.service_ms), Slowdown{});
    if (!latency.stable) {
      return fmt::format("would be busy {:.0f} % of the time even alone",
                         latency.utilisation * 100);
    }
    return fmt::format("would have {} even alone", MissOf(workload_, latency));
  }

  void AddTo(Offer& offer, const ModeSet& modes) const {
    if (!EnginesFit(workload_.engines, offer_.engines)) return;
    Variant whole = Make(0, 1, 0);
    const bool fits_alone = Fits(whole) && MeetsAlone(whole);
    if (fits_alone && modes.exclusive) offer.exclusive.push_back(whole);
    if (Variant v = Make(0, 1, board_.calibration.switch_ms); modes.time_slicing && Fits(v)) {
      AddIfUseful(v, offer.time_slicing);
    }
    const int knee = KneeCap();
    if (modes.mps) {
      AddIfUseful(Make(knee, board_.calibration.mps_service_factor, 0), offer.mps);
      if (const int tight = TightCap(knee); tight < knee) {
        AddIfUseful(Make(tight, board_.calibration.mps_service_factor, 0), offer.mps);
      }
    }
    if (modes.mps_servers) {
      Variant v = Make(knee, board_.calibration.mps_service_factor, board_.calibration.switch_ms);
      v.load = v.share > 0 ? v.load / v.share : 0;  // A server's turn takes the whole partition.
      v.share = 1;
      AddIfUseful(v, offer.servers);
    }
    if (modes.mps && modes.caps && IsBusy()) AddBusyCaps(offer);
  }

 private:
  const Board& board() const { return *board_.pool.board; }

  // May it be busy all the time, and is it known what it does then?
  bool IsBusy() const { return !workload_.load && workload_.compute.measured; }

  void AddBusyCaps(Offer& offer) const {
    for (int cap = kCapStep; cap <= 100; cap += kCapStep) {
      const Variant v = Make(cap, board_.calibration.mps_service_factor, 0);
      if (Fits(v)) AddIfUseful(v, offer.busy_caps);
    }
  }

  // `stretch` as ServiceStretch() has it; without a cap it is not under MPS.
  BusyKind BusyAt(const Variant& v, double sm_percent, double stretch) const {
    const WorkloadProfile& profile = *workload_.compute.measured;
    if (v.sm_percent == 0) {
      return {.unit_ms = profile.service_ms * stretch, .steps = profile.steps};
    }
    return KindUnderMps(profile,
                        {.sm_percent = sm_percent * SmScale(board(), reference_),
                         .stretch = stretch,
                         .capacity = std::min(offer_.sm_fraction, offer_.bandwidth_fraction) /
                                     ServiceStretch(workload_.compute, board(), reference_, 100, 1),
                         .share = v.share});
  }

  Variant Make(int cap, double factor, double switch_ms) const {
    const double sm_percent = (cap == 0 ? 100 : cap) * offer_.sm_fraction;
    const double stretch = ServiceStretch(workload_.compute, board(), reference_, sm_percent,
                                          offer_.bandwidth_fraction);
    const double full = ServiceStretch(workload_.compute, board(), reference_, 100, 1);
    // A workload slowed down by few SMs reads memory at a slower pace, too.
    const double bandwidth = std::min(1.0, workload_.compute.bandwidth_percent / 100 /
                                               offer_.bandwidth_fraction * full / stretch);
    Variant v;
    v.workload = index_;
    v.sm_percent = cap;
    v.share = cap == 0 ? 1 : std::min(1.0, std::max(cap / 100.0, bandwidth));
    v.context = board_.calibration.ContextAt(sm_percent);
    v.memory = Bytes::FromMib((workload_.memory + v.context).mib_rounded_up());
    v.stretch = stretch * factor;
    v.load = v.share;
    if (IsBusy()) v.busy = BusyAt(v, sm_percent, stretch);
    if (workload_.load) {
      v.service_ms =
          workload_.load->service_ms * stretch * factor + workload_.load->steps * switch_ms;
      v.load *= StreamOf(workload_, v.service_ms).rate_per_s * v.service_ms / 1000;
    }
    return v;
  }

  bool Fits(const Variant& v) const { return v.memory <= offer_.memory; }

  bool MeetsAlone(const Variant& v) const {
    if (!workload_.load) return true;
    return MeetsTarget(workload_, PredictLatency(StreamOf(workload_, v.service_ms), Slowdown{}));
  }

  int KneeCap() const {
    if (!board_.pool.modes.caps) return 100;
    const double percent = KneePercent(workload_.compute) / SmScale(board(), reference_);
    return RoundUpCap(percent / offer_.sm_fraction);
  }

  static int RoundUpCap(double percent) {
    const int steps = static_cast<int>(std::ceil(percent / kCapStep - 1e-9));
    return std::clamp(steps * kCapStep, kCapStep, 100);
  }

  // The smallest cap at which the target holds without neighbours; the knee where there is no load
  // by which to judge a slower service.
  int TightCap(int knee) const {
    if (!workload_.load) return knee;
    for (int cap = kCapStep; cap < knee; cap += kCapStep) {
      if (MeetsAlone(Make(cap, board_.calibration.mps_service_factor, 0))) return cap;
    }
    return knee;
  }

  void AddIfUseful(Variant v, std::vector<Variant>& variants) const {
    if (!Fits(v) || !MeetsAlone(v)) return;
    for (int slots = 1; slots <= kSlotsMax; ++slots) {
      v.load_max[static_cast<std::size_t>(slots)] = slots > v.slots() ? -1 : LoadMax(v, slots);
    }
    variants.push_back(v);
  }

  // Bisects the grid for the largest load of the others at which the target holds.
  double LoadMax(const Variant& v, int slots) const {
    if (!workload_.load) return std::numeric_limits<double>::infinity();
    const RequestStream stream = StreamOf(workload_, v.service_ms);
    const auto holds = [&](int step) {
      const Slowdown slowdown = SlowdownBy({.others_load = static_cast<double>(step) / kLoadGrid,
                                            .own_load = v.load,
                                            .slots = slots});
      return MeetsTarget(workload_, PredictLatency(stream, slowdown));
    };
    if (!holds(0)) return -1;
    int low = 0;
    int high = kLoadGrid + 1;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (holds(middle) ? low : high) = middle;
    }
    return static_cast<double>(low) / kLoadGrid + v.load;
  }

  const BoardOffers& board_;
  const Offer& offer_;
  const Workload& workload_;
  int index_;
  const Board* reference_;
};

// All memory is counted in whole MiB, needs rounded up and offers down, so that sums are exact.
Bytes WholeMib(Bytes bytes) {
  return Bytes::FromMib(bytes.mib());
}

std::vector<Offer> OffersOf(const BoardOffers& offers, const ModeSet& modes) {
  const Board& board = *offers.pool.board;
  const Bytes reserve = offers.calibration.device_reserve;
  std::vector<Offer> result;
  Offer whole;
  whole.memory = WholeMib(board.memory - reserve);
  whole.sm_count = board.sm_count;
  whole.engines = board.engines;
  whole.clients_max = offers.calibration.mps_clients_max;
  result.push_back(whole);
  if (!modes.mig) return result;
  for (std::size_t i = 0; i < board.profiles.size(); ++i) {
    const MigProfile& profile = board.profiles[i];
    Offer offer;
    offer.profile = static_cast<int>(i);
    const double part = static_cast<double>(profile.size) / board.memory_units;
    const auto kept = static_cast<std::int64_t>(part * static_cast<double>(reserve.count));
    offer.memory = WholeMib(profile.memory - Bytes{kept});
    offer.sm_count = profile.sm_count;
    offer.sm_fraction = static_cast<double>(profile.sm_count) / board.sm_count;
    offer.bandwidth_fraction = part;
    offer.engines = profile.engines;
    // The instances of one GPU together stay within what the GPU serves.
    offer.clients_max = static_cast<int>(whole.clients_max * part);
    result.push_back(offer);
  }
  return result;
}

}  // namespace

int Variant::slots() const {
  return std::clamp(static_cast<int>(1 / share + 1e-9), 1, kSlotsMax);
}

double ServiceStretch(const ComputeNeed& need, const Board& board, const Board* measured_on,
                      double sm_percent, double bandwidth_fraction) {
  const double by_sm = 1 / SpeedAt(need, sm_percent * SmScale(board, measured_on));
  const double by_bandwidth = need.bandwidth_percent / 100 / bandwidth_fraction;
  double by_board = 1;
  if (measured_on != nullptr && measured_on->name != board.name) {
    by_board = std::max({1.0, measured_on->dense_bf16_tflops / board.dense_bf16_tflops,
                         measured_on->memory_bandwidth_gbps / board.memory_bandwidth_gbps});
  }
  return by_board * std::max({1.0, by_sm, by_bandwidth});
}

std::string WhyNoVariant(const Problem& problem, int board, int offer, int workload,
                         SharingMode mode, bool servers) {
  const BoardOffers& offers = problem.boards[static_cast<std::size_t>(board)];
  const auto w = static_cast<std::size_t>(workload);
  return VariantBuilder(offers, offers.offers[static_cast<std::size_t>(offer)],
                        problem.fleet->workloads[w], workload, problem.measured_on[w])
      .WhyNot(mode, servers);
}

Result<Problem> BuildProblem(const Fleet& fleet, const std::vector<Pool>& pools,
                             const BoardCatalogue& catalogue, const Calibration& calibration,
                             const ModeSet& modes) {
  Problem problem;
  problem.fleet = &fleet;
  problem.modes = modes;
  problem.tenant_count = static_cast<int>(fleet.tenants.size());
  for (const Workload& workload : fleet.workloads) {
    problem.measured_on.push_back(nullptr);
    if (!workload.compute.measured_on.empty()) {
      ASSIGN_OR_RETURN(problem.measured_on.back(), catalogue.Find(workload.compute.measured_on));
    }
    const auto tenant = std::find_if(fleet.tenants.begin(), fleet.tenants.end(),
                                     [&](const Tenant& t) { return t.name == workload.tenant; });
    problem.tenant_of.push_back(static_cast<int>(tenant - fleet.tenants.begin()));
  }
  for (const Pool& pool : pools) {
    const ModeSet usable = Both(modes, pool.modes);
    BoardOffers offers;
    offers.pool = pool;
    offers.pool.modes.caps = usable.caps;
    offers.calibration = ForBoard(calibration, *pool.board);
    offers.offers = OffersOf(offers, usable);
    if (usable.mig) offers.geometry = pool.geometry.get();
    for (Offer& offer : offers.offers) {
      for (std::size_t i = 0; i < fleet.workloads.size(); ++i) {
        VariantBuilder(offers, offer, fleet.workloads[i], static_cast<int>(i),
                       problem.measured_on[i])
            .AddTo(offer, usable);
      }
    }
    problem.boards.push_back(std::move(offers));
  }
  return problem;
}

}  // namespace sublet
