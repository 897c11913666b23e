#include "store/tests/sample_rows.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace sublet::store {
namespace {

constexpr std::size_t kAll = 1u << 20;

std::string TextOf(const std::optional<Process>& process) {
  if (!process) return "no process";
  return fmt::format("process {} {} {}", process->pid, process->start_ticks, process->uid);
}

std::string TextOf(const std::optional<PlanRow>& plan) {
  return plan ? fmt::format("plan {} in {}", plan->plan, plan->directory) : "no plan";
}

std::string TextOf(const DomainRow& row) {
  return fmt::format("domain {} {} {} {} {} {}", DomainToJson(row.domain).dump(),
                     RowStateName(row.state), row.pipe_directory, TextOf(row.daemon), row.restarts,
                     row.limits_confirmed);
}

std::string TextOf(const MigInstanceRow& row) {
  return fmt::format("instance {} {} {} {} {} {} {}", row.gpu_uuid, row.start, row.profile,
                     RowStateName(row.state), row.instance_id.value_or(-1), row.mig_uuid,
                     row.made_for);
}

std::string TextOf(const MigStepRow& row) {
  return fmt::format("step {} {} {}", row.number, row.step, row.done);
}

std::string TextOf(const OperationRow& row) {
  return fmt::format("operation {} {} {} {} {} {}", row.id, OperationKindName(row.kind),
                     TextOf(row.from), TextOf(row.to), OperationDirectionName(row.direction),
                     row.started_at);
}

std::string TextOf(const ReplicaRow& row) {
  return fmt::format("replica {} {} {} {}", row.id, row.restarts, row.last_end,
                     ReplicaWantedName(row.wanted));
}

}  // namespace

ScratchFolder::ScratchFolder() {
  // In memory, if possible: a disk would be waited for some thousand times.
  for (const std::string parent : {"/dev/shm", "/tmp"}) {
    path_ = parent + "/sublet-store-XXXXXX";
    if (::mkdtemp(path_.data()) != nullptr) return;
  }
  CHECK(false);
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

ShareRow SampleShare(int number) {
  ShareRow row;
  row.share.id = fmt::format("s{}", number);
  row.share.name = fmt::format("chat/{}", number);
  row.share.tenant = "search";
  row.share.mode = SharingMode::kMps;
  row.share.gpu_uuid = "GPU-11111111-2222-3333-4444-555555555555";
  row.share.memory = Bytes{static_cast<std::int64_t>(number + 1) << 30};
  row.share.memory_limit = Bytes{static_cast<std::int64_t>(number + 1) << 29};
  row.share.sm_percent = 1 + number % 100;
  row.share.domain = "gpu0-search";
  row.share.enforcement = {
      {.what = "memory", .by = "MPS pinned device memory limit", .enforced = true},
      {.what = "fault", .by = "not enforced", .enforced = false}};
  row.share.reason = "the only GPU with 10 GiB free";
  row.state = RowState::kPresent;
  row.replica = number % 2 == 0;
  row.process = Process{.pid = 1000 + number, .start_ticks = 123'456'789'012, .uid = 4'000'000'000};
  row.log = fmt::format("/var/lib/sublet/logs/{}.log", number);
  if (row.replica) row.target = R"({"command":["serve"]})";
  return row;
}

DomainRow SampleDomain(const std::string& name) {
  DomainRow row;
  row.domain = {.name = name,
                .tenant = "search",
                .gpu_uuid = "GPU-11111111-2222-3333-4444-555555555555",
                .mig_uuid = "MIG-66666666-7777-8888-9999-000000000000",
                .uid = 1001,
                .memory_limit = Bytes{std::int64_t{20} << 30},
                .sm_percent = 25,
                .planned = true};
  row.state = RowState::kRemoving;
  row.pipe_directory = "/run/sublet/mps/" + name;
  row.daemon = Process{.pid = 77, .start_ticks = 8'888, .uid = 1000};
  row.restarts = 3;
  row.limits_confirmed = true;
  return row;
}

MigInstanceRow SampleMigInstance(const std::string& gpu_uuid, int start) {
  return {.gpu_uuid = gpu_uuid,
          .start = start,
          .profile = "2g.20gb",
          .state = RowState::kPresent,
          .instance_id = 5 + start,
          .mig_uuid = "MIG-66666666-7777-8888-9999-000000000000",
          .made_for = "s17"};
}

OperationRow SampleOperation(const std::string& id) {
  return {.id = id,
          .kind = OperationKind::kDown,
          .from = PlanRow{.plan = R"({"fleet":"shop"})", .directory = "/srv/shop"},
          .to = PlanRow{.plan = R"({"fleet":"shop2"})", .directory = "/srv/shop2"},
          .direction = OperationDirection::kBack,
          .started_at = "2026-11-21T10:00:00Z"};
}

NodeEvent SampleEvent(const std::string& message) {
  return {.sequence = 0,
          .time = "2026-11-21T10:00:00.125Z",
          .subject_kind = "share",
          .subject = "s17",
          .what = "granted",
          .message = message};
}

std::string TextOf(const ShareRow& row) {
  return fmt::format("share {} {} {} {} {} {}", ShareToJson(row.share).dump(),
                     RowStateName(row.state), row.replica, TextOf(row.process), row.log,
                     row.target);
}

std::string TextOf(const NodeEvent& event) {
  return NodeEventToJson(event).dump();
}

std::string TextOf(const NodeRecord& record) {
  std::string text = fmt::format("boot {} node {} last event {}\n{}\n", record.boot_id,
                                 record.node_name, record.last_event, TextOf(record.plan));
  for (const ShareRow& row : record.shares) text += TextOf(row) + "\n";
  for (const DomainRow& row : record.domains) text += TextOf(row) + "\n";
  for (const MigInstanceRow& row : record.instances) text += TextOf(row) + "\n";
  for (const MigStepRow& row : record.mig_steps) text += TextOf(row) + "\n";
  if (record.operation) text += TextOf(*record.operation) + "\n";
  for (const ReplicaRow& row : record.replicas) text += TextOf(row) + "\n";
  return text;
}

std::string TextOfStore(const std::string& directory) {
  const auto failed = [](const Error& error) {
    return fmt::format("{}: {}", ErrorCodeName(error.code), error.message);
  };
  auto store = NodeStore::Open(directory, {.create = false});
  if (!store) return failed(store.error());
  const auto record = store->LoadAll();
  if (!record) return failed(record.error());
  const auto events = store->EventsAfter(0, kAll);
  if (!events) return failed(events.error());
  std::string text = "ok\n" + TextOf(*record);
  for (const NodeEvent& event : *events) text += TextOf(event) + "\n";
  return text;
}

int InChild(const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work() ? 0 : 1);
  int status = -1;
  CHECK(child > 0 && ::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace sublet::store
