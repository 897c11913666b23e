#include "plan/modes.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "plan/pricing.h"

namespace sublet {
namespace {

// The highest level that a workload can demand and still be put beside strangers in this mode.
Isolation GuaranteeOf(SharingMode mode, bool servers) {
  if (mode == SharingMode::kExclusive || mode == SharingMode::kMig) return Isolation::kHardware;
  if (mode == SharingMode::kStreams) return Isolation::kNone;
  Isolation most = Isolation::kNone;
  for (const Isolation level : {Isolation::kMemory, Isolation::kFault, Isolation::kHardware}) {
    if (ToleratesStrangers(level, mode, servers)) most = level;
  }
  return most;
}

class Comparison {
 public:
  Comparison(const Board& board, const Calibration& calibration)
      : board_(board), calibration_(calibration), source_(calibration.source) {}

  ModeFacts Exclusive() const {
    return {.name = "exclusive",
            .mode = SharingMode::kExclusive,
            .memory = "yes: nobody else is there",
            .faults = "yes",
            .compute = "yes",
            .bandwidth = "yes",
            .partitions_max = 1,
            .partitions_why = "one process a GPU",
            .cost = fmt::format("${:.2f} an hour for each", board_.price_usd_hour),
            .cost_source = "list price in the board catalogue",
            .enforcer = "the GPU itself; compute mode EXCLUSIVE_PROCESS keeps others out",
            .choose_when = "one workload fills the GPU, or its latency allows nothing else"};
  }

  ModeFacts Streams() const {
    return {.name = "streams",
            .mode = SharingMode::kStreams,
            .memory = "no: one address space",
            .faults = "no: one process",
            .compute = "no: kernels share SMs as they come",
            .bandwidth = "no",
            .partitions_max = 1,
            .partitions_why = "one process; any number of streams in it",
            .cost = "no switches, and one CUDA context for all",
            .cost_source = "how CUDA works",
            .enforcer = "nothing: the program is trusted with itself",
            .choose_when = "one program can serve all the models, as inference servers do"};
  }

  ModeFacts TimeSlicing() const {
    const Bytes context = calibration_.ContextAt(100);
    const Bytes memory = board_.memory - calibration_.device_reserve;
    return {.name = "time-slicing",
            .mode = SharingMode::kTimeSlicing,
            .memory = "no: separate address spaces, but no limit on what a process takes",
            .faults = "yes: a fault ends its own process",
            .compute = "no: whole turns on all SMs",
            .bandwidth = "no: whole turns",
            .partitions_max = static_cast<int>(memory.count / context.count),
            .partitions_why = fmt::format("memory for contexts of {} alone", FormatBytes(context)),
            .cost = fmt::format("{:.2f} ms at every switch between busy processes, and a context "
                                "of {} for each",
                                calibration_.switch_ms, FormatBytes(context)),
            .cost_source = source_,
            .enforcer = "nothing",
            .choose_when =
                "trusted jobs without latency targets, mostly idle; boards or drivers "
                "without MPS"};
  }

  ModeFacts Mps() const {
    return {.name = "mps",
            .mode = SharingMode::kMps,
            .memory = "limited: separate address spaces, a limit on each process",
            .faults = "no: one client's illegal access ends its neighbours in the same server",
            .compute = "limited: a cap on each process's SMs; caps may overlap",
            .bandwidth = "no",
            .partitions_max = calibration_.mps_clients_max,
            .partitions_why = "clients that one GPU serves",
            .cost = MpsCost(),
            .cost_source = source_,
            .enforcer =
                "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT and CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, "
                "set by whoever starts the process",
            .choose_when = "many small models of tenants who trust each other not to crash"};
  }

  ModeFacts MpsServers() const {
    return {.name = "mps-servers",
            .mode = SharingMode::kMps,
            .memory = "limited: a limit on each process",
            .faults = "yes, between tenants: each has a server of its own",
            .compute = "limited: caps within a server; servers take turns",
            .bandwidth = "no",
            .partitions_max = calibration_.mps_clients_max,
            .partitions_why = "clients that one GPU serves, over all its servers",
            .cost = fmt::format("{:.2f} ms at every switch between servers; within one as mps",
                                calibration_.switch_ms),
            .cost_source = source_,
            .enforcer = "as mps; a control daemon with a pipe directory for each tenant",
            .choose_when = "several tenants who must not end each other, without MIG"};
  }

