#include "kube/api_transport.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/check.h"
#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kTokenBytesMax = 64u << 10;  // Tokens have about 1 KiB.
constexpr long kKeepAliveSeconds = 30;  // A watch over a NAT that forgets must notice its end.

// Once for the process, before anybody uses libcurl; it is never undone, as other threads may.
void StartCurl() {
  static const CURLcode started = ::curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(started == CURLE_OK);
}

struct EasyCloser {
  void operator()(CURL* easy) const { ::curl_easy_cleanup(easy); }
};
struct MultiCloser {
  void operator()(CURLM* multi) const { ::curl_multi_cleanup(multi); }
};
struct ListCloser {
  void operator()(curl_slist* list) const { ::curl_slist_free_all(list); }
};

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const std::size_t first = std::min(text.find_first_not_of(kBlank), text.size());
  const std::size_t last = text.find_last_not_of(kBlank);
  return last == std::string_view::npos ? std::string_view() : text.substr(first, last - first + 1);
}

bool IsHere(std::string_view host) {
  return host == "localhost" || host.starts_with("127.") || host == "[::1]";
}

// What libcurl writes into while it works, and reads the body from.
struct Exchange {
  std::string body;          // Sent.
  std::string received;      // Not yet taken.
  std::size_t received_max;  // More than that ends the transfer.
  bool too_long = false;
  std::optional<double> retry_after_s;
  char reason[CURL_ERROR_SIZE] = {};
};

std::size_t TakeBytes(char* bytes, std::size_t, std::size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  if (exchange.received.size() + count > exchange.received_max) {
    exchange.too_long = true;
    return 0;  // Ends the transfer with CURLE_WRITE_ERROR.
  }
  exchange.received.append(bytes, count);
  return count;
}

std::size_t TakeHeader(char* bytes, std::size_t, std::size_t count, void* user) {
  constexpr std::string_view kName = "retry-after:";
  const std::string_view line(bytes, count);
  const bool named = line.size() > kName.size() &&
                     std::equal(kName.begin(), kName.end(), line.begin(), [](char a, char b) {
                       return a == (b >= 'A' && b <= 'Z' ? b + 32 : b);
                     });
  if (named) {
    const std::string_view value = Trimmed(line.substr(kName.size()));
    unsigned seconds = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
    if (error == std::errc() && end == value.data() + value.size()) {
      static_cast<Exchange*>(user)->retry_after_s = seconds;
    }
  }
  return count;
}

// A handle that is ready for one request.
class Transfer {
 public:
  static Result<std::unique_ptr<Transfer>> Prepare(const ApiPlace& place, const ApiLimits& limits,
                                                   const ApiRequest& request) {
    StartCurl();
    std::unique_ptr<Transfer> transfer(new Transfer);
    transfer->easy_.reset(::curl_easy_init());
    CHECK(transfer->easy_ != nullptr);
    transfer->exchange_.body = request.body;
    transfer->exchange_.received_max = limits.bytes_max;
    transfer->what_ = fmt::format("{} {}{}", request.method, place.server,
                                  request.path.substr(0, request.path.find('?')));
    RETURN_IF_ERROR(transfer->AddHeaders(place, request));
    transfer->SetOptions(place, limits, request);
    return transfer;
  }

  CURL* easy() const { return easy_.get(); }
  Exchange& exchange() { return exchange_; }
  void LimitTime(double seconds) {
    ::curl_easy_setopt(easy(), CURLOPT_TIMEOUT_MS, static_cast<long>(seconds * 1000));
  }

  // 0: none yet.
  int HttpStatus() const {
    long status = 0;
    ::curl_easy_getinfo(easy(), CURLINFO_RESPONSE_CODE, &status);
    return static_cast<int>(status);
  }

  Error FailureOf(CURLcode code) const {
    if (exchange_.too_long) {
      return {ErrorCode::kInvalid,
              fmt::format("{}: the answer has more than {} bytes", what_, exchange_.received_max),
              ""};
    }
    const char* const reason =
        exchange_.reason[0] != '\0' ? exchange_.reason : ::curl_easy_strerror(code);
    return {ErrorCode::kUnavailable, fmt::format("{}: {}", what_, reason), ""};
  }

 private:
  Transfer() = default;

