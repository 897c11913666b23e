// exe/mig_request.h
//
// What `sublet mig apply`, `plan`, `assert` and `export` share: the file, its label, the node, and
// the change that leads from one to the other.
//
//   ASSIGN_OR_RETURN(const MigConfigLabel label, LoadMigLabel(flags));
//   ASSIGN_OR_RETURN(MigNode node, MigNode::Find(flags, MigNode::For::kChange));
//   ASSIGN_OR_RETURN(const MigChange change,
//                    PlanMigChange(node.inventory(), label, node.Use(), {}));
//   RETURN_IF_ERROR(node.Apply(change));
//
// Thread safety: one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "mig/mig_change.h"
#include "model/inventory.h"
#include "model/mig_config.h"
#include "plan/mig_layout.h"

namespace sublet {

struct MigFlags {
  std::string config;  // The file; "-" is standard input.
  std::string label;   // Empty: the file's only one.
  std::string hooks;   // Empty: none.
  std::string nvml;
  double timeout_s = 60;
  bool mode_only = false;
  bool dry_run = false;
  bool json = false;
};

// Adds the flags by which the file, its label and the node are given, under mig-parted's names and
// variables, too.
void AddMigFileFlags(CLI::App& verb, MigFlags& flags);
void AddMigNodeFlags(CLI::App& verb, MigFlags& flags);

// Fails with kUsage where the file has several labels and none is chosen.
Result<MigConfigLabel> LoadMigLabel(const MigFlags& flags);

struct MigChange {
  NodeLayout layout;
  std::vector<MigStep> steps;
};

// By UUID of the GPU.
using NodeMigUse = std::map<std::string, MigUse>;

// The node whose MIG is looked at or changed: the one that this process's driver shows.
class MigNode {
 public:
  enum class For { kLook, kChange };

  // Where no driver is there at all, who only looks gets the simulated node that this user has up
  // (exe/node_place.h), and is told so.
  static Result<MigNode> Find(const MigFlags& flags, For what);

  const Inventory& inventory() const { return inventory_; }
  // Reads it once more.
  Status Look();
  // The processes that the driver shows, and the shares of the node's daemon where one runs: a
  // share holds its instance also while nothing runs there.
  NodeMigUse Use() const;
  // Has the steps done, by the node's daemon, which is started where none runs; in this process
  // where a library was named, which that daemon might not use. Verifies the result, undoes all
  // where something fails.
  Status Apply(const MigChange& change) const;

 private:
  explicit MigNode(MigFlags flags) : flags_(std::move(flags)) {}

  MigFlags flags_;
  Inventory inventory_;
};

// The change that leaves everybody alone who is in `use`.
Result<MigChange> PlanMigChange(const Inventory& node, const MigConfigLabel& label,
                                const NodeMigUse& use, const LayoutOptions& options);

// For people and for programs. `applied`: the steps were done.
std::string MigChangeReport(const Inventory& node, const MigChange& change);
nlohmann::ordered_json MigChangeJson(const Inventory& node, const std::string& label,
                                     const MigChange& change, bool applied);

}  // namespace sublet
