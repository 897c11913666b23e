// kube/tests/scripted_api.h
//
// An API server that does what a test wants of it: each request is answered by a function, in
// parts, and cut off where the test says. On a free port of this machine, over HTTP or TLS.
//
//   ScriptedApi server([](const ApiCall& call) { return ApiAnswer{.parts = {"{}"}}; });
//   ApiTransport transport(server.Place(), {});
//   EXPECT_EQ(server.Calls()[0].method, "GET");
//
// Thread safety: the function is called on the server's threads, one at a time.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "kube/api_transport.h"

namespace sublet {

struct ApiCall {
  std::string method;
  std::string target;  // With its query.
  std::string authorization;
  std::string content_type;
  std::string body;
};

struct ApiAnswer {
  enum class End {
    kProper,  // As HTTP wants it.
    kCut,     // The connection is closed before the body is whole.
    kHold,    // Nothing more comes until the client goes.
  };

  int status = 200;
  std::vector<std::string> parts = {};  // Of the body, each written by itself.
  End end = End::kProper;
  std::string headers = {};  // Further ones, each with its "\r\n".
};

enum class ApiSecurity { kPlain, kTls };

class ScriptedApi {
 public:
  using Script = std::function<ApiAnswer(const ApiCall&)>;

  explicit ScriptedApi(Script script, ApiSecurity security = ApiSecurity::kPlain);
  ~ScriptedApi();
  ScriptedApi(const ScriptedApi&) = delete;
  ScriptedApi& operator=(const ScriptedApi&) = delete;

  // Where it is; under TLS with the certificate that it shows as the only one to trust.
  ApiPlace Place() const;
  std::vector<ApiCall> Calls() const;
  // A file of the server's folder, which goes with it.
  std::string Write(const std::string& name, const std::string& content) const;

 private:
  struct Connection;
  void Accept();
  void Serve(Connection& connection);

  Script script_;
  std::string folder_;
  std::string ca_file_;
  int port_ = 0;
  FileDescriptor listener_;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> tls_{nullptr, &SSL_CTX_free};
  mutable std::mutex lock_;
  std::vector<ApiCall> calls_;
  std::list<std::unique_ptr<Connection>> connections_;
  std::atomic<bool> stopping_ = false;
  std::thread accepting_;
};

}  // namespace sublet
