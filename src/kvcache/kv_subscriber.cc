#include "kvcache/kv_subscriber.h"

#include <fmt/format.h>

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "kvcache/kv_feed.h"
#include "kvcache/zmq_socket.h"

namespace sublet {
namespace {

// From worst to best.
int Worth(CacheKnowledge knowledge) {
  switch (knowledge) {
    case CacheKnowledge::kExact:
      return 2;
    case CacheKnowledge::kStale:
      return 1;
    default:
      return 0;
  }
}

}  // namespace

class KvSubscriber::Impl : public std::enable_shared_from_this<KvSubscriber::Impl> {
 public:
  Impl(asio::io_context& loop, const KvSubscriberOptions& options, KvSubscriberHandlers handlers)
      : loop_(loop), options_(options), handlers_(std::move(handlers)), timer_(loop) {
    if (!options_.now_ns) options_.now_ns = MonotonicNanoseconds;
  }

  Status Set(ReplicaSlot slot, const KvEventSource& source, int ranks);
  void Remove(ReplicaSlot slot);
  std::optional<KvSourceStatus> StatusOf(ReplicaSlot slot) const;
  void ScheduleTick();
  void End();

 private:
  class Source;

  // One rank's way to its source.
  class Rank : public KvFeedListener {
   public:
    Rank(Source& source, int number) : source_(source), number_(number) {}
    std::int64_t Now() const override { return source_.impl().options_.now_ns(); }
    void OnFeedVerdict(const StreamVerdict& verdict, std::int64_t now_ns) override {
      source_.OnVerdict(*this, verdict, now_ns);
    }
    void OnFeedBatch(KvEventBatch batch, std::int64_t now_ns) override {
      source_.OnBatch(*this, std::move(batch), now_ns);
    }

    int number() const { return number_; }
    std::shared_ptr<KvFeed> feed;
    CacheKnowledge knowledge = CacheKnowledge::kApprox;
    std::string why = "not connected yet";

   private:
    Source& source_;
    const int number_;
  };

  // It is held by all who are in one of its calls: a handler may remove it.
  class Source : public std::enable_shared_from_this<Source> {
   public:
    Source(Impl& impl, ReplicaSlot slot, KvEventSource spec)
        : impl_(impl), slot_(slot), spec_(std::move(spec)) {}

    Status Begin(int ranks, std::int64_t now_ns);
    void Tick(std::int64_t now_ns);
    void End();
    bool Is(const KvEventSource& spec, int ranks) const {
      return spec_ == spec && static_cast<int>(ranks_.size()) == ranks;
    }
    KvSourceStatus Figures() const;
    Impl& impl() const { return impl_; }

    void OnVerdict(Rank& rank, const StreamVerdict& verdict, std::int64_t now_ns);
    void OnBatch(Rank& rank, KvEventBatch batch, std::int64_t now_ns);

   private:
    void StartSiblingsAnew(const Rank& rank, std::int64_t now_ns);
    const Rank& Worst() const;

    Impl& impl_;
    const ReplicaSlot slot_;
    const KvEventSource spec_;
    std::vector<std::unique_ptr<Rank>> ranks_;
    CacheKnowledge told_ = CacheKnowledge::kApprox;
    bool ended_ = false;
  };

  void Tick();

  asio::io_context& loop_;
  KvSubscriberOptions options_;
  KvSubscriberHandlers handlers_;
  ZmqContext context_;
  std::map<ReplicaSlot, std::shared_ptr<Source>> sources_;
  asio::steady_timer timer_;
};

// ---- one source --------------------------------------------------------------------------------

Status KvSubscriber::Impl::Source::Begin(int ranks, std::int64_t now_ns) {
  for (int i = 0; i < ranks; ++i) {
    KvFeedEndpoints endpoints{.live = {}, .replay = {}, .topic = spec_.topic};
    ASSIGN_OR_RETURN(endpoints.live, EndpointOfRank(spec_.endpoint, i));
    if (!spec_.replay_endpoint.empty()) {
      ASSIGN_OR_RETURN(endpoints.replay, EndpointOfRank(spec_.replay_endpoint, i));
    }
    auto rank = std::make_unique<Rank>(*this, i);
    rank->feed = std::make_shared<KvFeed>(impl_.loop_, impl_.context_, impl_.options_,
                                          std::move(endpoints), *rank, now_ns);
    ranks_.push_back(std::move(rank));
    RETURN_IF_ERROR(ranks_.back()->feed->Begin(now_ns));
  }
  return {};
}

void KvSubscriber::Impl::Source::Tick(std::int64_t now_ns) {
  const bool busy = impl_.handlers_.is_busy && impl_.handlers_.is_busy(slot_);
  for (std::size_t i = 0; i < ranks_.size() && !ended_; ++i) ranks_[i]->feed->Tick(busy, now_ns);
}

void KvSubscriber::Impl::Source::End() {
  ended_ = true;
  for (const std::unique_ptr<Rank>& rank : ranks_) rank->feed->End();
}

KvSourceStatus KvSubscriber::Impl::Source::Figures() const {
  KvSourceStatus status;
  for (const std::unique_ptr<Rank>& rank : ranks_) rank->feed->AddTo(status);
  return status;
}

const KvSubscriber::Impl::Rank& KvSubscriber::Impl::Source::Worst() const {
  const Rank* worst = ranks_.front().get();
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    if (Worth(rank->knowledge) < Worth(worst->knowledge)) worst = rank.get();
  }
  return *worst;
}

