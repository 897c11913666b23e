// replay/trace_lines.h
//
// Within the readers of traces: a text by its lines, and errors that name one.
//
//   TraceLines lines(text, source);
//   while (const auto line = lines.Next()) {
//     if (line->empty()) return lines.Fails("an empty line");
//   }
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "replay/trace.h"

namespace sublet {

class TraceLines {
 public:
  TraceLines(std::string_view text, std::string_view source);

  // The next line that isn't blank, without its end; none behind the last.
  std::optional<std::string_view> Next();

  // "trace.jsonl:17: message".
  [[nodiscard]] tl::unexpected<Error> Fails(std::string message, std::string hint = {}) const;

  std::string_view source() const { return source_; }

 private:
  std::string_view rest_;
  std::string_view source_;
  std::size_t number_ = 0;
};

// Times of a trace, from its first second to the end of a century.
inline constexpr double kTraceSecondsMax = 4e9;

// The readers of the two kinds of file (replay/trace_reader.h).
Result<Trace> ParseJsonlTrace(TraceLines lines);
Result<Trace> ParseCsvTrace(TraceLines lines);

}  // namespace sublet
