#include "replay/trace_reader.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "replay/trace_lines.h"

namespace sublet {

TraceLines::TraceLines(std::string_view text, std::string_view source)
    : rest_(text), source_(source) {
  // What a spreadsheet puts in front of UTF-8.
  if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
}

std::optional<std::string_view> TraceLines::Next() {
  while (!rest_.empty()) {
    ++number_;
    const std::size_t end = rest_.find('\n');
    std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != std::string_view::npos) return line;
  }
  return std::nullopt;
}

tl::unexpected<Error> TraceLines::Fails(std::string message, std::string hint) const {
  return Fail(ErrorCode::kInvalid, fmt::format("{}:{}: {}", source_, number_, message),
              std::move(hint));
}

Result<Trace> ParseTrace(std::string_view text, std::string_view source) {
  TraceLines lines(text, source);
  const TraceLines start = lines;
  const std::optional<std::string_view> first = lines.Next();
  if (!first) return lines.Fails("an empty trace");
  Result<Trace> trace = first->front() == '{' ? ParseJsonlTrace(start) : ParseCsvTrace(start);
  if (trace) SpreadOverTicks(trace->requests);
  return trace;
}

}  // namespace sublet