void KvSubscriber::Impl::Source::StartSiblingsAnew(const Rank& rank, std::int64_t now_ns) {
  for (const std::unique_ptr<Rank>& other : ranks_) {
    if (other.get() == &rank || other->feed->batches() == 0) continue;
    other->feed->StartAnew(now_ns);
    other->knowledge = CacheKnowledge::kApprox;
    other->why = fmt::format("rank {} started anew", rank.number());
  }
}

void KvSubscriber::Impl::Source::OnVerdict(Rank& rank, const StreamVerdict& verdict,
                                           std::int64_t now_ns) {
  if (ended_) return;
  const bool demoted =
      rank.knowledge != CacheKnowledge::kApprox && verdict.knowledge == CacheKnowledge::kApprox;
  rank.knowledge = verdict.knowledge;
  rank.why = verdict.why;
  if (verdict.restarted || demoted) StartSiblingsAnew(rank, now_ns);
  const Rank& worst = Worst();
  // Said again where it is APPROX: what was known up to now is to become a prediction.
  const bool again = verdict.knowledge == CacheKnowledge::kApprox;
  if (worst.knowledge == told_ && !verdict.restarted && !again) return;
  told_ = worst.knowledge;
  KvVerdict told{.slot = slot_,
                 .knowledge = worst.knowledge,
                 .why = worst.why,
                 .restarted = verdict.restarted,
                 .now_ns = now_ns};
  if (ranks_.size() > 1) told.why = fmt::format("rank {}: {}", worst.number(), worst.why);
  const std::shared_ptr<Source> self = shared_from_this();
  if (impl_.handlers_.on_verdict) impl_.handlers_.on_verdict(told);
}

void KvSubscriber::Impl::Source::OnBatch(Rank& rank, KvEventBatch batch, std::int64_t now_ns) {
  if (ended_) return;
  if (ranks_.size() > 1) {
    for (const std::unique_ptr<Rank>& other : ranks_) other->feed->OnHeardElsewhere(now_ns);
    if (!batch.dp_rank) batch.dp_rank = rank.number();
  }
  const std::shared_ptr<Source> self = shared_from_this();
  if (impl_.handlers_.on_batch) impl_.handlers_.on_batch(slot_, batch, now_ns);
}

// ---- all of them -------------------------------------------------------------------------------

Status KvSubscriber::Impl::Set(ReplicaSlot slot, const KvEventSource& source, int ranks) {
  if (ranks < 1 || ranks > kRanksMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("data-parallel ranks: 1 to {}: {}", kRanksMax, ranks));
  }
  if (source.endpoint.find('*') != std::string::npos) {
    return Fail(ErrorCode::kInvalid, "KV events: an endpoint to listen on: " + source.endpoint,
                "name the host on which the engine listens");
  }
  const auto found = sources_.find(slot);
  if (found != sources_.end() && found->second->Is(source, ranks)) return {};
  Remove(slot);
  const auto added = std::make_shared<Source>(*this, slot, source);
  if (Status begun = added->Begin(ranks, options_.now_ns()); !begun) {
    added->End();
    return begun;
  }
  sources_[slot] = added;
  return {};
}

void KvSubscriber::Impl::Remove(ReplicaSlot slot) {
  const auto found = sources_.find(slot);
  if (found == sources_.end()) return;
  const std::shared_ptr<Source> source = std::move(found->second);
  sources_.erase(found);
  source->End();
}

std::optional<KvSourceStatus> KvSubscriber::Impl::StatusOf(ReplicaSlot slot) const {
  const auto found = sources_.find(slot);
  if (found == sources_.end()) return std::nullopt;
  return found->second->Figures();
}

void KvSubscriber::Impl::ScheduleTick() {
  timer_.expires_after(std::chrono::nanoseconds(static_cast<std::int64_t>(options_.tick_s * 1e9)));
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<Impl> self = weak.lock();
    if (error || !self) return;
    self->Tick();
    self->ScheduleTick();
  });
}

void KvSubscriber::Impl::Tick() {
  const std::int64_t now_ns = options_.now_ns();
  // A copy: a handler may change the set.
  std::vector<std::shared_ptr<Source>> sources;
  sources.reserve(sources_.size());
  for (const auto& [slot, source] : sources_) sources.push_back(source);
  for (const std::shared_ptr<Source>& source : sources) source->Tick(now_ns);
}

void KvSubscriber::Impl::End() {
  timer_.cancel();
  while (!sources_.empty()) Remove(sources_.begin()->first);
}

KvSubscriber::KvSubscriber(asio::io_context& loop, const KvSubscriberOptions& options,
                           KvSubscriberHandlers handlers)
    : impl_(std::make_shared<Impl>(loop, options, std::move(handlers))) {
  impl_->ScheduleTick();
}

KvSubscriber::~KvSubscriber() {
  impl_->End();
}

Status KvSubscriber::Set(ReplicaSlot slot, const KvEventSource& source, int ranks) {
  return impl_->Set(slot, source, ranks);
}

void KvSubscriber::Remove(ReplicaSlot slot) {
  impl_->Remove(slot);
}

std::optional<KvSourceStatus> KvSubscriber::StatusOf(ReplicaSlot slot) const {
  return impl_->StatusOf(slot);
}

}  // namespace sublet
