// kube/api_watch.h
//
// One object of the API server, followed: as it is, and each time it changes.
//
//   ApiWatch watch(transport, {.path = "/api/v1/nodes", .name = "gpu-1"}, patience);
//   while (!Interrupted()) {
//     if (const auto change = watch.Next(Deadline::In(60), InterruptFd())) Take(change->object);
//     if (auto problem = watch.TakeProblem()) Log(*problem);
//   }
//
// It lists first, then watches from the list's resourceVersion on, and resumes where it was after a
// break; bookmarks move that place on. Where the server no longer has the place (410 Gone), it
// lists again. So every state that lasts is seen, and states in between may be missed.
//
// Nothing makes it give up: what fails is tried again, with pauses that grow and differ from node
// to node. Next() returns at its deadline all the same, and as soon as there is a problem to tell.
//
// One handle is open at a time. A watch that hears nothing for longer than it asked the server to
// keep it open counts as broken.
//
// Thread safety: one thread at a time.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/result.h"
#include "kube/api_client.h"
#include "kube/api_transport.h"

namespace sublet {

struct ApiWatchTarget {
  std::string path;       // Of the collection: "/api/v1/nodes".
  std::string name;       // Of the object in it.
  int keep_open_s = 300;  // How long the server is asked to keep a watch open.
};

struct ApiChange {
  bool deleted = false;   // It is gone, or was never there; then `object` is empty.
  nlohmann::json object;  // As it is now.
};

class ApiWatch {
 public:
  ApiWatch(ApiTransport transport, ApiWatchTarget target, ApiPatience patience);

  // The next change; at first the object as it is. Absent at `deadline`, or when `wake_fd` (-1:
  // none) becomes readable, or when there is a problem to take.
  std::optional<ApiChange> Next(Deadline deadline, int wake_fd);

  // What went wrong since the last call, once for each outage; absent: nothing. That a server ends
  // a watch in its own time is nothing, and so is what is well at the second attempt.
  std::optional<Error> TakeProblem() { return std::exchange(problem_, std::nullopt); }
  int failures() const { return failures_; }

 private:
  std::optional<ApiChange> List();
  void Open();
  std::optional<ApiChange> Read(Deadline deadline, int wake_fd);
  std::optional<ApiChange> TakeLine(const std::string& line);
  void Failed(Error error);
  void Gone();

  ApiTransport transport_;
  ApiWatchTarget target_;
  ApiPatience patience_;

  std::string resource_version_;  // Empty: list first.
  std::optional<ApiStream> stream_;
  bool answered_ = false;  // The stream's status was 200.
  Deadline settled_ = Deadline::Never();
  Deadline stream_end_ = Deadline::Never();

  int failures_ = 0;  // In a row, since a line could be read.
  int gones_ = 0;     // As many times the place was lost, since a line could be read.
  Deadline retry_ = Deadline::In(0);
  std::optional<Error> problem_;
};

}  // namespace sublet
