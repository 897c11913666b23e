// proxy/source_state.h
//
// How well a teller of replicas is heard, for GET /workers, metrics and the log.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sublet {

class SourceState {
 public:
  // Returns true where that is news: it was away, or is heard for the first time.
  bool Heard(std::int64_t now_ns);
  // Returns true where that is news: it was heard before, or fails in another way.
  bool Away(std::string why);

  bool ok() const { return why_.empty() && heard_ns_ > 0; }
  const std::string& why() const { return why_; }  // It isn't; empty: it is, or wasn't asked yet.
  std::int64_t heard_ns() const { return heard_ns_; }  // Last; 0: never.

 private:
  std::int64_t heard_ns_ = 0;
  std::string why_;
};

// How long to wait before the next try: doubled each time, with a quarter of chance, so that a
// thousand routers don't come back at one moment.
class RetryPause {
 public:
  RetryPause(double first_s, double most_s)
      : first_s_(first_s), most_s_(most_s), next_s_(first_s) {}
  // `chance`: 0 to 1.
  double Next(double chance);
  void Reset() { next_s_ = first_s_; }

 private:
  double first_s_;
  double most_s_;
  double next_s_;
};

}  // namespace sublet