  sublet::Status AddHeaders(const ApiPlace& place, const ApiRequest& request) {
    AddHeader("Accept: application/json");
    // libcurl would ask first whether a long body is welcome, and wait a second for the answer.
    AddHeader("Expect:");
    if (!request.body.empty()) AddHeader("Content-Type: " + request.content_type);
    if (place.token_file.empty()) return {};
    ASSIGN_OR_RETURN(const std::string text, ReadFile(place.token_file, kTokenBytesMax));
    const std::string_view token = Trimmed(text);
    const bool printable = std::ranges::all_of(token, [](char c) { return c > 0x20 && c < 0x7f; });
    if (token.empty() || !printable) {
      return Fail(ErrorCode::kInvalid, "no token in this file: " + place.token_file);
    }
    AddHeader(fmt::format("Authorization: Bearer {}", token));
    return {};
  }

  void AddHeader(const std::string& line) {
    curl_slist* const longer = ::curl_slist_append(headers_.get(), line.c_str());
    CHECK(longer != nullptr);
    static_cast<void>(headers_.release());
    headers_.reset(longer);
  }

  void SetOptions(const ApiPlace& place, const ApiLimits& limits, const ApiRequest& request) {
    const auto set = [this](CURLoption option, auto value) {
      CHECK(::curl_easy_setopt(easy(), option, value) == CURLE_OK);
    };
    set(CURLOPT_URL, (place.server + request.path).c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
    if (!request.body.empty()) {
      set(CURLOPT_POSTFIELDS, exchange_.body.c_str());
      set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(exchange_.body.size()));
    }
    set(CURLOPT_HTTPHEADER, headers_.get());
    set(CURLOPT_USERAGENT, "sublet");
    if (!place.ca_file.empty()) set(CURLOPT_CAINFO, place.ca_file.c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_TCP_KEEPALIVE, 1L);
    set(CURLOPT_TCP_KEEPIDLE, kKeepAliveSeconds);
    set(CURLOPT_TCP_KEEPINTVL, kKeepAliveSeconds);
    set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limits.connect_s * 1000));
    set(CURLOPT_ERRORBUFFER, exchange_.reason);
    set(CURLOPT_WRITEFUNCTION, &TakeBytes);
    set(CURLOPT_WRITEDATA, &exchange_);
    set(CURLOPT_HEADERFUNCTION, &TakeHeader);
    set(CURLOPT_HEADERDATA, &exchange_);
  }

  // Before the handle, which points into them.
  Exchange exchange_;
  std::unique_ptr<curl_slist, ListCloser> headers_;
  std::unique_ptr<CURL, EasyCloser> easy_;
  std::string what_;  // "PATCH https://10.96.0.1:443/api/v1/nodes/gpu-1"
};

}  // namespace

Result<ApiPlace> InClusterApi(const EnvironmentOf& environment, const std::string& folder) {
  const std::string host = environment("KUBERNETES_SERVICE_HOST").value_or("");
  const std::string port = environment("KUBERNETES_SERVICE_PORT").value_or("");
  if (host.empty() || port.empty()) {
    return Fail(ErrorCode::kNotFound,
                "this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT aren't set",
                "--api-server, --token-file and --ca-file say where the API server is");
  }
  const bool ipv6 = host.find(':') != std::string::npos;
  ApiPlace place;
  place.server = fmt::format("https://{}{}{}:{}", ipv6 ? "[" : "", host, ipv6 ? "]" : "", port);
  place.token_file = folder + "/token";
  place.ca_file = folder + "/ca.crt";
  place.name_space = Trimmed(ReadFile(folder + "/namespace", kTokenBytesMax).value_or(""));
  return place;
}

Status CheckApiPlace(const ApiPlace& place) {
  const bool plain = place.server.starts_with("http://");
  const std::size_t scheme = plain ? 7 : 8;
  if (!plain && !place.server.starts_with("https://")) {
    return Fail(ErrorCode::kUsage, "no address of an API server: " + place.server,
                "give it as https://HOST:PORT");
  }
  const std::string_view authority = std::string_view(place.server).substr(scheme);
  if (authority.empty() || authority.find_first_of("/?#@ ") != std::string_view::npos) {
    return Fail(ErrorCode::kUsage, "no address of an API server: " + place.server,
                "give it as https://HOST:PORT, without a path");
  }
  const std::string_view host = authority.starts_with('[')
                                    ? authority.substr(0, authority.find(']') + 1)
                                    : authority.substr(0, authority.find(':'));
  if (plain && !place.token_file.empty() && !IsHere(host)) {
    return Fail(ErrorCode::kUsage, "the token would travel in the clear: " + place.server,
                "use https, or no --token-file");
  }
  return {};
}

