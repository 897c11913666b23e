// store/node_record.h
//
// What a node remembers over the end of its daemon: the rows of its state and journal.
//
// A row says what is meant before it is done. Whoever starts a process, a domain or a MIG instance
// writes it with kCreating first and with kPresent afterwards; whoever ends one writes kRemoving
// first and removes the row afterwards. So a row in kCreating or kRemoving that is found at start
// names something of which nobody knows how far it got, and nothing is there without a row.
//
//   ShareRow row{.share = share, .replica = true};       // kCreating
//   RETURN_IF_ERROR(store.PutShare(row));
//   ... start the process ...
//   row.process = process;
//   row.state = RowState::kPresent;
//   RETURN_IF_ERROR(store.PutShare(row));
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/node_status.h"
#include "model/share.h"

namespace sublet {

enum class RowState { kCreating, kPresent, kRemoving };
const EnumWords<RowState>& RowStateWords();
std::string_view RowStateName(RowState state);  // "creating", "present", "removing"

// A process that is to be found again. The kernel gives a process number to somebody else once its
// owner is gone, so the number alone names nobody; together with the start it does, until the next
// boot (NodeRecord::boot_id).
struct Process {
  int pid = 0;
  std::int64_t start_ticks = 0;  // Field 22 of /proc/PID/stat: clock ticks since boot.
  unsigned uid = 0;              // Whose it is.
  friend bool operator==(const Process&, const Process&) = default;
};

struct ShareRow {
  Share share;
  RowState state = RowState::kCreating;
  bool replica = false;                 // Of the plan that is up; false: of a `sublet run`.
  std::optional<Process> process = {};  // Its holder; absent where none was started yet.
  std::string log = {};                 // Path; empty where its output isn't kept.
  // Of a replica: how it is to be started again, as JSON that node/ writes. Empty for other shares.
  std::string target = {};
};

struct DomainRow {
  Domain domain;
  RowState state = RowState::kCreating;
  std::string pipe_directory = {};
  std::optional<Process> daemon = {};  // The control daemon; absent where none was started yet.
  int restarts = 0;                    // How often it was brought up again after a fault.
  bool limits_confirmed = false;       // A probe client met the wall of the server that runs now.
};

// A GPU instance that Sublet made. Those that others made have no row, and are left alone.
struct MigInstanceRow {
  std::string gpu_uuid;
  int start = 0;        // First memory slice: with the GPU it names the instance.
  std::string profile;  // "2g.20gb"
  RowState state = RowState::kCreating;
  std::optional<int> instance_id = {};  // The driver's; absent until it has answered.
  std::string mig_uuid = {};  // "MIG-..." of its compute instance; empty until it is known.
  std::string made_for = {};  // A share's id, or the fleet name of a plan.
  friend bool operator==(const MigInstanceRow&, const MigInstanceRow&) = default;
};

// One step of the MIG operation that is under way. They are done in the order of their numbers, and
// undone in the opposite order.
struct MigStepRow {
  int number = 0;
  std::string step;   // JSON, as mig/ writes it.
  bool done = false;  // Done and read back.
  friend bool operator==(const MigStepRow&, const MigStepRow&) = default;
};

struct PlanRow {
  std::string plan;       // JSON, as PlanToJson() writes it.
  std::string directory;  // Absolute: relative paths in the plan's commands begin here.
  friend bool operator==(const PlanRow&, const PlanRow&) = default;
};

enum class OperationKind { kUp, kDown, kMig };
const EnumWords<OperationKind>& OperationKindWords();
std::string_view OperationKindName(OperationKind kind);  // "up", "down", "mig"

enum class OperationDirection { kForward, kBack };
const EnumWords<OperationDirection>& OperationDirectionWords();
std::string_view OperationDirectionName(OperationDirection direction);  // "forward", "back"

// The change that is under way. For kind mig, `plan` of from and to is a geometry instead of a
// plan, and `directory` is empty.
struct OperationRow {
  std::string id;
  OperationKind kind = OperationKind::kUp;
  std::optional<PlanRow> from = {};                             // Absent: nothing was up.
  std::optional<PlanRow> to = {};                               // Absent: nothing is to be up.
  OperationDirection direction = OperationDirection::kForward;  // kBack: it is being undone.
  std::string started_at;                                       // UTC.
  friend bool operator==(const OperationRow&, const OperationRow&) = default;
};

enum class ReplicaWanted { kRunning, kStopped };
const EnumWords<ReplicaWanted>& ReplicaWantedWords();
std::string_view ReplicaWantedName(ReplicaWanted wanted);  // "running", "stopped"

// What is known of a replica over all its processes.
struct ReplicaRow {
  std::string id;  // "chat/0"
  int restarts = 0;
  std::string last_end = {};  // "was killed by signal 9 (Killed)"; empty: never ended.
  ReplicaWanted wanted = ReplicaWanted::kRunning;
  friend bool operator==(const ReplicaRow&, const ReplicaRow&) = default;
};

// All of it but the events.
struct NodeRecord {
  // Of the boot in which the processes of all rows ran; empty: never set. After another boot they
  // are gone, and whoever has their numbers now is somebody else.
  std::string boot_id;
  std::string node_name;                  // Empty: never set.
  std::vector<ShareRow> shares;           // In the order of their ids: "s9" before "s10".
  std::vector<DomainRow> domains;         // By name.
  std::vector<MigInstanceRow> instances;  // By GPU's UUID, then start.
  std::vector<MigStepRow> mig_steps;      // By number.
  std::optional<PlanRow> plan;            // That is up.
  std::optional<OperationRow> operation;
  std::vector<ReplicaRow> replicas;  // By id.
  std::int64_t last_event = 0;       // Its sequence; 0: none yet.
};

}  // namespace sublet
