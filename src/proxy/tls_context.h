// proxy/tls_context.h
//
// What TLS connections of one kind have in common: certificates, versions, whom to believe.
//
//   ASSIGN_OR_RETURN(TlsContext server, TlsContext::ForServer({"chain.pem", "key.pem"}));
//   auto transport = std::make_shared<Transport>(std::move(socket), server.Accept());
//
// TLS 1.2 is the oldest spoken; OpenSSL's own defaults decide the rest. Certificates are reloaded
// by making a new context: connections keep the one that they began with.
//
// Thread safety: once made, any thread.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"
#include "proxy/proxy_options.h"
#include "proxy/transport.h"

namespace sublet::internal {

class TlsContext {
 public:
  // Fails with kNotFound, kPermission or kInvalid for files that can't be read or used, and for a
  // key that isn't the certificate's.
  static Result<TlsContext> ForServer(const TlsFiles& files);
  // `ca_file`: empty for the system's.
  static Result<TlsContext> ForClient(const std::string& ca_file, bool verify);

  SslSession Accept() const;
  // Null where OpenSSL has no memory.
  SslSession Connect(const std::string& host) const;

 private:
  explicit TlsContext(std::shared_ptr<SSL_CTX> context, bool verify)
      : context_(std::move(context)), verify_(verify) {}

  std::shared_ptr<SSL_CTX> context_;
  bool verify_ = false;
};

// For connections to replicas over https. The system's authorities are read at the first of them:
// that takes some 50 ms, and most fleets have none.
//
// Thread safety: any thread, once Prepare() has returned.
class ClientTls {
 public:
  // Fails as ForClient() does for a file; what isn't named is read later.
  Status Prepare(std::string ca_file, bool verify);
  // Null where the authorities can't be read.
  const TlsContext* Get() const;

 private:
  std::string ca_file_;
  bool verify_ = true;
  mutable std::once_flag read_;
  mutable std::optional<TlsContext> context_;
};

}  // namespace sublet::internal
