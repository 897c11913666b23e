// node/api.h
//
// The node's API over HTTP: docs/formats/node-api.yaml, answered.
//
//   NodeApi api(*node, loop, stop);
//   HttpServer::Open(loop, {}, api.Handler());
//
// It reads requests strictly, asks the node, writes values; it decides nothing.
//
// Thread safety: the loop's thread.
#pragma once

#include <functional>

#include "http/http_server.h"
#include "node/local_node.h"

namespace sublet {

class NodeApi {
 public:
  // `stop` is called when an administrator asks the daemon to end. Both must outlive the API.
  NodeApi(LocalNode& node, asio::io_context& loop, std::function<void()> stop)
      : node_(node), loop_(loop), stop_(std::move(stop)) {}

  HttpHandler Handler();
  // Requests that are being answered; when the last one began.
  int active() const { return active_; }

 private:
  Task<void> Answer(HttpRequest request, Responder& to);
  Task<void> AnswerGet(const HttpRequest& request, Responder& to);
  Task<void> AnswerShares(const HttpRequest& request, Responder& to);
  Task<void> AnswerPlan(const HttpRequest& request, Responder& to);
  Task<void> AnswerMig(const HttpRequest& request, Responder& to);
  Task<void> AnswerOther(const HttpRequest& request, Responder& to);
  Task<void> StreamEvents(const HttpRequest& request, Responder& to);
  Task<void> StreamLog(const HttpRequest& request, Responder& to);
  // Runs an operation and streams what it says; it goes on when the client has gone.
  Task<void> StreamOperation(std::function<Task<Status>(Progress)> operation, Responder& to);

  LocalNode& node_;
  asio::io_context& loop_;
  std::function<void()> stop_;
  int active_ = 0;
};

}  // namespace sublet
