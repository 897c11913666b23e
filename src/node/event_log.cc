#include "node/event_log.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/clock.h"

namespace sublet {

void EventLog::Append(std::string_view subject_kind, std::string_view subject,
                      std::string_view what, std::string message) {
  const NodeEvent event{.sequence = 0,
                        .time = UtcMilliseconds(),
                        .subject_kind = std::string(subject_kind),
                        .subject = std::string(subject),
                        .what = std::string(what),
                        .message = std::move(message)};
  spdlog::info("{} {} {}: {}", event.subject_kind, event.subject, event.what, event.message);
  if (const auto written = store_.AppendEvent(event); !written) {
    spdlog::error("an event could not be written: {}", written.error().message);
  }
  news_.Announce();
}

Result<std::vector<NodeEvent>> EventLog::After(std::int64_t sequence, int limit) const {
  return store_.EventsAfter(sequence, static_cast<std::size_t>(limit));
}

}  // namespace sublet
