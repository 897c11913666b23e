#include "kube/tests/scripted_api.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "base/check.h"
#include "base/files.h"

namespace sublet {
namespace {

constexpr long kDay = 24 * 60 * 60;

// A certificate for 127.0.0.1 that signs itself, in the context and as a file.
void MakeCertificate(SSL_CTX* tls, const std::string& file) {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = X509_new();
  CHECK(key != nullptr && certificate != nullptr);
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -kDay);
  X509_gmtime_adj(X509_getm_notAfter(certificate), kDay);
  X509_set_pubkey(certificate, key);
  X509_NAME* const name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("scripted-api"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  X509_EXTENSION* const address =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
  CHECK(address != nullptr);
  X509_add_ext(certificate, address, -1);
  X509_EXTENSION_free(address);
  CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
  CHECK(SSL_CTX_use_certificate(tls, certificate) == 1);
  CHECK(SSL_CTX_use_PrivateKey(tls, key) == 1);
  std::FILE* const out = std::fopen(file.c_str(), "w");
  CHECK(out != nullptr && PEM_write_X509(out, certificate) == 1);
  std::fclose(out);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

std::string HeaderOf(std::string_view head, std::string_view name) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) ==
           std::tolower(static_cast<unsigned char>(b));
  };
  const std::string wanted = fmt::format("\r\n{}:", name);
  const auto found = std::search(head.begin(), head.end(), wanted.begin(), wanted.end(), same);
  if (found == head.end()) return "";
  std::string_view rest =
      head.substr(static_cast<std::size_t>(found - head.begin()) + wanted.size());
  rest = rest.substr(0, rest.find("\r\n"));
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  return std::string(rest);
}

}  // namespace

struct ScriptedApi::Connection {
  FileDescriptor socket;
  std::unique_ptr<SSL, decltype(&SSL_free)> tls{nullptr, &SSL_free};
  std::thread thread;

  bool Read(std::string& to) const {
    char buffer[4096];
    const auto count = tls != nullptr
                           ? SSL_read(tls.get(), buffer, sizeof buffer)
                           : static_cast<int>(::recv(socket.get(), buffer, sizeof buffer, 0));
    if (count <= 0) return false;
    to.append(buffer, static_cast<std::size_t>(count));
    return true;
  }
  bool Write(std::string_view text) const {
    while (!text.empty()) {
      const auto count =
          tls != nullptr
              ? SSL_write(tls.get(), text.data(), static_cast<int>(text.size()))
              : static_cast<int>(::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL));
      if (count <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
  }
};

ScriptedApi::ScriptedApi(Script script, ApiSecurity security) : script_(std::move(script)) {
  // OpenSSL writes without MSG_NOSIGNAL, and clients of these tests go in the midst.
  std::signal(SIGPIPE, SIG_IGN);
  folder_ = std::filesystem::temp_directory_path() / "sublet-api-XXXXXX";
  CHECK(::mkdtemp(folder_.data()) != nullptr);
  if (security == ApiSecurity::kTls) {
    tls_.reset(SSL_CTX_new(TLS_server_method()));
    CHECK(tls_ != nullptr);
    ca_file_ = folder_ + "/ca.crt";
    MakeCertificate(tls_.get(), ca_file_);
  }
  listener_ = FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  CHECK(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
  CHECK(::listen(listener_.get(), 64) == 0);
  CHECK(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port_ = ntohs(address.sin_port);
  accepting_ = std::thread([this] { Accept(); });
}

ScriptedApi::~ScriptedApi() {
  stopping_ = true;
  ::shutdown(listener_.get(), SHUT_RDWR);  // Ends accept().
  accepting_.join();
  for (const auto& connection : connections_) ::shutdown(connection->socket.get(), SHUT_RDWR);
  for (const auto& connection : connections_) connection->thread.join();
  std::filesystem::remove_all(folder_);
}

ApiPlace ScriptedApi::Place() const {
  return {.server = fmt::format("http{}://127.0.0.1:{}", tls_ != nullptr ? "s" : "", port_),
          .token_file = {},
          .ca_file = ca_file_,
          .name_space = "sublet"};
}

std::vector<ApiCall> ScriptedApi::Calls() const {
  const std::lock_guard guard(lock_);
  return calls_;
}

std::string ScriptedApi::Write(const std::string& name, const std::string& content) const {
  const std::string path = folder_ + "/" + name;
  CHECK(WriteFileAtomically(path, content).has_value());
  return path;
}

void ScriptedApi::Accept() {
  while (!stopping_) {
    FileDescriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) continue;
    auto connection = std::make_unique<Connection>();
    connection->socket = std::move(socket);
    Connection& one = *connection;
    connections_.push_back(std::move(connection));
    one.thread = std::thread([this, &one] { Serve(one); });
  }
}

// One request, one answer.
void ScriptedApi::Serve(Connection& connection) {
  if (tls_ != nullptr) {
    connection.tls.reset(SSL_new(tls_.get()));
    SSL_set_fd(connection.tls.get(), connection.socket.get());
    if (SSL_accept(connection.tls.get()) != 1) {
      ::shutdown(connection.socket.get(), SHUT_RDWR);
      return;
    }
  }
  std::string read;
  std::size_t head_end = std::string::npos;
  while ((head_end = read.find("\r\n\r\n")) == std::string::npos) {
    if (!connection.Read(read)) return;
  }
  const std::string head = read.substr(0, head_end + 2);
  std::size_t length = 0;
  const std::string length_text = HeaderOf(head, "Content-Length");
  std::from_chars(length_text.data(), length_text.data() + length_text.size(), length);
  while (read.size() < head_end + 4 + length) {
    if (!connection.Read(read)) return;
  }
  ApiCall call;
  const std::size_t first = head.find(' ');
  const std::size_t second = head.find(' ', first + 1);
  call.method = head.substr(0, first);
  call.target = head.substr(first + 1, second - first - 1);
  call.authorization = HeaderOf(head, "Authorization");
  call.content_type = HeaderOf(head, "Content-Type");
  call.body = read.substr(head_end + 4);
  ApiAnswer answer;
  {
    const std::lock_guard guard(lock_);
    calls_.push_back(call);
    answer = script_(call);
  }
  bool alive = connection.Write(
      fmt::format("HTTP/1.1 {} Scripted\r\nContent-Type: application/json\r\nConnection: close\r\n"
                  "Transfer-Encoding: chunked\r\n{}\r\n",
                  answer.status, answer.headers));
  for (const std::string& part : answer.parts) {
    alive = alive && connection.Write(fmt::format("{:x}\r\n{}\r\n", part.size(), part));
  }
  if (alive && answer.end == ApiAnswer::End::kProper) connection.Write("0\r\n\r\n");
  std::string ignored;
  if (alive && answer.end == ApiAnswer::End::kHold) connection.Read(ignored);
  if (connection.tls != nullptr && answer.end == ApiAnswer::End::kProper) {
    SSL_shutdown(connection.tls.get());
  }
  ::shutdown(connection.socket.get(), SHUT_RDWR);
}

}  // namespace sublet