Result<ApiResponse> ApiTransport::Send(const ApiRequest& request) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<Transfer> transfer,
                   Transfer::Prepare(place_, limits_, request));
  transfer->LimitTime(limits_.answer_s);
  if (const CURLcode code = ::curl_easy_perform(transfer->easy()); code != CURLE_OK) {
    return tl::unexpected<Error>(transfer->FailureOf(code));
  }
  ApiResponse response;
  response.status = transfer->HttpStatus();
  response.retry_after_s = transfer->exchange().retry_after_s;
  response.body = std::move(transfer->exchange().received);
  return response;
}

class ApiStream::Impl {
 public:
  explicit Impl(std::unique_ptr<Transfer> transfer)
      : transfer_(std::move(transfer)), multi_(::curl_multi_init()) {
    CHECK(multi_ != nullptr);
    CHECK(::curl_multi_add_handle(multi_.get(), transfer_->easy()) == CURLM_OK);
  }
  ~Impl() { ::curl_multi_remove_handle(multi_.get(), transfer_->easy()); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // Lets libcurl work until `enough`; false where `deadline` or `wake_fd` came first. A transfer
  // that is over is an error only where that wasn't enough.
  template <typename Enough>
  Result<bool> Work(Deadline deadline, int wake_fd, const Enough& enough) {
    while (true) {
      if (enough()) return true;
      if (over_) return tl::unexpected<Error>(*over_);
      int running = 0;
      if (::curl_multi_perform(multi_.get(), &running) != CURLM_OK) {
        over_ = transfer_->FailureOf(CURLE_OK);
      }
      int left = 0;
      while (const CURLMsg* const message = ::curl_multi_info_read(multi_.get(), &left)) {
        if (message->msg == CURLMSG_DONE) over_ = EndedBy(message->data.result);
      }
      if (over_ || enough()) continue;
      if (deadline.Passed()) return false;
      curl_waitfd wake{wake_fd, CURL_WAIT_POLLIN, 0};
      const int patience = deadline.PollMilliseconds();
      // libcurl has no "for ever"; an hour is as good.
      ::curl_multi_poll(multi_.get(), &wake, wake_fd < 0 ? 0 : 1,
                        patience < 0 ? 3'600'000 : patience, nullptr);
      if (wake.revents != 0) return false;
    }
  }

  Transfer& transfer() { return *transfer_; }
  const Transfer& transfer() const { return *transfer_; }
  std::string& received() { return transfer_->exchange().received; }

 private:
  Error EndedBy(CURLcode code) const {
    if (code != CURLE_OK) return transfer_->FailureOf(code);
    return {ErrorCode::kUnavailable, "the API server ended the stream", ""};
  }

  std::unique_ptr<Transfer> transfer_;
  std::unique_ptr<CURLM, MultiCloser> multi_;
  std::optional<Error> over_;  // Why nothing more comes.
};

ApiStream::ApiStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ApiStream::ApiStream(ApiStream&&) noexcept = default;
ApiStream& ApiStream::operator=(ApiStream&&) noexcept = default;
ApiStream::~ApiStream() = default;

Result<std::optional<int>> ApiStream::HttpStatus(Deadline deadline, int wake_fd) {
  // What comes of an error's body is worth waiting for, and of a stream's there may be none yet.
  const auto answered = [this] { return impl_->transfer().HttpStatus() >= 200; };
  ASSIGN_OR_RETURN(const bool known, impl_->Work(deadline, wake_fd, answered));
  if (!known) return std::nullopt;
  return impl_->transfer().HttpStatus();
}

Result<std::optional<std::string>> ApiStream::NextLine(Deadline deadline, int wake_fd) {
  std::string& received = impl_->received();
  std::size_t end = std::string::npos;
  const auto has_line = [&] {
    end = received.find('\n');
    return end != std::string::npos;
  };
  ASSIGN_OR_RETURN(const bool has, impl_->Work(deadline, wake_fd, has_line));
  if (!has) return std::nullopt;
  std::string line = received.substr(0, end);
  received.erase(0, end + 1);
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

std::string ApiStream::Rest(Deadline deadline, int wake_fd) {
  // It always fails or is woken: nothing is ever enough.
  static_cast<void>(impl_->Work(deadline, wake_fd, [] { return false; }));
  return impl_->received();
}

Result<ApiStream> ApiTransport::Begin(const ApiRequest& request) const {
  ASSIGN_OR_RETURN(std::unique_ptr<Transfer> transfer, Transfer::Prepare(place_, limits_, request));
  return ApiStream(std::make_unique<ApiStream::Impl>(std::move(transfer)));
}

std::string UrlEncoded(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    if (plain) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

}  // namespace sublet
