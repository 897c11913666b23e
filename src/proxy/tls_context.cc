#include "proxy/tls_context.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <boost/asio/ip/address.hpp>
#include <utility>

#include "base/files.h"

namespace sublet::internal {
namespace {

constexpr std::size_t kPemBytesMax = 1u << 20;  // A chain of four certificates has 8 KiB.

std::string OpenSslError() {
  char text[256];
  ::ERR_error_string_n(::ERR_peek_last_error(), text, sizeof text);
  return text;
}

std::shared_ptr<SSL_CTX> MakeContext(const SSL_METHOD* method) {
  std::shared_ptr<SSL_CTX> context(::SSL_CTX_new(method), ::SSL_CTX_free);
  if (!context) return nullptr;
  ::SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  // A write that was stopped goes on from another buffer, and an idle connection keeps none.
  ::SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                        SSL_MODE_RELEASE_BUFFERS);
  ::SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  return context;
}

// HTTP/1.1 to those who ask; to those who can only do something else, a handshake that goes on and
// lets HTTP say what is wrong.
int SelectProtocol(SSL* /*ssl*/, const unsigned char** chosen, unsigned char* chosen_size,
                   const unsigned char* offered, unsigned int offered_size, void* /*context*/) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* found = nullptr;
  const int outcome = ::SSL_select_next_proto(&found, chosen_size, kHttp11, sizeof kHttp11 - 1,
                                              offered, offered_size);
  *chosen = found;
  return outcome == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

}  // namespace

Result<TlsContext> TlsContext::ForServer(const TlsFiles& files) {
  // Read by us first, so that a file that is missing is told from one that is wrong.
  for (const std::string* path : {&files.certificate_chain, &files.private_key}) {
    const Result<std::string> text = ReadFile(*path, kPemBytesMax);
    if (!text) return tl::unexpected<Error>(text.error());
  }
  std::shared_ptr<SSL_CTX> context = MakeContext(::TLS_server_method());
  if (!context) return Fail(ErrorCode::kInternal, "TLS: " + OpenSslError());
  ::ERR_clear_error();
  if (::SSL_CTX_use_certificate_chain_file(context.get(), files.certificate_chain.c_str()) != 1) {
    return Fail(ErrorCode::kInvalid, fmt::format("no certificate in PEM: {}: {}",
                                                 files.certificate_chain, OpenSslError()));
  }
  if (::SSL_CTX_use_PrivateKey_file(context.get(), files.private_key.c_str(), SSL_FILETYPE_PEM) !=
          1 ||
      ::SSL_CTX_check_private_key(context.get()) != 1) {
    return Fail(ErrorCode::kInvalid, fmt::format("not the certificate's private key in PEM: {}: {}",
                                                 files.private_key, OpenSslError()));
  }
  ::SSL_CTX_set_alpn_select_cb(context.get(), SelectProtocol, nullptr);
  return TlsContext(std::move(context), false);
}

Result<TlsContext> TlsContext::ForClient(const std::string& ca_file, bool verify) {
  std::shared_ptr<SSL_CTX> context = MakeContext(::TLS_client_method());
  if (!context) return Fail(ErrorCode::kInternal, "TLS: " + OpenSslError());
  ::ERR_clear_error();
  if (!ca_file.empty()) {
    const Result<std::string> text = ReadFile(ca_file, kPemBytesMax);
    if (!text) return tl::unexpected<Error>(text.error());
    if (::SSL_CTX_load_verify_locations(context.get(), ca_file.c_str(), nullptr) != 1) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("no certificates in PEM: {}: {}", ca_file, OpenSslError()));
    }
  } else {
    ::SSL_CTX_set_default_verify_paths(context.get());
  }
  ::SSL_CTX_set_verify(context.get(), verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  return TlsContext(std::move(context), verify);
}

SslSession TlsContext::Accept() const {
  SslSession ssl(::SSL_new(context_.get()));
  if (ssl) ::SSL_set_accept_state(ssl.get());
  return ssl;
}

SslSession TlsContext::Connect(const std::string& host) const {
  SslSession ssl(::SSL_new(context_.get()));
  if (!ssl) return ssl;
  ::SSL_set_connect_state(ssl.get());
  boost::system::error_code not_numeric;
  asio::ip::make_address(host, not_numeric);
  if (not_numeric) {
    // The macro SSL_set_tlsext_host_name casts away const in the C way.
    ::SSL_ctrl(ssl.get(), SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
               const_cast<char*>(host.c_str()));
  }
  if (verify_) {
    X509_VERIFY_PARAM* const wanted = ::SSL_get0_param(ssl.get());
    const int set = not_numeric ? ::X509_VERIFY_PARAM_set1_host(wanted, host.c_str(), host.size())
                                : ::X509_VERIFY_PARAM_set1_ip_asc(wanted, host.c_str());
    if (set != 1) return nullptr;
  }
  return ssl;
}

Status ClientTls::Prepare(std::string ca_file, bool verify) {
  ca_file_ = std::move(ca_file);
  verify_ = verify;
  if (ca_file_.empty()) return {};
  ASSIGN_OR_RETURN(context_, TlsContext::ForClient(ca_file_, verify_));
  return {};
}

const TlsContext* ClientTls::Get() const {
  std::call_once(read_, [this] {
    if (context_) return;
    if (Result<TlsContext> read = TlsContext::ForClient(ca_file_, verify_)) {
      context_ = std::move(*read);
    }
  });
  return context_ ? &*context_ : nullptr;
}

}  // namespace sublet::internal