  ModeFacts Mig() const {
    const auto most = std::max_element(
        board_.profiles.begin(), board_.profiles.end(),
        [](const MigProfile& a, const MigProfile& b) { return a.max_instances < b.max_instances; });
    const MigProfile& smallest = *most;
    const double sm_lost =
        100.0 * (board_.sm_count - smallest.sm_count * smallest.max_instances) / board_.sm_count;
    return {
        .name = "mig",
        .mode = SharingMode::kMig,
        .memory = "yes: memory slices of its own",
        .faults = "yes",
        .compute = "yes: SMs of its own",
        .bandwidth = "yes: cache and memory paths of its own",
        .partitions_max = smallest.max_instances,
        .partitions_why = fmt::format("instances of {}", smallest.name),
        .cost = fmt::format("fixed shapes: {} x {} leave {:.0f} % of the SMs unused, and an idle "
                            "instance lends nothing to a busy one",
                            smallest.max_instances, smallest.name, sm_lost),
        .cost_source =
            fmt::format("the board's MIG table ({})", ProvenanceName(smallest.provenance)),
        .enforcer = "hardware",
        .choose_when = "tenants who don't trust each other, or who were promised hardware"};
  }

  ModeFacts MigMps() const {
    ModeFacts mps = Mps();
    mps.name = "mig+mps";
    mps.mode = SharingMode::kMps;
    mps.faults = "yes, between instances; no within one";
    mps.bandwidth = "yes, between instances; no within one";
    mps.partitions_why += ", over all its instances";
    mps.choose_when = "a few tenants apart by hardware, each with many small models";
    return mps;
  }

 private:
  std::string MpsCost() const {
    return fmt::format(
        "{:.0f} % longer service, and a context of {} at 10 % of the SMs ({} at 100 %)",
        (calibration_.mps_service_factor - 1) * 100, FormatBytes(calibration_.ContextAt(10)),
        FormatBytes(calibration_.ContextAt(100)));
  }

  const Board& board_;
  const Calibration& calibration_;
  std::string source_;
};

void NoteAvailability(const std::vector<ModeCheck>& here, ModeFacts& mode) {
  const auto check = [&](SharingMode wanted) {
    const auto it = std::find_if(here.begin(), here.end(),
                                 [&](const ModeCheck& c) { return c.mode == wanted; });
    if (it == here.end()) return;
    mode.available = mode.available.value_or(true) && it->available();
    if (!it->available() && mode.unavailable_why.empty()) {
      mode.unavailable_why = fmt::format("{}", fmt::join(it->reasons, "; "));
    }
  };
  check(mode.mode);
  if (mode.name == "mig+mps") check(SharingMode::kMig);
}

}  // namespace

std::vector<ModeFacts> CompareModes(const Board& board, const Calibration& calibration,
                                    const std::vector<ModeCheck>& here) {
  const Comparison comparison(board, calibration);
  std::vector<ModeFacts> modes{comparison.Exclusive(), comparison.Streams(),
                               comparison.TimeSlicing(), comparison.Mps(), comparison.MpsServers()};
  if (board.HasMig()) {
    modes.push_back(comparison.Mig());
    modes.push_back(comparison.MigMps());
  }
  for (ModeFacts& mode : modes) {
    // With MPS inside instances a tenant can still have an instance to itself.
    mode.isolation = mode.name == "mig+mps" ? Isolation::kHardware
                                            : GuaranteeOf(mode.mode, mode.name == "mps-servers");
    NoteAvailability(here, mode);
  }
  return modes;
}

nlohmann::ordered_json ModesToJson(const Board& board, const std::vector<ModeFacts>& modes) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ModeFacts& mode : modes) {
    nlohmann::ordered_json row{{"name", mode.name},
                               {"mode", SharingModeName(mode.mode)},
                               {"isolation", IsolationName(mode.isolation)},
                               {"memory", mode.memory},
                               {"faults", mode.faults},
                               {"compute", mode.compute},
                               {"bandwidth", mode.bandwidth},
                               {"partitions_max", mode.partitions_max},
                               {"partitions_why", mode.partitions_why},
                               {"cost", mode.cost},
                               {"cost_source", mode.cost_source},
                               {"enforcer", mode.enforcer},
                               {"choose_when", mode.choose_when}};
    if (mode.available) row["available"] = *mode.available;
    if (!mode.unavailable_why.empty()) row["unavailable_why"] = mode.unavailable_why;
    list.push_back(std::move(row));
  }
  return {{"board", board.name}, {"modes", std::move(list)}};
}

}  // namespace sublet
