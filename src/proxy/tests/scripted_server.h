// proxy/tests/scripted_server.h
//
// A server on a free loopback port that says what a test wants it to say, byte by byte.
//
//   ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
//     return peer.Say(Answer(request.Target() == "/health" ? 200 : 404, ""));
//   });
//
// Thread safety: a thread a connection, on which the script runs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace sublet {

struct ScriptedRequest {
  std::string line;  // "GET /health HTTP/1.1"
  std::string head;  // With the line, up to the empty line.
  std::string body;
  int connection = 0;  // Counted from 0.

  std::string Target() const;
};

// One connection, as the script sees it. Say() sends; Stay() waits until the other side has gone.
class ScriptedPeer {
 public:
  explicit ScriptedPeer(int socket) : socket_(socket) {}
  bool Say(std::string_view bytes);
  void Stay();

 private:
  int socket_;
};

class ScriptedServer {
 public:
  // Called for each request, on the connection's thread; false closes the connection after it.
  using Script = std::function<bool(const ScriptedRequest&, ScriptedPeer&)>;

  explicit ScriptedServer(Script script);
  ~ScriptedServer();
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  int port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  // Targets asked for so far, in their order.
  std::vector<ScriptedRequest> requests() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
  int port_ = 0;
};

// A whole answer with Content-Length.
std::string Answer(int status, std::string_view body,
                   std::string_view content_type = "application/json");
// The head of a chunked answer, and a chunk of it.
std::string ChunkedHead(std::string_view content_type = "application/json");
std::string Chunk(std::string_view bytes);

}  // namespace sublet
