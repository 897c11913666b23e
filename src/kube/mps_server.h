// kube/mps_server.h
//
// One MPS server of a pool (kube/mps_pool.h): as it runs, and as it is wanted. Internal to the
// pool.
//
//   auto server = std::make_shared<MpsServer>(home, name, tenant);
//   server->Want(want);                  // Before it begins, which ends one that isn't wanted.
//   server->Begin(row);                  // Takes over what runs.
//   ...
//   server->Unwant();                    // home.ended(name) is called once it is gone.
//
// Thread safety: the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "http/event_loop.h"
#include "kube/mps_pool.h"
#include "node/bell.h"
#include "node/domain_keeper.h"
#include "node/node_parts.h"

namespace sublet {

// What servers have of their pool.
struct MpsServerHome {
  NodeParts& node;
  const MpsPoolOptions& options;
  std::function<void()> changed;                       // An obstacle may be another.
  std::function<void(const std::string& name)> ended;  // Its last word.
};

// A folder that users of the sockets below may pass through, and not list.
Status MakePassage(const std::string& path);

class MpsServer : public std::enable_shared_from_this<MpsServer> {
 public:
  MpsServer(MpsServerHome& home, std::string name, std::string tenant);

  void Want(const MpsWant& want);
  // It ends as soon as it has no clients.
  void Unwant();
  // Also with its clients.
  void EndNow() {
    at_once_ = true;
    Unwant();
    bell_.Ring();
  }
  // The pool goes: nothing of it may be called any more.
  void LetGo() {
    gone_ = true;
    bell_.Ring();
  }

  // `row`: of a control daemon that may run already.
  void Begin(std::optional<DomainRow> row) {
    row_ = std::move(row);
    asio::co_spawn(home_.node.loop, Live(), EndsTheProgram);
  }

  Task<Status> AwaitReady();
  Task<void> AwaitGone();

  bool ready() const { return keeper_ && keeper_->ready() && !Draining(); }
  bool wanted() const { return wanted_.has_value(); }
  const std::string& tenant() const { return tenant_; }
  std::string device() const { return name_.substr(0, name_.find('.')); }
  std::optional<DomainStatus> Now() const {
    if (!keeper_) return std::nullopt;
    return keeper_->Now();
  }

  // Why it takes nobody now; empty: it does.
  std::string Obstacle() const;

 private:
  bool Draining() const;

  Task<void> Live();
  Task<void> Drain();
  Task<void> Start();
  DomainKeeper::Listener Listens();
  Task<Status> ShutTheDoor();
  Task<void> OpenTheDoor();

  MpsServerHome& home_;
  const std::string name_;
  const std::string tenant_;
  const std::string folder_;
  std::optional<MpsWant> wanted_;
  std::shared_ptr<DomainKeeper> keeper_;
  std::optional<Domain> running_domain_;  // Of the keeper.
  std::optional<DomainRow> row_;          // Until a keeper has it.
  std::string problem_;                   // Why no keeper could begin.
  bool at_once_ = false;
  bool gone_ = false;
  bool running_ = true;
  Moment next_start_{};
  Bell bell_;
  Broadcast changes_;
};

}  // namespace sublet
