// node/held_share.h
//
// A share that a process of somebody else's holds, as `sublet run` does: for as long as that
// process lives, and then it is taken back, whoever or whatever ended the process.
//
//   auto held = std::make_shared<HeldShare>(parts, row, std::move(process), gone);
//   held->Begin();                     // `gone` is called once the share is free again.
//
// The holder isn't our child: its end is seen by its pidfd. What it left behind in the background
// with the share's mark would use what nobody accounts for any more, so it is ended too, as a
// container's processes are.
//
// Thread safety: the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/process_handle.h"
#include "model/node_status.h"
#include "node/bell.h"
#include "node/node_parts.h"
#include "node/replica_log.h"

namespace sublet {

class HeldShare : public std::enable_shared_from_this<HeldShare> {
 public:
  // `row` is in the store. Without a process it has ended already.
  HeldShare(NodeParts& parts, ShareRow row, std::optional<ProcessHandle> process,
            std::function<void(const std::string& id)> gone);

  void Begin();
  // Tells the holder to end, and waits until the share is free.
  Task<Status> End();

  const Share& share() const { return row_.share; }
  std::optional<ProcessIdentity> process() const {
    if (!process_) return std::nullopt;
    return process_->identity();
  }
  // Its holder has ended, and it is being taken back.
  bool Returns() const {
    return row_.state == RowState::kRemoving || (process_ && process_->Ended());
  }
  uid_t user() const { return row_.process ? row_.process->uid : 0; }
  const std::shared_ptr<ReplicaLog>& log() const { return log_; }
  ShareStatus Now() const;

 private:
  Task<void> Live();
  Task<void> TakeBack();

  NodeParts& parts_;
  ShareRow row_;
  std::optional<ProcessHandle> process_;
  const std::function<void(const std::string& id)> gone_;
  std::shared_ptr<ReplicaLog> log_;
  const Moment began_;
  const std::string since_;
  bool ending_ = false;
  bool free_ = false;
  std::string why_;
  Bell bell_;
  Broadcast changes_;
};

}  // namespace sublet
