#include "proxy/access_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "base/files.h"

namespace sublet {
namespace {

// What a client wrote is cut here: nobody can make our log large by a long name.
constexpr std::size_t kTextMax = 256;

std::string_view KindName(RequestKind kind) {
  switch (kind) {
    case RequestKind::kChat:
      return "chat";
    case RequestKind::kCompletion:
      return "completion";
    case RequestKind::kResponses:
      return "responses";
    case RequestKind::kEmbedding:
      return "embedding";
    case RequestKind::kOther:
      break;
  }
  return "other";
}

std::string_view PriorityName(PriorityClass priority) {
  switch (priority) {
    case PriorityClass::kInteractive:
      return "interactive";
    case PriorityClass::kNormal:
      return "normal";
    case PriorityClass::kBatch:
      break;
  }
  return "batch";
}

// Of the character of UTF-8 that `text` begins with; 1 where it begins with none.
std::size_t CharacterLength(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const std::size_t length = first < 0xC2 || first > 0xF4 ? 1
                             : first < 0xE0               ? 2
                             : first < 0xF0               ? 3
                                                          : 4;
  if (length > text.size()) return 1;
  for (std::size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return 1;
  }
  const auto second = static_cast<unsigned char>(length > 1 ? text[1] : 0);
  // Overlong forms, surrogates, and what is beyond Unicode.
  const bool wrong = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                     (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return wrong ? 1 : length;
}

// Fields of one object, in their order. A byte that isn't of UTF-8 is escaped as it is, so that a
// line is valid JSON, and one line, whatever a client sent.
class LineWriter {
 public:
  explicit LineWriter(fmt::memory_buffer& out) : out_(out) { out_.push_back('{'); }

  void Text(std::string_view key, std::string_view value) {
    if (value.empty()) return;
    Key(key);
    out_.push_back('"');
    value = value.substr(0, kTextMax);
    for (std::size_t i = 0; i < value.size();) {
      const std::size_t length = CharacterLength(value.substr(i));
      if (length > 1) {
        Put(value.substr(i, length));
      } else {
        Character(value[i]);
      }
      i += length;
    }
    out_.push_back('"');
  }
  void Number(std::string_view key, std::int64_t value) {
    Key(key);
    fmt::format_to(std::back_inserter(out_), "{}", value);
  }
  template <typename T>
  void Number(std::string_view key, const std::optional<T>& value) {
    if (value) Number(key, static_cast<std::int64_t>(*value));
  }
  // What is zero says nothing.
  void Count(std::string_view key, std::int64_t value) {
    if (value != 0) Number(key, value);
  }
  void Flag(std::string_view key, bool value) {
    if (!value) return;
    Key(key);
    Put("true");
  }
  void Milliseconds(std::string_view key, std::int64_t ns) {
    Key(key);
    fmt::format_to(std::back_inserter(out_), "{:.3f}", static_cast<double>(ns) / 1e6);
  }
  void Milliseconds(std::string_view key, const std::optional<std::int64_t>& ns) {
    if (ns) Milliseconds(key, *ns);
  }
  void End() { Put("}\n"); }

 private:
  void Put(std::string_view text) { out_.append(text.data(), text.data() + text.size()); }
  void Key(std::string_view key) {
    if (out_.size() > 1) out_.push_back(',');
    out_.push_back('"');
    Put(key);
    Put("\":");
  }
  void Character(char c) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out_.push_back('\\');
      out_.push_back(c);
    } else if (byte < 0x20 || byte >= 0x7f) {
      fmt::format_to(std::back_inserter(out_), "\\u{:04x}", byte);
    } else {
      out_.push_back(c);
    }
  }

  fmt::memory_buffer& out_;
};

void WriteDecision(const AccessRecord& record, bool simulated, LineWriter& line) {
  line.Text("replica", record.replica);
  line.Flag("simulated", simulated);
  line.Text("policy", record.policy);
  line.Text("reason", record.reason);
  line.Count("tries", record.tries);
  line.Count("retries", record.retries);
  line.Flag("queued", record.queued);
  line.Flag("reused", record.reused);
  line.Count("prompt_tokens_expected", record.prompt_tokens_expected);
  line.Count("cached_tokens_expected", record.cached_tokens_expected);
  line.Number("prompt_tokens", record.prompt_tokens);
  line.Number("cached_tokens", record.cached_tokens);
  line.Number("output_tokens", record.output_tokens);
}

void WriteTimes(const AccessRecord& record, LineWriter& line) {
  line.Milliseconds("total_ms", record.total_ns);
  line.Milliseconds("read_ms", record.read_ns);
  line.Milliseconds("decide_ms", record.decide_ns);
  if (record.queued) line.Milliseconds("waited_ms", record.waited_ns);
  line.Milliseconds("connect_ms", record.connect_ns);
  line.Milliseconds("first_byte_ms", record.first_byte_ns);
  line.Milliseconds("first_token_ms", record.first_token_ns);
}

Result<FileDescriptor> OpenForAppending(const std::string& path) {
  if (path == "-") {
    FileDescriptor copy(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0));
    if (!copy.valid()) return FailFromErrno(errno, "writing the access log to standard output");
    return copy;
  }
  // Who may read requests' metadata is the operator's business: others mayn't until he says so.
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  if (!file.valid()) return FailFromErrno(errno, "opening the access log " + path);
  return file;
}

