#include "measure/crew.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/child_process.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/interrupt.h"
#include "measure/start_line.h"
#include "measure/worker_channel.h"

namespace sublet {
namespace {

using nlohmann::json;

// A worker that is told to stop is done with a unit of work, then with its context.
constexpr double kInterruptGraceSeconds = 2;
constexpr double kLeaveSeconds = 5;
// Of what a dying worker printed; the last lines say why.
constexpr off_t kLastWordsBytesMax = 400;

struct Request {
  int worker = 0;
  json message;
  int place = -1;  // At the start line; -1: it isn't in a round.
};

struct Answer {
  json message;
  std::optional<Error> error;
  bool died = false;
};

struct RoundDrama {
  std::function<void()> at_midway;
  int sleeper = -1;  // A worker that won't answer.
};

struct Member {
  std::optional<ChildProcess> process;
  FileDescriptor channel;
  FileDescriptor output;  // What it prints, in memory.
  WorkerInfo info;
  std::optional<Error> failure;
};

Error InterruptedError() {
  return {ErrorCode::kUnavailable, "interrupted", ""};
}

// One line of what a worker printed last, with ": " in front; empty where it printed nothing.
std::string LastWords(const FileDescriptor& output) {
  const off_t size = ::lseek(output.get(), 0, SEEK_END);
  const off_t from = std::max<off_t>(0, size - kLastWordsBytesMax);
  std::array<char, kLastWordsBytesMax> text{};
  const ssize_t got = ::pread(output.get(), text.data(), text.size(), from);
  std::string words(text.data(), static_cast<std::size_t>(std::max<ssize_t>(0, got)));
  while (!words.empty() && words.back() == '\n') words.pop_back();
  std::ranges::replace(words, '\n', ' ');
  return words.empty() ? words : ": " + words;
}

std::string WorkerProgram() {
  const std::string program = OwnProgramPath();
  // Replaced while it runs, as by an update, it can still be had under this name.
  return ::access(program.c_str(), X_OK) == 0 ? program : "/proc/self/exe";
}

}  // namespace

void PutInPlace(ChildEnvironment& environment, const WorkerPlace& place) {
  environment.Set("CUDA_VISIBLE_DEVICES", place.gpu_uuid);
  // With the variable unset the driver looks in /tmp/nvidia-mps, where a daemon may run; in a
  // folder that isn't there it finds none, and goes without.
  environment.Set("CUDA_MPS_PIPE_DIRECTORY", place.mps_pipe_directory.empty()
                                                 ? "/nonexistent/sublet-without-mps"
                                                 : place.mps_pipe_directory);
  if (place.sm_percent) {
    environment.Set("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", std::to_string(*place.sm_percent));
  }
  if (place.memory_limit) {
    // One device and no more: a second entry that names no device drops all limits silently.
    environment.Set("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
                    fmt::format("0={}M", place.memory_limit->mib()));
  }
}

ChildEnvironment EnvironmentAt(const WorkerPlace& place) {
  ChildEnvironment environment;
  const ChildEnvironment ours = environment;
  environment.UnsetPrefix("CUDA_");
  for (const char* kept : {"CUDA_CACHE_PATH", "CUDA_CACHE_DISABLE", "CUDA_CACHE_MAXSIZE"}) {
    if (const auto value = ours.Get(kept)) environment.Set(kept, *value);
  }
  PutInPlace(environment, place);
  return environment;
}

class Crew::State {
 public:
  State(CrewOptions options, StartLine line)
      : options_(std::move(options)), line_(std::move(line)) {}
  ~State() { DismissAll(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Status StartAll(const std::vector<WorkerPlace>& places);
  // All requests at once; the answers in their order. A worker has `patience_s` to answer.
  std::vector<Answer> Exchange(const std::vector<Request>& requests, double patience_s,
                               const RoundDrama& drama);
  Answer Ask(int worker, json message);
  std::vector<WorkerOutcome> Round(const std::vector<int>& workers, int culprit, WorkerDeed deed,
                                   const RoundOptions& options, const RoundDrama& drama);

  Member& member(int worker) { return members_.at(static_cast<std::size_t>(worker)); }
  int size() const { return static_cast<int>(members_.size()); }
  double reply_timeout_s() const { return options_.reply_timeout_s; }

 private:
  std::vector<std::size_t> SendAll(const std::vector<Request>& requests,
                                   std::vector<Answer>& answers);
  Status StartProcess(int worker, const WorkerPlace& place);
  Answer Greet(int worker, Answer answer);
  std::optional<Answer> Hear(const Request& request, const RoundDrama& drama);
  Answer Lose(const Request& request, std::string why);
  void Bury(const Request& request, Error error);
  void DismissAll();

  const CrewOptions options_;
  StartLine line_;
  std::vector<Member> members_;
};

Status Crew::State::StartAll(const std::vector<WorkerPlace>& places) {
  members_.resize(places.size());
  const int count = size();
  for (int first = 0; first < count;) {
    const int last = std::min(count, first + std::max(1, options_.starting_max));
    std::vector<Request> requests;
    for (int i = first; i < last; ++i) {
      const WorkerPlace& place = places[static_cast<std::size_t>(i)];
      const std::int64_t started_ns = MonotonicNanoseconds();
      RETURN_IF_ERROR(StartProcess(i, place));
      requests.push_back(
          {i,
           {{"do", "open"},
            {"cuda", options_.cuda_library.empty() ? "libcuda.so.1" : options_.cuda_library},
            {"blocking_wait", place.blocking_wait},
            {"gpu_sm_count", options_.gpu_sm_count},
            {"started_ns", started_ns}}});
    }
    std::vector<Answer> answers = Exchange(requests, options_.start_timeout_s, {});
    for (int i = first; i < last; ++i) {
      Answer& answer = answers[static_cast<std::size_t>(i - first)];
      answer = Greet(i, std::move(answer));
      if (!answer.error || (options_.keep_going && !Interrupted())) continue;
      return tl::unexpected<Error>(std::move(*answer.error));
    }
    first = last;
  }
  return {};
}

Status Crew::State::StartProcess(int worker, const WorkerPlace& place) {
  Member& member = this->member(worker);
  ASSIGN_OR_RETURN(ChannelEnds ends, MakeWorkerChannel());
  member.output = FileDescriptor(::memfd_create("sublet-worker-output", MFD_CLOEXEC));
  ChildOptions options;
  options.argv = {options_.program.empty() ? WorkerProgram() : options_.program,
                  std::string(kWorkerVerb)};
  options.environment = EnvironmentAt(place);
  options.descriptors = {{ends.worker.get(), kWorkerChannelFd},
                         {line_.fd(), kWorkerLineFd},
                         {member.output.get(), STDOUT_FILENO},
                         {member.output.get(), STDERR_FILENO}};
  ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Start(options));
  member.info.pid = process.pid();
  member.process.emplace(std::move(process));
  member.channel = std::move(ends.lab);
  return {};
}

// A worker that could not open is of no use: it goes, and its error says who it was.
Answer Crew::State::Greet(int worker, Answer answer) {
  Member& member = this->member(worker);
  if (answer.error) {
    answer.error->code = ErrorCode::kUnavailable;
    if (!member.failure) {
      Bury({worker, {}},
           std::move(*answer.error).Prefixed(fmt::format("starting worker {}", worker)));
    }
    answer.error = member.failure;
    return answer;
  }
  member.info.startup_ms = answer.message.value("startup_ms", 0.0);
  member.info.sm_count = answer.message.value("sm_count", 0);
  return answer;
}

std::vector<Answer> Crew::State::Exchange(const std::vector<Request>& requests, double patience_s,
                                          const RoundDrama& drama) {
  std::vector<Answer> answers(requests.size());
  std::vector<std::size_t> open = SendAll(requests, answers);  // Those without an answer so far.
  Deadline deadline = Deadline::In(patience_s);
  bool interrupted = false;
  while (!open.empty()) {
    if (Interrupted() && !interrupted) {
      interrupted = true;
      line_.Abort();
      patience_s = kInterruptGraceSeconds;
      deadline = Earlier(deadline, Deadline::In(patience_s));
    }
    std::vector<pollfd> fds;
    for (const std::size_t i : open) {
      fds.push_back({member(requests[i].worker).channel.get(), POLLIN, 0});
    }
    fds.push_back({interrupted ? -1 : InterruptFd(), POLLIN, 0});
    const bool only_sleeper = open.size() == 1 && requests[open.front()].worker == drama.sleeper;
    const int ready =
        only_sleeper ? 0 : ::poll(fds.data(), fds.size(), deadline.PollMilliseconds());
    if (ready < 0) continue;  // A signal.
    std::vector<std::size_t> still_open;
    for (std::size_t at = 0; at < open.size(); ++at) {
      const Request& request = requests[open[at]];
      std::optional<Answer> answer;
      if (fds[at].revents != 0) answer = Hear(request, drama);
      if (ready == 0) {
        answer = Lose(request, request.worker == drama.sleeper
                                   ? "went to sleep as it was told, and was killed"
                                   : fmt::format("did not answer within {:g} s", patience_s));
      }
      if (answer) {
        answers[open[at]] = std::move(*answer);
      } else {
        still_open.push_back(open[at]);
      }
    }
    open = std::move(still_open);
  }
  if (Interrupted()) {
    for (Answer& answer : answers) answer.error = InterruptedError();
  }
  return answers;
}

// Returns which of the requests are with a worker now; the answer to the others is known.
std::vector<std::size_t> Crew::State::SendAll(const std::vector<Request>& requests,
                                              std::vector<Answer>& answers) {
  std::vector<std::size_t> sent;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Request& request = requests[i];
    const Member& member = this->member(request.worker);
    if (member.failure) {
      answers[i] = {{}, member.failure, true};
      if (request.place >= 0) line_.LeaveOut(request.place);
    } else if (!SendMessage(member.channel.get(), request.message)) {
      answers[i] = Lose(request, "");
    } else {
      sent.push_back(i);
    }
  }
  return sent;
}

// What a worker has to say; absent where that isn't its answer yet.
std::optional<Answer> Crew::State::Hear(const Request& request, const RoundDrama& drama) {
  Result<std::optional<json>> message = ReceiveMessage(member(request.worker).channel.get());
  if (!message) return Lose(request, "spoke nonsense: " + message.error().message);
  if (!*message) return Lose(request, "");
  if ((*message)->contains("midway")) {
    if (drama.at_midway) drama.at_midway();
    line_.Go();
    return std::nullopt;
  }
  std::optional<Error> error = ErrorInMessage(**message);
  return Answer{std::move(**message), std::move(error), false};
}

// The worker is dead, or is killed here for the reason given.
Answer Crew::State::Lose(const Request& request, std::string why) {
  Member& member = this->member(request.worker);
  if (why.empty()) {
    // Its end of the channel is closed, so it is as good as gone.
    const std::optional<ChildEnd> end = member.process->Wait(Deadline::In(1));
    why = end ? DescribeEnd(*end) : "closed its channel";
  }
  Bury(request, {ErrorCode::kUnavailable,
                 fmt::format("worker {} (pid {}) {}{}", request.worker, member.info.pid, why,
                             LastWords(member.output)),
                 ""});
  return {{}, member.failure, true};
}

void Crew::State::Bury(const Request& request, Error error) {
  Member& member = this->member(request.worker);
  static_cast<void>(member.process->Stop({.after_term_s = 0}));
  member.channel.Close();
  member.failure = std::move(error);
  if (request.place >= 0) line_.LeaveOut(request.place);
}

Answer Crew::State::Ask(int worker, json message) {
  return std::move(Exchange({{worker, std::move(message)}}, options_.reply_timeout_s, {}).front());
}

std::vector<WorkerOutcome> Crew::State::Round(const std::vector<int>& workers, int culprit,
                                              WorkerDeed deed, const RoundOptions& options,
                                              const RoundDrama& drama) {
  CHECK(static_cast<int>(workers.size()) <= StartLine::kRunnersMax);
  line_.Reset(static_cast<int>(workers.size()));
  std::vector<Request> requests;
  for (std::size_t i = 0; i < workers.size(); ++i) {
    const int place = static_cast<int>(i);
    requests.push_back({workers[i],
                        {{"do", "round"},
                         {"place", place},
                         {"warmup_ns", static_cast<std::int64_t>(options.warmup_ms * 1e6)},
                         {"window_ns", static_cast<std::int64_t>(options.window_ms * 1e6)},
                         {"deed", workers[i] == culprit ? deed : WorkerDeed::kNone}},
                        place});
  }
  const double patience_s =
      (options.warmup_ms + options.window_ms) * 1e-3 + options_.reply_timeout_s;
  std::vector<WorkerOutcome> outcomes;
  for (Answer& answer : Exchange(requests, patience_s, drama)) {
    WorkerOutcome outcome{{}, std::move(answer.error), answer.died};
    if (!outcome.error) outcome.streams = FiguresInMessage(answer.message);
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

void Crew::State::DismissAll() {
  // A closed channel is the order to leave; all get it before the first is waited for.
  for (Member& member : members_) member.channel.Close();
  const Deadline deadline = Deadline::In(Interrupted() ? kInterruptGraceSeconds : kLeaveSeconds);
  for (Member& member : members_) {
    if (!member.process || member.failure) continue;
    if (!member.process->Wait(deadline)) {
      static_cast<void>(member.process->Stop({.after_term_s = 0}));
    }
  }
}

Crew::Crew(std::unique_ptr<State> state) : state_(std::move(state)) {}
Crew::~Crew() = default;

Result<std::unique_ptr<Crew>> Crew::Start(const CrewOptions& options,
                                          const std::vector<WorkerPlace>& places) {
  ASSIGN_OR_RETURN(StartLine line, StartLine::Make());
  auto state = std::make_unique<State>(options, std::move(line));
  RETURN_IF_ERROR(state->StartAll(places));
  return std::unique_ptr<Crew>(new Crew(std::move(state)));
}

int Crew::size() const {
  return state_->size();
}

const WorkerInfo& Crew::info(int worker) const {
  return state_->member(worker).info;
}

const std::optional<Error>& Crew::failure(int worker) const {
  return state_->member(worker).failure;
}

Result<double> Crew::Prepare(int worker, std::string_view workload, int streams) {
  RETURN_IF_ERROR(PrepareAll({worker}, workload, streams));
  return info(worker).first_unit_ms;
}

Status Crew::PrepareAll(const std::vector<int>& workers, std::string_view workload, int streams) {
  std::vector<Request> requests;
  for (const int worker : workers) {
    requests.push_back({worker, {{"do", "prepare"}, {"workload", workload}, {"streams", streams}}});
  }
  const std::vector<Answer> answers = state_->Exchange(requests, state_->reply_timeout_s(), {});
  for (std::size_t i = 0; i < workers.size(); ++i) {
    if (answers[i].error) return tl::unexpected<Error>(*answers[i].error);
    state_->member(workers[i]).info.first_unit_ms = answers[i].message.value("first_unit_ms", 0.0);
  }
  return {};
}

Status Crew::Rest(const std::vector<int>& workers) {
  std::vector<Request> requests;
  for (const int worker : workers) requests.push_back({worker, {{"do", "rest"}}});
  for (const Answer& answer : state_->Exchange(requests, state_->reply_timeout_s(), {})) {
    if (answer.error) return tl::unexpected<Error>(*answer.error);
  }
  return {};
}

std::vector<WorkerOutcome> Crew::RunRound(const std::vector<int>& workers,
                                          const RoundOptions& options) {
  return state_->Round(workers, -1, WorkerDeed::kNone, options, {});
}

std::vector<WorkerOutcome> Crew::RunRoundWithMisdeed(const std::vector<int>& workers, int culprit,
                                                     Misdeed misdeed, const RoundOptions& options) {
  const bool sleeps = misdeed == Misdeed::kSleepForever;
  return state_->Round(workers, culprit,
                       sleeps ? WorkerDeed::kSleepForever : WorkerDeed::kIllegalAccess, options,
                       {.at_midway = {}, .sleeper = sleeps ? culprit : -1});
}

std::vector<WorkerOutcome> Crew::RunRoundWithSignal(const std::vector<int>& workers, int culprit,
                                                    int signal, const RoundOptions& options) {
  return RunRoundWithAct(
      workers, culprit, [&] { state_->member(culprit).process->Signal(signal); }, options);
}

std::vector<WorkerOutcome> Crew::RunRoundWithAct(const std::vector<int>& workers, int culprit,
                                                 const std::function<void()>& act,
                                                 const RoundOptions& options) {
  return state_->Round(workers, culprit, WorkerDeed::kReport, options,
                       {.at_midway = act, .sleeper = -1});
}

Result<AllocationReply> Crew::AllocateToTheWall(int worker) {
  Answer answer = state_->Ask(worker, {{"do", "allocate"}});
  if (answer.error) return tl::unexpected<Error>(std::move(*answer.error));
  return AllocationReply{Bytes{answer.message.value("allocated_bytes", std::int64_t{0})},
                         answer.message.value("refusal", "")};
}

}  // namespace sublet