bool WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

std::string AccessLine(const AccessRecord& record, std::string_view time, bool simulated) {
  fmt::memory_buffer out;
  LineWriter line(out);
  line.Text("time", time);
  line.Text("request_id", record.request_id);
  line.Text("client", record.client);
  line.Text("tenant", record.tenant);
  line.Text("method", record.method);
  line.Text("path", record.path);
  line.Number("status", record.status);
  line.Text("outcome", RequestOutcomeName(record.outcome));
  line.Count("upstream_status", record.upstream_status);
  line.Text("error", record.error);
  line.Text("traceparent", record.traceparent);
  line.Text("kind", KindName(record.kind));
  line.Text("model", record.model);
  line.Text("session", record.session);
  line.Text("priority", PriorityName(record.priority));
  line.Flag("stream", record.stream);
  WriteDecision(record, simulated, line);
  line.Number("bytes_in", record.bytes_in);
  line.Number("bytes_out", record.bytes_out);
  line.Count("events", record.events);
  WriteTimes(record, line);
  line.End();
  return fmt::to_string(out);
}

class AccessLog::Impl {
 public:
  Impl(FileDescriptor file, std::size_t lines_max) : lines_max_(lines_max), file_(std::move(file)) {
    writer_ = std::thread([this] { WriteThem(); });
  }

  ~Impl() {
    {
      const std::scoped_lock lock(mutex_);
      ending_ = true;
    }
    changed_.notify_one();
    writer_.join();
  }

  void Write(std::string line) {
    bool first = false;
    {
      const std::scoped_lock lock(mutex_);
      if (waiting_.size() >= lines_max_) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      first = waiting_.empty();
      waiting_.push_back(std::move(line));
    }
    if (first) changed_.notify_one();
  }

  void Reopen(FileDescriptor file) {
    {
      const std::scoped_lock lock(mutex_);
      next_file_ = std::move(file);
    }
    changed_.notify_one();
  }

  void Flush() {
    std::unique_lock lock(mutex_);
    written_.wait(lock, [this] { return waiting_.empty() && !next_file_.valid() && !writing_; });
  }

  std::int64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  void WriteThem() {
    // A pipe whose reader has gone is an error of write(), not the end of the program.
    sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    std::vector<std::string> lines;
    std::string bytes;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || !waiting_.empty() || next_file_.valid(); });
      lines.swap(waiting_);
      // Lines that were handed over before a Reopen() belong to the old file.
      FileDescriptor next = std::move(next_file_);
      writing_ = true;
      const bool last = ending_;
      lock.unlock();
      bytes.clear();
      for (const std::string& line : lines) bytes += line;
      if (!WriteAll(file_.get(), bytes)) {
        dropped_.fetch_add(static_cast<std::int64_t>(lines.size()), std::memory_order_relaxed);
      }
      lines.clear();
      if (next.valid()) file_ = std::move(next);
      lock.lock();
      writing_ = false;
      written_.notify_all();
      if (last && waiting_.empty()) return;
    }
  }

  const std::size_t lines_max_;
  std::atomic<std::int64_t> dropped_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable written_;
  std::vector<std::string> waiting_;
  FileDescriptor next_file_;
  bool writing_ = false;
  bool ending_ = false;
  FileDescriptor file_;  // The writer's.
  std::thread writer_;
};

Result<std::unique_ptr<AccessLog>> AccessLog::Open(const AccessLogOptions& options) {
  ASSIGN_OR_RETURN(FileDescriptor file, OpenForAppending(options.path));
  auto impl = std::make_unique<Impl>(std::move(file), options.lines_max);
  return std::unique_ptr<AccessLog>(new AccessLog(std::move(impl)));
}

AccessLog::AccessLog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AccessLog::~AccessLog() = default;

void AccessLog::Write(const AccessRecord& record, std::string_view time, bool simulated) {
  impl_->Write(AccessLine(record, time, simulated));
}

Status AccessLog::Reopen(const std::string& path) {
  ASSIGN_OR_RETURN(FileDescriptor file, OpenForAppending(path));
  impl_->Reopen(std::move(file));
  return {};
}

void AccessLog::Flush() {
  impl_->Flush();
}

std::int64_t AccessLog::dropped() const {
  return impl_->dropped();
}

}  // namespace sublet
